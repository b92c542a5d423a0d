package agent

import (
	"context"
	"errors"
	"sync"

	"holdfast/api"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/pivot"
	"holdfast/kv"
	"holdfast/member"
)

// act is what a node is at a time, open and not yet running: a member or a proxy. Exactly one of run and discard is called.
type act struct {
	mode    config.Mode
	node    *node          // how the rest of the agent sees it
	member  *member.Member // nil for a proxy
	auth    *enroll.Authority
	proxy   *proxyAct // nil for a member
	reach   func(ctx context.Context, h kv.Header) error
	admit   func()                          // lets other nodes in, once this act is on stage; nil: none are
	run     func(ctx context.Context) error // works until ctx ends, and closes
	discard func() error                    // closes it instead
}

// stage is the act as it stands behind the pivot.
func (x *act) stage() pivot.Node { return pivot.Node{Backend: x.node.backend, Reach: x.reach} }

// running is an act that runs, whoever is served.
type running struct {
	*act
	cancel context.CancelFunc
	done   chan struct{}
	err    error // readable once done is closed
}

// begin runs an act. It runs on when ctx ends, until it is stopped.
func begin(ctx context.Context, x *act) *running {
	own, cancel := context.WithCancel(context.WithoutCancel(ctx))
	r := &running{act: x, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(r.done)
		r.err = x.run(own)
	}()
	return r
}

// stop ends it and waits for that.
func (r *running) stop() error {
	r.cancel()
	<-r.done
	return r.err
}

// errEnded is the failure of an act that returned without having been asked to.
var errEnded = errors.New("ended without being asked to")

// failure is why it ended by itself.
func (r *running) failure() error {
	<-r.done
	if r.err == nil {
		return errEnded
	}
	return r.err
}

// runNode is the part that holds the data, or forwards: what the node is at first, and what it becomes while it runs. It is
// ready at once: the doors open while the log is replayed, or the cluster asked, behind the gate.
func (a *Agent) runNode(ctx context.Context, ready func()) error {
	ready()
	if a.planned().do == askCluster {
		err := a.askedIn(ctx)
		if ctx.Err() != nil {
			return nil //nolint:nilerr // stopped before there was an answer: nothing was made
		}
		if err != nil {
			return err
		}
	}
	a.opts.beforeOpen(ctx)
	first, err := a.openAct(ctx, a.planned().record.Mode)
	if err != nil {
		return err
	}
	q, err := a.openQueue(a.pivot)
	if err != nil {
		return errors.Join(err, first.discard())
	}
	var front api.Backend = a.pivot
	if q != nil {
		front = a.tracer.Backend("queue", q)
	}
	front = a.guard(front)
	return a.behind(ctx, q, func(ctx context.Context) error { return a.play(ctx, first, front) })
}

func (a *Agent) openAct(ctx context.Context, mode config.Mode) (*act, error) {
	if mode == config.ModeProxy {
		return a.openProxy(nil)
	}
	return a.openMember(ctx)
}

// play has an act on stage behind the pivot, opens the gate to front when it serves, and carries out what the node is asked
// to become, one change after the other.
func (a *Agent) play(ctx context.Context, first *act, front api.Backend) error {
	now := begin(ctx, first)
	if _, err := a.pivot.Turn(ctx, now.stage()); err != nil {
		return errors.Join(err, now.stop())
	}
	a.opening = &opening{ctx: ctx, ready: a.ready, open: func(ctx context.Context, n *node) { a.openWhenServing(ctx, n, front) }}
	defer a.opening.stop()
	a.enter(now)
	if e := a.resumed(); e != nil {
		a.errands.resume(e)
	}
	for {
		select {
		case <-now.done:
			next, err := a.outlive(ctx, now)
			if err != nil || next == nil {
				return err
			}
			now = next
		case <-ctx.Done():
			return now.stop()
		case e := <-a.errands.next:
			next, err := a.carryOut(ctx, now, e)
			if err != nil {
				return errors.Join(err, next.stop())
			}
			now = next
			if a.farewell.Load() {
				a.takeLeave(ctx, e)
			}
		}
	}
}

// opening opens the gate when what is on stage serves. It belongs to the goroutine of play.
type opening struct {
	ctx    context.Context
	ready  <-chan struct{} // closed once the gate is open
	open   func(ctx context.Context, n *node)
	cancel context.CancelFunc // nil while it watches nobody
	wg     sync.WaitGroup
}

// watch opens when n serves, and no longer when another does.
func (o *opening) watch(n *node) {
	o.stop()
	if isClosed(o.ready) {
		return
	}
	ctx, cancel := context.WithCancel(o.ctx)
	o.cancel = cancel
	o.wg.Go(func() { o.open(ctx, n) })
}

func (o *opening) stop() {
	if o.cancel != nil {
		o.cancel()
	}
	o.wg.Wait()
}

// enter makes an act what the node is to everybody else.
func (a *Agent) enter(r *running) {
	a.node.Store(r.node)
	a.opening.watch(r.node)
	if r.admit != nil {
		r.admit()
	}
}
