package proxy

import (
	"cmp"
	"slices"
	"sync"

	"holdfast/kv"
)

// What a tail keeps. A watcher that is further behind needs an upstream watch of its own, which reads the history at the
// member: nothing is kept for the slow, and nothing is skipped.
const (
	tailEvents = 1024
	tailBytes  = 1 << 20
	tailStep   = 64 // batches a watcher takes at a time
)

// tail is what a mirrored prefix brought of late, for this node's own watchers. They hold no buffer: each remembers a
// revision and reads on from here.
type tail struct {
	mu      sync.Mutex
	epoch   kv.Epoch
	running bool
	base    int64 // every event after it and up to at is in batches
	at      int64
	batches []tailBatch
	events  int
	bytes   int64
}

// tailBatch is what came at once, whole revisions.
type tailBatch struct {
	events   []kv.Event
	replaced []*kv.KeyValue
	last     int64 // revision of the last event
	bytes    int64
}

// resume goes on at a revision. If that is where it was there is no gap.
func (t *tail) resume(epoch kv.Epoch, revision int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.running || t.epoch != epoch || t.at != revision {
		t.epoch, t.base, t.at = epoch, revision, revision
		t.batches, t.events, t.bytes = nil, 0, 0
	}
	t.running = true
}

// end says that the prefix is no longer mirrored.
func (t *tail) end() {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.running, t.batches, t.events, t.bytes = false, nil, 0, 0
}

// add takes in what the feed has brought. Events up to at were brought before.
func (t *tail) add(b kv.Batch, replaced []*kv.KeyValue) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.running || len(replaced) != len(b.Events) {
		return
	}
	events := b.Events
	for len(events) > 0 && events[0].KV.ModRevision <= t.at {
		events, replaced = events[1:], replaced[1:]
	}
	t.at = max(t.at, b.Revision)
	if len(events) == 0 {
		return
	}
	one := tailBatch{events: events, replaced: replaced, last: events[len(events)-1].KV.ModRevision}
	for i, e := range events {
		one.bytes += int64(len(e.KV.Key) + len(e.KV.Value))
		if replaced[i] != nil {
			one.bytes += int64(len(replaced[i].Value))
		}
	}
	t.batches = append(t.batches, one)
	t.events += len(events)
	t.bytes += one.bytes
	for len(t.batches) > 0 && (t.events > tailEvents || t.bytes > tailBytes) {
		old := t.batches[0]
		t.batches = slices.Delete(t.batches, 0, 1)
		t.events -= len(old.events)
		t.bytes -= old.bytes
		t.base = old.last
	}
}

// reach moves the tail to a revision up to which nothing more will come.
func (t *tail) reach(revision int64) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if t.running {
		t.at = max(t.at, revision)
	}
}

// from returns what there is from a revision on, and how far that goes. ok false: the tail does not have all of it.
func (t *tail) from(epoch kv.Epoch, revision int64) (batches []tailBatch, at int64, ok bool) {
	if t == nil {
		return nil, 0, false
	}
	t.mu.Lock()
	defer t.mu.Unlock()
	if !t.running || t.epoch != epoch || revision <= t.base {
		return nil, 0, false
	}
	i, _ := slices.BinarySearchFunc(t.batches, revision, func(b tailBatch, rev int64) int { return cmp.Compare(b.last, rev) })
	batches = slices.Clone(t.batches[i:min(len(t.batches), i+tailStep)])
	if i+len(batches) < len(t.batches) {
		return batches, batches[len(batches)-1].last, true
	}
	return batches, t.at, true
}

// stand is where the tail is, ok false if it is nowhere.
func (t *tail) stand() (epoch kv.Epoch, at int64, ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	return t.epoch, t.at, t.running
}
