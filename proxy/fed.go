package proxy

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"holdfast/internal/relay"
	"holdfast/kv"
)

// progressEvery is how often an idle watch that asked for it hears how far it is, as on a member.
const progressEvery = 10 * time.Minute

// errMove says that a stream needs an upstream watch of its own.
var errMove = errors.New("the feed does not have what is watched")

// fed serves a stream from what the feed brings, if all its watches lie in mirrored prefixes and begin within what the
// feed has of late. It needs nothing of the link and buffers nothing: each watch is a revision up to which its consumer
// has been served.
//
//	fed --the consumer is slow, or adds a watch of another kind--> an upstream watch of its own (watch.go)
type fed struct {
	w      *watcher
	ctx    context.Context
	seats  []*seat
	asking sync.WaitGroup
	asked  bool       // progress was asked for
	round  chan error // the answer, nil while no round is under way
	reach  bool       // a round has come: say how far it is once all before it is sent
	ticker *time.Ticker
}

// seat is a watch that is fed.
type seat struct {
	*relay.Watch
	tail    *tail // where it is fed from; nil: the feed does not have what it watches
	busy    bool  // had events since it was last told how far it is
	reached int64
}

// mirrorOf returns the tail of the mirrored prefix that a range lies in.
func (f *feed) mirrorOf(key, end []byte) *tail {
	if len(key) == 0 || len(end) > 0 && !bytes.Equal(end, kv.FromKey()) && bytes.Compare(key, end) >= 0 {
		return nil // nothing at all; the upstream says so
	}
	for _, m := range f.mirrors {
		if covers(m.key, m.end, key, end) {
			return m.tail
		}
	}
	return nil
}

// covers reports whether a range lies in another.
func covers(key, end, k, e []byte) bool {
	unbounded := bytes.Equal(end, kv.FromKey())
	switch {
	case !kv.Contains(key, end, k):
		return false
	case len(e) == 0 || unbounded:
		return true
	}
	return !bytes.Equal(e, kv.FromKey()) && bytes.Compare(e, end) <= 0
}

// attach finds where a watch is fed from; false: it cannot be.
func (w *watcher) attach(one *relay.Watch) (*seat, bool) {
	s := &seat{Watch: one}
	t := w.p.feed.mirrorOf(one.Key, one.End)
	if t == nil || one.From < 0 || !one.Created && one.From > 0 && one.From < w.p.feed.compaction() {
		return s, false
	}
	epoch, at, ok := t.stand()
	seen, newest := w.p.seen()
	if !ok || epoch != seen || !w.epoch.IsZero() && epoch != w.epoch {
		return s, false
	}
	switch {
	case one.Created:
	case one.From == 0:
		one.From = max(at, newest) + 1
	case one.From <= max(at, newest):
		return s, false // the past may have been compacted meanwhile: the upstream knows
	}
	if _, _, ok := t.from(epoch, one.From); !ok {
		return s, false
	}
	one.Begin()
	w.epoch, s.tail = epoch, t
	return s, true
}

// fits finds where each watch is fed from; false: the stream cannot be fed now.
func (w *watcher) fits() (seats []*seat, ok bool) {
	if up, _ := w.p.feed.state(); !up {
		return nil, false
	}
	watches := w.Watches()
	if len(watches) == 0 && w.Link() == kv.WatchSynced {
		return nil, len(w.p.feed.mirrors) > 0
	}
	for _, one := range watches {
		s, ok := w.attach(one)
		if !ok {
			return nil, false
		}
		seats = append(seats, s)
	}
	return seats, true
}

// fed serves the stream until the consumer has enough or was told the end (over), or it needs more than the feed has.
func (w *watcher) fed(ctx context.Context, seats []*seat) (over bool) {
	w.p.met.demuxed.Inc()
	ctx, cancel := context.WithCancel(ctx)
	f := &fed{w: w, ctx: ctx, seats: seats}
	defer f.asking.Wait()
	defer cancel()
	f.ticker = time.NewTicker(progressEvery)
	defer f.ticker.Stop()
	f.asked = w.Owed()
	f.ask()
	for {
		up, rounds, changed := w.p.feed.news() // before looking, so that nothing is missed
		if up && w.Link() == kv.WatchStale && !f.tell(kv.WatchCatchingUp) {
			return true
		}
		var sent bool
		var err error
		if w.Link() != kv.WatchStale { // what comes before the feed is up again waits, so that it follows the word that it does
			sent, err = f.step()
		}
		switch {
		case errors.Is(err, errEnough):
			return true
		case err != nil:
			w.p.met.moved.Inc()
			return false
		case sent:
			continue
		}
		said := true
		switch {
		case !up:
			said = f.tell(kv.WatchStale)
		case rounds > 0: // what was missed came before the round
			said = f.tell(kv.WatchSynced)
		}
		if !said || w.Over() || !f.wait(changed) {
			return true
		}
	}
}

func (f *fed) tell(s kv.WatchState) bool { return f.w.Tell(kv.Header{Epoch: f.w.epoch}, s) }

// step sends what there is for each watch. sent: there was something, and there may be more.
func (f *fed) step() (sent bool, err error) {
	w := f.w
	if f.ctx.Err() != nil {
		return false, errEnough
	}
	least := int64(0)
	for _, one := range f.seats {
		batches, at, ok := one.tail.from(w.epoch, one.From)
		if !ok {
			return false, errMove
		}
		if !one.Created {
			one.Created = true
			_, newest := w.p.seen()
			if !f.say(kv.Batch{WatchID: one.ID, Created: true}, max(at, newest)) {
				return false, errEnough
			}
		}
		for _, b := range batches {
			batch := kv.Batch{WatchID: one.ID, Events: one.pick(b)}
			nothing := len(batch.Events) == 0 || one.Advance(&batch)
			if one.Reach(b.last); nothing {
				continue
			}
			sent, one.busy = true, true
			if !f.say(batch, b.last) {
				return false, errEnough
			}
		}
		if one.From <= at {
			one.Reach(at)
			sent = sent || len(batches) == tailStep
		}
		one.reached = min(one.From-1, at) // From may lie in the future
		if least == 0 || one.reached < least {
			least = one.reached
		}
	}
	if sent || !f.reach {
		return sent, nil
	}
	f.reach = false
	w.Told()
	if least == 0 {
		_, least = w.p.seen()
	}
	if !f.say(kv.Batch{WatchID: kv.WatchAll, Progress: true}, least) {
		return false, errEnough
	}
	return false, nil
}

func (f *fed) say(b kv.Batch, revision int64) bool {
	b.Epoch, b.Revision = f.w.epoch, revision
	return f.w.Yield(b)
}

// pick returns the events of a batch that are for a watch.
func (one *seat) pick(b tailBatch) []kv.Event {
	wants := func(e *kv.Event) bool {
		return e.KV.ModRevision >= one.From && kv.Contains(one.Key, one.End, e.KV.Key) &&
			(e.Delete && !one.NoDeletes || !e.Delete && !one.NoPuts)
	}
	n := 0
	for i := range b.events {
		if wants(&b.events[i]) {
			n++
		}
	}
	if n == len(b.events) && !one.PrevKV {
		return b.events // shared by all who want all of it
	}
	if n == 0 {
		return nil
	}
	events := make([]kv.Event, 0, n)
	for i := range b.events {
		if !wants(&b.events[i]) {
			continue
		}
		e := b.events[i]
		if one.PrevKV {
			e.Prev = b.replaced[i]
		}
		events = append(events, e)
	}
	return events
}

// wait waits for something to do; false: the stream has ended.
func (f *fed) wait(changed <-chan struct{}) bool {
	select {
	case <-f.ctx.Done():
		return false
	case <-changed:
		return true
	case c, ok := <-f.w.Control():
		return f.obey(c, ok)
	case err := <-f.round:
		f.round = nil
		if err != nil {
			e, isKV := errors.AsType[*kv.Error](err)
			if !isKV {
				e = kv.Errorf(kv.UpstreamUnavailable, "how far the cluster is cannot be told: %v", err)
			}
			f.w.Told()
			if !f.say(kv.Batch{WatchID: kv.WatchAll, Progress: true, Err: e}, 0) {
				return false
			}
		}
		f.reach = err == nil
		f.ask()
		return true
	case <-f.ticker.C:
		return f.announce()
	}
}

// obey does what the consumer asks for.
func (f *fed) obey(c kv.WatchControl, ok bool) bool {
	w := f.w
	switch {
	case !ok:
		w.Take(c, ok)
	case c.Add != nil:
		if w.Take(c, ok); w.Answer() { // an id that is in use, or no key
			return false
		}
		if one := w.Find(c.Add.ID); one != nil && !f.has(one) {
			s, _ := w.attach(one) // if it cannot be, step finds no tail and the stream moves
			f.seats = append(f.seats, s)
		}
	case c.Progress:
		w.Take(c, ok)
		f.asked = true
		f.ask()
	default:
		i := slices.IndexFunc(f.seats, func(one *seat) bool { return one.ID == c.Cancel })
		if i < 0 {
			return true
		}
		reached := f.seats[i].reached
		f.seats = slices.Delete(f.seats, i, i+1)
		w.Remove(c.Cancel)
		return f.say(kv.Batch{WatchID: c.Cancel, Canceled: true}, reached)
	}
	return true
}

func (f *fed) has(one *relay.Watch) bool {
	return slices.ContainsFunc(f.seats, func(s *seat) bool { return s.Watch == one })
}

// ask takes a round for a consumer that wants to know how far it is: without one nobody knows that the cluster is no
// further. Asked again meanwhile, it takes another.
func (f *fed) ask() {
	if !f.asked || f.round != nil {
		return
	}
	f.asked = false
	answer := make(chan error, 1)
	f.round = answer
	f.asking.Go(func() {
		_, _, err := f.w.p.feed.round(f.ctx)
		answer <- err
	})
}

// announce tells idle watches that ask for it how far they are.
func (f *fed) announce() bool {
	for _, one := range f.seats {
		if one.Progress && !one.busy && one.Created {
			if !f.say(kv.Batch{WatchID: one.ID, Progress: true}, one.reached) {
				return false
			}
		}
		one.busy = false
	}
	return true
}
