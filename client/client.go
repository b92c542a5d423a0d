// Package client is the Go client of an uplink: a Backend whose node is somewhere else.
//
// A Client keeps one connection to one of its endpoints, sends each request on a stream of its own, and moves to
// another endpoint when the link is lost. It tells what it knows: a request of which no byte has left fails as
// UpstreamUnavailable, at once while the link is known to be lost; one that was sent and not answered fails as
// OutcomeUnknown. Reads are asked again on the next connection; commands are not, because who numbered them (a queue)
// knows better when to send them again.
package client

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"math/rand/v2"
	"slices"
	"sync"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// Conn is a connection to a member.
type Conn interface {
	OpenStream(ctx context.Context) (Stream, error)
	// LossState reports whether something was sent and nothing has come back for too long, and a channel that is closed
	// when that changes.
	LossState() (lost bool, changed <-chan struct{})
	// Done is closed when the connection has ended; Err then says why.
	Done() <-chan struct{}
	Err() error
	// Line is the round-trip time, and the share of packets that are lost of late.
	Line() (rtt time.Duration, loss float64)
	// Alive asks for a sign of life and returns once there is one; an error when ctx or the connection ends before.
	Alive(ctx context.Context) error
	Close(reason string)
}

// Stream is one request and its answer; Close ends the writing half, CancelRead the reading one, Abort gives up both.
type Stream interface {
	io.Reader
	io.Writer
	Close() error
	CancelRead(code uint64)
	Abort(code uint64)
}

// Options of a Client. Dial and Endpoints are required.
type Options struct {
	// Dial opens a connection to an endpoint, which must have let this node in when it returns. Before that it may give a
	// connection to early, at most one at a time: reads and watches go out on it, which may be done twice. If another one
	// is returned, or none, that one has ended.
	Dial func(ctx context.Context, endpoint string, early func(Conn)) (Conn, error)
	// Endpoints are tried in this order at first, then the one that worked last comes first.
	Endpoints []string
	// OnGood hears of the order of endpoints when it has changed because another one worked. It may block.
	OnGood func(endpoints []string)
	// Rerouted returns a channel that is closed when the network of this machine changes next. Nil: nobody tells.
	Rerouted func() <-chan struct{}
	Log      *slog.Logger

	DialTimeout time.Duration // of one endpoint, 5 s
	HeadStart   time.Duration // of an endpoint over the next one, 1.5 s: a handshake over a satellite takes 1.2 s
	MinBackoff  time.Duration // pause after all endpoints failed, 200 ms
	MaxBackoff  time.Duration // 30 s: a failed attempt costs about 7 kB on a metered link
	LostGrace   time.Duration // how long a lost link is given to come back, 5 s; half of that if there is another endpoint
	Connecting  time.Duration // how long after New requests wait for the first connection, 2 s; negative: not at all
}

// Client is a Backend. Its methods may be called concurrently; they fail while Run is not running.
type Client struct {
	opts  Options
	began time.Time

	mu      sync.Mutex
	known   []string // endpoints, the last good one first
	link    *link
	last    error         // why there is no connection
	early   *link         // while there is no link: one whose other end has not answered yet
	silent  bool          // the last connection was lost, or the last dial failed: nothing is known to answer
	changed chan struct{} // closed when link changes
	tried   bool          // the endpoints have been tried once
}

// New returns a client; Run connects it.
func New(o Options) (*Client, error) {
	if o.Dial == nil || len(o.Endpoints) == 0 {
		return nil, errors.New("client: at least one endpoint and a way to dial are needed")
	}
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Rerouted == nil {
		o.Rerouted = func() <-chan struct{} { return nil }
	}
	o.DialTimeout = def(o.DialTimeout, 5*time.Second)
	o.HeadStart = def(o.HeadStart, 1500*time.Millisecond)
	o.MinBackoff = def(o.MinBackoff, 200*time.Millisecond)
	o.MaxBackoff = def(o.MaxBackoff, 30*time.Second)
	o.LostGrace = def(o.LostGrace, 5*time.Second)
	o.Connecting = def(o.Connecting, 2*time.Second)
	return &Client{opts: o, began: time.Now(), known: slices.Clone(o.Endpoints), changed: make(chan struct{}),
		last: errors.New("not connected yet")}, nil
}

func def(v, d time.Duration) time.Duration {
	if v == 0 {
		return d
	}
	return v
}

// Run keeps the connection until ctx ends.
func (c *Client) Run(ctx context.Context) error {
	var retiring sync.WaitGroup
	defer retiring.Wait()
	pause := c.opts.MinBackoff
	lost := ""
	for ctx.Err() == nil {
		rerouted := c.opts.Rerouted()
		dialing, cancel := until(ctx, rerouted) // a handshake does not survive that its packets come from elsewhere
		conn, at, err := c.dial(dialing, c.order(lost))
		cancel()
		if err != nil {
			c.down(err, true)
			// Jitter over the upper half: a fleet that lost the same member does not come back in step.
			switch sleep(ctx, pause/2+rand.N(pause/2), rerouted) {
			case sleepOver:
				pause = min(2*pause, c.opts.MaxBackoff)
			case sleepCut:
				pause = c.opts.MinBackoff
			}
			continue
		}
		l := newLink(conn, at)
		c.up(l)
		began := time.Now()
		lost = ""
		for {
			var next *link
			if next, err = c.hold(ctx, l); next == nil {
				break
			}
			former := l
			l = next
			c.up(l)
			retiring.Go(func() { former.retire(ctx) })
		}
		if errors.Is(err, errLost) {
			lost = l.at
		}
		silent, _ := l.LossState()
		l.Close("done")
		c.down(err, silent)
		if lost != "" || time.Since(began) >= holdsFor {
			pause = c.opts.MinBackoff
			continue
		}
		sleep(ctx, pause/2+rand.N(pause/2), nil) // sent away as soon as it was let in: that is no better than a failed dial
		pause = min(2*pause, c.opts.MaxBackoff)
	}
	c.down(kv.Errorf(kv.Stopping, "the client has stopped"), true)
	return nil
}

// holdsFor is how long a connection must live for the pause to begin anew.
const holdsFor = 5 * time.Second

// What ended a sleep.
const (
	sleepOver  = iota
	sleepCut   // by the channel
	sleepEnded // with ctx
)

// sleep waits for d, or less if ctx ends or cut is closed.
func sleep(ctx context.Context, d time.Duration, cut <-chan struct{}) int {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return sleepOver
	case <-cut:
		return sleepCut
	case <-ctx.Done():
		return sleepEnded
	}
}

// until is a context that ends with ctx or when a channel is closed.
func until(ctx context.Context, cut <-chan struct{}) (context.Context, func()) {
	ctx, cancel := context.WithCancel(ctx)
	var watching sync.WaitGroup
	watching.Go(func() {
		select {
		case <-cut:
			cancel()
		case <-ctx.Done():
		}
	})
	return ctx, func() { cancel(); watching.Wait() }
}

// attempt is what became of a dial.
type attempt struct {
	conn Conn
	at   string
	err  error
}

// order is the present order of endpoints, with the one to which the link was just lost at the end.
func (c *Client) order(lost string) []string {
	order := c.Endpoints()
	if i := slices.Index(order, lost); i >= 0 {
		order = append(slices.Delete(order, i, i+1), lost)
	}
	return order
}

// dial tries each endpoint once, in order. The next one begins when the one before has failed or has not answered for
// HeadStart; the first that answers is taken.
func (c *Client) dial(ctx context.Context, order []string) (Conn, string, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	ended := make(chan attempt, len(order))
	begin := func(at string) {
		dctx, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
		defer cancel()
		conn, err := c.opts.Dial(dctx, at, c.tryEarly)
		ended <- attempt{conn, at, err}
	}
	next := time.NewTimer(0)
	defer next.Stop()
	var errs []error
	for begun := 0; len(errs) < len(order); {
		select {
		case <-next.C:
			if begun < len(order) && (begun == 0 || ctx.Err() == nil) { // nobody waits for the others of a round that is given up
				go begin(order[begun])
				begun++
				next.Reset(c.opts.HeadStart)
			}
		case a := <-ended:
			if a.err == nil {
				cancel()
				for range begun - len(errs) - 1 { // they end at once
					if late := <-ended; late.err == nil {
						late.conn.Close("another endpoint was faster")
					}
				}
				return a.conn, a.at, nil
			}
			errs = append(errs, fmt.Errorf("%s: %w", a.at, a.err))
			if ctx.Err() != nil && len(errs) == begun {
				return nil, "", errors.Join(errs...)
			}
			next.Reset(0)
		}
	}
	return nil, "", errors.Join(errs...)
}

// tryEarly lets requests that may be done twice go out with the first packet of a connection.
func (c *Client) tryEarly(conn Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil {
		c.early = newLink(conn, "")
		c.signal()
	}
}

func (c *Client) up(l *link) {
	at := l.at
	c.mu.Lock()
	former := c.link
	c.link, c.last, c.tried, c.early, c.silent = l, nil, true, nil, false
	news := c.known[0] != at
	if news {
		i := slices.Index(c.known, at)
		c.known = slices.Insert(slices.Delete(c.known, i, i+1), 0, at)
	}
	order := slices.Clone(c.known)
	c.signal()
	c.mu.Unlock()
	if former == nil {
		c.opts.Log.Info("uplink up", "upstream", at)
	} else {
		c.opts.Log.Info("uplink moved", "upstream", at, "from", former.at)
	}
	if news && c.opts.OnGood != nil {
		c.opts.OnGood(order)
	}
}

func (c *Client) down(err error, silent bool) {
	c.mu.Lock()
	was, first := "", !c.tried
	if c.link != nil {
		was = c.link.at
	}
	c.link, c.last, c.tried, c.early, c.silent = nil, err, true, nil, silent
	c.signal()
	c.mu.Unlock()
	switch {
	case was != "":
		c.opts.Log.Warn("uplink down", "upstream", was, "error", err)
	case first:
		c.opts.Log.Warn("uplink not up: no endpoint answers; trying on", "error", err)
	}
}

// signal wakes those who wait for a change of conn. The caller holds c.mu.
func (c *Client) signal() {
	close(c.changed)
	c.changed = make(chan struct{})
}

// errLost ends a connection that may be alive: nothing comes back.
var errLost = errors.New("the link is lost: nothing comes back")

// State is the uplink as an operator sees it.
type State struct {
	Endpoint string // connected to, empty while down
	Lost     bool   // connected, but nothing comes back
	Err      error  // why it is down
}

// State answers from memory.
func (c *Client) State() State {
	c.mu.Lock()
	s := State{Err: c.last}
	l := c.link
	c.mu.Unlock()
	if l != nil {
		s.Endpoint = l.at
		s.Lost, _ = l.LossState()
	}
	return s
}

// Changed returns a channel that is closed when the connection changes next: up, down, or another one.
func (c *Client) Changed() <-chan struct{} {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.changed
}

// Endpoints is the present order of endpoints.
func (c *Client) Endpoints() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Clone(c.known)
}

// Learn adds endpoints to try after those that are known. It returns the new order, nil if there was nothing new.
func (c *Client) Learn(endpoints []string) []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	before := len(c.known)
	for _, e := range endpoints {
		if !slices.Contains(c.known, e) && len(c.known) < endpointsMax {
			c.known = append(c.known, e)
		}
	}
	if len(c.known) == before {
		return nil
	}
	return slices.Clone(c.known)
}

// endpointsMax bounds what is learned: a cluster has up to seven members, each with a few addresses.
const endpointsMax = 64

// current returns the link in use, with one more user, and a channel that is closed when it changes.
func (c *Client) current() (l *link, changed <-chan struct{}, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil && !c.tried {
		return nil, c.changed, nil
	}
	if c.link != nil {
		c.link.enter()
	}
	return c.link, c.changed, c.last
}

// live returns a link that is not known to be lost, or why there is none. Whoever gets one leaves it when done. Only in
// front of the very first connection it waits.
func (c *Client) live(ctx context.Context) (*link, error) { return c.liveOr(ctx, false) }

// liveEarly is live for a read, which can go out before the other end has answered. After an outage it does not: there
// requests fail at once until something has come back.
func (c *Client) liveEarly(ctx context.Context) (*link, error) { return c.liveOr(ctx, true) }

func (c *Client) liveOr(ctx context.Context, early bool) (*link, error) {
	deadline := time.NewTimer(max(0, c.opts.Connecting-time.Since(c.began)))
	defer deadline.Stop()
	for {
		l, changed, err := c.current()
		if l == nil && early {
			if l := c.earlyLink(); l != nil {
				return l, nil
			}
		}
		switch {
		case l != nil:
			if lost, _ := l.LossState(); lost {
				l.leave()
				return nil, unavailable(fmt.Errorf("%s: nothing comes back", l.at))
			}
			return l, nil
		case err != nil:
			return nil, unavailable(err)
		}
		select {
		case <-changed:
		case <-deadline.C:
			return nil, unavailable(errors.New("not connected yet"))
		case <-ctx.Done():
			return nil, unavailable(ctx.Err())
		}
	}
}

// earlyLink is a connection that reads may go out on before the other end has answered, with one more user; nil if there is none.
func (c *Client) earlyLink() *link {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.early == nil || c.silent || isClosed(c.early.Done()) { // another one won
		return nil
	}
	c.early.enter()
	return c.early
}

func unavailable(err error) error {
	if kv.CodeOf(err) == kv.Stopping {
		return err
	}
	return &kv.Error{Code: kv.UpstreamUnavailable, RetryAfter: time.Second, Err: err,
		Detail: "the uplink is down: " + err.Error() + "; nothing was applied"}
}

// Do sends a command. See the package comment for what its errors say.
func (c *Client) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	if cmd.Write == kv.WriteQueue {
		return kv.Result{}, kv.Errorf(kv.Invalid, "write=queue: a client has no queue")
	}
	if err := wire.CheckCommand(cmd); err != nil {
		return kv.Result{}, err
	}
	l, err := c.live(ctx)
	if err != nil {
		return kv.Result{}, err
	}
	defer l.leave()
	b, sent, err := exchange(ctx, l, wire.UplinkDo, wire.AppendCommand(nil, cmd))
	switch {
	case err != nil && !sent:
		return kv.Result{}, unavailable(err)
	case err != nil:
		return kv.Result{}, &kv.Error{Code: kv.OutcomeUnknown, Err: err,
			Detail: "the write was sent and no answer came: " + err.Error() + "; read the key before writing it again"}
	}
	out, err := wire.DecodeOutcome(b)
	if err != nil {
		return kv.Result{}, &kv.Error{Code: kv.OutcomeUnknown, Detail: "the answer cannot be read: " + err.Error(), Err: err}
	}
	if out.Err != nil {
		return kv.Result{}, out.Err
	}
	return out.Result, nil
}

// Read asks, and asks once more on another connection if the first one breaks.
func (c *Client) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if err := wire.CheckQuery(q); err != nil {
		return kv.Page{}, err
	}
	if q.LocalOnly {
		return kv.Page{}, kv.Errorf(kv.NotCached, "a client holds nothing itself, and the request forbids asking the cluster")
	}
	body := wire.AppendQuery(nil, q)
	var last error
	for range 2 {
		l, err := c.liveEarly(ctx)
		if err != nil {
			return kv.Page{}, err
		}
		b, _, err := exchange(ctx, l, wire.UplinkRead, body)
		l.leave()
		if err == nil {
			return page(b)
		}
		last = err
		if ctx.Err() != nil {
			break
		}
	}
	return kv.Page{}, unavailable(last)
}

func page(b []byte) (kv.Page, error) {
	if wire.IsError(b) {
		e, err := wire.DecodeError(b)
		if err != nil {
			return kv.Page{}, fmt.Errorf("uplink: %w", err)
		}
		return kv.Page{}, e
	}
	p, err := wire.DecodePage(b)
	if err != nil {
		return kv.Page{}, fmt.Errorf("uplink: %w", err)
	}
	p.Source = kv.SourceUpstream
	return p, nil
}

// exchange sends one request and returns its one answer. sent reports whether a byte may have left.
func exchange(ctx context.Context, conn Conn, verb wire.UplinkVerb, body []byte) (b []byte, sent bool, err error) {
	st, err := conn.OpenStream(ctx)
	if err != nil {
		return nil, false, err
	}
	req := wire.UplinkRequest{Verb: verb, Body: body, Trace: kv.TraceOf(ctx)}
	if d, ok := ctx.Deadline(); ok {
		req.Timeout = max(time.Until(d), time.Millisecond)
	}
	done := make(chan struct{})
	var watching sync.WaitGroup
	var why error
	watching.Go(func() { why = giveUp(ctx, conn, st, done) })
	defer func() {
		close(done)
		watching.Wait()
		if err == nil {
			st.CancelRead(0)
			return
		}
		st.Abort(0)
		if why != nil {
			err = why
		}
	}()
	if err := wire.WriteFrame(st, req.Append(nil)); err != nil {
		return nil, true, err
	}
	_ = st.Close() // fails if the answer is there already; a stream that is broken is noticed by the read
	b, err = wire.ReadFrame(bufio.NewReaderSize(st, 512))
	if err != nil {
		return nil, true, fmt.Errorf("wait for the answer: %w", err)
	}
	return b, true, nil
}

// giveUp aborts a stream when its asker no longer waits or the link is lost, and says which.
func giveUp(ctx context.Context, conn Conn, st Stream, done <-chan struct{}) error {
	for {
		lost, changed := conn.LossState()
		if lost {
			st.Abort(0)
			return errors.New("the link is lost: nothing comes back")
		}
		select {
		case <-done:
			return nil
		case <-changed:
		case <-conn.Done():
			st.Abort(0)
			return conn.Err()
		case <-ctx.Done():
			st.Abort(0)
			return ctx.Err()
		}
	}
}
