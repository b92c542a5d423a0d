package main

import (
	"context"
	"crypto/rand"
	"errors"
	mathrand "math/rand/v2"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/client"
	"holdfast/kv"
)

// light is a proxy without a disk: its uplink and control stream are the shipped ones, it reads and watches what a cache
// does, and its queue is a list in memory, whose writes carry a retry key each and are sent until they are answered. To its
// member it is a proxy like any other; here it takes one file descriptor rather than four.
type light struct {
	up     *client.Client
	synced atomic.Bool
	more   chan struct{} // of one slot: something was queued

	mu      sync.Mutex
	pending []kv.Command // bounded by the writes of a run
}

// lightPause is the longest pause before something that failed is done again.
const lightPause = time.Second

func newLight(up *client.Client) *light { return &light{up: up, more: make(chan struct{}, 1)} }

// follow reads what is mirrored and watches it from there, on one uplink after the other.
func (l *light) follow(ctx context.Context) error {
	for ctx.Err() == nil {
		changed := l.up.Changed()
		_ = l.watch(ctx) // it is done again, whyever it has ended
		l.synced.Store(false)
		select {
		case <-changed:
		case <-time.After(mathrand.N(lightPause)):
		case <-ctx.Done():
		}
	}
	return nil
}

func (l *light) watch(ctx context.Context) error {
	key, end := kv.PrefixRange([]byte(mirrored))
	page, err := l.up.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key, End: end}}, MaxAge: kv.Unlimited})
	if err != nil {
		return err
	}
	control := make(chan kv.WatchControl) // open for as long as the watch lives, as that of a cache
	for b, err := range l.up.Watch(ctx, kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: key, End: end, From: page.Revision + 1}}, Control: control}) {
		switch {
		case err != nil:
			return err
		case b.Canceled:
			return errors.New("the watch was cancelled")
		case b.Created:
			l.synced.Store(true)
		}
	}
	return nil
}

// queue takes a write, to be sent in order.
func (l *light) queue(c kv.Command) {
	_, _ = rand.Read(c.ID.Key[:]) // never fails
	l.mu.Lock()
	l.pending = append(l.pending, c)
	l.mu.Unlock()
	select {
	case l.more <- struct{}{}:
	default:
	}
}

// next is the oldest write that was not answered.
func (l *light) next() (c kv.Command, depth int) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if len(l.pending) > 0 {
		c = l.pending[0]
	}
	return c, len(l.pending)
}

// drain sends what is queued.
func (l *light) drain(ctx context.Context) error {
	for ctx.Err() == nil {
		c, depth := l.next()
		if depth == 0 {
			select {
			case <-l.more:
			case <-ctx.Done():
			}
			continue
		}
		asking, cancel := context.WithTimeout(ctx, 10*time.Second)
		_, err := l.up.Do(asking, c)
		cancel()
		if err != nil {
			_ = wait(ctx, mathrand.N(lightPause)) // an error is ctx's
			continue
		}
		l.mu.Lock()
		l.pending = l.pending[1:]
		l.mu.Unlock()
	}
	return nil
}
