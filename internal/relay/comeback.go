package relay

import (
	"time"

	"holdfast/kv"
)

// askAgain is how long after a source could not tell how far it is it is asked again.
const askAgain = time.Second

// comeback is what a consumer hears that was told of a lost link, when a source feeds it again:
//
//	stale --the source has all its watches--> catching up --it says how far it is, behind all events--> synced
//
// A source that says something of its own link says the rest itself, too.
type comeback struct {
	stream  *Stream
	waiting map[int64]bool     // watches that the consumer knows and the source has not said that it has
	ask     chan time.Duration // to have the source asked how far it is; nil: there is nothing to come back from, or no more
	asked   bool
}

func (s *Stream) comeback(watches []kv.Watch) *comeback {
	c := &comeback{stream: s}
	if s.link == kv.WatchSynced {
		return c
	}
	c.ask, c.waiting = make(chan time.Duration, 1), map[int64]bool{}
	for _, one := range watches {
		if w := s.Find(one.ID); w != nil && w.Created {
			c.waiting[one.ID] = true
		}
	}
	return c
}

// before is called with a batch before it is noted. ours: it answers what was asked for here alone. False: the consumer
// has had enough.
func (c *comeback) before(b *kv.Batch) (ours, more bool) {
	if b.WatchID == kv.WatchAll && b.Progress {
		ours = !c.stream.Told() && c.asked
	}
	if c.ask == nil {
		return ours, true
	}
	if b.WatchID == kv.WatchAll && b.State != kv.WatchSame {
		c.end()
		return false, true
	}
	delete(c.waiting, b.WatchID)
	if len(c.waiting) > 0 || c.asked {
		return ours, true
	}
	c.asked = true
	c.ask <- 0
	return ours, c.stream.Tell(b.Header, kv.WatchCatchingUp)
}

// after is called with a batch when the consumer has it.
func (c *comeback) after(b *kv.Batch) (more bool) {
	if c.ask == nil || !c.asked || b.WatchID != kv.WatchAll || !b.Progress {
		return true
	}
	if b.Err == nil {
		c.end()
		return c.stream.Tell(b.Header, kv.WatchSynced)
	}
	select {
	case c.ask <- askAgain:
	default: // it is about to be asked
	}
	return true
}

func (c *comeback) end() {
	close(c.ask)
	c.ask, c.waiting = nil, nil
}
