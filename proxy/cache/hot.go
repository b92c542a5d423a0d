package cache

import (
	"sync"

	"holdfast/kv"
)

// hotMax bounds the bytes of hot: ten thousand small values, which is what a box is asked for over and over.
const hotMax = 6 << 20

// Answer is a key as a Range of it alone is answered, in one piece of memory. It is shared and never changed.
type Answer struct {
	ops [1]kv.OpResult
	kvs [1]kv.KeyValue
}

// answerSize is what an Answer takes beside its key and its value.
const answerSize = 224

// NewAnswer is the answer with a key; nil: it does not exist.
func NewAnswer(v *kv.KeyValue) *Answer {
	a := &Answer{}
	if v != nil {
		a.kvs[0] = *v
		a.ops[0].KVs, a.ops[0].Count = a.kvs[:], 1
	}
	return a
}

// Ops is the answer.
func (a *Answer) Ops() []kv.OpResult { return a.ops[:] }

// kv is the key, nil if it does not exist.
func (a *Answer) kv() *kv.KeyValue {
	if a.ops[0].Count == 0 {
		return nil
	}
	return &a.kvs[0]
}

// hot is what was read from the file of late, so that reading it again costs neither a transaction nor a copy. Changes
// take a key out. When it is full all of it goes: what is hot is back soon, and there is nothing to keep account of.
type hot struct {
	mu    sync.RWMutex
	keys  map[string]*Answer
	bytes int64
}

// get returns nil for a key that it does not have.
func (h *hot) get(key []byte) *Answer {
	h.mu.RLock()
	defer h.mu.RUnlock()
	return h.keys[string(key)]
}

// hotSize is what a key takes.
func hotSize(key []byte, p *kv.KeyValue) int64 {
	size := int64(len(key)) + answerSize
	if p != nil {
		size += weight(*p)
	}
	return size
}

func (h *hot) put(key []byte, a *Answer) {
	size := hotSize(key, a.kv())
	h.mu.Lock()
	defer h.mu.Unlock()
	if size > hotMax/16 {
		return // would push out many for one that is slow to send anyway
	}
	if _, ok := h.keys[string(key)]; ok {
		return
	}
	if h.keys == nil || h.bytes+size > hotMax {
		h.keys, h.bytes = map[string]*Answer{}, 0
	}
	h.keys[string(key)] = a
	h.bytes += size
}

func (h *hot) drop(key []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if a, ok := h.keys[string(key)]; ok {
		h.bytes -= hotSize(key, a.kv())
		delete(h.keys, string(key))
	}
}

func (h *hot) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys, h.bytes = nil, 0
}
