package mvcc

import (
	"bytes"
	"hash/crc32"
	"slices"

	"holdfast/kv"
)

// intervals finds the ranges that hold a key: a map for single keys, and for ranges a treap ordered by start in which
// each node knows how far its subtree reaches. Looking up costs O(log n) and what is found.
type intervals[T comparable] struct {
	exact map[string][]T
	root  *interval[T]
	count int
}

type interval[T comparable] struct {
	start, end  []byte // end is nil if there is no upper bound
	reach       []byte // greatest end in the subtree, nil for none
	prio        uint32 // drawn from a checksum of the range: the shape does not depend on the order of insertion
	vals        []T
	left, right *interval[T]
}

func (ix *intervals[T]) insert(key, end []byte, val T) {
	ix.count++
	if len(end) == 0 {
		if ix.exact == nil {
			ix.exact = map[string][]T{}
		}
		ix.exact[string(key)] = append(ix.exact[string(key)], val)
		return
	}
	if !bounded(end) {
		end = nil
	}
	ix.root = ix.root.insert(&interval[T]{
		start: key, end: end, reach: end, vals: []T{val},
		prio: crc32.Update(crc32.Checksum(key, castagnoli), castagnoli, end),
	})
}

func (ix *intervals[T]) remove(key, end []byte, val T) {
	if len(end) == 0 {
		vals, ok := without(ix.exact[string(key)], val)
		if ok {
			ix.count--
		}
		if ix.exact[string(key)] = vals; len(vals) == 0 {
			delete(ix.exact, string(key))
		}
		return
	}
	if !bounded(end) {
		end = nil
	}
	var ok bool
	if ix.root, ok = ix.root.remove(key, end, val); ok {
		ix.count--
	}
}

// each calls fn for every value whose range holds key.
func (ix *intervals[T]) each(key []byte, fn func(T)) {
	for _, v := range ix.exact[string(key)] {
		fn(v)
	}
	ix.root.each(key, fn)
}

func without[T comparable](vals []T, val T) ([]T, bool) {
	i := slices.Index(vals, val)
	if i < 0 {
		return vals, false
	}
	return slices.Delete(vals, i, i+1), true
}

// compareEnds orders ends; no bound is the greatest.
func compareEnds(a, b []byte) int {
	switch {
	case a == nil && b == nil:
		return 0
	case a == nil:
		return 1
	case b == nil:
		return -1
	}
	return bytes.Compare(a, b)
}

func (n *interval[T]) compare(start, end []byte) int {
	if c := bytes.Compare(start, n.start); c != 0 {
		return c
	}
	return compareEnds(end, n.end)
}

// update brings reach up to date after a change below n.
func (n *interval[T]) update() {
	n.reach = n.end
	for _, child := range [2]*interval[T]{n.left, n.right} {
		if child != nil && compareEnds(child.reach, n.reach) > 0 {
			n.reach = child.reach
		}
	}
}

func (n *interval[T]) insert(leaf *interval[T]) *interval[T] {
	if n == nil {
		return leaf
	}
	switch c := n.compare(leaf.start, leaf.end); {
	case c == 0:
		n.vals = append(n.vals, leaf.vals...)
		return n
	case c < 0:
		n.left = n.left.insert(leaf)
		if n.left.prio > n.prio {
			return n.turnRight()
		}
	default:
		n.right = n.right.insert(leaf)
		if n.right.prio > n.prio {
			return n.turnLeft()
		}
	}
	n.update()
	return n
}

func (n *interval[T]) turnRight() *interval[T] {
	top := n.left
	n.left, top.right = top.right, n
	n.update()
	top.update()
	return top
}

func (n *interval[T]) turnLeft() *interval[T] {
	top := n.right
	n.right, top.left = top.left, n
	n.update()
	top.update()
	return top
}

func (n *interval[T]) remove(start, end []byte, val T) (top *interval[T], ok bool) {
	if n == nil {
		return nil, false
	}
	switch c := n.compare(start, end); {
	case c < 0:
		n.left, ok = n.left.remove(start, end, val)
	case c > 0:
		n.right, ok = n.right.remove(start, end, val)
	default:
		if n.vals, ok = without(n.vals, val); len(n.vals) == 0 {
			return join(n.left, n.right), ok
		}
	}
	n.update()
	return n, ok
}

// join makes one tree of two, all of a before all of b.
func join[T comparable](a, b *interval[T]) *interval[T] {
	switch {
	case a == nil:
		return b
	case b == nil:
		return a
	case a.prio > b.prio:
		a.right = join(a.right, b)
		a.update()
		return a
	default:
		b.left = join(a, b.left)
		b.update()
		return b
	}
}

func (n *interval[T]) each(key []byte, fn func(T)) {
	for n != nil && (n.reach == nil || bytes.Compare(key, n.reach) < 0) {
		n.left.each(key, fn)
		if bytes.Compare(key, n.start) < 0 {
			return
		}
		if n.end == nil || bytes.Compare(key, n.end) < 0 {
			for _, v := range n.vals {
				fn(v)
			}
		}
		n = n.right
	}
}

// wants reports whether a watch asks for a change that is in its range.
func wants(w *kv.Watch, r *record) bool {
	if r.deleted {
		return !w.NoDeletes
	}
	return !w.NoPuts
}
