//go:build linux

package main

// packet is one on its way.
type packet struct {
	at   int64 // due time, ns
	seq  uint64
	dst  int
	src  int
	down bool // has passed the receiver's access line
	buf  []byte
}

// packets is a heap: the one due first, and of those the one that came first.
type packets []*packet

func (h packets) Len() int { return len(h) }

func (h packets) Less(i, j int) bool {
	return h[i].at < h[j].at || h[i].at == h[j].at && h[i].seq < h[j].seq
}

func (h packets) Swap(i, j int) { h[i], h[j] = h[j], h[i] }

// Push is for container/heap.
func (h *packets) Push(x any) { *h = append(*h, x.(*packet)) }

// Pop is for container/heap.
func (h *packets) Pop() any {
	o := *h
	p := o[len(o)-1]
	o[len(o)-1] = nil
	*h = o[:len(o)-1]
	return p
}
