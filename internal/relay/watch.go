package relay

import "holdfast/kv"

// Watch is one watch of a Stream. Its From is the next revision to be delivered.
type Watch struct {
	kv.Watch
	Created bool // the consumer has heard so
	ending  bool // the consumer has asked for its end
	part    int  // events of revision From that it has had
	skip    int  // of those, how many come once more
}

// Begin prepares a watch for a source that begins with all of revision From.
func (one *Watch) Begin() { one.skip = one.part }

// Advance moves a watch behind a batch of it, and takes out of the batch what the consumer has had. It reports whether that are all
// its events. The events of a revision come in the same order from every source.
func (one *Watch) Advance(b *kv.Batch) (nothing bool) {
	n := len(b.Events)
	if n == 0 {
		switch {
		case one.From == 0 && b.Revision > 0: // made here: what came before was not asked for
			one.From = b.Revision + 1
		case b.Progress:
			one.Reach(b.Revision)
		}
		return false
	}
	events, last := b.Events, b.Events[n-1].KV.ModRevision
	for len(events) > 0 && one.skip > 0 && events[0].KV.ModRevision == one.From {
		events, one.skip = events[1:], one.skip-1
	}
	switch {
	case !b.Fragment:
		one.move(last + 1)
	case one.From != last:
		one.move(last)
		fallthrough
	default:
		for _, e := range events {
			if e.KV.ModRevision == last {
				one.part++
			}
		}
	}
	b.Events = events
	return len(events) == 0
}

func (one *Watch) move(from int64) { one.From, one.part, one.skip = from, 0, 0 }

// Reach moves a watch behind a revision up to which its source has nothing more for it.
func (one *Watch) Reach(revision int64) {
	if one.From <= revision {
		one.move(revision + 1)
	}
}
