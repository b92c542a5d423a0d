package raftnet

import (
	"context"
	"sync"
	"time"
)

// What fills a link makes heartbeats wait behind it, in the buffer of a modem for seconds. A QUIC connection begins with 32
// packets at once, which is six seconds of a link of 50 kbit/s, and goes on until something is lost. So snapshots are
// given to their connections at a pace, which is found by how much longer a round trip has become:
//
//	rising: up to *2 a step at the start, --- longer by a bound ----> draining: a fourth, of half as much after each round
//	*1.25 or *1.1 later                   <-- by less than half of it, *0.8 --
//
// A step is two round trips: what was changed is seen after the first, and measured in the second. A pace that connections
// do not keep up with, because of what they lose, is not raised further. Twice the rate of the link, as it may be at the
// start, doubles the gaps between heartbeats and not more.
const (
	// paceQueueLeast and paceQueueMost bound by how much a round trip may get longer: by half, and by as long as two packets
	// take at the present rate. One takes 200 ms of a link of 50 kbit/s.
	paceQueueLeast = 50 * time.Millisecond
	paceQueueMost  = 400 * time.Millisecond
	// paceLeast is 8 kbit/s, bytes a second: with less nothing would arrive.
	paceLeast = 1 << 10
	// paceFirst and paceFirstTrip say where a transfer begins: at the larger of 8 kbit/s and so many bytes a round trip. A
	// round trip tells how slow a link may be, for each packet took its time on it.
	paceFirst     = 1 << 10
	paceFirstTrip = 1200
	// Long batches of entries begin with more, because a write may wait for one; on a link that is nearer than paceNear they
	// are sent as they come, because it cannot be one of the slowest.
	paceFirstLog = 4 * 1200
	paceNear     = 200 * time.Millisecond
	paceLong     = 4 << 10
	// paceMost is beyond what one core encrypts.
	paceMost = 4 << 30

	paceUp    = 1.1
	paceUpFar = 1.25
	paceDown  = .8
	// paceCalm is how many rounds go by first: the handshake has made a queue of its own.
	paceCalm = 2
	// paceAhead is how long a queue a step of the start may make, of a link that is just full.
	paceAhead = 500 * time.Millisecond

	// paceRound is the least length of a round, and paceSparse how many packets one has at least.
	paceRound  = 10 * time.Millisecond
	paceSparse = 2
	// paceDrain is how often it is drained for a round at least, so that the shortest round trip is seen; paceMemory is how
	// long one is remembered at least.
	paceDrain  = time.Minute
	paceMemory = 2 * time.Minute
	// paceKept is how long a rate is taken for known after a transfer.
	paceKept = 10 * time.Minute

	// What is sent at once: a packet, or what takes paceStep.
	paceStep     = 5 * time.Millisecond
	paceSliceMin = 1200
	paceSliceMax = 32 << 10
	// paceLate is for how much time a sender that was late may make up.
	paceLate = 10 * time.Millisecond
)

// pace is how fast bulk goes to a peer.
type pace struct {
	mu    sync.Mutex
	users int       // transfers
	rate  float64   // bytes a second
	used  time.Time // when something was last sent
	next  time.Time // when the next may be

	least      [2]time.Duration // round trips of this span of paceMemory and of the one before; 0: none
	leastSince time.Time

	starting bool
	round    time.Time // when it began
	latest   time.Duration
	late     time.Duration // the shortest of the second half of the round; 0: none was seen
	sent     bool          // something was sent in this round
	waited   bool          // somebody was held back: the pace is what bounds the rate
	free     int           // rounds in a row in which something was sent and nobody held back
	waiting  int           // how many are held back now
	calm     int           // rounds to go by
	settle   bool          // in this round the rate is seen that was set at its beginning
	drained  time.Time
	draining bool
}

// begin is called before a transfer, with the round trip if it is known, and with how many bytes a round trip may be sent at
// first. It has no effect on one that is under way.
func (p *pace) begin(now time.Time, rtt time.Duration, trip float64, calm int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users++; p.users > 1 {
		return
	}
	first := float64(paceFirst)
	if rtt > 0 {
		first = max(first, trip/rtt.Seconds())
	}
	if p.rate == 0 || now.Sub(p.used) > paceKept {
		p.rate, p.starting = first, true
		p.least = [2]time.Duration{rtt}
	}
	p.clamp()
	p.round, p.drained, p.leastSince = now, now, now
	p.late, p.sent, p.waited, p.free, p.calm, p.settle, p.draining = 0, false, false, 0, calm, false, false
}

// end undoes begin.
func (p *pace) end() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.users--
}

func (p *pace) clamp() {
	p.rate = min(max(p.rate, paceLeast), paceMost)
}

// slice is how much to send at once.
func (p *pace) slice() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return int(min(max(p.rate*paceStep.Seconds(), paceSliceMin), paceSliceMax))
}

// take waits until n bytes may be sent, and returns an error when ctx has ended.
func (p *pace) take(ctx context.Context, n int) error {
	p.mu.Lock()
	now := time.Now()
	if from := now.Add(-paceLate); p.next.Before(from) {
		p.next = from
	}
	wait := p.next.Sub(now)
	rate := p.rate
	if p.draining {
		rate = max(rate/4, paceLeast)
	}
	p.next = p.next.Add(time.Duration(float64(n) / rate * float64(time.Second)))
	p.used = now
	p.sent, p.waited = true, p.waited || wait > 0
	if wait <= 0 {
		p.mu.Unlock()
		return ctx.Err()
	}
	p.waiting++
	p.mu.Unlock()
	defer p.goOn()
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// now is the rate while something is sent at it, else 0.
func (p *pace) now() float64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.users == 0 {
		return 0
	}
	return p.rate
}

// bound is by how much a round trip may get longer.
func (p *pace) bound() time.Duration {
	packets := time.Duration(2 * paceSliceMin / p.rate * float64(time.Second))
	return min(max(p.base()/2+packets, paceQueueLeast), paceQueueMost)
}

func (p *pace) goOn() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.waiting--
}

// base is the shortest round trip that is remembered.
func (p *pace) base() time.Duration {
	if p.least[0] == 0 || p.least[1] != 0 && p.least[1] < p.least[0] {
		return p.least[1]
	}
	return p.least[0]
}

// sample takes a round trip that was just measured, 0 for none, and changes the rate when a round is over.
func (p *pace) sample(now time.Time, rtt time.Duration) {
	p.mu.Lock()
	defer p.mu.Unlock()
	if now.Sub(p.leastSince) > paceMemory {
		p.least, p.leastSince = [2]time.Duration{0, p.least[0]}, now
	}
	sparse := time.Duration(paceSparse * paceSliceMin / p.rate * float64(time.Second))
	length := max(p.latest, p.base(), sparse, paceRound)
	if rtt > 0 {
		p.latest = rtt
		if p.least[0] == 0 || rtt < p.least[0] {
			p.least[0] = rtt
		}
		switch queue, bound := rtt-p.base(), p.bound(); {
		case p.calm > 0:
		case !p.draining && queue > bound && p.rate > paceLeast:
			p.draining, p.starting, p.drained, p.round = true, false, now, now
		case p.draining && queue < bound/2 && now.Sub(p.round) >= length/2:
			p.draining, p.settle, p.rate, p.round = false, true, p.rate*paceDown, now
			p.clamp()
		}
		if now.Sub(p.round) >= length/2 && (p.late == 0 || rtt < p.late) {
			p.late = rtt
		}
	}
	if now.Sub(p.round) < length {
		return
	}
	p.turn(now)
	p.clamp()
}

// turn ends a round.
func (p *pace) turn(now time.Time) {
	late, sent, waited, settle := p.late, p.sent, p.waited || p.waiting > 0, p.settle
	p.round, p.late, p.sent, p.waited, p.settle = now, 0, false, false, false
	switch {
	case waited:
		p.free = 0
	case sent:
		p.free++
	}
	if sent && p.calm > 0 {
		p.calm--
		return
	}
	if settle || late == 0 || p.calm > 0 {
		return
	}
	queue, bound := late-p.base(), p.bound()
	switch {
	case p.draining:
		if queue > bound {
			p.rate /= 2
		}
	case now.Sub(p.drained) > paceDrain && !p.starting && queue > bound/4:
		p.drained, p.draining = now, true
	case queue > bound/2 || !waited:
	case p.starting:
		p.rate *= 1 + min(1, paceAhead.Seconds()/(2*max(p.latest, p.base()).Seconds()))
		p.settle = true
	case queue > bound/4:
		p.rate *= paceUp
		p.settle = true
	default:
		p.rate *= paceUpFar
		p.settle = true
	}
}

// worth is how many connections a transfer is worth that has some and would have most at best, last given one more some time
// ago. As soon as the pace is more than a thin link has that is most. Below, it is one more when what bounds the rate is not the
// pace but what connections lose, and the handshake of the last one has long been paid for: it takes a second of a link
// of 50 kbit/s.
func (p *pace) worth(some, most int, ago time.Duration) int {
	p.mu.Lock()
	defer p.mu.Unlock()
	switch {
	case some >= most:
		return some
	case p.rate >= paceWide:
		return most
	case p.free < paceFree || ago < time.Duration(paceHandshakes*paceHandshake/p.rate*float64(time.Second)):
		return some
	}
	p.free = 0
	return some + 1
}

const (
	paceWide = 64 << 10
	paceFree = 3
	// paceHandshake is what a connection costs before it carries anything, and one in paceHandshakes bytes may be for that.
	paceHandshake  = 5 << 10
	paceHandshakes = 10
)
