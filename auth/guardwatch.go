package auth

import (
	"context"
	"iter"
	"slices"
	"sync"
	"time"

	"holdfast/kv"
)

// watching is a stream that passes through a Guard.
//
// A watch that is refused is passed on without a key, which every node refuses in its turn: so answers keep the order of
// the questions, and there is one writer. A watch whose right is withdrawn is cancelled behind, and the answer to that gets
// the reason.
type watching struct {
	g    *Guard
	src  Source
	by   kv.By           // as it came
	ctx  context.Context // ended when the consumer has gone
	in   <-chan kv.WatchControl
	out  chan kv.WatchControl // to the node behind; closed by run
	poke chan struct{}        // of one slot: a watch has ended, or is to be cut; nil: nobody waits for that

	inner   kv.WatchSpec // what the node behind is asked for
	yield   func(kv.Batch, error) bool
	running sync.WaitGroup // of run

	mu    sync.Mutex
	open  map[int64]*kv.Watch // watches that go on
	why   map[int64]*kv.Error // of those that were refused or cut, until the node behind has answered; nil for none, which each batch asks
	who   kv.By               // as found out last
	ends  int64               // when the token of that device does, in seconds since 1970; 0: it does not, or there is none
	last  *Policy             // by which all were judged, unless mixed
	mixed bool                // one was judged by another
}

// watchControls is how many controls wait for the node behind; when they are full, no more are taken.
const watchControls = 4

// Watch judges each watch when it is asked for, and all of them again whenever the policy changes: those whose right is
// gone are cut at once, and get no event that came after. A user's token that expires does not end a watch, as in etcd; that
// the user is gone, or has another password, does, and so does the end of a device's token.
func (g *Guard) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	src := g.source()
	if _, known := src.Policy(); !known {
		return g.next.Watch(ctx, spec)
	}
	return func(yield func(kv.Batch, error) bool) {
		if err := src.stale(); err != nil {
			yield(kv.Batch{}, err)
			return
		}
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		if w := g.begin(ctx, src, &spec, yield); w != nil {
			w.running.Go(w.run)
			w.follow()
			cancel()
			w.running.Wait()
		}
	}
}

// judging judges the watches that are asked for at first.
func (g *Guard) judging(ctx context.Context, src Source, spec *kv.WatchSpec) *watching {
	w := &watching{g: g, src: src, by: spec.By, ctx: ctx, open: map[int64]*kv.Watch{}}
	w.inner = *spec
	w.inner.Watches = make([]kv.Watch, 0, len(spec.Watches))
	for _, one := range spec.Watches {
		w.inner.Watches = append(w.inner.Watches, w.admit(ctx, one))
	}
	w.inner.By = w.name()
	return w
}

// begin begins a stream that is iterated over. Nil: no watch may be, and no more can be asked for.
func (g *Guard) begin(ctx context.Context, src Source, spec *kv.WatchSpec, yield func(kv.Batch, error) bool) *watching {
	w := g.judging(ctx, src, spec)
	w.in, w.yield, w.out, w.poke = spec.Control, yield, make(chan kv.WatchControl, watchControls), make(chan struct{}, 1)
	if spec.Control == nil && len(w.open) == 0 { // nothing to ask a node for that may be out of reach
		for _, one := range spec.Watches {
			if !yield(kv.Batch{WatchID: one.ID, Created: true, Canceled: true, Err: w.why[one.ID]}, nil) {
				break
			}
		}
		return nil
	}
	w.inner.Control = w.out
	return w
}

// follow passes on what the node behind brings. Nearly all of a stream's time passes below it, and ten thousand streams wait
// there, so it keeps little on the stack.
func (w *watching) follow() { w.g.next.Watch(w.ctx, w.inner)(w.batch) }

func (w *watching) batch(b kv.Batch, err error) (more bool) {
	if err == nil && !w.pass(&b) {
		return true
	}
	return w.yield(b, err) && err == nil
}

func (w *watching) name() kv.By {
	w.mu.Lock()
	defer w.mu.Unlock()
	by := kv.By{Principal: w.who.Principal, AuthRevision: w.who.AuthRevision, Node: w.by.Node}
	return carried(&w.src, by, w.by.Token, w.last.IsRoot(by.Principal))
}

// admit judges a new watch. What is refused comes back without a key.
func (w *watching) admit(ctx context.Context, one kv.Watch) kv.Watch {
	var who kv.By
	var by *Policy
	err := w.g.judged(ctx, &w.src, true, func(p *Policy) (err error) {
		by = p
		if who, err = w.g.identify(ctx, p, w.by, false); err == nil {
			err = p.PermitsWatch(who, one.Key, one.End)
		}
		if err == nil && w.by.Node == "" { // a node has counted it, and asks for all again when its link is back
			err = w.g.rate(p, who.Principal)
		}
		return err
	})
	w.mu.Lock()
	defer w.mu.Unlock()
	if _, taken := w.open[one.ID]; taken {
		return one // the node behind says so
	}
	if err == nil && w.why[one.ID] != nil {
		err = kv.Errorf(kv.Invalid, "the watch id %d is in use on this stream", one.ID)
	}
	if err != nil {
		w.refuse(one.ID, w.g.counted(err))
		one.Key = nil
		return one
	}
	w.who, w.ends, w.open[one.ID] = who, by.ends(who.Principal), &one
	if len(w.open) == 1 {
		w.last, w.mixed = by, false
	}
	w.mixed = w.mixed || by != w.last // it has changed since, and an event had the others judged
	return one
}

// run passes controls on, and judges all watches again when the policy changes. It ends when no watch is left and no more
// can be asked for, or the consumer has gone.
func (w *watching) run() {
	ctx := w.ctx
	for {
		changed := w.src.Changed()
		for _, id := range w.again() {
			w.send(ctx, kv.WatchControl{Cancel: id})
		}
		if w.in == nil && w.none() {
			close(w.out)
			return
		}
		select {
		case c, ok := <-w.in:
			if !ok {
				w.in = nil
				continue
			}
			w.passOn(c)
		case <-w.poke:
		case <-changed:
		case <-w.expiry():
		case <-ctx.Done():
			return
		}
	}
}

// expiry tells when to look whether the device's token has ended; nil: it does not.
func (w *watching) expiry() <-chan time.Time {
	w.mu.Lock()
	defer w.mu.Unlock()
	if w.ends == 0 || len(w.open) == 0 {
		return nil
	}
	return time.After(time.Unix(w.ends, 0).Sub(w.g.opts.Now()))
}

func (w *watching) passOn(c kv.WatchControl) {
	if c.Add != nil {
		one := w.admit(w.ctx, *c.Add)
		c.Add = &one
	}
	w.send(w.ctx, c)
}

func (w *watching) send(ctx context.Context, c kv.WatchControl) {
	select {
	case w.out <- c:
	case <-ctx.Done():
	}
}

func (w *watching) none() bool {
	w.mu.Lock()
	defer w.mu.Unlock()
	return len(w.open) == 0 && len(w.why) == 0
}

// again judges all watches by the policy at present, and returns the ids of those that are to be cut.
func (w *watching) again() (cut []int64) {
	w.mu.Lock()
	defer w.mu.Unlock()
	w.judge()
	for id, err := range w.why {
		if _, still := w.open[id]; still && err != nil {
			delete(w.open, id)
			cut = append(cut, id)
		}
	}
	slices.Sort(cut)
	return cut
}

// judge notes of each open watch why it may not go on. It is called with mu held.
func (w *watching) judge() {
	p, known := w.src.Policy()
	if !known || len(w.open) == 0 {
		return
	}
	if w.ends != 0 && w.g.opts.Now().Unix() >= w.ends {
		_, id := p.Device(w.who.Principal)
		w.cut(func(*kv.Watch) error { return errDeviceExpired(id) })
		return
	}
	if p == w.last && !w.mixed {
		return
	}
	who := w.who
	var err error
	if w.by.Token == "" || who.Principal == "" || !p.Enabled() {
		who, err = w.g.identify(w.ctx, p, w.by, false)
	}
	w.last, w.mixed, w.who, w.ends = p, false, who, p.ends(who.Principal)
	w.cut(func(one *kv.Watch) error {
		if err != nil {
			return err
		}
		return p.PermitsWatch(who, one.Key, one.End)
	})
}

// cut notes of each open watch why it may not go on, as why says.
func (w *watching) cut(why func(*kv.Watch) error) {
	for id, one := range w.open {
		if lost := why(one); lost != nil && w.why[id] == nil {
			w.g.opts.Count(EventCut)
			w.refuse(id, lost)
		}
	}
}

// refuse notes why a watch may not be or go on. It is called with mu held.
func (w *watching) refuse(id int64, why error) {
	if w.why == nil {
		w.why = map[int64]*kv.Error{}
	}
	w.why[id] = asError(why)
}

// pass reports whether a batch may be seen, and puts the reason into the end of a watch that has one.
func (w *watching) pass(b *kv.Batch) bool {
	if b.WatchID == kv.WatchAll {
		return true
	}
	w.mu.Lock()
	defer w.mu.Unlock()
	if len(b.Events) > 0 {
		w.judge() // what was applied after the right was withdrawn comes after the policy is seen here
	}
	reason := w.why[b.WatchID]
	switch {
	case b.Canceled:
		if reason != nil {
			b.Err = reason
		}
		if delete(w.why, b.WatchID); len(w.why) == 0 {
			w.why = nil
		}
		delete(w.open, b.WatchID)
		w.nudge()
	case reason != nil && len(b.Events) > 0:
		w.nudge()
		return false
	}
	return true
}

// nudge has run look again.
func (w *watching) nudge() {
	select {
	case w.poke <- struct{}{}:
	default:
	}
}
