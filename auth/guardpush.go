package auth

import (
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"holdfast/internal/relay"
	"holdfast/kv"
)

// Push is Watch for a consumer that does not wait: see kv.WatchPush.
func (g *Guard) Push(ctx context.Context, spec kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error) {
	src := g.source()
	if _, known := src.Policy(); !known {
		return relay.Push(ctx, g.next, spec, to)
	}
	if err := src.stale(); err != nil {
		return nil, err
	}
	p := &pushing{watching: g.judging(ctx, src, &spec), to: to}
	inner, err := relay.Push(ctx, g.next, p.inner, p)
	if err != nil {
		return nil, err
	}
	p.WatchPush, p.inner = inner, kv.WatchSpec{}
	return p, nil
}

// pushing is a pushed stream that passes through a Guard. What watching.run does for others its reviewer does.
type pushing struct {
	kv.WatchPush // of the node behind
	*watching
	to kv.WatchSink
}

func (p *pushing) Start() {
	p.g.reviews.add(p)
	p.WatchPush.Start()
}

func (p *pushing) Ask(c kv.WatchControl) {
	if c.Add == nil {
		p.WatchPush.Ask(c)
		return
	}
	one := p.admit(p.ctx, *c.Add)
	p.WatchPush.Ask(kv.WatchControl{Add: &one})
	p.review()                            // the policy may have changed while it was judged
	if one.Key != nil && p.lost(one.ID) { // the node behind was told to cut it before it knew of it
		p.Cut(one.ID)
	}
	p.g.reviews.note(p)
}

func (p *pushing) Bring(b kv.Batch) (more bool) {
	if !p.pass(&b) {
		p.review()
		return true
	}
	return p.to.Bring(b)
}

func (p *pushing) End(err error) {
	p.g.reviews.remove(p)
	p.to.End(err)
}

// review has the watches cut whose right is gone.
func (p *pushing) review() {
	for _, id := range p.again() {
		p.Cut(id)
	}
}

// lost reports whether a watch that was let in has lost its right since.
func (p *pushing) lost(id int64) bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.open[id] == nil && p.why[id] != nil
}

// until is when the token of the stream's device ends, in seconds since 1970; 0: it does not.
func (p *pushing) until() int64 {
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.open) == 0 {
		return 0
	}
	return p.ends
}

// reviews has one goroutine judge all pushed streams of a Guard when the policy changes, and when a device's token ends. It is
// there while there are streams; the last to go waits for it.
type reviews struct {
	mu     sync.Mutex
	all    map[*pushing]struct{}
	src    Source        // of the stream that came last: those of another source are about to end, as their node is
	soon   int64         // when the first token of a device ends, in seconds since 1970; 0: none does
	joined chan struct{} // of one slot: src or soon may have changed
	stop   context.CancelFunc
	done   chan struct{} // closed when the goroutine has ended
}

func (r *reviews) add(p *pushing) {
	r.mu.Lock()
	first := len(r.all) == 0
	if first {
		r.all, r.joined, r.done = map[*pushing]struct{}{}, make(chan struct{}, 1), make(chan struct{})
	}
	r.all[p], r.src = struct{}{}, p.src
	if first {
		var ctx context.Context
		ctx, r.stop = context.WithCancel(context.Background())
		go r.run(ctx, p.g.opts.Now, r.joined, r.done)
	}
	r.mu.Unlock()
	p.review() // of a change before it was here
	r.note(p)
}

// note has the end of a stream's token thought of.
func (r *reviews) note(p *pushing) {
	until := p.until()
	r.mu.Lock()
	defer r.mu.Unlock()
	if until != 0 && (r.soon == 0 || until < r.soon) {
		r.soon = until
	}
	select {
	case r.joined <- struct{}{}:
	default:
	}
}

func (r *reviews) remove(p *pushing) {
	r.mu.Lock()
	delete(r.all, p)
	last, done := len(r.all) == 0, r.done
	if last {
		r.stop()
	}
	r.mu.Unlock()
	if last {
		<-done
	}
}

func (r *reviews) run(ctx context.Context, now func() time.Time, joined <-chan struct{}, done chan<- struct{}) {
	defer close(done)
	changed, due := r.changed(), r.due(now)
	for {
		select {
		case <-ctx.Done():
			return
		case <-joined:
			next := r.changed()
			select {
			case <-changed:
				r.review()
			default:
			}
			changed = next
		case <-changed:
			changed = r.changed() // first: what changes while they are judged has them judged again
			r.review()
		case <-due:
			r.review()
		}
		due = r.due(now)
	}
}

// changed is closed when the policy may be another.
func (r *reviews) changed() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.src.Changed()
}

// due tells when the first token of a device has ended; nil: none does.
func (r *reviews) due(now func() time.Time) <-chan time.Time {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.soon == 0 {
		return nil
	}
	return time.After(time.Unix(r.soon, 0).Sub(now()))
}

// review judges all streams.
func (r *reviews) review() {
	r.mu.Lock()
	all := slices.Collect(maps.Keys(r.all))
	r.soon = 0
	r.mu.Unlock()
	for _, p := range all {
		p.review()
		if p.until() != 0 {
			r.note(p)
		}
	}
}
