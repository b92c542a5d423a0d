package raftnet

import (
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"math"

	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// A stream is a hello, then frames: a length of four bytes, big-endian, and so many bytes. A frame of a lane is the
// number of a batch as a uvarint and the batch, as the library encodes it; frames of a stripe are in stripe.go. A question
// is one frame, and so is its answer.

// formatVersion is that of hello and frames. A newer one is refused.
const formatVersion = 1

const magic = "hfr"

// kind says what a stream is for.
type kind uint8

const (
	kindSwift  kind = iota + 1 // what must not wait: heartbeats, votes, answers
	kindLog                    // what carries entries
	_                          // a snapshot on one stream, as it was before the first release
	kindAsk                    // a question, which the peer answers on the same stream
	kindStripe                 // pieces of a snapshot
	kindLives                  // what the peer answers with a verdict; see lives.go
	kindSlices                 // a long batch with entries; see slices.go

	lanes = 2 // kindSwift and kindLog
)

func (k kind) String() string {
	switch k {
	case kindSwift:
		return "swift"
	case kindLog:
		return "log"
	case kindAsk:
		return "question"
	case kindStripe:
		return "stripe"
	case kindLives:
		return "lives"
	case kindSlices:
		return "slices"
	}
	return fmt.Sprintf("kind %d", uint8(k))
}

// nonce tells one life of a node from another. Its beginning is the life that couriers know.
type nonce [16]byte

func (n nonce) life() courier.Life { return courier.Life(n[:len(courier.Life{})]) }

// hello is how a stream begins.
type hello struct {
	kind    kind
	cluster uint64
	boot    nonce
}

const helloSize = len(magic) + 1 + 1 + 8 + len(nonce{})

func (h hello) append(b []byte) []byte {
	b = append(b, magic...)
	b = append(b, formatVersion, byte(h.kind))
	b = binary.BigEndian.AppendUint64(b, h.cluster)
	return append(b, h.boot[:]...)
}

var (
	errLife    = errors.New("a stream from before the peer's restart: if that goes on, a second member runs with a copy of its data dir, which must be stopped and may not be used again")
	errFormat  = errors.New("not in the format of raft streams")
	errNewer   = errors.New("the peer is of a newer version: upgrade this node")
	errCluster = errors.New("the peer is of another cluster")
	errFrame   = errors.New("frame too long")
)

func readHello(r io.Reader) (h hello, err error) {
	var b [helloSize]byte
	if _, err := io.ReadFull(r, b[:len(magic)+1]); err != nil {
		return h, fmt.Errorf("read how a stream begins: %w", err)
	}
	if string(b[:len(magic)]) != magic || b[len(magic)] == 0 {
		return h, fmt.Errorf("stream begins with %x: %w", b[:len(magic)+1], errFormat)
	}
	if v := b[len(magic)]; v > formatVersion {
		return h, fmt.Errorf("raft streams of version %d, this node reads up to %d: %w", v, formatVersion, errNewer)
	}
	rest := b[len(magic)+1:]
	if _, err := io.ReadFull(r, rest); err != nil {
		return h, fmt.Errorf("read how a stream begins: %w", err)
	}
	h.kind = kind(rest[0])
	h.cluster = binary.BigEndian.Uint64(rest[1:])
	copy(h.boot[:], rest[9:])
	if h.kind < kindSwift || h.kind > kindSlices || h.kind == kindAsk-1 {
		return h, fmt.Errorf("a stream of %s: %w", h.kind, errFormat)
	}
	return h, nil
}

const (
	// maxBatchFrame is above what the library puts into a batch: 64 MiB, and what encoding adds.
	maxBatchFrame = 96 << 20
	// maxChunkFrame is above a chunk of a snapshot: 2 MiB, with the membership beside it.
	maxChunkFrame = 4 << 20
	frameHeader   = 4
	// growStep is how far a buffer grows before the bytes are there: who claims a long frame makes nobody allocate it.
	growStep = 64 << 10
)

// readFrame reads a frame of at most limit bytes into buf, which it returns, grown where needed.
func readFrame(r io.Reader, buf []byte, limit int) ([]byte, error) {
	var header [frameHeader]byte
	if _, err := io.ReadFull(r, header[:]); err != nil {
		return nil, err
	}
	n := binary.BigEndian.Uint32(header[:])
	if uint64(n) > uint64(limit) {
		return nil, fmt.Errorf("%d bytes of at most %d: %w", n, limit, errFrame)
	}
	if cap(buf) > growStep && n <= growStep {
		buf = nil // a long frame does not stay in memory for the life of a stream
	}
	buf = buf[:0]
	for left := int(n); left > 0; {
		step := min(left, growStep)
		start := len(buf)
		buf = append(buf, make([]byte, step)...)
		if _, err := io.ReadFull(r, buf[start:]); err != nil {
			return nil, fmt.Errorf("frame cut short: %w", err)
		}
		left -= step
	}
	return buf, nil
}

func appendFrameHeader(b []byte, size int) []byte {
	return binary.BigEndian.AppendUint32(b, uint32(size)) //nolint:gosec // bounded by maxBatchFrame
}

// splitNumber takes the number off a frame of a lane.
func splitNumber(frame []byte) (number uint64, batch []byte, err error) {
	number, n := binary.Uvarint(frame)
	if n <= 0 || number == 0 {
		return 0, nil, fmt.Errorf("batch without a number: %w", errFormat)
	}
	return number, frame[n:], nil
}

// decodeBatch reads a batch that node of cluster sent and refuses what only this node may tell its replica.
func decodeBatch(b []byte, cluster uint64, node string) (batch pb.MessageBatch, err error) {
	if !wellFormed(b, requestsField) {
		return batch, fmt.Errorf("batch: %w", errFormat)
	}
	err = decode(func() error { return batch.Unmarshal(b) })
	switch {
	case err != nil:
		return batch, fmt.Errorf("batch: %w", err)
	case batch.DeploymentId != cluster:
		return batch, fmt.Errorf("batch of cluster %016x: %w", batch.DeploymentId, errCluster)
	case batch.SourceAddress != node:
		return batch, fmt.Errorf("batch in the name of node %q: %w", batch.SourceAddress, errFormat)
	case batch.BinVer != raftio.TransportBinVersion:
		return batch, fmt.Errorf("batch of version %d, want %d: %w", batch.BinVer, raftio.TransportBinVersion, errFormat)
	}
	return batch, checkMessages(batch)
}

// checkMessages refuses what only this node may tell its replica.
func checkMessages(batch pb.MessageBatch) error {
	for _, m := range batch.Requests {
		if m.To == 0 || !mayTravel(m.Type) {
			return fmt.Errorf("%s to replica %d: %w", m.Type, m.To, errFormat)
		}
	}
	return nil
}

// mayTravel reports whether a message is of those that replicas send each other. The others are between a replica and
// its host, and the library panics on some of them.
func mayTravel(t pb.MessageType) bool {
	switch t {
	case pb.NoOP, pb.Ping, pb.Pong, pb.Propose, pb.Replicate, pb.ReplicateResp, pb.RequestVote, pb.RequestVoteResp,
		pb.RequestPreVote, pb.RequestPreVoteResp, pb.Heartbeat, pb.HeartbeatResp, pb.ReadIndex, pb.ReadIndexResp,
		pb.Quiesce, pb.SnapshotReceived, pb.LeaderTransfer, pb.TimeoutNow, pb.RateLimit:
		return true
	}
	return false
}

// laneOf is the lane of a message.
func laneOf(m pb.Message) kind {
	if m.Type == pb.Replicate || m.Type == pb.Propose {
		return kindLog // with or without entries: their order counts
	}
	return kindSwift
}

func decodeChunk(b []byte, cluster uint64) (chunk pb.Chunk, err error) {
	if !wellFormed(b, 0) {
		return chunk, fmt.Errorf("chunk: %w", errFormat)
	}
	err = decode(func() error { return chunk.Unmarshal(b) })
	switch {
	case err != nil:
		return chunk, fmt.Errorf("chunk: %w", err)
	case chunk.DeploymentId != cluster:
		return chunk, fmt.Errorf("chunk of cluster %016x: %w", chunk.DeploymentId, errCluster)
	case chunk.IsPoisonChunk():
		return chunk, fmt.Errorf("chunk that ends a snapshot early: %w", errFormat)
	}
	return chunk, nil
}

// requestsField is the number of the field of a batch that holds its messages.
const requestsField = 1

// wellFormed reports whether b is a sequence of protobuf fields each of which ends within it, and so is what each field
// with the number nested holds; 0 for none. The library's decoder of batches counts messages and entries ahead without
// a look at where they end: a length that leads back would keep it counting for ever.
func wellFormed(b []byte, nested uint64) bool {
	for len(b) > 0 {
		tag, n := binary.Uvarint(b)
		if n <= 0 || tag>>3 == 0 || tag>>3 > math.MaxInt32 {
			return false
		}
		b = b[n:]
		var size uint64
		switch tag & 7 {
		case 0:
			if _, n = binary.Uvarint(b); n <= 0 {
				return false
			}
			size = uint64(n)
		case 1:
			size = 8
		case 2:
			if size, n = binary.Uvarint(b); n <= 0 {
				return false
			}
			b = b[n:]
		case 5:
			size = 4
		default:
			return false
		}
		if size > uint64(len(b)) {
			return false
		}
		if tag&7 == 2 && tag>>3 == nested && !wellFormed(b[:size], 0) {
			return false
		}
		b = b[size:]
	}
	return true
}

// decode runs a decoder of the library, whose panics on malformed input are errors here.
func decode(fn func() error) (err error) {
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%v: %w", r, errFormat)
		}
	}()
	return fn()
}
