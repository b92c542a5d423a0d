package cache

import (
	"fmt"
	"maps"
	"slices"

	bolt "go.etcd.io/bbolt"

	"holdfast/kv"
)

// batch is what one flush writes.
type batch struct {
	keys    map[string]*kv.KeyValue
	held    map[string][]byte // nil: no longer
	state   state
	rotated bool // the journal has a file of its own for what comes after
}

// Flush writes what changed, in one transaction. Nothing changed: nothing is written. Reads go on meanwhile, and so do
// changes, until there are too many of them.
func (c *Cache) Flush() error {
	c.flushing.Lock()
	defer c.flushing.Unlock()
	b, err := c.freeze()
	if b == nil || err != nil {
		return err
	}
	err = c.store(b)
	if err != nil {
		err = fmt.Errorf("write the cache: %w", err)
	}
	c.thaw(b, err == nil)
	if err != nil || !b.rotated {
		return err
	}
	return c.journal.forgetOld()
}

// freeze takes aside what is to be written. What is read meanwhile is found there.
func (c *Cache) freeze() (*batch, error) {
	c.writing.Lock()
	defer c.writing.Unlock()
	c.mu.Lock()
	if len(c.dirty) == 0 && !c.stale {
		c.mu.Unlock()
		return nil, nil
	}
	b := &batch{keys: c.dirty, held: map[string][]byte{},
		state: state{epoch: c.epoch, spans: slices.Clone(c.spans), bytes: c.bytes, floor: c.floor}}
	for k := range c.changed {
		b.held[k] = nil
		if h := c.held[k]; h != nil {
			b.held[k] = h.append(nil)
		}
	}
	c.frozen, c.dirty, c.size = c.dirty, map[string]*kv.KeyValue{}, 0
	c.changed, c.stale, c.moved = map[string]struct{}{}, false, false
	var ahead []change // what the flush does not write
	for _, e := range c.own {
		ahead = append(ahead, change{Event: e, own: true})
	}
	for _, v := range c.veils {
		ahead = append(ahead, v.change())
	}
	partial := c.partial
	c.mu.Unlock()
	if partial {
		return b, nil // the journal stays as it is until what it warns of is over
	}
	var err error
	if b.rotated, err = c.journal.rotate(); err != nil {
		return b, c.unfreeze(b, err)
	}
	for _, ch := range ahead {
		if err := c.journal.add(ch); err != nil {
			return b, c.unfreeze(b, err)
		}
	}
	return b, nil
}

func (c *Cache) unfreeze(b *batch, err error) error {
	c.thaw(b, false)
	return err
}

// store writes a batch. Keys are sorted, so that pages are written once.
func (c *Cache) store(b *batch) error {
	return c.db.Update(func(tx *bolt.Tx) error {
		values := tx.Bucket(bucketKeys)
		for _, k := range slices.Sorted(maps.Keys(b.keys)) {
			var err error
			if v := b.keys[k]; v == nil {
				err = values.Delete([]byte(k))
			} else {
				err = values.Put([]byte(k), appendValue(nil, *v))
			}
			if err != nil {
				return err
			}
		}
		held := tx.Bucket(bucketHeld)
		for _, k := range slices.Sorted(maps.Keys(b.held)) {
			var err error
			if r := b.held[k]; r == nil {
				err = held.Delete([]byte(k))
			} else {
				err = held.Put([]byte(k), r)
			}
			if err != nil {
				return err
			}
		}
		return tx.Bucket(bucketMeta).Put(keyState, b.state.append(nil))
	})
}

// thaw ends a flush: what it has written is in the file, what it could not write has to be written later.
func (c *Cache) thaw(b *batch, written bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.epoch != b.state.epoch {
		return // all of it belongs to another history
	}
	c.frozen = nil
	if written {
		return
	}
	for k, v := range b.keys {
		if _, newer := c.dirty[k]; newer {
			continue
		}
		if c.dirty[k] = v; v == nil {
			c.size += overhead
		} else {
			c.size += weight(*v)
		}
	}
	for k := range b.held {
		c.changed[k] = struct{}{}
	}
	c.stale = true
}

// Whole says that everything held has been brought up to date: what is absent does not exist.
func (c *Cache) Whole() error {
	c.writing.Lock()
	c.mu.Lock()
	c.partial, c.stale = false, true
	c.mu.Unlock()
	c.journal.mark = c.journal.boot
	c.writing.Unlock()
	return c.Flush()
}
