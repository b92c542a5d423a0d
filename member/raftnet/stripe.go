package raftnet

import (
	"context"
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"
	"math"
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A snapshot goes over several connections of its own, because one that loses packets has a window of a few: on 50 ms
// with 5 % lost it carries 1.7 Mbit/s whatever the link could. The chunks, framed, are one sequence of bytes, cut into
// numbered pieces; each connection takes the next piece when it can. The receiver says which pieces it has, so those that
// were under way on a connection that ended go over another one, and puts them into order again.
//
// A stripe is a stream: a hello, the id of the transfer (8 bytes), and frames, each with the number of a piece (uvarint),
// its CRC-32C (4 bytes) and its bytes. Frames the other way are a status (1 byte), how many pieces have been handed over
// (uvarint) and the numbers of those that have come on this stripe since the last frame (uvarints).
const (
	pieceSize = 32 << 10
	// pieceWindow is how many pieces may be under way or out of order: 8 MiB on each side.
	pieceWindow = 256
	// pieceFrame is above a piece with what goes before it, ackFrame above a frame the other way.
	pieceFrame = pieceSize + 64
	ackFrame   = 16 << 10
	// stripeWait is how long a sender waits for the first connection before it makes do with the one that is there.
	stripeWait = 3 * time.Second
	// transferStall is how long a transfer may make no progress: less than the 90 s after which the receiving library
	// forgets a snapshot.
	transferStall = time.Minute

	// The number of connections is what it takes to fill a link of stripeRate at the measured loss: a connection of
	// quic-go carries 1.68 packets a round trip and square root of the loss.
	stripeRate  = 100e6
	stripeMin   = 2
	stripeMax   = 16
	stripeShare = 1.68 * 1452 * 8
)

type transferID [8]byte

// Status of a transfer, as its receiver says.
const (
	statusGoing = iota
	statusWhole
	statusRefused
)

var (
	errPiece    = errors.New("a piece of a snapshot arrived damaged")
	errNoStripe = errors.New("no connection for snapshots")
	castagnoli  = crc32.MakeTable(crc32.Castagnoli)
)

// stripes is how many connections a snapshot to the peer is worth.
func (p *peer) stripes() int {
	rtt, loss, _ := p.post.Link()
	return min(max(int(math.Ceil(stripeRate*rtt.Seconds()*math.Sqrt(loss)/stripeShare)), stripeMin), stripeMax)
}

// striped sends the chunks of one snapshot over all connections for bulk that there are.
type striped struct {
	net  *Net
	peer *peer
	id   transferID
	stop context.CancelFunc
	wg   sync.WaitGroup

	mu       sync.Mutex
	changed  chan struct{} // closed when anything below does, then replaced
	last     uint64        // number of the last piece; they begin with 1
	pending  []piece
	passed   uint64 // handed over by the receiver
	progress time.Time
	status   byte
}

type piece struct {
	number uint64
	data   []byte
}

// openStriped waits for a connection for bulk and begins a transfer.
func (n *Net) openStriped(ctx context.Context, p *peer) (*striped, error) {
	release := p.bulk.want(p.stripes())
	p.tellBulk()
	ctx, cancel := context.WithTimeout(ctx, stripeWait)
	defer cancel()
	for {
		conns, changed := p.bulk.all()
		if len(conns) > 0 {
			break
		}
		select {
		case <-changed:
		case <-ctx.Done():
			release()
			p.tellBulk()
			return nil, errNoStripe
		case <-n.closing:
			release()
			return nil, errClosed
		}
	}
	s := &striped{net: n, peer: p, changed: make(chan struct{}), progress: time.Now()}
	copy(s.id[:], newNonce())
	runCtx, stop := context.WithCancel(context.Background())
	s.stop = func() { stop(); release(); p.tellBulk() }
	s.wg.Go(func() { s.run(runCtx) })
	return s, nil
}

// run keeps a stripe on each connection until ctx ends.
func (s *striped) run(ctx context.Context) {
	var wg sync.WaitGroup
	defer wg.Wait()
	running := make(map[Conn]bool)
	for {
		conns, changed := s.peer.bulk.all()
		for _, c := range conns {
			if !running[c] {
				running[c] = true
				wg.Go(func() { s.stripe(ctx, c) })
			}
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// stripe sends pieces on a connection until it ends or ctx does. What the receiver may not have got goes back.
func (s *striped) stripe(ctx context.Context, c Conn) {
	st, err := c.Open(ctx)
	if err != nil {
		return
	}
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	st.SetUrgency(bulkUrgency)
	stop := context.AfterFunc(ctx, func() { giveUp(st, codeDone) })
	defer stop()
	var mu sync.Mutex
	out := make(map[uint64][]byte) // under way
	var acks sync.WaitGroup
	acks.Go(func() {
		defer cancel()
		var buf []byte
		for {
			var err error
			if buf, err = readFrame(st, buf, ackFrame); err != nil {
				return
			}
			status, passed, numbers, err := parseAck(buf)
			if err != nil {
				return
			}
			mu.Lock()
			for _, n := range numbers {
				delete(out, n)
			}
			mu.Unlock()
			s.note(status, passed)
		}
	})
	b := append(hello{kindStripe, s.net.opts.Cluster, s.net.boot}.append(nil), s.id[:]...)
	for {
		p, ok := s.next(ctx)
		if !ok {
			break
		}
		mu.Lock()
		out[p.number] = p.data
		mu.Unlock()
		var number [binary.MaxVarintLen64]byte
		size := binary.PutUvarint(number[:], p.number)
		b = appendFrameHeader(b, size+4+len(p.data))
		b = append(b, number[:size]...)
		b = binary.BigEndian.AppendUint32(b, crc32.Checksum(p.data, castagnoli))
		b = append(b, p.data...)
		if _, err := st.Write(b); err != nil {
			break
		}
		b = b[:0]
	}
	cancel()
	acks.Wait()
	s.giveBack(out)
}

// next takes a piece to send, and waits for one.
func (s *striped) next(ctx context.Context) (piece, bool) {
	for {
		s.mu.Lock()
		if len(s.pending) > 0 {
			p := s.pending[0]
			s.pending = s.pending[1:]
			s.mu.Unlock()
			return p, true
		}
		changed := s.changed
		s.mu.Unlock()
		select {
		case <-changed:
		case <-ctx.Done():
			return piece{}, false
		}
	}
}

func (s *striped) giveBack(out map[uint64][]byte) {
	if len(out) == 0 {
		return
	}
	s.mu.Lock()
	defer s.mu.Unlock()
	for n, data := range out {
		s.pending = append([]piece{{n, data}}, s.pending...)
	}
	s.tell()
}

// note takes what the receiver says.
func (s *striped) note(status byte, passed uint64) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if passed > s.passed && passed <= s.last {
		s.passed, s.progress = passed, time.Now()
	}
	if status != statusGoing {
		s.status = status
	}
	s.tell()
}

func (s *striped) tell() {
	close(s.changed)
	s.changed = make(chan struct{})
}

// await waits until ok, which is called with mu held, says so.
func (s *striped) await(ok func() bool) error {
	for {
		s.mu.Lock()
		done, refused, changed := ok(), s.status == statusRefused, s.changed
		left := transferStall - time.Since(s.progress)
		s.mu.Unlock()
		switch {
		case refused:
			return fmt.Errorf("node %s refused a snapshot", s.peer.node)
		case done:
			return nil
		case left <= 0:
			return fmt.Errorf("a snapshot to node %s made no progress for %s", s.peer.node, transferStall)
		}
		timer := time.NewTimer(left)
		select {
		case <-changed:
		case <-timer.C:
		case <-s.net.closing:
			timer.Stop()
			return errClosed
		}
		timer.Stop()
	}
}

// SendChunk sends a chunk and blocks while too much is under way; the last one returns when the receiver has the whole
// snapshot and has found it good. After an error the snapshot has failed.
func (s *striped) SendChunk(c pb.Chunk) error {
	size := c.Size()
	if size > maxChunkFrame {
		return fmt.Errorf("chunk of %d bytes: %w", size, errFrame)
	}
	data, err := c.Marshal()
	if err != nil {
		return fmt.Errorf("encode a chunk: %w", err)
	}
	data = append(appendFrameHeader(make([]byte, 0, frameHeader+len(data)), len(data)), data...)
	for len(data) > 0 {
		step := min(len(data), pieceSize)
		if err := s.await(func() bool { return s.last < s.passed+pieceWindow }); err != nil {
			return err
		}
		s.mu.Lock()
		s.last++
		s.pending = append(s.pending, piece{s.last, data[:step:step]})
		s.tell()
		s.mu.Unlock()
		data = data[step:]
	}
	s.net.metrics.chunks.Inc()
	if !c.IsLastChunk() {
		return nil
	}
	return s.await(func() bool { return s.status == statusWhole })
}

// Close ends the transfer; a snapshot that is not whole is given up.
func (s *striped) Close() {
	s.stop()
	s.wg.Wait()
}

func parseAck(b []byte) (status byte, passed uint64, numbers []uint64, err error) {
	if len(b) < 2 {
		return 0, 0, nil, fmt.Errorf("acknowledgement of pieces: %w", errFormat)
	}
	status, b = b[0], b[1:]
	for first := true; len(b) > 0; first = false {
		n, size := binary.Uvarint(b)
		if size <= 0 {
			return 0, 0, nil, fmt.Errorf("acknowledgement of pieces: %w", errFormat)
		}
		b = b[size:]
		if first {
			passed = n
		} else {
			numbers = append(numbers, n)
		}
	}
	return status, passed, numbers, nil
}
