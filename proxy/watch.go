package proxy

import (
	"context"
	"iter"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"holdfast/internal/relay"
	"holdfast/kv"
)

// Watch serves from the feed what lies in mirrored prefixes (fed.go), forwards the rest, and outlives the upstream: when it
// is lost the stream stays open and says WatchStale once; when it is back, WatchCatchingUp, every event since in order,
// and WatchSynced.
func (p *Proxy) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		if !p.admit() {
			yield(kv.Batch{}, kv.Errorf(kv.RateLimited, "%d watches are open on this node, which is its limit", watchersMax))
			return
		}
		defer p.leave()
		newWatcher(p, spec).run(ctx, yield)
	}
}

func (p *Proxy) admit() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watchers >= watchersMax {
		return false
	}
	p.watchers++
	return true
}

func (p *Proxy) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers--
}

// watcher is one stream of one consumer: what it asked for, and how far each watch has come.
type watcher struct {
	p     *Proxy
	spec  kv.WatchSpec
	yield func(kv.Batch, error) bool
	epoch kv.Epoch
	stale bool

	mu       sync.Mutex
	watches  []*watched // in the order in which they were asked for
	complete bool       // nothing more will be asked for
	owed     bool       // the consumer has asked how far it is
}

// watched is one watch. Its From is the next revision to be delivered.
type watched struct {
	kv.Watch
	created bool  // the consumer has heard so
	ending  bool  // the consumer has asked for its end
	refused int   // further watches of the same id, which the upstream will refuse
	busy    bool  // had events since it was last told how far it is
	tail    *tail // where it is fed from
	reached int64 // by what it was fed
}

func newWatcher(p *Proxy, spec kv.WatchSpec) *watcher {
	w := &watcher{p: p, spec: spec, complete: spec.Control == nil}
	for _, one := range spec.Watches {
		w.add(one)
	}
	return w
}

func (w *watcher) add(one kv.Watch) {
	if was := w.find(one.ID); was != nil {
		was.refused++
		return
	}
	w.watches = append(w.watches, &watched{Watch: one})
}

func (w *watcher) find(id int64) *watched {
	for _, one := range w.watches {
		if one.ID == id {
			return one
		}
	}
	return nil
}

func (w *watcher) remove(id int64) {
	w.watches = slices.DeleteFunc(w.watches, func(one *watched) bool { return one.ID == id })
}

// run serves the stream from the feed, or opens one upstream watch after the other, until the consumer or ctx ends, or a
// watch cannot go on.
func (w *watcher) run(ctx context.Context, yield func(kv.Batch, error) bool) {
	w.yield = yield
	pause := retryFirst
	for {
		if w.fits() {
			if over, _ := w.fed(ctx); over || ctx.Err() != nil {
				return
			}
		}
		reconnected := w.p.opts.Reconnected()
		over, err := w.once(ctx)
		if over || ctx.Err() != nil {
			return
		}
		if kv.CodeOf(err) != kv.UpstreamUnavailable && kv.CodeOf(err) != kv.NoLeader {
			yield(kv.Batch{}, err)
			return
		}
		if !w.stale {
			w.stale = true
			if !yield(kv.Batch{WatchID: kv.WatchAll, State: kv.WatchStale}, nil) {
				return
			}
			pause = retryFirst
		}
		if !w.rest(ctx, pause/2+rand.N(pause/2), reconnected) {
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// rest waits before the next upstream watch. What the consumer asks for meanwhile is answered as far as that can be done
// without an upstream. False: the stream has ended.
func (w *watcher) rest(ctx context.Context, pause time.Duration, reconnected <-chan struct{}) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		control := w.spec.Control
		if w.complete {
			control = nil
		}
		select {
		case <-t.C:
			return true
		case <-reconnected:
			return true
		case <-ctx.Done():
			return false
		case c, ok := <-control:
			w.take(c, ok)
			if _, _, over := w.open(); over {
				return false
			}
		}
	}
}

// once runs one upstream watch. over: the consumer had enough, or was told the end.
func (w *watcher) once(ctx context.Context) (over bool, err error) {
	spec, resumed, over := w.open()
	if over {
		return true, nil
	}
	ctx, cancel := context.WithCancel(ctx)
	var passing sync.WaitGroup
	defer passing.Wait()
	defer cancel()
	if !w.complete {
		control := make(chan kv.WatchControl, 1)
		if w.owed { // asked of an upstream that was lost before it answered
			control <- kv.WatchControl{Progress: true}
		}
		spec.Control = control
		passing.Go(func() {
			relay.Controls(ctx, w.spec.Control, control, func(c *kv.WatchControl, ok bool) { w.take(*c, ok) })
		})
	}
	for b, err := range w.p.up.Watch(ctx, spec) {
		if err != nil {
			return false, err
		}
		if !w.sameHistory(b) {
			return true, nil
		}
		if w.note(b) { // the consumer knows this watch
			if resumed--; resumed == 0 && !w.back(b.Header) {
				return true, nil
			}
			continue
		}
		w.p.showingEvents(ctx, b)
		if !w.yield(b, nil) {
			return true, nil
		}
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.complete && len(w.watches) == 0 {
		return true, nil
	}
	return false, kv.Errorf(kv.UpstreamUnavailable, "the upstream ended the watch")
}

// open is what to ask the upstream for; resumed counts the watches that the consumer knows already. Watches that it has
// given up while the upstream was lost are ended here, and those of no key, which no node has, refused: what a guard does
// not let through comes as one, and is told so without the upstream too.
func (w *watcher) open() (spec kv.WatchSpec, resumed int, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	spec.By = w.spec.By
	for _, one := range slices.Clone(w.watches) {
		if one.ending {
			w.remove(one.ID)
			if !w.yield(kv.Batch{WatchID: one.ID, Canceled: true}, nil) {
				return spec, 0, true
			}
			continue
		}
		if len(one.Key) == 0 {
			w.remove(one.ID)
			if !w.yield(kv.Batch{WatchID: one.ID, Created: true, Canceled: true, Err: kv.Errorf(kv.Invalid, "a watch has a key")}, nil) {
				return spec, 0, true
			}
			continue
		}
		if one.created {
			resumed++
		}
		one.refused = 0
		spec.Watches = append(spec.Watches, one.Watch)
	}
	return spec, resumed, w.complete && len(w.watches) == 0
}

// sameHistory tells the consumer if revisions no longer mean what they did.
func (w *watcher) sameHistory(b kv.Batch) bool {
	if b.Epoch.IsZero() || b.Epoch == w.epoch {
		return true
	}
	if w.epoch.IsZero() {
		w.epoch = b.Epoch
		return true
	}
	w.mu.Lock()
	gone := slices.Clone(w.watches)
	w.mu.Unlock()
	for _, one := range gone {
		if !w.yield(kv.Batch{Header: b.Header, WatchID: one.ID, Canceled: true,
			Err: kv.Errorf(kv.Compacted, "the cluster has another history (it was restored); read again, and watch from there")}, nil) {
			break
		}
	}
	return false
}

// back tells the consumer that the upstream is there again; events since follow in order.
func (w *watcher) back(h kv.Header) bool {
	if !w.stale {
		return true
	}
	w.stale = false
	return w.yield(kv.Batch{Header: h, WatchID: kv.WatchAll, State: kv.WatchCatchingUp}, nil) &&
		w.yield(kv.Batch{Header: h, WatchID: kv.WatchAll, State: kv.WatchSynced}, nil)
}

// note keeps track of what a batch brings, so that the next upstream watch begins behind it. It reports whether the batch
// only says what the consumer has heard before.
func (w *watcher) note(b kv.Batch) (known bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.WatchID == kv.WatchAll && b.Progress {
		w.owed = false
	}
	one := w.find(b.WatchID)
	if one == nil {
		return false
	}
	if b.Canceled {
		if one.refused > 0 {
			one.refused--
		} else {
			w.remove(b.WatchID)
		}
		return false
	}
	if b.Created {
		known, one.created = one.created, true
	}
	switch n := len(b.Events); {
	case n > 0 && b.Fragment:
		one.From = b.Events[n-1].KV.ModRevision // the rest of it comes again: better twice than never
	case n > 0:
		one.From = b.Events[n-1].KV.ModRevision + 1
	case one.From == 0 && b.Revision > 0:
		one.From = b.Revision + 1
	}
	return known
}

// take keeps track of what the consumer asks for; ok false: nothing more comes.
func (w *watcher) take(c kv.WatchControl, ok bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	switch {
	case !ok:
		w.complete = true
	case c.Add != nil:
		w.add(*c.Add)
	case c.Progress:
		w.owed = true
	default:
		if one := w.find(c.Cancel); one != nil {
			one.ending = true
		}
	}
}
