package cache

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"

	"holdfast/kv"
)

// write runs a change, which has writing to itself, and writes all changes down when they have become many.
func (c *Cache) write(change func() error) error {
	c.writing.Lock()
	err := errors.Join(change(), c.depart())
	c.writing.Unlock()
	c.mu.RLock()
	large := c.size >= dirtyMax
	c.mu.RUnlock()
	if err != nil || !large {
		return err
	}
	return c.Flush()
}

// Turn empties the cache if it holds another history than epoch.
func (c *Cache) Turn(epoch kv.Epoch) error {
	c.flushing.Lock() // or it would write what is of the other one
	defer c.flushing.Unlock()
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch == epoch {
		return nil
	}
	return c.reset(epoch)
}

// reset empties the cache for another history.
func (c *Cache) reset(epoch kv.Epoch) error {
	if err := c.journal.forget(); err != nil {
		return err
	}
	err := c.db.Update(func(tx *bolt.Tx) error {
		for _, name := range [][]byte{bucketKeys, bucketHeld} {
			if err := tx.DeleteBucket(name); err != nil {
				return err
			}
			if _, err := tx.CreateBucket(name); err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyState, state{epoch: epoch}.append(nil))
	})
	if err != nil {
		return fmt.Errorf("empty the cache for another epoch: %w", err)
	}
	c.empty(epoch)
	c.partial, c.journal.epoch, c.journal.mark = false, epoch, c.journal.boot
	return nil
}

// Load makes a span hold exactly kvs as of revision, replacing what was known of the range. ErrFull: the span is not
// taken and no longer covered.
func (c *Cache) Load(epoch kv.Epoch, s Span, kvs []kv.KeyValue) error {
	if err := c.Turn(epoch); err != nil {
		return err
	}
	return c.write(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		old, err := c.scan(s.Key, s.End)
		if err != nil {
			return err
		}
		c.spans = slices.DeleteFunc(c.spans, func(t Span) bool { return bytes.Equal(t.Key, s.Key) && bytes.Equal(t.End, s.End) })
		c.stale = true
		for _, e := range difference(old, kvs, s.Revision) {
			if err := c.change(e); err != nil {
				return err
			}
		}
		c.spans = append(c.spans, s)
		for k := range c.held { // the span has them now, and whoever makes room must not take them from it
			if kv.Contains(s.Key, s.End, []byte(k)) {
				c.letGo(k)
			}
		}
		if err := c.makeRoom(0); err != nil {
			c.spans = c.spans[:len(c.spans)-1]
			return errors.Join(err, c.clear(s.Key, s.End))
		}
		c.settle()
		// What was written or shown here while the range was read may be newer than what was read.
		c.hide(veil{s.Key, s.End, c.seen.Load()})
		return nil
	})
}

// Keys is the keys that a span has, in order.
func (c *Cache) Keys(key, end []byte) ([]string, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	all, err := c.scan(key, end)
	return slices.Sorted(maps.Keys(all)), err
}

// Jump moves a span to s.Revision by what differs there: changed is as it is then, gone is no more. What was shown before
// a kill is not read older after it. ErrFull: the span is there, but no longer fits.
func (c *Cache) Jump(s Span, changed []kv.KeyValue, gone []string) error {
	return c.write(func() error {
		// The changes are not in the journal. Until they are in the file, a process that is killed comes back without them and
		// must not show the span.
		if err := c.journal.add(veil{s.Key, s.End, s.Revision}.change()); err != nil {
			return err
		}
		c.mu.Lock()
		defer c.mu.Unlock()
		i := c.spanAt(s.Key, s.End)
		if i < 0 {
			return fmt.Errorf("the span of %q is not there", s.Key)
		}
		c.stale = true
		events := make([]kv.Event, 0, len(changed)+len(gone))
		for _, v := range changed {
			events = append(events, kv.Event{KV: v})
		}
		for _, k := range gone {
			events = append(events, kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte(k), ModRevision: s.Revision}})
		}
		for _, e := range events {
			if err := c.change(e); err != nil {
				return err
			}
		}
		c.spans[i].Revision = max(c.spans[i].Revision, s.Revision)
		c.settle()
		return c.makeRoom(0)
	})
}

// difference is what turns old into kvs, in order.
func difference(old map[string]kv.KeyValue, kvs []kv.KeyValue, revision int64) (events []kv.Event) {
	for _, v := range kvs {
		if was, ok := old[string(v.Key)]; !ok || was.ModRevision != v.ModRevision {
			events = append(events, kv.Event{KV: v})
		}
		delete(old, string(v.Key))
	}
	for _, v := range old {
		events = append(events, kv.Event{Delete: true, KV: kv.KeyValue{Key: v.Key, ModRevision: revision}})
	}
	slices.SortFunc(events, func(a, b kv.Event) int {
		return cmp.Or(cmp.Compare(a.KV.ModRevision, b.KV.ModRevision), bytes.Compare(a.KV.Key, b.KV.Key))
	})
	return events
}

// Drop forgets a span, or a key held by itself.
func (c *Cache) Drop(key, end []byte) error {
	return c.write(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.spans = slices.DeleteFunc(c.spans, func(t Span) bool { return bytes.Equal(t.Key, key) && bytes.Equal(t.End, end) })
		c.stale = true
		if h := c.heldAt(key, end); h != nil {
			return c.release(string(key))
		}
		return c.clear(key, end)
	})
}

// clear takes out of a range what nothing covers any more. mu is held.
func (c *Cache) clear(key, end []byte) error {
	all, err := c.scan(key, end)
	if err != nil {
		return err
	}
	for k, v := range all {
		if _, still := c.mirrored([]byte(k), nil); still || c.held[k] != nil {
			continue
		}
		if err := c.change(kv.Event{Delete: true, KV: kv.KeyValue{Key: v.Key, ModRevision: v.ModRevision}}); err != nil {
			return err
		}
	}
	c.settle()
	return nil
}

// Apply takes in the events of a span, or of a key held by itself, in order and moves it to revision. Events that the
// cache is ahead of are left out. It returns what each event replaced, as far as the cache knows: nil for nothing.
//
// ErrFull says that the span is in step but no longer fits; nothing that could make room for it is left.
func (c *Cache) Apply(key, end []byte, events []kv.Event, revision int64) (replaced []*kv.KeyValue, err error) {
	err = c.write(func() error {
		replaced, err = c.apply(key, end, events, revision)
		return err
	})
	return replaced, err
}

func (c *Cache) apply(key, end []byte, events []kv.Event, revision int64) ([]*kv.KeyValue, error) {
	at, ok := c.at(key, end)
	if !ok {
		return nil, nil
	}
	var fresh []change
	for _, e := range events {
		if e.KV.ModRevision > at {
			fresh = append(fresh, change{Event: e, part: true})
		}
	}
	if n := len(fresh); n > 0 {
		fresh[n-1].part, fresh[n-1].last = false, true
	}
	if err := c.journal.add(fresh...); err != nil {
		return nil, err
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	replaced := make([]*kv.KeyValue, len(events))
	for i, e := range events {
		if e.KV.ModRevision <= at {
			continue
		}
		was, err := c.peek(e.KV.Key)
		if err != nil {
			return nil, err
		}
		if was != nil && was.ModRevision >= e.KV.ModRevision {
			continue // an own write that came back from the journal is ahead of the feed
		}
		replaced[i] = was
		if err := c.change(e); err != nil {
			return nil, err
		}
	}
	if len(events) > 0 {
		c.stale = true // progress alone is not worth a write
	}
	c.moved = true
	if i := c.spanAt(key, end); i >= 0 {
		c.spans[i].Revision = max(c.spans[i].Revision, revision)
	} else if h := c.heldAt(key, end); h != nil {
		h.rev = max(h.rev, revision)
		c.changed[string(key)] = struct{}{}
	}
	c.settle()
	if len(events) == 0 {
		return replaced, nil
	}
	return replaced, c.makeRoom(0)
}

// Progress moves the spans and the held keys that are kept to a revision: everything up to it has been applied.
func (c *Cache) Progress(revision int64) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for i := range c.spans {
		c.spans[i].Revision = max(c.spans[i].Revision, revision)
	}
	c.floor = max(c.floor, revision)
	c.moved = true
	c.settle()
}

// at is the revision up to which a span or a held key is known.
func (c *Cache) at(key, end []byte) (int64, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if i := c.spanAt(key, end); i >= 0 {
		return c.spans[i].Revision, true
	}
	if h := c.heldAt(key, end); h != nil {
		return h.span(c.floor).Revision, true
	}
	return 0, false
}

func (c *Cache) spanAt(key, end []byte) int {
	return slices.IndexFunc(c.spans, func(s Span) bool { return bytes.Equal(s.Key, key) && bytes.Equal(s.End, end) })
}

// change changes one key in memory. mu is held.
func (c *Cache) change(e kv.Event) error {
	k := string(e.KV.Key)
	was, err := c.peek(e.KV.Key)
	if err != nil {
		return err
	}
	if was != nil {
		c.bytes -= weight(*was)
	}
	switch old, ok := c.dirty[k]; {
	case ok && old != nil:
		c.size -= weight(*old)
	case ok:
		c.size -= overhead
	}
	c.hot.drop(e.KV.Key)
	c.lists.drop(e.KV.Key)
	if e.Delete {
		c.dirty[k] = nil
		c.size += overhead
		return nil
	}
	v := e.KV
	c.dirty[k] = &v
	c.bytes += weight(v)
	c.size += weight(v)
	return nil
}

// peek is get for a key that is about to change.
func (c *Cache) peek(key []byte) (*kv.KeyValue, error) {
	for _, changes := range []map[string]*kv.KeyValue{c.dirty, c.frozen} {
		if p, ok := changes[string(key)]; ok {
			return p, nil
		}
	}
	if a := c.hot.get(key); a != nil {
		return a.kv(), nil
	}
	return c.stored(key)
}

// WeightMin is the least that a key takes of the bytes of a cache.
const WeightMin = overhead

// Weight is what a key takes of the bytes of a cache.
func Weight(v kv.KeyValue) int64 { return int64(len(v.Key)+len(v.Value)) + overhead }

func weight(v kv.KeyValue) int64 { return Weight(v) }
