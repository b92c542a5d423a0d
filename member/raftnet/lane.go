package raftnet

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"

	"holdfast/transport/courier"
)

// outLane numbers the batches of a lane.
type outLane struct {
	mu   sync.Mutex // held while a batch is queued, so that numbers are in the order of the queue
	last uint64
}

func (o *outLane) put(q *queue, batch []byte) (number uint64, ok bool) {
	o.mu.Lock()
	defer o.mu.Unlock()
	if !q.put(numbered{o.last + 1, batch}) {
		return 0, false
	}
	o.last++
	return o.last, true
}

// maxHeld and maxHeldBytes bound the batches of a lane that wait for an earlier one. With more, the wait is over.
const (
	maxHeld      = 1024
	maxHeldBytes = 8 << 20
)

// inLane is what has come on a lane. Where the order counts, a batch waits a while for those before it; without it the
// follower would refuse entries that follow a missing one, and the leader feel its way back to it.
type inLane struct {
	ordered bool
	wake    chan struct{} // of waitForHoles: there is a batch that waits. One place

	mu     sync.Mutex
	boots  boots
	window window
	next   uint64 // number expected; 0: any
	held   map[uint64]heldBatch
	bytes  int
}

type heldBatch struct {
	batch pb.MessageBatch
	size  int
	until time.Time
}

// enter begins a stream of a life of the peer.
func (i *inLane) enter(boot courier.Life) error {
	i.mu.Lock()
	defer i.mu.Unlock()
	return i.enterLocked(boot)
}

func (i *inLane) enterLocked(boot courier.Life) error {
	changed, ok := i.boots.enter(boot, time.Now())
	if !ok {
		return fmt.Errorf("%w: %w", errLife, errFormat)
	}
	if changed {
		i.window, i.next, i.held, i.bytes = window{}, 0, nil, 0
	}
	return nil
}

// deliver calls fn with the batches of which it is the turn now: at most once with each, on an ordered lane in the order
// sent. A batch that comes after its turn is passed on without what must not overtake.
func (i *inLane) deliver(boot courier.Life, number uint64, batch pb.MessageBatch, hold time.Duration, fn func(pb.MessageBatch)) verdict {
	i.mu.Lock()
	defer i.mu.Unlock()
	if boot != i.boots.now {
		return ancient
	}
	i.boots.heard = time.Now()
	v := i.window.take(number)
	switch {
	case v == repeated || v == ancient:
		return v
	case !i.ordered:
		fn(batch)
		return fresh
	case i.next != 0 && number < i.next:
		if batch.Requests = unordered(batch.Requests); len(batch.Requests) == 0 {
			return overtaken
		}
		fn(batch)
		return fresh
	}
	size := batch.Size()
	if number > i.next && i.next != 0 && hold > 0 && len(i.held) < maxHeld && i.bytes+size <= maxHeldBytes {
		if i.held == nil {
			i.held = make(map[uint64]heldBatch)
		}
		i.held[number] = heldBatch{batch, size, time.Now().Add(hold)}
		i.bytes += size
		select {
		case i.wake <- struct{}{}:
		default:
		}
		return fresh
	}
	i.release(number, fn)
	fn(batch)
	i.next = number + 1
	i.follow(fn)
	return fresh
}

// unordered is what of a late batch may still be handed over: proposals forwarded to the leader, which nobody would send
// again.
func unordered(requests []pb.Message) (late []pb.Message) {
	for _, m := range requests {
		if m.Type == pb.Propose {
			late = append(late, m)
		}
	}
	return late
}

// release hands over, in order, what is held from before number.
func (i *inLane) release(number uint64, fn func(pb.MessageBatch)) {
	var numbers []uint64
	for n := range i.held {
		if n < number {
			numbers = append(numbers, n)
		}
	}
	slices.Sort(numbers)
	for _, n := range numbers {
		i.pass(n, fn)
	}
}

// follow hands over what is held and whose turn it is.
func (i *inLane) follow(fn func(pb.MessageBatch)) {
	for {
		if _, ok := i.held[i.next]; !ok {
			return
		}
		i.pass(i.next, fn)
	}
}

func (i *inLane) pass(number uint64, fn func(pb.MessageBatch)) {
	h := i.held[number]
	delete(i.held, number)
	i.bytes -= h.size
	fn(h.batch)
	i.next = number + 1
}

// expire hands over what has waited long enough and says until when to wait for the rest; zero: there is none.
func (i *inLane) expire(now time.Time, fn func(pb.MessageBatch)) (until time.Time) {
	i.mu.Lock()
	defer i.mu.Unlock()
	for {
		var due, first uint64
		until = time.Time{}
		for n, h := range i.held {
			if !h.until.After(now) && n > due {
				due = n
			}
			if first == 0 || n < first {
				first, until = n, h.until
			}
		}
		if due == 0 {
			return until
		}
		i.release(due+1, fn)
		i.follow(fn)
	}
}

// take hands a batch over when it is its turn.
func (n *Net) take(p *peer, lane *inLane, boot courier.Life, number uint64, batch pb.MessageBatch) {
	hold := time.Duration(0)
	if lane.ordered {
		if _, _, ok := p.post.Link(); ok {
			hold = p.post.Hold()
		}
	}
	p.hush.incoming(time.Now(), batch.Requests)
	for _, m := range batch.Requests {
		switch m.Type {
		case pb.Propose, pb.ReadIndex:
			p.forwarded.Store(time.Now().UnixNano())
		case pb.RequestPreVote, pb.RequestVote:
			n.doubt()
		default:
		}
	}
	if v := lane.deliver(boot, number, batch, hold, n.pass); v != fresh {
		n.metrics.dropped(v.String(), 1)
	}
}

// takeNotice hands over what has no number, if all before it was handed over.
func (n *Net) takeNotice(p *peer, lane *inLane, boot courier.Life, l letter) {
	p.hush.incoming(time.Now(), l.batch.Requests)
	if !lane.follows(boot, l.number, func() { n.pass(l.batch) }) {
		n.metrics.dropped("overtaken", 1)
	}
}

// follows calls fn if all batches up to a number were handed over.
func (i *inLane) follows(boot courier.Life, number uint64, fn func()) bool {
	i.mu.Lock()
	defer i.mu.Unlock()
	if boot != i.boots.now || i.next != 0 && i.next <= number {
		return false
	}
	i.boots.heard = time.Now()
	fn()
	return true
}

func (n *Net) pass(batch pb.MessageBatch) {
	n.metrics.received.Inc()
	n.recv(batch)
}

// waitForHoles hands over what has waited in vain for something before it, until ctx ends.
func (n *Net) waitForHoles(ctx context.Context, p *peer) {
	lane := &p.in[kindLog-1]
	timer := time.NewTimer(time.Hour)
	defer timer.Stop()
	for {
		var timerC <-chan time.Time
		if until := lane.expire(time.Now(), n.pass); !until.IsZero() {
			timer.Reset(time.Until(until))
			timerC = timer.C
		}
		select {
		case <-ctx.Done():
			lane.nudge() // the connection that took over may have to wait on
			return
		case <-lane.wake:
		case <-timerC:
		}
	}
}

func (i *inLane) nudge() {
	select {
	case i.wake <- struct{}{}:
	default:
	}
}
