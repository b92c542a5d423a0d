package cache

import (
	"bytes"
	"errors"
	"slices"

	bolt "go.etcd.io/bbolt"

	"holdfast/kv"
)

// Covered returns the span that holds the whole range, if there is one. A key held by itself is a span of its own.
func (c *Cache) Covered(key, end []byte) (Span, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if s, ok := c.covered(key, end); ok {
		return s, true
	}
	if h := c.heldAt(key, end); h != nil {
		return h.span(c.floor), true
	}
	return Span{}, false
}

// covered is the span that shows a range.
func (c *Cache) covered(key, end []byte) (Span, bool) {
	s, ok := c.mirrored(key, end)
	if ok && len(c.veils) > 0 && c.veiled(s, key, end) {
		return Span{}, false
	}
	return s, ok
}

// mirrored is the span that has a range, whether it may be shown or not.
func (c *Cache) mirrored(key, end []byte) (Span, bool) {
	for _, s := range c.spans {
		if s.contains(key, end) {
			return s, true
		}
	}
	return Span{}, false
}

// Mirrored returns the span that has the whole range, whether it may be shown or not (Touch).
func (c *Cache) Mirrored(key, end []byte) (Span, bool) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	return c.mirrored(key, end)
}

// Found is a key as the cache knows it.
type Found struct {
	KV      *kv.KeyValue // nil: it does not exist. It is shared
	Answer  *Answer      // with KV, if it is at hand
	Span    Span
	Epoch   kv.Epoch
	Held    bool // by itself, not as a part of a span
	Partial bool
	Ahead   int64 // of a range: the newest own write in it that the feed has not brought yet, 0 for none
}

// Get returns a key. Covered false: the cache does not know.
func (c *Cache) Get(key []byte) (f Found, covered bool, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	if f.Span, covered = c.covered(key, nil); !covered {
		h := c.heldAt(key, nil)
		if h == nil {
			return f, false, nil
		}
		h.used.Store(c.missed.now.Add(1))
		f.Span, f.Held = h.span(c.floor), true
	}
	f.Epoch, f.Partial = c.epoch, c.partial
	f.KV, f.Answer, err = c.get(key)
	if len(c.own) > 0 {
		if e, ok := c.own[string(key)]; ok && (f.KV == nil || f.KV.ModRevision < e.KV.ModRevision) {
			f.KV, f.Answer = nil, nil
			if !e.Delete {
				f.KV = &e.KV
			}
		}
	}
	return f, true, err
}

// get returns the newest version that the feed has brought, and the answer with it if that is at hand.
func (c *Cache) get(key []byte) (*kv.KeyValue, *Answer, error) {
	if p, ok := c.dirty[string(key)]; ok {
		return p, nil, nil
	}
	if p, ok := c.frozen[string(key)]; ok {
		return p, nil, nil
	}
	if a := c.hot.get(key); a != nil {
		p := a.kv()
		return p, a, nil
	}
	p, err := c.stored(key)
	if err != nil {
		return nil, nil, err
	}
	a := NewAnswer(p)
	c.hot.put(key, a) // mu is held, so it has not changed since it was read
	p = a.kv()
	return p, a, nil
}

func (c *Cache) stored(key []byte) (found *kv.KeyValue, err error) {
	err = c.db.View(func(tx *bolt.Tx) error {
		b := tx.Bucket(bucketKeys).Get(key)
		if b == nil {
			return nil
		}
		v, err := decodeValue(bytes.Clone(key), b)
		found = &v
		return err
	})
	return found, err
}

// Range returns the keys of a covered range in order, and the span's revision. With asOf the own writes after that
// revision are left out. The keys are shared: the same, in the same place, as long as nothing has changed there.
func (c *Cache) Range(key, end []byte, asOf int64) (kvs []kv.KeyValue, f Found, covered bool, err error) {
	if len(end) == 0 && asOf == 0 {
		f, covered, err := c.Get(key)
		if f.KV != nil {
			kvs = []kv.KeyValue{*f.KV}
		}
		return kvs, f, covered, err
	}
	c.mu.RLock()
	defer c.mu.RUnlock()
	if f.Span, covered = c.covered(key, end); !covered {
		h := c.heldAt(key, end)
		if h == nil {
			return nil, f, false, nil
		}
		f.Span, f.Held = h.span(c.floor), true
	}
	f.Epoch, f.Partial = c.epoch, c.partial
	if len(end) == 0 {
		v, _, err := c.get(key)
		if v != nil {
			kvs = []kv.KeyValue{*v}
		}
		kvs, f.Ahead = c.overlay(kvs, key, end, asOf)
		return kvs, f, true, err
	}
	kvs, err = c.list(key, end)
	kvs, f.Ahead = c.overlay(kvs, key, end, asOf)
	return kvs, f, true, err
}

// overlay is kvs with the own writes of a range that the feed has not brought, up to asOf if that is not 0. Ahead is the
// newest of them. mu is held.
func (c *Cache) overlay(kvs []kv.KeyValue, key, end []byte, asOf int64) (_ []kv.KeyValue, ahead int64) {
	for k, e := range c.own {
		if !kv.Contains(key, end, []byte(k)) || asOf != 0 && e.KV.ModRevision > asOf {
			continue
		}
		at, there := slices.BinarySearchFunc(kvs, e.KV.Key, func(v kv.KeyValue, k []byte) int { return bytes.Compare(v.Key, k) })
		if there && kvs[at].ModRevision >= e.KV.ModRevision {
			continue
		}
		if ahead == 0 {
			kvs = slices.Clone(kvs)
		}
		ahead = max(ahead, e.KV.ModRevision)
		switch {
		case there && e.Delete:
			kvs = slices.Delete(kvs, at, at+1)
		case there:
			kvs[at] = e.KV
		case !e.Delete:
			kvs = slices.Insert(kvs, at, e.KV)
		}
	}
	return kvs, ahead
}

// scan returns what is known of a range, whether covered or not.
func (c *Cache) scan(key, end []byte) (map[string]kv.KeyValue, error) {
	all := map[string]kv.KeyValue{}
	err := c.db.View(func(tx *bolt.Tx) error {
		cur := tx.Bucket(bucketKeys).Cursor()
		for k, b := cur.Seek(key); k != nil && kv.Contains(key, end, k); k, b = cur.Next() {
			v, err := decodeValue(bytes.Clone(k), b)
			if err != nil {
				return err
			}
			all[string(k)] = v
		}
		return nil
	})
	for _, changes := range []map[string]*kv.KeyValue{c.frozen, c.dirty} {
		for k, p := range changes {
			if !kv.Contains(key, end, []byte(k)) {
				continue
			}
			if delete(all, k); p != nil {
				all[k] = *p
			}
		}
	}
	return all, err
}

// Seen is a key with the revision from which on it is as somebody was shown, or later.
type Seen struct {
	Key      []byte
	Revision int64
}

// Older returns the keys that the cache knows from before they were as an answer of the upstream has them, and may have
// otherwise: those in kvs and, if they are all there is in the range at revision, those that it has beside them. Most is the
// highest revision of kvs.
func (c *Cache) Older(key, end []byte, kvs []kv.KeyValue, all bool, revision int64) (older []Seen, most int64, err error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	for _, v := range kvs {
		most = max(most, v.ModRevision)
		if is, err := c.older(v.Key, &v, v.ModRevision); err != nil {
			return nil, most, err
		} else if is {
			older = append(older, Seen{v.Key, v.ModRevision})
		}
	}
	if !all {
		return older, most, nil
	}
	listed := make(map[string]struct{}, len(kvs))
	for _, v := range kvs {
		listed[string(v.Key)] = struct{}{}
	}
	more, err := c.beside(key, end, listed, revision)
	return append(older, more...), most, err
}

// beside is what the cache has of a range that is not listed, as of before a revision.
func (c *Cache) beside(key, end []byte, listed map[string]struct{}, revision int64) (older []Seen, err error) {
	check := func(k string) error {
		if _, there := listed[k]; there || !kv.Contains(key, end, []byte(k)) {
			return nil
		}
		is, err := c.older([]byte(k), nil, revision)
		if is {
			older = append(older, Seen{[]byte(k), revision})
			listed[k] = struct{}{}
		}
		return err
	}
	if len(end) == 0 {
		return older, check(string(key))
	}
	for k := range c.held {
		err = errors.Join(err, check(k))
	}
	for k := range c.own {
		err = errors.Join(err, check(k))
	}
	behind := func(s Span) bool { return s.Revision < revision && s.overlaps(key, end) }
	if err != nil || !slices.ContainsFunc(c.spans, behind) {
		return older, err
	}
	there, err := c.scan(key, end)
	for k := range there {
		err = errors.Join(err, check(k))
	}
	return older, err
}

// OlderKey is Older for an event.
func (c *Cache) OlderKey(e kv.Event) (bool, error) {
	c.mu.RLock()
	defer c.mu.RUnlock()
	v := &e.KV
	if e.Delete {
		v = nil
	}
	return c.older(e.KV.Key, v, e.KV.ModRevision)
}

// older reports whether the cache has a key from before a revision, otherwise than v, nil for not at all. What is hidden
// already, but maybe not for as long, counts too. mu is held.
func (c *Cache) older(key []byte, v *kv.KeyValue, revision int64) (bool, error) {
	s, mirrored := c.mirrored(key, nil)
	if h := c.held[string(key)]; !mirrored && h != nil {
		s, mirrored = h.span(c.floor), true
	}
	if !mirrored || s.Revision >= revision {
		return false, nil
	}
	if _, shown := c.covered(key, nil); !shown && c.held[string(key)] == nil {
		return true, nil
	}
	has, err := c.peek(key)
	if e, own := c.own[string(key)]; own && (has == nil || has.ModRevision < e.KV.ModRevision) {
		if e.KV.ModRevision >= revision {
			return false, err
		}
		if has = nil; !e.Delete {
			has = &e.KV
		}
	}
	if v == nil {
		return has != nil, err
	}
	return has == nil || has.ModRevision < v.ModRevision, err
}
