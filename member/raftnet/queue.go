package raftnet

import (
	"bytes"
	"encoding/binary"
	"sync"
)

// The bounds of the queues of a connection, one for each lane. They are beyond what a healthy link holds back; one batch
// is always taken by an empty queue.
const (
	maxQueueBatches = 4096
	maxSwiftBytes   = 1 << 20
	maxLogBytes     = 8 << 20
)

// queue holds encoded batches until the sender of their lane takes them. When it is full a batch is refused: to drop an
// older one instead would make a hole in what follows.
type queue struct {
	limit int           // bytes
	ready chan struct{} // of one slot: there is something

	mu     sync.Mutex
	items  []numbered
	bytes  int
	closed bool
}

// numbered is a batch with its number in the lane.
type numbered struct {
	number uint64
	batch  []byte
}

func newQueue(limit int) *queue { return &queue{limit: limit, ready: make(chan struct{}, 1)} }

// put queues a batch, unless there is no room.
func (q *queue) put(n numbered) bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed || len(q.items) > 0 && (len(q.items) >= maxQueueBatches || q.bytes+len(n.batch) > q.limit) {
		return false
	}
	q.items = append(q.items, n)
	q.bytes += len(n.batch)
	select {
	case q.ready <- struct{}{}:
	default:
	}
	return true
}

// joinBytes is how much a sender writes at a time, if there is as much: several small batches leave in one packet.
const joinBytes = 16 << 10

// take appends the frames of what waits to b: all of it, up to about joinBytes, or one longer batch. It returns the number of
// the last of them, 0 for none.
func (q *queue) take(b []byte) (frames []byte, last uint64) {
	q.mu.Lock()
	defer q.mu.Unlock()
	batches := 0
	for batches < len(q.items) && (batches == 0 || len(b)+len(q.items[batches].batch) <= joinBytes) {
		n := q.items[batches]
		var number [binary.MaxVarintLen64]byte
		size := binary.PutUvarint(number[:], n.number)
		b = appendFrameHeader(b, size+len(n.batch))
		b = append(append(b, number[:size]...), n.batch...)
		q.bytes -= len(n.batch)
		q.items[batches] = numbered{}
		last = n.number
		batches++
	}
	q.items = q.items[batches:]
	if len(q.items) == 0 {
		q.items = nil
	}
	return b, last
}

// unframe is the inverse of take.
func unframe(frames []byte) (batches []numbered) {
	for r := bytes.NewReader(frames); ; {
		frame, err := readFrame(r, nil, maxBatchFrame)
		if err != nil {
			return batches
		}
		if number, batch, err := splitNumber(frame); err == nil {
			batches = append(batches, numbered{number, batch})
		}
	}
}

// close returns what waits and refuses all that comes.
func (q *queue) close() (left []numbered) {
	q.mu.Lock()
	defer q.mu.Unlock()
	left = q.items
	q.items, q.bytes, q.closed = nil, 0, true
	return left
}

func (q *queue) over() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.closed
}
