package proxy

import (
	"bytes"
	"context"
	"errors"
	"slices"
	"sync"
	"time"

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
	asking sync.WaitGroup
	asked  bool       // progress was asked for
	round  chan error // the answer, nil while no round is under way
	reach  bool       // a round has come: say how far it is once all before it is sent
	ticker *time.Ticker
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
func (w *watcher) attach(one *watched) bool {
	t := w.p.feed.mirrorOf(one.Key, one.End)
	if t == nil || one.From < 0 || !one.created && one.From > 0 && one.From < w.p.feed.compaction() {
		return false
	}
	epoch, at, ok := t.stand()
	seen, newest := w.p.seen()
	if !ok || epoch != seen || !w.epoch.IsZero() && epoch != w.epoch {
		return false
	}
	switch {
	case one.created:
	case one.From == 0:
		one.From = max(at, newest) + 1
	case one.From <= max(at, newest):
		return false // the past may have been compacted meanwhile: the upstream knows
	}
	if _, _, ok := t.from(epoch, one.From); !ok {
		return false
	}
	w.epoch, one.tail = epoch, t
	return true
}

// fits reports whether the whole stream can be fed now.
func (w *watcher) fits() bool {
	if up, _ := w.p.feed.state(); !up {
		return false
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(w.watches) == 0 && !w.stale {
		return len(w.p.feed.mirrors) > 0
	}
	for _, one := range w.watches {
		if one.refused > 0 || one.ending || !w.attach(one) {
			return false
		}
	}
	return true
}

// errKeyless is why a stream leaves the feed while the link is lost: a watch of no key is refused without the upstream.
var errKeyless = errors.New("a watch of no key")

func (w *watcher) hasKeyless() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return slices.ContainsFunc(w.watches, func(one *watched) bool { return len(one.Key) == 0 })
}

// fed serves the stream until the consumer has enough or was told the end (over), or it needs more than the feed has.
func (w *watcher) fed(ctx context.Context) (over bool, err error) {
	w.p.met.demuxed.Inc()
	ctx, cancel := context.WithCancel(ctx)
	f := &fed{w: w, ctx: ctx}
	defer f.asking.Wait()
	defer cancel()
	f.ticker = time.NewTicker(progressEvery)
	defer f.ticker.Stop()
	f.asked = w.owed
	f.ask()
	catching := false
	for {
		up, rounds, changed := w.p.feed.news() // before looking, so that nothing is missed
		if up && w.stale && !catching {
			if catching = true; !w.state(kv.WatchCatchingUp) {
				return true, nil
			}
		}
		var sent bool
		var err error
		if up || !w.stale { // what comes before the feed is up again waits, so that it follows the word that it does
			sent, err = f.step()
		} else if w.hasKeyless() {
			err = errKeyless
		}
		switch {
		case errors.Is(err, errEnough):
			return true, nil
		case err != nil:
			w.p.met.moved.Inc()
			return false, err
		case sent:
			continue
		}
		said := true
		switch {
		case !up && (!w.stale || catching):
			w.stale, catching = true, false
			said = w.state(kv.WatchStale)
		case up && w.stale && rounds > 0: // what was missed came before the round
			w.stale, catching = false, false
			said = w.state(kv.WatchSynced)
		}
		if !said || w.over() {
			return true, nil
		}
		if !f.wait(changed) {
			return true, nil
		}
	}
}

// errEnough says that the consumer or the context has ended.
var errEnough = errors.New("the consumer had enough")

func (w *watcher) state(s kv.WatchState) bool {
	return w.yield(kv.Batch{Header: kv.Header{Epoch: w.epoch}, WatchID: kv.WatchAll, State: s}, nil)
}

func (w *watcher) over() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return w.complete && len(w.watches) == 0
}

// step sends what there is for each watch. sent: there was something, and there may be more.
func (f *fed) step() (sent bool, err error) {
	w := f.w
	if f.ctx.Err() != nil {
		return false, errEnough
	}
	least := int64(0)
	for _, one := range w.watches { // only this goroutine changes them while the stream is fed
		batches, at, ok := one.tail.from(w.epoch, one.From)
		if !ok {
			return false, errMove
		}
		if !one.created {
			one.created = true
			_, newest := w.p.seen()
			if !f.say(kv.Batch{WatchID: one.ID, Created: true}, max(at, newest)) {
				return false, errEnough
			}
		}
		for _, b := range batches {
			events := one.pick(b)
			one.From = max(one.From, b.last+1)
			if len(events) == 0 {
				continue
			}
			sent, one.busy = true, true
			if !f.say(kv.Batch{WatchID: one.ID, Events: events}, b.last) {
				return false, errEnough
			}
		}
		if one.From <= at {
			one.From = at + 1
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
	f.reach, w.owed = false, false
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
	return f.w.yield(b, nil)
}

// pick returns the events of a batch that are for a watch.
func (one *watched) pick(b tailBatch) []kv.Event {
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
	control := f.w.spec.Control
	if f.w.complete {
		control = nil
	}
	select {
	case <-f.ctx.Done():
		return false
	case <-changed:
		return true
	case c, ok := <-control:
		return f.obey(c, ok)
	case err := <-f.round:
		f.round = nil
		if err != nil {
			e, isKV := errors.AsType[*kv.Error](err)
			if !isKV {
				e = kv.Errorf(kv.UpstreamUnavailable, "how far the cluster is cannot be told: %v", err)
			}
			f.w.owed = false
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
	case ok && c.Add != nil && w.find(c.Add.ID) != nil:
		return f.say(kv.Batch{WatchID: c.Add.ID, Created: true, Canceled: true,
			Err: kv.Errorf(kv.Invalid, "the watch id %d is in use on this stream", c.Add.ID)}, 0)
	case ok && c.Add == nil && c.Progress:
		f.asked, w.owed = true, true
		f.ask()
	case ok && c.Add == nil:
		if one := w.find(c.Cancel); one != nil {
			w.mu.Lock()
			w.remove(c.Cancel)
			w.mu.Unlock()
			return f.say(kv.Batch{WatchID: c.Cancel, Canceled: true}, one.reached)
		}
	default:
		w.take(c, ok)
		if ok {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.attach(w.find(c.Add.ID)) // if it cannot be, step finds no tail and the stream moves
		}
	}
	return true
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
	for _, one := range slices.Clone(f.w.watches) {
		if one.Progress && !one.busy && one.created {
			if !f.say(kv.Batch{WatchID: one.ID, Progress: true}, one.reached) {
				return false
			}
		}
		one.busy = false
	}
	return true
}
