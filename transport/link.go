package transport

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"
)

// link keeps the connection to one peer. One goroutine, run, dials and reports; connections are offered to it from
// anywhere.
type link struct {
	pool *Pool
	node string

	// Of the pool, under its mu.
	wanted  bool // named by Set; else it exists for a connection that the peer opened
	started bool // run is running

	wake chan struct{} // of run: something below has changed. One place, as in Pool

	mu      sync.Mutex
	addrs   []string
	moved   bool // addrs have changed since the last dial
	conn    *Conn
	elder   *Conn // stands beside conn until that has lasted, and takes its place again if it has not; see settle
	ended   error // why the last connection ended, or the last dial failed
	fails   int
	state   LinkState
	backoff time.Duration
	next    time.Time // of the next dial
}

func newLink(p *Pool, node string) *link {
	l := &link{pool: p, node: node, wake: make(chan struct{}, 1)}
	l.state = LinkState{Node: node, State: Down, Since: time.Now()}
	l.next = time.Now()
	if p.ep.Node() > node {
		l.next = l.next.Add(yield)
	}
	return l
}

// setAddrs replaces the addresses and tells whether they changed.
func (l *link) setAddrs(addrs []string) bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	if slices.Equal(l.addrs, addrs) {
		return false
	}
	if l.addrs != nil { // the first ones keep the yield
		l.next = time.Now()
	}
	l.addrs, l.moved, l.backoff = slices.Clone(addrs), true, 0
	return true
}

func (l *link) current() *Conn {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.conn
}

func (l *link) lastState() LinkState {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.state
}

func (l *link) nudge() {
	select {
	case l.wake <- struct{}{}:
	default:
	}
}

// offer makes c the link's connection if it is to be preferred. It tells whether c stays, and which one it replaces, to be
// closed; else c is closed.
func (l *link) offer(c *Conn) (kept bool, old *Conn) {
	l.mu.Lock()
	old = l.conn
	switch {
	case c.Err() != nil:
		l.mu.Unlock()
		return false, nil
	case old == nil || old.Err() != nil:
		l.conn, old = c, nil
	case prefer(l.pool.ep.Node(), old, c):
		l.conn, l.elder = c, old
	default:
		l.mu.Unlock()
		c.CloseWithError(CodeDuplicate, "another connection between the two nodes is kept")
		old.Probe() // the peer may have forgotten it: then it resets it, and the way is free
		return false, nil
	}
	l.mu.Unlock()
	l.nudge()
	return true, old
}

// supersede closes a connection that another one has replaced, if there is one.
func supersede(old *Conn) {
	if old != nil {
		old.CloseWithError(CodeSuperseded, "a newer connection between the two nodes replaced it")
	}
}

// settling is how long a connection that a newer one from the peer replaces stands beside it, and four round trips. Within
// that, who is served finds out whether the newer one is of the peer or of a copy of its identity, and asks on the older one
// whether that still answers.
const settling = 500 * time.Millisecond

// settle closes old once c has lasted, and has it back if c has not.
func (l *link) settle(old, c *Conn) {
	if old == nil {
		return
	}
	old.Probe() // a peer that has started again resets it
	timer := time.NewTimer(settling + 4*old.linkCount().srtt)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-old.Context().Done():
	case <-c.Context().Done():
		l.finish(c) // or run has, before this
	}
	l.mu.Lock()
	back := l.conn == old
	if l.elder == old {
		l.elder = nil
	}
	l.mu.Unlock()
	if !back || l.pool.isClosed() {
		supersede(old)
	}
	l.nudge()
}

// prefer reports whether a new connection is to replace an old one that still stands.
//
// Of two that crossed, both ends must keep the same one, whatever order they see them in: the one that the smaller node
// id dialed. But a peer that dials although there is a connection may have lost it, in a restart: then the newer is
// right. What can not have crossed is decided that way: the same side dialed both, the old one is older than two
// handshakes can take, or it is lost.
func prefer(self string, old, c *Conn) bool {
	if old.dialed == c.dialed || c.opened.Sub(old.opened) > crossing || old.Lost() {
		return true
	}
	smaller := self < c.peer.Node
	return c.dialed == smaller
}

// drop closes the link's connection.
func (l *link) drop(code CloseCode, reason string) {
	if c := l.current(); c != nil {
		c.CloseWithError(code, reason)
	}
	l.nudge()
}

// run dials while there is no connection, or none that answers, and reports the state until ctx ends or the link is of
// no more use. It returns when all that it started has ended.
func (l *link) run(ctx context.Context) {
	d := dialer{link: l, results: make(chan dialResult, 1)}
	defer d.stop()
	timer := time.NewTimer(0)
	defer timer.Stop()
	rerouted := l.pool.ep.RouteChange()
	for {
		c, lost, changed := l.watch()
		if d.cancel != nil && (l.hasMoved() || d.needless(c, lost)) {
			d.cancel()
		}
		next, wantDial := l.plan(c, lost, d.cancel != nil)
		if wantDial && !next.After(time.Now()) {
			d.start(ctx)
			wantDial = false
		}
		l.report(c, lost, next, wantDial)
		var timerC <-chan time.Time
		if wantDial {
			timer.Reset(time.Until(next))
			timerC = timer.C
		}
		var ended <-chan struct{}
		if c != nil {
			ended = c.Context().Done()
		}
		select {
		case <-ctx.Done():
			l.drop(CodeShutdown, "the node is stopping")
			l.finish(l.current())
			l.report(nil, false, time.Time{}, false)
			return
		case <-l.wake:
		case <-rerouted:
			rerouted = l.pool.ep.RouteChange()
			l.retry()
		case <-changed:
		case <-timerC:
		case <-ended:
			l.finish(c)
		case r := <-d.results:
			d.settle(r)
		}
		if d.cancel == nil && l.useless() {
			l.report(nil, false, time.Time{}, false)
			return
		}
	}
}

// dialer is the dial under way for a link, one at a time, and the connections that came of it.
type dialer struct {
	link    *link
	wg      sync.WaitGroup
	cancel  context.CancelFunc // of the dial under way; nil: none is
	beside  *Conn              // the lost connection beside which it was started
	results chan dialResult    // one place: the dial never waits
}

// dialResult is what a dial came to.
type dialResult struct {
	c   *Conn
	err error
}

func (d *dialer) start(ctx context.Context) {
	l := d.link
	ctx, d.cancel = context.WithCancel(ctx)
	d.beside = l.current()
	t := Target{Addrs: l.takeAddrs(), Node: l.node, AllowProxy: l.pool.opts.AllowProxy}
	d.wg.Go(func() {
		c, err := l.pool.ep.Dial(ctx, l.pool.opts.Protocol, t)
		d.results <- dialResult{c, err}
	})
}

// needless reports whether the dial under way can be given up for c. A connection that the larger node dialed is no
// reason: it gives up its own dials for this node's in turn, and both would be left with nothing, again and again.
func (d *dialer) needless(c *Conn, lost bool) bool {
	if c == nil || lost {
		return false
	}
	return c == d.beside || d.link.pool.ep.Node() > d.link.node
}

// settle takes what the dial came to.
func (d *dialer) settle(r dialResult) {
	l := d.link
	d.cancel()
	d.cancel = nil
	l.mu.Lock()
	if !l.moved {
		l.slowDown()
	}
	if r.err != nil && !errors.Is(r.err, context.Canceled) && !isDuplicate(r.err) {
		l.fails++
		l.ended = r.err
	}
	l.mu.Unlock()
	if r.err != nil {
		return
	}
	kept, old := l.offer(r.c)
	if supersede(old); !kept {
		return
	}
	d.wg.Go(func() {
		l.pool.opts.Serve(r.c.Context(), r.c)
		r.c.CloseWithError(CodeDone, "")
	})
}

// isDuplicate reports whether the peer closed a connection because it keeps another one.
func isDuplicate(err error) bool {
	closed, ok := errors.AsType[*CloseError](err)
	return ok && closed.Code == CodeDuplicate
}

// stop ends the dial under way and waits for the connections, which have been closed.
func (d *dialer) stop() {
	if d.cancel != nil {
		d.cancel()
		if r := <-d.results; r.c != nil {
			r.c.CloseWithError(CodeShutdown, "the node is stopping")
		}
	}
	d.wg.Wait()
}

// watch returns the connection and whether it is lost.
func (l *link) watch() (c *Conn, lost bool, changed <-chan struct{}) {
	if c = l.current(); c == nil {
		return nil, false, nil
	}
	lost, changed = c.LossState()
	return c, lost, changed
}

// useless reports whether nobody wants the link and it has no connection.
func (l *link) useless() bool {
	l.pool.mu.Lock()
	wanted := l.wanted
	l.pool.mu.Unlock()
	return !wanted && l.current() == nil
}

// plan says whether to dial, and when.
func (l *link) plan(c *Conn, lost, dialing bool) (next time.Time, want bool) {
	l.pool.mu.Lock()
	wanted := l.wanted
	l.pool.mu.Unlock()
	l.mu.Lock()
	defer l.mu.Unlock()
	if dialing || !wanted || len(l.addrs) == 0 || (c != nil && !lost) {
		return time.Time{}, false
	}
	next = l.next
	if c != nil {
		if at := l.lostSince().Add(redialAfter); at.After(next) {
			next = at
		}
	}
	return next, true
}

// lostSince is when the link was reported lost; now if that is yet to come. The caller holds mu.
func (l *link) lostSince() time.Time {
	if l.state.State == Lost {
		return l.state.Since
	}
	return time.Now()
}

// retry has the next dial not wait for the back-off: the network of this machine is another one.
func (l *link) retry() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.next, l.backoff = time.Now(), 0
}

func (l *link) hasMoved() bool {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.moved
}

func (l *link) takeAddrs() []string {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.moved = false
	return l.addrs
}

// slowDown doubles the back-off and sets the next dial. The caller holds mu.
func (l *link) slowDown() {
	l.backoff = min(max(2*l.backoff, l.pool.opts.MinBackoff), l.pool.opts.MaxBackoff)
	l.next = time.Now().Add(l.pool.jitter(l.backoff))
}

// finish takes note that a connection has ended.
func (l *link) finish(c *Conn) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if c == nil || l.conn != c {
		return // replaced meanwhile
	}
	l.conn, l.elder = l.elder, nil
	if l.conn != nil && l.conn.Err() == nil {
		return
	}
	l.conn = nil
	l.ended = c.Err()
	if time.Since(c.opened) >= heldFor {
		l.backoff, l.fails = 0, 0
	}
	// The first dial comes soon, but not of all peers of a restarted node at the same instant.
	soon := time.Now().Add(l.pool.jitter(l.pool.opts.MinBackoff))
	switch {
	case l.next.After(soon): // the back-off of the dial that made this connection goes on
	case l.backoff > 0:
		l.slowDown()
	default:
		l.next = soon
	}
}

// report publishes the state if it has changed.
func (l *link) report(c *Conn, lost bool, next time.Time, wantDial bool) {
	s := LinkState{Node: l.node, State: Down}
	switch {
	case c != nil && lost:
		s.State, s.Conn = Lost, c
	case c != nil:
		s.State, s.Conn = Up, c
	case wantDial:
		s.Next = next
	}
	l.mu.Lock()
	s.Fails, s.Since = l.fails, time.Now()
	if s.State == Down {
		s.Err = l.ended
	}
	news := s.State != l.state.State || s.Conn != l.state.Conn || s.Fails != l.state.Fails
	if s.State == l.state.State && s.Conn == l.state.Conn {
		s.Since = l.state.Since
	}
	l.state = s
	l.mu.Unlock()
	if news {
		l.pool.opts.OnState(s)
	}
}
