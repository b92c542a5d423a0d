package transport

import (
	"sync"
)

// MaxDatagram is the longest datagram that fits a packet of 1200 bytes, which every path carries.
const MaxDatagram = 1160

// datagramQueueLen bounds the datagrams of one connection that wait for their turn. A sender that is held up by
// congestion has old news in its queue: the newest stay, the oldest go.
const datagramQueueLen = 64

// datagramQueue stands between callers that must not block and quic-go's SendDatagram, which does when its own 32 places
// are taken. One goroutine at a time drains it, started by the first datagram and gone when the queue is empty, so an
// idle connection has none.
type datagramQueue struct {
	send func([]byte) error // blocks; an error means that the connection has ended
	wg   *sync.WaitGroup    // of the connection: waits for the goroutine

	mu      sync.Mutex
	ring    [][]byte // grows up to datagramQueueLen
	head, n int
	running bool
	closed  bool
	sent    uint64
	dropped uint64
}

// put queues p, dropping the oldest when full. It never blocks. After close it drops.
func (q *datagramQueue) put(p []byte) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.closed {
		q.dropped++
		return
	}
	if q.n == len(q.ring) && q.n < datagramQueueLen {
		q.widen()
	}
	if q.n == len(q.ring) {
		q.ring[q.head] = nil
		q.head = (q.head + 1) % len(q.ring)
		q.n--
		q.dropped++
	}
	q.ring[(q.head+q.n)%len(q.ring)] = p
	q.n++
	if !q.running {
		q.running = true
		q.wg.Go(q.drain)
	}
}

// widen makes room for more. Most connections never send but a probe now and then, and there are many of them. The caller
// holds mu.
func (q *datagramQueue) widen() {
	ring := make([][]byte, min(max(2*len(q.ring), 2), datagramQueueLen))
	for i := range q.n {
		ring[i] = q.ring[(q.head+i)%len(q.ring)]
	}
	q.ring, q.head = ring, 0
}

func (q *datagramQueue) drain() {
	for {
		p, ok := q.take()
		if !ok {
			return
		}
		if q.send(p) != nil {
			q.close()
		}
	}
}

func (q *datagramQueue) take() ([]byte, bool) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.n == 0 || q.closed {
		q.running = false
		return nil, false
	}
	p := q.ring[q.head]
	q.ring[q.head] = nil
	q.head = (q.head + 1) % len(q.ring)
	q.n--
	q.sent++
	return p, true
}

// close drops what waits. The connection has ended, so a blocked send returns.
func (q *datagramQueue) close() {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.closed = true
	q.dropped += uint64(q.n)
	q.ring, q.head, q.n = nil, 0, 0
}

func (q *datagramQueue) counts() (sent, dropped uint64, queued int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	return q.sent, q.dropped, q.n
}
