package cache

import (
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
	k := string(e.KV.Key)
	if a := c.asked[k]; a != nil {
		a.wrote = max(a.wrote, e.KV.ModRevision)
	}
	if !covered || f.Span.Revision >= e.KV.ModRevision {
		return e, false, true
	}
	if err != nil || len(c.own) >= ownMax {
		return e, false, false
	}
	switch was, ok := c.own[k]; {
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

// Touch says that this node has acknowledged a write at revision in a range without saying what the keys are now. Held
// keys in it are let go. It reports whether a span has some of it and is behind.
func (c *Cache) Touch(key, end []byte, revision int64) (behind bool, err error) {
	err = c.write(func() error {
		c.mu.Lock()
		defer c.mu.Unlock()
		for k, a := range c.asked {
			if kv.Contains(key, end, []byte(k)) {
				a.wrote = max(a.wrote, revision)
			}
		}
		for _, s := range c.spans {
			behind = behind || s.Revision < revision && s.overlaps(key, end)
		}
		for k, h := range c.held {
			if kv.Contains(key, end, []byte(k)) && h.span(c.floor).Revision < revision {
				if err := c.release(k); err != nil {
					return err
				}
			}
		}
		return nil
	})
	return behind, err
}

// settle forgets own writes that the feed has brought, or whose key is no longer known here. mu is held.
func (c *Cache) settle() {
	for k, e := range c.own {
		s, ok := c.covered([]byte(k), nil)
		if h := c.held[k]; !ok && h != nil {
			s, ok = h.span(c.floor), true
		}
		if !ok || s.Revision >= e.KV.ModRevision {
			delete(c.own, k)
		}
	}
}
