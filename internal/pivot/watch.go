package pivot

import (
	"context"
	"iter"
	"slices"
	"sync"

	"holdfast/internal/relay"
	"holdfast/kv"
)

// Watch passes w on, to one node after the other: on each the watches begin where the one before was.
func (p *Pivot) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) { newWatcher(&spec, yield).run(ctx, p) }
}

// run and what it calls keep little on the stack, on which ten thousand streams wait: see following.
func (w *watcher) run(ctx context.Context, p *Pivot) {
	for again := true; again; {
		s, err := p.enter(ctx, watches)
		if err != nil {
			w.fail(err)
			return
		}
		again = w.on(ctx, p, s)
		p.leave(s, watches)
	}
}

//go:noinline
func (w *watcher) fail(err error) { w.yield(kv.Batch{}, err) }

// watcher is one stream of one consumer: what it asked for, and how far each watch has come.
type watcher struct {
	spec  kv.WatchSpec
	yield func(kv.Batch, error) bool
	stale bool // the consumer was told that the link above is lost, and not yet that it is back

	mu       sync.Mutex // the goroutine that passes controls on takes it too
	watches  []*watched // in the order in which they were asked for
	refused  []int64    // ids that were asked for twice and not yet refused
	complete bool       // nothing more will be asked for
	owed     bool       // the consumer has asked how far it is
}

// watched is one watch. Its From is the next revision to be delivered.
type watched struct {
	kv.Watch
	created bool // the consumer has heard so
	ending  bool // the consumer has asked for its end
	part    int  // events of revision From that it has had
	skip    int  // of those, how many come once more
}

//go:noinline
func newWatcher(spec *kv.WatchSpec, yield func(kv.Batch, error) bool) *watcher {
	w := &watcher{spec: *spec, yield: yield, complete: spec.Control == nil}
	for _, one := range spec.Watches {
		w.add(one)
	}
	return w
}

func (w *watcher) add(one kv.Watch) {
	if w.find(one.ID) != nil {
		w.refused = append(w.refused, one.ID)
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

// on runs the stream on one node. again: another has taken its place, and there is something left to watch.
func (w *watcher) on(ctx context.Context, p *Pivot, s *stand) (again bool) {
	f := w.follower(ctx, p, s)
	if f == nil {
		return false
	}
	stop := context.AfterFunc(s.left, f.cancel)
	f.relay()
	f.follow()
	stop()
	f.cancel()
	f.passing.Wait()
	switch f.end {
	case endTold:
		return false
	case endMoved:
		return w.left()
	}
	return ctx.Err() == nil && p.at.Load() != s && w.left()
}

// follower begins on a node; nil if there is nothing left to watch, or nobody.
func (w *watcher) follower(ctx context.Context, p *Pivot, s *stand) *following {
	spec, over := w.open()
	if over {
		return nil
	}
	resumed := w.resumed()
	if resumed == 0 && !w.back() {
		return nil
	}
	f := &following{watcher: w, p: p, s: s, ctx: ctx, spec: spec, resumed: resumed}
	f.inner, f.cancel = context.WithCancel(ctx)
	return f
}

// following is a stream on one node. It is in a struct, because ten thousand streams wait below follow and what is on their
// stacks counts four times.
type following struct {
	*watcher
	p          *Pivot
	s          *stand
	ctx, inner context.Context // inner ends with the node's turn, too
	cancel     context.CancelFunc
	spec       kv.WatchSpec
	resumed    int // watches the consumer knows that the node has yet to say it has made
	end        endOf
	passing    sync.WaitGroup // of controls
}

// endOf is how a stream on one node has ended.
type endOf uint8

const (
	endOfStream endOf = iota // by itself
	endTold                  // the consumer was told, or has had enough
	endMoved                 // another node has taken the place of this one
)

// relay has what the consumer asks for passed on while the stream runs.
func (f *following) relay() {
	if f.complete || f.directly() {
		return
	}
	control := make(chan kv.WatchControl, 1)
	if f.owed { // asked of a node that left before it answered
		control <- kv.WatchControl{Progress: true}
	}
	f.spec.Control = control
	f.passing.Go(func() {
		relay.Controls(f.inner, f.watcher.spec.Control, control, func(c *kv.WatchControl, ok bool) { f.take(*c, ok) })
	})
}

// directly reports whether the node takes what the consumer asks for without anybody between.
func (f *following) directly() bool {
	if f.s.WatchTold == nil || f.owed {
		return false
	}
	f.spec.Control = f.watcher.spec.Control
	return true
}

func (f *following) follow() {
	if f.s.WatchTold == nil {
		f.s.Watch(f.inner, f.spec)(f.batch)
	} else {
		f.s.WatchTold(f.inner, f.spec, f.told)(f.batch)
	}
}

// told keeps track of what the consumer asks for.
func (f *following) told(c kv.WatchControl, ok bool) {
	if f.spec.Control == f.watcher.spec.Control { // else relay does
		f.take(c, ok)
	}
}

func (f *following) batch(b kv.Batch, err error) (more bool) {
	moved := !f.p.show(f.s, b.Header)
	switch {
	case moved && f.ctx.Err() == nil: // what it brings here comes again from the next one
		f.end = endMoved
		return false
	case err != nil:
		f.fail(err)
		f.end = endTold
		return false
	}
	known, nothing := f.note(&b)
	if known {
		if f.resumed--; f.resumed == 0 && !f.back() {
			f.end = endTold
			return false
		}
	}
	if !known && !nothing && !f.yield(b, nil) {
		f.end = endTold
		return false
	}
	return true
}

// left reports whether there is anything to go on with.
func (w *watcher) left() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return !w.complete || len(w.watches) > 0
}

// open is what to ask the next node for. Watches that the consumer has given up, and ids it gave twice, are answered here.
func (w *watcher) open() (spec kv.WatchSpec, over bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	spec.By = w.spec.By
	for _, id := range w.refused {
		if !w.yield(kv.Batch{WatchID: id, Created: true, Canceled: true, Err: kv.Errorf(kv.Invalid, "the watch id %d is in use on this stream", id)}, nil) {
			return spec, true
		}
	}
	w.refused = nil
	for _, one := range slices.Clone(w.watches) {
		if one.ending {
			w.remove(one.ID)
			if !w.yield(kv.Batch{WatchID: one.ID, Canceled: true}, nil) {
				return spec, true
			}
			continue
		}
		one.skip = one.part
		spec.Watches = append(spec.Watches, one.Watch)
	}
	return spec, w.complete && len(w.watches) == 0
}

// resumed counts the watches that the consumer knows already.
func (w *watcher) resumed() (n int) {
	w.mu.Lock()
	defer w.mu.Unlock()
	for _, one := range w.watches {
		if one.created {
			n++
		}
	}
	return n
}

// back tells a consumer that was told of a lost link that it is fed again; the next node speaks for itself from here on.
func (w *watcher) back() bool {
	if !w.stale {
		return true
	}
	w.stale = false
	return w.yield(kv.Batch{WatchID: kv.WatchAll, State: kv.WatchCatchingUp}, nil) &&
		w.yield(kv.Batch{WatchID: kv.WatchAll, State: kv.WatchSynced}, nil)
}

// note keeps track of what a batch brings, so that the next node begins behind it, and takes out what the consumer has had.
// known: it only says that a watch was made that the consumer knows. nothing: nothing is left of it.
func (w *watcher) note(b *kv.Batch) (known, nothing bool) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if b.WatchID == kv.WatchAll {
		switch {
		case b.Progress:
			w.owed = false
		case b.State == kv.WatchStale, b.State == kv.WatchCatchingUp:
			w.stale = true
		case b.State == kv.WatchSynced:
			w.stale = false
		}
		return false, false
	}
	one := w.find(b.WatchID)
	if one == nil {
		return false, false
	}
	if b.Canceled {
		if i := slices.Index(w.refused, b.WatchID); i >= 0 {
			w.refused = slices.Delete(w.refused, i, i+1)
		} else {
			w.remove(b.WatchID)
		}
		return false, false
	}
	if b.Created {
		known, one.created = one.created, true
	}
	return known, one.advance(b)
}

// advance moves a watch behind a batch. It reports whether the consumer has had all its events.
func (one *watched) advance(b *kv.Batch) (nothing bool) {
	events := b.Events
	for len(events) > 0 && one.skip > 0 && events[0].KV.ModRevision == one.From {
		events, one.skip = events[1:], one.skip-1
	}
	nothing = len(events) == 0 && len(b.Events) > 0
	if n := len(b.Events); n > 0 {
		last := b.Events[n-1].KV.ModRevision
		if !b.Fragment {
			one.From, one.part, one.skip = last+1, 0, 0
		} else {
			if one.From != last {
				one.part = 0
			}
			for _, e := range events {
				if e.KV.ModRevision == last {
					one.part++
				}
			}
			one.From = last
		}
		b.Events = events
		return nothing
	}
	switch {
	case one.From == 0 && b.Revision > 0: // made here: what came before was not asked for
		one.From = b.Revision + 1
	case b.Progress && one.part == 0:
		one.From = max(one.From, b.Revision+1)
	}
	return false
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
