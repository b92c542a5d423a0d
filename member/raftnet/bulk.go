package raftnet

import (
	"context"
	"errors"
	"fmt"
	"io"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

const (
	// bulkStall is how long a snapshot may make no progress, on either side, before it is given up.
	bulkStall = 30 * time.Second
	// bulkStep is how much of a chunk must get away within bulkStall: 64 KiB, so 17 kbit/s are enough. (The receiving
	// library forgets a snapshot of which no chunk has come for 90 s, so in fact it takes 190 kbit/s.)
	bulkStep = 64 << 10
	// bulkAnswer is how long the receiver may take to check the whole.
	bulkAnswer = time.Minute
	// bulkOpen is how long it may take to open a stream.
	bulkOpen = 5 * time.Second
)

// bulkDone is what the receiver answers when it has the whole snapshot.
const bulkDone = 1

// bulk sends the chunks of one snapshot on a stream of its own.
type bulk struct {
	net    *Net
	node   string
	stream Stream
	whole  bool // the receiver has it all
	buf    []byte
}

func (n *Net) openBulk(ctx context.Context, l *link) (*bulk, error) {
	ctx, cancel := context.WithTimeout(ctx, bulkOpen)
	defer cancel()
	s, err := l.conn.Open(ctx)
	if err != nil {
		return nil, fmt.Errorf("open a stream for a snapshot to node %s: %w", l.peer.node, err)
	}
	s.SetUrgency(bulkUrgency)
	b := &bulk{net: n, node: l.peer.node, stream: s}
	if err := b.write(hello{kindBulk, n.opts.Cluster, n.boot}.append(nil)); err != nil {
		b.Close()
		return nil, err
	}
	return b, nil
}

// SendChunk sends a chunk and blocks while the link takes no more; the last one returns when the receiver has the whole
// snapshot and has found it good. After an error the snapshot has failed.
func (b *bulk) SendChunk(c pb.Chunk) error {
	size := c.Size()
	if size > maxChunkFrame {
		return fmt.Errorf("chunk of %d bytes: %w", size, errFrame)
	}
	data, err := c.Marshal()
	if err != nil {
		return fmt.Errorf("encode a chunk: %w", err)
	}
	b.buf = append(appendFrameHeader(b.buf[:0], len(data)), data...)
	if err := b.write(b.buf); err != nil {
		return err
	}
	b.net.metrics.chunks.Inc()
	if !c.IsLastChunk() {
		return nil
	}
	if err := b.confirm(); err != nil {
		return fmt.Errorf("node %s did not confirm a snapshot: %w", b.node, err)
	}
	b.whole = true
	return nil
}

func (b *bulk) write(p []byte) error {
	for len(p) > 0 {
		step := min(len(p), bulkStep)
		err := b.stream.SetWriteDeadline(time.Now().Add(bulkStall))
		if err == nil {
			_, err = b.stream.Write(p[:step])
		}
		if err != nil {
			return fmt.Errorf("send a snapshot to node %s: %w", b.node, err)
		}
		p = p[step:]
	}
	return nil
}

func (b *bulk) confirm() error {
	if err := b.stream.SetReadDeadline(time.Now().Add(bulkAnswer)); err != nil {
		return err
	}
	var answer [1]byte
	if _, err := io.ReadFull(b.stream, answer[:]); err != nil {
		return err
	}
	if answer[0] != bulkDone {
		return errFormat
	}
	return nil
}

// Close ends the stream; a snapshot that is not whole is given up.
func (b *bulk) Close() {
	if !b.whole {
		b.stream.CancelWrite(codeDone)
	} else if err := b.stream.Close(); err != nil {
		b.stream.CancelWrite(codeDone)
	}
	b.stream.CancelRead(codeDone)
}

// serveBulk takes a snapshot.
func (l *link) serveBulk(s Stream) {
	select {
	case l.bulk <- struct{}{}:
		defer func() { <-l.bulk }()
	default:
		l.net.metrics.dropped("snapshots_full", 1)
		giveUp(s, codeRefused)
		return
	}
	err := l.receiveBulk(s)
	if err == nil {
		err = s.Close()
	}
	if err != nil {
		l.net.metrics.dropped("snapshot", 1)
		l.net.opts.Log.Warn("a snapshot from another member did not arrive; the leader sends another one",
			"peer", l.peer.node, "err", err)
		s.CancelWrite(codeRefused)
	}
	s.CancelRead(codeDone)
}

var errChunk = errors.New("the chunk does not continue the snapshot")

// receiveBulk hands over the chunks of one snapshot and confirms the last.
func (l *link) receiveBulk(s Stream) error {
	if err := l.net.takeChunks(stalling{s}); err != nil {
		return err
	}
	_, err := s.Write([]byte{bulkDone})
	return err
}

// takeChunks hands over the chunks of one snapshot, up to the last.
func (n *Net) takeChunks(in io.Reader) error {
	var buf []byte
	for {
		var err error
		if buf, err = readFrame(in, buf, maxChunkFrame); err != nil {
			return err
		}
		c, err := decodeChunk(buf, n.opts.Cluster)
		if err != nil {
			return err
		}
		if !n.chunk(c) {
			return fmt.Errorf("chunk %d: %w", c.ChunkId, errChunk)
		}
		if c.IsLastChunk() {
			return nil
		}
	}
}

// stalling reads from a stream that must not be silent for longer than bulkStall.
type stalling struct{ Stream }

func (s stalling) Read(p []byte) (int, error) {
	if err := s.SetReadDeadline(time.Now().Add(bulkStall)); err != nil {
		return 0, err
	}
	return s.Stream.Read(p)
}
