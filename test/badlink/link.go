//go:build linux

package main

import (
	"math/rand/v2"
	"time"
)

// Link is one direction between two hosts. It decides what becomes of a packet and keeps no packets itself. The Hub's mutex
// guards it.
type Link struct {
	P       Params
	S       Stats
	rng     *rand.Rand
	sh      shaper
	lastAt  int64 // latest delivery so far: later packets come no earlier
	bad     bool  // the Gilbert-Elliott state
	outNext int64 // time of the next outage state change
	out     bool
}

func newLink(seed uint64, p Params) *Link {
	return &Link{P: p, rng: rand.New(rand.NewPCG(seed, seed*0x9e3779b97f4a7c15+1))}
}

func (l *Link) hit(p float64) bool { return p > 0 && l.rng.Float64() < p }

// admit decides the fate of a packet offered at time now (ns): the delivery times of 0, 1 or 2 copies.
func (l *Link) admit(now int64, size int) (at [2]int64, n int) {
	p := &l.P
	l.S.InPkts++
	l.S.InBytes += uint64(size)
	if p.Cut {
		l.S.CutDrop++
		return
	}
	if p.MTU > 0 && size > p.MTU {
		l.S.MTUDrop++
		return
	}
	t, ok := l.sh.pass(now, size, p.Rate, p.queueLimit())
	if !ok {
		l.S.QueueDrop++
		return
	}
	l.S.MaxQueueUS = max(l.S.MaxQueueUS, uint64(t-now)/1000)
	lost := l.hit(p.Loss)
	if p.GEp > 0 {
		if l.bad {
			l.bad = !l.hit(p.GEr)
		} else {
			l.bad = l.hit(p.GEp)
		}
		if l.bad {
			lost = l.hit(p.GEbad) || lost
		} else {
			lost = l.hit(p.GEgood) || lost
		}
	}
	if p.OutUp > 0 && p.OutDown > 0 {
		for now >= l.outNext {
			if l.outNext == 0 {
				l.outNext = now
				l.out = true // flips to up at once
			}
			l.out = !l.out
			mean := p.OutUp
			if l.out {
				mean = p.OutDown
			}
			l.outNext += int64(l.rng.ExpFloat64()*float64(mean)) + 1
		}
		lost = lost || l.out
	}
	if lost {
		l.S.Lost++
		return
	}
	t += int64(p.Delay)
	if p.Jitter > 0 {
		t += l.rng.Int64N(int64(p.Jitter))
	}
	t = max(t, l.lastAt)
	if l.hit(p.Reorder) {
		by := p.ReorderBy
		if by == 0 {
			by = 5 * time.Millisecond
		}
		at[0] = t + int64(by)
		l.S.Reordered++
	} else {
		l.lastAt = t
		at[0] = t
	}
	n = 1
	if l.hit(p.Dup) {
		at[1] = at[0]
		n = 2
		l.S.Dup++
	}
	return
}

// shaper is a virtual FIFO in front of a line of a fixed rate.
type shaper struct{ freeAt int64 }

// pass gives the time at which the last bit has left, or false when the queue is full.
func (s *shaper) pass(now int64, size int, rate float64, limit int) (int64, bool) {
	if rate <= 0 {
		return now, true
	}
	start := max(now, s.freeAt)
	queued := float64(start-now) * rate / 8e9
	if int(queued)+size > limit && start > now {
		return 0, false
	}
	s.freeAt = start + int64(float64(size)*8e9/rate)
	return s.freeAt, true
}

// Stats count what happened to the packets of one direction of one link.
type Stats struct {
	InPkts, InBytes   uint64 // offered by the sender
	OutPkts, OutBytes uint64 // handed to the receiver
	TCPBytes          uint64 // offered, by protocol
	UDPBytes          uint64
	Lost              uint64 // random + burst + outage
	QueueDrop         uint64
	CutDrop           uint64
	MTUDrop           uint64
	Dup               uint64
	Reordered         uint64
	MaxQueueUS        uint64 // longest wait for the line, in microseconds
}
