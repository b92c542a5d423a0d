package queue

import "hash/maphash"

// index finds the last pending op of each key. It is a hash table with linear probing, of a pointer for each slot: with a
// million keys in line a Go map of the same takes five times as much memory, and longer to fill. The queue's mutex guards
// it.
type index struct {
	seed  maphash.Seed
	slots []*op // of a power of two; nil where there is none
	used  int
}

const indexMin = 16 // slots; at most three of four are used

func newIndex(keys int) index {
	size := indexMin
	for size/4*3 < keys {
		size *= 2
	}
	return index{seed: maphash.MakeSeed(), slots: make([]*op, size)}
}

func (x *index) home(key string) int { return int(maphash.String(x.seed, key)) & (len(x.slots) - 1) }

// slot is where the key's op is, or where it would be put.
func (x *index) slot(key string) int {
	i := x.home(key)
	for x.slots[i] != nil && x.slots[i].key != key {
		i = (i + 1) & (len(x.slots) - 1)
	}
	return i
}

// last is the newest pending op on the key, nil for none.
func (x *index) last(key string) *op { return x.slots[x.slot(key)] }

// put makes o the last op of its key, and returns the one before, nil for none.
func (x *index) put(o *op) (was *op) {
	i := x.slot(o.key)
	if was = x.slots[i]; was == nil {
		if x.used++; x.used > len(x.slots)/4*3 {
			x.resize(2 * len(x.slots))
			i = x.slot(o.key)
		}
	}
	x.slots[i] = o
	return was
}

// remove takes the key out. What stands behind it moves up, so that no search ends early.
func (x *index) remove(key string) {
	i := x.slot(key)
	if x.slots[i] == nil {
		return
	}
	mask := len(x.slots) - 1
	for j := (i + 1) & mask; x.slots[j] != nil; j = (j + 1) & mask {
		if h := x.home(x.slots[j].key); (j-h)&mask >= (j-i)&mask { // it may stand at i
			x.slots[i] = x.slots[j]
			i = j
		}
	}
	x.slots[i] = nil
	if x.used--; x.used < len(x.slots)/8 && len(x.slots) > indexMin {
		x.resize(len(x.slots) / 2)
	}
}

func (x *index) resize(size int) {
	old := x.slots
	x.slots = make([]*op, size)
	for _, o := range old {
		if o != nil {
			x.slots[x.slot(o.key)] = o
		}
	}
}
