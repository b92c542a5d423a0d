package raftnet

import "holdfast/transport/courier"

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
	earlier [bootsKept]courier.Life // ring
	next    int
}

// enter makes boot the present life, unless it is over. Changed says that it was another one before.
func (b *boots) enter(boot courier.Life) (changed, ok bool) {
	if boot == b.now {
		return false, true
	}
	for _, e := range b.earlier {
		if e == boot {
			return false, false
		}
	}
	b.earlier[b.next] = b.now
	b.next = (b.next + 1) % bootsKept
	b.now = boot
	return true, true
}
