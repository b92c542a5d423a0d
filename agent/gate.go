package agent

import (
	"context"
	"iter"
	"sync"
	"time"

	"holdfast/api"
	"holdfast/internal/relay"
	"holdfast/kv"
)

// gate is the Backend that the doors know. Before the node behind it is there, requests wait a little and are then
// refused; once it is told to drain, new ones are refused, watches end, and those that run are waited for.
//
//	waiting --open--> open --drain--> draining
//	   \---------------drain------------^
type gate struct {
	ledger   *ledger         // of what clients have under way; nil: nobody counts
	audit    *audit          // nil: nothing is written down
	opened   chan struct{}   // closed by open
	draining context.Context // ended by drain
	refuse   context.CancelFunc

	mu      sync.Mutex
	backend api.Backend // set before opened is closed
	running int
	idle    chan struct{} // made by drain, closed when running is 0
}

var (
	_ api.Backend  = (*gate)(nil)
	_ relay.Pusher = (*gate)(nil)
)

// openWait is how long a request waits for a node that is still replaying: as long as for a leader.
const openWait = 3 * time.Second

func newGate() *gate {
	g := &gate{opened: make(chan struct{})}
	g.draining, g.refuse = context.WithCancel(context.Background())
	return g
}

// open lets requests through to b. It may be called once.
func (g *gate) open(b api.Backend) {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.backend = b
	close(g.opened)
}

// drain refuses what comes, ends watches, and waits until nothing runs or ctx ends. It returns how many requests still
// run then.
func (g *gate) drain(ctx context.Context) int {
	g.mu.Lock()
	if g.idle == nil {
		g.idle = make(chan struct{})
		g.refuse()
		if g.running == 0 {
			close(g.idle)
		}
	}
	idle := g.idle
	g.mu.Unlock()
	select {
	case <-idle:
	case <-ctx.Done():
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	return g.running
}

// isDraining reports whether drain has been called.
func (g *gate) isDraining() bool { return g.draining.Err() != nil }

// enter returns the backend and counts the request until leave.
func (g *gate) enter(ctx context.Context) (api.Backend, error) {
	if why := whyBeyond(ctx); why != nil {
		return nil, why
	}
	select {
	case <-g.opened:
	default:
		if err := g.wait(ctx); err != nil {
			return nil, err
		}
	}
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.idle != nil {
		return nil, stopping()
	}
	g.running++
	return g.backend, nil
}

func (g *gate) wait(ctx context.Context) error {
	timer := time.NewTimer(openWait)
	defer timer.Stop()
	select {
	case <-g.opened:
		return nil
	case <-g.draining.Done():
		return stopping()
	case <-ctx.Done():
	case <-timer.C:
	}
	err := kv.Errorf(kv.NoLeader, "this node is still replaying its log: try again, or see its status")
	err.RetryAfter = time.Second
	return err
}

func (g *gate) leave() {
	g.mu.Lock()
	defer g.mu.Unlock()
	g.running--
	if g.running == 0 && g.idle != nil {
		close(g.idle)
	}
}

func stopping() *kv.Error {
	return kv.Errorf(kv.Stopping, "this node is shutting down: ask another one, or this one again when it is back")
}

// passage is a request that has passed the gate, until out.
type passage struct {
	gate  *gate
	node  api.Backend
	payer api.Caller
	use   use
	pays  bool
}

// pass is enter for a request whose client, if it came from one, has to pay for it. It fills in p.
func (g *gate) pass(ctx context.Context, u use, p *passage) (err error) {
	p.gate, p.use = g, u
	if p.payer, p.pays = api.CallerFrom(ctx); g.ledger == nil {
		p.pays = false
	}
	if p.pays {
		if err := g.ledger.take(p.payer, u); err != nil {
			return err
		}
	}
	if p.node, err = g.enter(ctx); err != nil {
		p.giveBack()
	}
	return err
}

func (p *passage) out() {
	p.gate.leave()
	p.giveBack()
}

func (p *passage) giveBack() {
	if p.pays {
		p.gate.ledger.give(p.payer, p.use)
	}
}

// Do passes c on.
func (g *gate) Do(ctx context.Context, c kv.Command) (res kv.Result, err error) {
	ctx = g.audit.names(ctx)
	var p passage
	if err = g.pass(ctx, useRequest, &p); err == nil {
		defer p.out()
		res, err = p.node.Do(ctx, c)
	}
	g.audit.command(ctx, c, res, err)
	return res, err
}

// Read passes q on.
func (g *gate) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	var p passage
	if err := g.pass(ctx, useRequest, &p); err != nil {
		return kv.Page{}, err
	}
	defer p.out()
	return p.node.Read(ctx, q)
}

// Watch passes w on. When the node drains the stream ends with kv.Stopping, after everything already under way.
func (g *gate) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		var p passage
		if err := g.pass(ctx, useWatch, &p); err != nil {
			fail(yield, err)
			return
		}
		defer p.out()
		inner, cancel := context.WithCancel(ctx)
		defer cancel()
		defer context.AfterFunc(g.draining, cancel)()
		ended := false
		p.node.Watch(inner, w)(func(batch kv.Batch, err error) bool { // no range: the fewer bytes on the stack of who waits the better
			if err != nil && ctx.Err() == nil && g.isDraining() {
				return false // the cancellation is ours: say why instead
			}
			ended = !yield(batch, err) || err != nil
			return !ended
		})
		if !ended && ctx.Err() == nil && g.isDraining() {
			fail(yield, stopping())
		}
	}
}

//go:noinline
func fail(yield func(kv.Batch, error) bool, err error) { yield(kv.Batch{}, err) }

// Push is Watch for a consumer that does not wait: see kv.WatchPush.
func (g *gate) Push(ctx context.Context, w kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error) {
	p := &gatePush{to: to}
	if err := g.pass(ctx, useWatch, &p.passage); err != nil {
		return nil, err
	}
	inner, err := relay.Push(ctx, p.node, w, p)
	if err != nil {
		p.out()
		return nil, err
	}
	p.WatchPush = inner
	p.free = context.AfterFunc(g.draining, inner.Stop)
	return p, nil
}

// gatePush is a pushed stream that has passed the gate.
type gatePush struct {
	kv.WatchPush
	passage
	to   kv.WatchSink
	free func() bool // draining no longer stops it
}

func (p *gatePush) Bring(b kv.Batch) (more bool) { return p.to.Bring(b) }

func (p *gatePush) End(err error) {
	p.free()
	if p.gate.isDraining() {
		err = stopping()
	}
	p.to.End(err)
	p.out()
}
