package cache

import (
	"errors"

	"holdfast/kv"
)

// recover takes in what an earlier process had not flushed. Changes may be in it that were, and own writes before others.
func (c *Cache) recover() error {
	c.journal.epoch = c.epoch
	changes, partial, err := c.journal.replay()
	if err != nil {
		return err
	}
	if partial {
		c.journal.mark[0] ^= 0xff
	}
	shown := len(changes)
	for !partial && shown > 0 && changes[shown-1].part { // killed before it had all of it: nobody has seen what there is
		shown--
	}
	for _, ch := range changes[:shown] {
		if err := c.redo(ch); err != nil {
			return err
		}
		if !partial && !ch.part && !ch.own && !ch.gone && !ch.veil && ch.held == 0 {
			c.redone(ch)
		}
	}
	if partial {
		// Whether what is absent exists is not known, so there is no use in holding that it does not.
		for k := range c.held {
			if v, err := c.peek([]byte(k)); err != nil || v == nil {
				if err := errors.Join(err, c.release(k)); err != nil {
					return err
				}
			}
		}
	}
	c.settle()
	// Only now: which key makes room is not known to a replay, and what follows in the journal of one may be older than what it knew.
	if err := c.fit(); err != nil && !errors.Is(err, ErrFull) { // spans that do not fit are given up when they grow
		return err
	}
	c.gone, c.leaving = nil, nil
	if len(changes) == 0 && !partial && !c.stale {
		return nil
	}
	c.partial = true // the journal stays as it is until all of it is written
	err = c.Flush()
	if c.partial = partial; err != nil {
		return err
	}
	if !partial {
		return errors.Join(c.journal.forget(), c.rewrite())
	}
	// The mark stays until what it warns of is over.
	return errors.Join(c.journal.begin(), c.journal.forgetOld(), c.rewrite())
}

// redo takes in one change. The file may be ahead of it.
func (c *Cache) redo(ch change) error {
	if ch.gone {
		if c.held[string(ch.KV.Key)] != nil {
			return c.release(string(ch.KV.Key))
		}
		return nil
	}
	if ch.held > 0 {
		if _, mirrored := c.mirrored(ch.KV.Key, nil); mirrored {
			return nil
		}
		return c.take(ch.Event, ch.held)
	}
	if ch.veil {
		c.hide(veil{ch.KV.Key, ch.KV.Value, ch.KV.ModRevision})
		return nil
	}
	f, covered, err := c.known(ch.KV.Key)
	if err != nil || !covered || f.Span.Revision >= ch.KV.ModRevision {
		return err
	}
	if ch.own {
		c.own[string(ch.KV.Key)] = ch.Event
	} else if e, ok := c.own[string(ch.KV.Key)]; ok && e.KV.ModRevision <= ch.KV.ModRevision {
		delete(c.own, string(ch.KV.Key)) // the feed had brought it, and more
	}
	if f.KV != nil && f.KV.ModRevision > ch.KV.ModRevision {
		return nil
	}
	if h := c.held[string(ch.KV.Key)]; h != nil && !ch.own {
		h.rev = max(h.rev, ch.KV.ModRevision)
		c.changed[string(ch.KV.Key)] = struct{}{}
	}
	return c.change(kv.Event{Delete: ch.Delete, KV: ch.KV})
}

// redone notes how far the span of an event has come by it. All before it is in the journal too, and of its own revision if it
// is the last of what came at once; an earlier version did not say. Without that the feed would go on from further back, and
// bring back for a moment what the event deleted, and a list would have what is newer than it says.
func (c *Cache) redone(ch change) {
	to := ch.KV.ModRevision
	if !ch.last {
		to--
	}
	var of *Span
	for i, s := range c.spans {
		if !s.contains(ch.KV.Key, nil) {
			continue
		}
		if of != nil {
			return // which of the two has come that far is not known
		}
		of = &c.spans[i]
	}
	if of != nil {
		of.Revision = max(of.Revision, to)
	}
}

// known is Get behind the veils.
func (c *Cache) known(key []byte) (Found, bool, error) {
	veils := c.veils
	c.veils = nil
	defer func() { c.veils = veils }()
	return c.Get(key)
}

// rewrite keeps in the journal what the file cannot say: own writes that took keys away, and veils.
func (c *Cache) rewrite() error {
	for _, v := range c.veils {
		if err := c.journal.add(v.change()); err != nil {
			return err
		}
	}
	for _, e := range c.own {
		if e.Delete {
			if err := c.journal.add(change{Event: e, own: true}); err != nil {
				return err
			}
		}
	}
	return nil
}
