package cache

import (
	"bytes"
	"slices"

	"holdfast/kv"
)

// ownMax bounds the own writes that are remembered until the feed brings them.
const ownMax = 4096

// Own remembers a write that this node has acknowledged until the feed brings it, also for the case that the process is
// killed. It reports false if it cannot: the key is covered, and what it looks like now is not known here. created says
// that the key did not exist before.
func (c *Cache) Own(e kv.Event, created bool) (known bool, err error) {
	err = c.write(func() error {
		var keep bool
		if e, keep, known = c.ownWrite(e, created); !keep {
			return nil
		}
		err := c.journal.add(change{Event: e, own: true})
		c.mu.Lock()
		defer c.mu.Unlock()
		c.own[string(e.KV.Key)] = e
		return err // it is remembered all the same
	})
	return known, err
}

// ownWrite completes a write by what the key was before.
func (c *Cache) ownWrite(e kv.Event, created bool) (whole kv.Event, keep, known bool) {
	f, covered, err := c.Get(e.KV.Key)
	c.mu.Lock()
	defer c.mu.Unlock()
	if s, mirrored := c.mirrored(e.KV.Key, nil); mirrored && !covered {
		return e, false, s.Revision >= e.KV.ModRevision // veiled, and to be so for longer
	}
	if a := c.asked[string(e.KV.Key)]; a != nil {
		a.wrote = max(a.wrote, e.KV.ModRevision)
	}
	if !covered || f.Span.Revision >= e.KV.ModRevision {
		return e, false, true
	}
	if err != nil || len(c.own) >= ownMax {
		return e, false, false
	}
	switch was, ok := c.own[string(e.KV.Key)]; {
	case ok && was.KV.ModRevision >= e.KV.ModRevision:
		return e, false, true
	case created:
		e.KV.CreateRevision, e.KV.Version = e.KV.ModRevision, 1
	case f.KV != nil:
		e.KV.CreateRevision, e.KV.Version = f.KV.CreateRevision, f.KV.Version+1
	case !e.Delete:
		return e, false, false
	}
	return e, true, true
}

// veil hides a range of the spans until they have reached a revision: this node has acknowledged a write there, and does
// not know what the keys are now.
type veil struct {
	key, end []byte
	revision int64
}

// veilsMax bounds the veils; beyond it one hides everything.
const veilsMax = 64

// Touch says that this node has acknowledged a write at revision in a range without saying what the keys are now. What is
// known of them from before is not shown any more: held keys are let go, and what a span has of the range is not covered
// until the feed has brought it that far. It reports whether a span is behind.
func (c *Cache) Touch(key, end []byte, revision int64) (behind bool, err error) {
	err = c.write(func() error {
		behind, err = c.touch(key, end, revision)
		if err != nil || !behind {
			return err
		}
		return c.journal.add(veil{key, end, revision}.change())
	})
	return behind, err
}

func (v veil) change() change {
	return change{Event: kv.Event{KV: kv.KeyValue{Key: v.key, Value: v.end, ModRevision: v.revision}}, veil: true}
}

func (c *Cache) touch(key, end []byte, revision int64) (behind bool, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for k, a := range c.asked {
		if kv.Contains(key, end, []byte(k)) {
			a.wrote = max(a.wrote, revision)
		}
	}
	for k, h := range c.held {
		if kv.Contains(key, end, []byte(k)) && h.span(c.floor).Revision < revision {
			if err := c.release(k); err != nil {
				return false, err
			}
		}
	}
	behind = c.hide(veil{key, end, revision})
	c.stale = c.stale || behind // a flush takes together what the journal has of veils
	return behind, nil
}

// hide puts up a veil if a span needs it.
func (c *Cache) hide(v veil) bool {
	if !c.needs(v) {
		return false
	}
	for i, w := range c.veils {
		if bytes.Equal(w.key, v.key) && bytes.Equal(w.end, v.end) {
			c.veils[i].revision = max(w.revision, v.revision)
			return true
		}
	}
	if len(c.veils) >= veilsMax {
		one := veil{kv.FromKey(), kv.FromKey(), v.revision}
		for _, w := range c.veils {
			one.revision = max(one.revision, w.revision)
		}
		c.veils = []veil{one}
		return true
	}
	c.veils = append(c.veils, v)
	return true
}

func (c *Cache) needs(v veil) bool {
	return slices.ContainsFunc(c.spans, func(s Span) bool { return s.Revision < v.revision && s.overlaps(v.key, v.end) })
}

// veiled reports whether a span may not be shown in a range.
func (c *Cache) veiled(s Span, key, end []byte) bool {
	for _, v := range c.veils {
		if s.Revision < v.revision && (Span{Key: v.key, End: v.end}).overlaps(key, end) {
			return true
		}
	}
	return false
}

// settle forgets own writes that the feed has brought, or whose key is no longer known here. mu is held.
func (c *Cache) settle() {
	if len(c.veils) > 0 {
		c.veils = slices.DeleteFunc(c.veils, func(v veil) bool { return !c.needs(v) })
	}
	for k, e := range c.own {
		s, ok := c.mirrored([]byte(k), nil)
		if h := c.held[k]; !ok && h != nil {
			s, ok = h.span(c.floor), true
		}
		if !ok || s.Revision >= e.KV.ModRevision {
			delete(c.own, k)
		}
	}
}
