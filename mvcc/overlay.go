package mvcc

import (
	"bytes"
	"math/bits"
	"sync/atomic"
)

// overlay holds the changes that are not in the file yet: a skip list over (key, revision descending). One goroutine
// inserts; any number read at the same time without a lock, and see a record whole or not at all. Nothing is ever
// removed: a flushed overlay is dropped as a whole.
type overlay struct {
	head   node
	levels atomic.Int32 // in use, at least 1
	bytes  atomic.Int64 // memory of the records, see record.size
	count  atomic.Int64
	sides  sides
	leased leased
	finger finger // the writer's alone
}

// finger is where a search of the writer's has ended. A command looks for a key before it changes it: the place that was
// found is the one for the new record, as long as nothing was inserted meanwhile.
type finger struct {
	key   []byte // a copy
	count int64  // of the overlay
	preds [maxLevels]*node
}

// maxLevels serves 4^12 records, far above any flush size.
const maxLevels = 12

type node struct {
	rec  *record // apart from the node: the tail keeps records when the list is gone
	key  []byte  // the record's: a search passes many nodes, and would have to fetch every record to see its key
	next atomic.Pointer[node]
	up   []atomic.Pointer[node] // levels 1 and above
}

func (n *node) level(l int) *atomic.Pointer[node] {
	if l == 0 {
		return &n.next
	}
	return &n.up[l-1]
}

func newOverlay() *overlay {
	o := &overlay{}
	o.head.up = make([]atomic.Pointer[node], maxLevels-1)
	o.levels.Store(1)
	return o
}

// height is 1 for three records of four, 2 for three of the rest, and so on, drawn from a hash of the revision: the
// shape of the list is the same on every replica and in every run.
func height(r revision) int {
	h := (uint64(r.main) ^ uint64(r.sub)<<40) * 0x9e3779b97f4a7c15
	h ^= h >> 29
	h *= 0xbf58476d1ce4e5b9
	h ^= h >> 32
	return min(1+bits.TrailingZeros64(h)/2, maxLevels)
}

// before reports whether a node comes before (key, rev) in the order of the list.
func (n *node) before(key []byte, rev revision) bool {
	if c := bytes.Compare(n.key, key); c != 0 {
		return c < 0
	}
	return n.rec.rev().after(rev)
}

// before reports whether record r comes before (key, rev) in that order.
func before(r *record, key []byte, rev revision) bool {
	if c := bytes.Compare(r.Key, key); c != 0 {
		return c < 0
	}
	return r.rev().after(rev)
}

// insert adds a record. The caller is the one writer.
func (o *overlay) insert(r *record) {
	h := height(r.rev())
	n := &node{rec: r, key: r.Key}
	if h > 1 {
		n.up = make([]atomic.Pointer[node], h-1)
	}
	if o.finger.count != o.count.Load() || !bytes.Equal(o.finger.key, r.Key) {
		o.find(r.Key, r.rev())
	}
	preds := &o.finger.preds
	for l := range h {
		n.level(l).Store(preds[l].level(l).Load())
	}
	// The links of n itself are all there before the first link to it, so that a reader may descend from it anywhere.
	for l := range h {
		preds[l].level(l).Store(n)
	}
	o.levels.Store(max(o.levels.Load(), int32(h)))
	o.bytes.Add(r.size())
	o.count.Add(1)
}

// find is seek for the writer, and leaves the finger there.
func (o *overlay) find(key []byte, rev revision) *node {
	f := &o.finger
	levels := int(o.levels.Load())
	for l := levels; l < maxLevels; l++ {
		f.preds[l] = &o.head
	}
	at := &o.head
	var next *node
	for l := levels - 1; l >= 0; l-- {
		for next = at.level(l).Load(); next != nil && next.before(key, rev); next = at.level(l).Load() {
			at = next
		}
		f.preds[l] = at
	}
	f.key, f.count = append(f.key[:0], key...), o.count.Load()
	return next
}

// seek returns the first node that does not come before (key, rev), nil if there is none. It returns the node that it
// has compared: a link that is read twice may meanwhile lead to one that comes before.
func (o *overlay) seek(key []byte, rev revision) *node {
	at := &o.head
	var next *node
	for l := int(o.levels.Load()) - 1; l >= 0; l-- {
		for next = at.level(l).Load(); next != nil && next.before(key, rev); next = at.level(l).Load() {
			at = next
		}
	}
	return next
}

// get returns the newest record of key at or before main, nil if there is none.
func (o *overlay) get(key []byte, main int64) *record {
	return o.seek(key, last(main)).holds(key)
}

// getForWrite is get for the writer, with main not before the newest record: what it changes then goes there.
func (o *overlay) getForWrite(key []byte, main int64) *record {
	return o.find(key, last(main)).holds(key)
}

// holds returns the record of a node if it is one of key.
func (n *node) holds(key []byte) *record {
	if n == nil || !bytes.Equal(n.key, key) {
		return nil
	}
	return n.rec
}

// all yields the records in the order of the list.
func (o *overlay) all(yield func(*record) bool) {
	for n := o.head.next.Load(); n != nil; n = n.next.Load() {
		if !yield(n.rec) {
			return
		}
	}
}

// memSource walks an overlay; see source.
type memSource struct {
	o *overlay
	n *node
	v version
}

func (s *memSource) seek(key []byte, rev revision) {
	// Most seeks go to a neighbour: try a few steps before a search from the top.
	for range 4 {
		if s.n == nil || !s.n.before(key, rev) {
			break
		}
		s.n = s.n.next.Load()
	}
	if s.n == nil || s.n.before(key, rev) {
		s.n = s.o.seek(key, rev)
	}
	s.load()
}

func (s *memSource) load() {
	if s.n != nil {
		s.v.set(s.n.rec)
	}
}

func (s *memSource) at() *version {
	if s.n == nil {
		return nil
	}
	return &s.v
}
