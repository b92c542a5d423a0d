package queue

import "hash/maphash"

// index finds the last pending op of each key. It is a hash table with linear probing, of a pointer and a hash for each slot:
// with a million keys in line a Go map of the same takes five times as much memory, and longer to fill. The hashes stand apart,
// so that a search looks at no op but the one that it finds. Each op has that of its key, op.hash. The queue's mutex
// guards it, but for hash.
type index struct {
	seed   maphash.Seed
	slots  []*op    // of a power of two
	hashes []uint32 // of their keys; 0 where there is none
	used   int
}

const (
	indexMin  = 16    // slots; at most three of four are used
	indexSlot = 8 + 4 // bytes of one
)

func newIndex() index {
	return index{seed: maphash.MakeSeed(), slots: make([]*op, indexMin), hashes: make([]uint32, indexMin)}
}

// hash is what op.hash is for a key, never 0.
func (x *index) hash(key string) uint32 { return max(uint32(maphash.String(x.seed, key)), 1) }

// reserve makes room for so many keys in all.
func (x *index) reserve(keys int) {
	size := len(x.slots)
	for size/4*3 < keys {
		size *= 2
	}
	if size > len(x.slots) {
		x.resize(size)
	}
}

func (x *index) home(hash uint32) int { return int(hash) & (len(x.hashes) - 1) }

// slot is where the key's op is, or where it would be put.
func (x *index) slot(key string, hash uint32) int {
	i := x.home(hash)
	for h := x.hashes[i]; h != 0 && (h != hash || x.slots[i].key != key); h = x.hashes[i] {
		i = (i + 1) & (len(x.hashes) - 1)
	}
	return i
}

// last is the newest pending op on the key, nil for none.
func (x *index) last(key string) *op { return x.slots[x.slot(key, x.hash(key))] }

// put makes o the last op of its key, and returns the one before, nil for none.
func (x *index) put(o *op) (was *op) {
	i := x.slot(o.key, o.hash)
	if x.hashes[i] != 0 {
		was = x.slots[i]
	} else if x.used++; x.used > len(x.slots)/4*3 {
		x.resize(2 * len(x.slots))
		i = x.slot(o.key, o.hash)
	}
	x.slots[i], x.hashes[i] = o, o.hash
	return was
}

// remove takes the key out. What stands behind it moves up, so that no search ends early.
func (x *index) remove(key string) {
	i := x.slot(key, x.hash(key))
	if x.hashes[i] == 0 {
		return
	}
	mask := len(x.hashes) - 1
	for j := (i + 1) & mask; x.hashes[j] != 0; j = (j + 1) & mask {
		if h := x.home(x.hashes[j]); (j-h)&mask >= (j-i)&mask { // it may stand at i
			x.slots[i], x.hashes[i] = x.slots[j], x.hashes[j]
			i = j
		}
	}
	x.slots[i], x.hashes[i] = nil, 0
	if x.used--; x.used < len(x.slots)/8 && len(x.slots) > indexMin {
		x.resize(len(x.slots) / 2)
	}
}

func (x *index) resize(size int) {
	old, hashes := x.slots, x.hashes
	x.slots, x.hashes = make([]*op, size), make([]uint32, size)
	for n, h := range hashes {
		if h != 0 {
			i := x.home(h)
			for x.hashes[i] != 0 {
				i = (i + 1) & (size - 1)
			}
			x.slots[i], x.hashes[i] = old[n], h
		}
	}
}
