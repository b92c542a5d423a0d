package mvcc

import (
	"slices"
	"sync"
	"sync/atomic"
)

// tail holds the newest changes in order of revision, for watches: all that are not in the file yet, and beside them a
// bounded amount of flushed ones. There is one writer at a time, and readers take no lock.
type tail struct {
	limit int64 // bytes of flushed changes that are kept

	mu     sync.Mutex
	bytes  int64 // guarded by mu: of all blocks
	saved  int64 // guarded by mu: everything up to this revision is in the file
	blocks atomic.Pointer[tailView]
}

// A block is full at so many changes or bytes; it comes and goes as a whole.
const (
	blockLen   = 128
	blockBytes = 64 << 10
)

// block is a run of changes. Its first n, at least one, are there to be read.
type block struct {
	recs  [blockLen]*record
	n     atomic.Int32
	bytes int64 // guarded by the tail's mu
}

func (b *block) add(r *record) {
	b.recs[b.n.Load()] = r
	b.bytes += r.size()
	b.n.Add(1)
}

func (b *block) full() bool { return b.n.Load() == blockLen || b.bytes >= blockBytes }

// end is the revision of the newest change.
func (b *block) end() int64 { return b.recs[b.n.Load()-1].ModRevision }

// tailView is what a reader works on.
type tailView struct {
	start  int64 // the blocks hold all changes after this revision
	blocks []*block
}

func newTail(limit int64) *tail {
	t := &tail{limit: limit}
	t.reset(0)
	return t
}

// reset forgets everything; what follows comes after revision rev.
func (t *tail) reset(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.bytes, t.saved = 0, rev
	t.blocks.Store(&tailView{start: rev})
}

// append adds the changes of one command.
func (t *tail) append(recs []*record) {
	t.mu.Lock()
	defer t.mu.Unlock()
	v := t.blocks.Load()
	for _, r := range recs {
		t.bytes += r.size()
		if n := len(v.blocks); n > 0 && !v.blocks[n-1].full() {
			v.blocks[n-1].add(r)
			continue
		}
		b := &block{}
		b.add(r)
		v = &tailView{start: v.start, blocks: append(slices.Clip(v.blocks), b)}
		t.blocks.Store(v)
	}
	t.trim()
}

// flushed tells that everything up to rev is in the file.
func (t *tail) flushed(rev int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.saved = rev
	t.trim()
}

// trim drops the oldest flushed blocks while the others are enough. The caller holds mu.
func (t *tail) trim() {
	v := t.blocks.Load()
	drop, start := 0, v.start
	for drop < len(v.blocks)-1 {
		b := v.blocks[drop]
		if b.end() > t.saved || t.bytes-b.bytes < t.limit {
			break
		}
		// The next block may begin in the middle of this revision: then the tail no longer has all of it.
		t.bytes -= b.bytes
		start = b.end()
		drop++
	}
	if drop > 0 {
		t.blocks.Store(&tailView{start: start, blocks: slices.Clone(v.blocks[drop:])})
	}
}

// from yields the changes of revisions from main on, up to and including upTo. It reports false if the tail does not
// reach back that far.
func (t *tail) from(main, upTo int64, yield func(*record) bool) bool {
	v := t.blocks.Load()
	if main <= v.start {
		return false
	}
	// The first block whose last change is not before main.
	i, _ := slices.BinarySearchFunc(v.blocks, main, func(b *block, main int64) int {
		if b.end() < main {
			return -1
		}
		return 1
	})
	for ; i < len(v.blocks); i++ {
		b := v.blocks[i]
		for _, r := range b.recs[:b.n.Load()] {
			if r.ModRevision < main {
				continue
			}
			if r.ModRevision > upTo || !yield(r) {
				return true
			}
		}
	}
	return true
}

// size is the memory of all changes in the tail.
func (t *tail) size() int64 {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.bytes
}
