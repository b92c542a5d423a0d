package raftnet

import (
	"slices"
	"time"

	"holdfast/transport/courier"
)

// windowSize is how many numbers back a window tells a batch that was overtaken from one that came before.
const windowSize = 1024

// verdict is what a window says of a batch.
type verdict uint8

const (
	fresh     verdict = iota // newer than all before: to be delivered
	overtaken                // not seen before, but a later one was
	repeated                 // seen before
	ancient                  // too old to tell
)

func (v verdict) String() string {
	return [...]string{"fresh", "overtaken", "repeated", "ancient"}[v]
}

// window remembers which of the newest windowSize numbers have come. The zero value has seen none; numbers begin with 1.
type window struct {
	newest uint64
	seen   [windowSize / 64]uint64 // bit number mod windowSize: it has come
}

// take notes that a number has come. No number is fresh or overtaken twice.
func (w *window) take(number uint64) verdict {
	switch {
	case number > w.newest:
		w.advance(number)
		return fresh
	case w.newest-number >= windowSize:
		return ancient
	case w.has(number):
		return repeated
	}
	w.set(number)
	return overtaken
}

func (w *window) advance(to uint64) {
	if to-w.newest >= windowSize {
		clear(w.seen[:])
	} else {
		for n := w.newest + 1; n < to; n++ {
			w.seen[n%windowSize/64] &^= 1 << (n % 64)
		}
	}
	w.newest = to
	w.set(to)
}

func (w *window) has(n uint64) bool { return w.seen[n%windowSize/64]&(1<<(n%64)) != 0 }
func (w *window) set(n uint64)      { w.seen[n%windowSize/64] |= 1 << (n % 64) }

// bootsKept is how many earlier lives of a peer are remembered, so that what is left of them is told from news.
const bootsKept = 8

// boots knows which life of a peer is the present one.
type boots struct {
	now     courier.Life
	heard   time.Time               // when the present one was last heard of
	earlier [bootsKept]courier.Life // ring
	next    int
}

// enter makes boot the present life, unless it is over. One that is over is so for as long as a later one is heard of, and
// courier.Silence longer: if it then still speaks, the later one was a copy of the peer's data dir that has ended, and the
// peer itself must not stay shut out. Changed says that it was another one before.
func (b *boots) enter(boot courier.Life, at time.Time) (changed, ok bool) {
	if boot == b.now {
		b.heard = at
		return false, true
	}
	if boot == (courier.Life{}) {
		return false, false
	}
	if i := slices.Index(b.earlier[:], boot); i >= 0 {
		if at.Sub(b.heard) < courier.Silence {
			return false, false
		}
		b.earlier[i] = b.now
	} else {
		b.earlier[b.next] = b.now
		b.next = (b.next + 1) % bootsKept
	}
	b.now, b.heard = boot, at
	return true, true
}
