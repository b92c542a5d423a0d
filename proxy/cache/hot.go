package cache

import (
	"sync"

	"holdfast/kv"
)

// hotMax bounds the bytes of hot: ten thousand small values, which is what a box is asked for over and over.
const hotMax = 4 << 20

// hot is what was read from the file of late, so that reading it again costs neither a transaction nor a copy. Changes
// take a key out. When it is full all of it goes: what is hot is back soon, and there is nothing to keep account of.
type hot struct {
	mu    sync.RWMutex
	keys  map[string]*kv.KeyValue // nil value: known to be absent
	bytes int64
}

func (h *hot) get(key []byte) (*kv.KeyValue, bool) {
	h.mu.RLock()
	defer h.mu.RUnlock()
	p, ok := h.keys[string(key)]
	return p, ok
}

func (h *hot) put(key []byte, p *kv.KeyValue) {
	size := int64(len(key)) + overhead
	if p != nil {
		size += weight(*p)
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if size > hotMax/16 {
		return // would push out many for one that is slow to send anyway
	}
	if _, ok := h.keys[string(key)]; ok {
		return
	}
	if h.keys == nil || h.bytes+size > hotMax {
		h.keys, h.bytes = map[string]*kv.KeyValue{}, 0
	}
	h.keys[string(key)] = p
	h.bytes += size
}

func (h *hot) drop(key []byte) {
	h.mu.Lock()
	defer h.mu.Unlock()
	if p, ok := h.keys[string(key)]; ok {
		h.bytes -= int64(len(key)) + overhead
		if p != nil {
			h.bytes -= weight(*p)
		}
		delete(h.keys, string(key))
	}
}

func (h *hot) clear() {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.keys, h.bytes = nil, 0
}
