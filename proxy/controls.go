package proxy

import (
	"context"
	"sync"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// controlsMax bounds what waits to be asked of the upstream: while more does, no further key is let in on demand. What
// lets keys go is not bounded by it, but by the keys there are.
const controlsMax = 2 * cache.HeldMax

// controls is what is to be asked of a running stream, in order; rounds come first.
type controls struct {
	mu    sync.Mutex
	round bool
	list  []kv.WatchControl
	wake  chan struct{}
}

func newControls() *controls { return &controls{wake: make(chan struct{}, 1)} }

func (c *controls) progress() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.round = true
	c.poke()
}

func (c *controls) add(w kv.Watch) { c.push(kv.WatchControl{Add: &w}) }

func (c *controls) cancel(id int64) { c.push(kv.WatchControl{Cancel: id}) }

func (c *controls) push(one kv.WatchControl) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.list = append(c.list, one)
	c.poke()
}

func (c *controls) full() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return len(c.list) >= controlsMax
}

func (c *controls) poke() {
	select {
	case c.wake <- struct{}{}:
	default:
	}
}

func (c *controls) pop() (one kv.WatchControl, ok bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	switch {
	case c.round:
		c.round = false
		return kv.WatchControl{Progress: true}, true
	case len(c.list) > 0:
		one, c.list = c.list[0], c.list[1:]
		return one, true
	}
	return one, false
}

// pump hands on what there is until ctx ends.
func (c *controls) pump(ctx context.Context, out chan<- kv.WatchControl) {
	for {
		one, ok := c.pop()
		if !ok {
			select {
			case <-c.wake:
				continue
			case <-ctx.Done():
				return
			}
		}
		select {
		case out <- one:
		case <-ctx.Done():
			return
		}
	}
}
