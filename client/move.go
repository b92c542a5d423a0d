package client

import (
	"context"
	"errors"
	"slices"
	"sync"
	"sync/atomic"
	"time"
)

// A client moves to another endpoint while its connection is good: because the member at the other end is about to leave and says
// so, because another one is clearly nearer, or because another one is the first to answer after the network of this machine has
// changed. What is new goes over the new connection from the moment that it is up; what is under way on the old one is answered
// there, and no request fails.

const (
	// surveyFirst is how long after a connection came up the others are looked at, surveyEvery how often then: a look costs a
	// handshake each, 7 kB, at most surveyMost of them.
	surveyFirst = time.Minute
	surveyEvery = 23 * time.Hour // within the day that a session is good for: the next connection to any of them opens with early data
	surveyMost  = 4
	// A link that has become this much worse than it was is reason for a look, surveyAgain after the last one at the soonest.
	worseTimes  = 2
	worseBy     = 20 * time.Millisecond
	surveyAgain = 30 * time.Minute
	// Another endpoint is moved to if it is better by a third, and by betterBy: two that are alike do not take turns.
	betterBy = 5 * time.Millisecond
	// retireMax bounds how long the former connection is kept for what is under way on it.
	retireMax = 10 * time.Second
	// lookEvery is how often a link is judged.
	lookEvery = time.Minute
)

// link is a connection and who uses it.
type link struct {
	Conn
	at      string
	leaving chan struct{} // of one place: the other end is about to go
	retired chan struct{} // closed when another link has taken its place

	waiting atomic.Int64 // bytes that consumers of watches have not taken

	mu   sync.Mutex
	uses int
	idle chan struct{} // closed when uses is 0 after it was retired
}

func newLink(conn Conn, at string) *link {
	return &link{Conn: conn, at: at, leaving: make(chan struct{}, 1), retired: make(chan struct{}), idle: make(chan struct{})}
}

func (l *link) enter() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.uses++
}

func (l *link) leave() {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.uses--; l.uses == 0 && isClosed(l.retired) {
		close(l.idle)
	}
}

// proveFor is how long a link has, beyond two round trips, to show that it has come along to another network, before a dial begins
// beside it: a handshake is 7 kB, and a vehicle changes networks often.
const proveFor = 50 * time.Millisecond

// retire closes a link, whose place another one has, once nothing is under way on it any more.
func (l *link) retire(ctx context.Context) {
	l.mu.Lock()
	close(l.retired)
	if l.uses == 0 {
		close(l.idle)
	}
	l.mu.Unlock()
	late := time.NewTimer(retireMax)
	defer late.Stop()
	select {
	case <-l.idle:
	case <-l.Done():
	case <-late.C:
	case <-ctx.Done():
	}
	l.Close("moved to another endpoint")
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}

// cost is what a link is judged by: a lost packet takes some round trips more.
func cost(c Conn) time.Duration {
	rtt, loss := c.Line()
	return rtt + time.Duration(5*loss*float64(rtt))
}

// better reports whether it is worth moving from one link to another.
func better(than, c time.Duration) bool { return c < than*2/3 && c+betterBy < than }

// worse reports whether a link has become reason to look for another.
func worse(now, best time.Duration) bool { return now > worseTimes*best && now > best+worseBy }

// Leave has the client move away from a connection whose other end is about to go. It returns at once; if no other endpoint
// answers the connection is kept until it ends.
func (c *Client) Leave(conn Conn) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.link == nil || c.link.Conn != conn {
		return
	}
	select {
	case c.link.leaving <- struct{}{}:
	default:
	}
}

// others are the endpoints that are not the one of a link.
func (c *Client) others(l *link) []string {
	return slices.DeleteFunc(c.Endpoints(), func(at string) bool { return at == l.at })
}

// refuge connects to any other endpoint.
func (c *Client) refuge(ctx context.Context, l *link) *link {
	order := c.others(l)
	if len(order) == 0 {
		return nil
	}
	conn, at, err := c.dial(ctx, order)
	if err != nil {
		c.opts.Log.Warn("the member is about to leave and no other endpoint answers; its link is kept until it ends", "upstream", l.at, "error", err)
		return nil
	}
	return newLink(conn, at)
}

// outrun returns a link to the endpoint that answers first, now that the network of this machine is another one: nil if that is the
// one of l, which comes along if its member can be reached from there.
func (c *Client) outrun(ctx context.Context, l *link) *link {
	rtt, _ := l.Line()
	if err := aliveWithin(ctx, l, 2*rtt+proveFor); err == nil || ctx.Err() != nil {
		return nil
	}
	race, cancel := context.WithCancel(ctx)
	var proving sync.WaitGroup
	defer proving.Wait()
	defer cancel()
	proving.Go(func() {
		if l.Alive(race) == nil {
			cancel()
		}
	})
	conn, at, err := c.dial(race, c.order(l.at))
	if err != nil {
		return nil
	}
	if race.Err() != nil { // both have answered
		conn.Close("the former connection is good")
		return nil
	}
	return newLink(conn, at)
}

func aliveWithin(ctx context.Context, l *link, d time.Duration) error {
	ctx, cancel := context.WithTimeout(ctx, d)
	defer cancel()
	return l.Alive(ctx)
}

// survey looks at other endpoints, and returns a link to the best of them if it is worth moving there.
func (c *Client) survey(ctx context.Context, l *link) *link {
	order := c.others(l)
	var best *link
	limit := cost(l)
	for _, at := range order[:min(len(order), surveyMost)] {
		one, cancel := context.WithTimeout(ctx, c.opts.DialTimeout)
		conn, err := c.opts.Dial(one, at, func(Conn) {})
		cancel()
		if err != nil {
			continue
		}
		found := cost(conn)
		if found <= 0 || best == nil && !better(limit, found) || best != nil && found >= cost(best) {
			conn.Close("another endpoint is as near")
			continue
		}
		if best != nil {
			best.Close("another endpoint is nearer")
		}
		best = newLink(conn, at)
	}
	return best
}

// errMoved ends a link whose place another one has taken.
var errMoved = errors.New("moved to another endpoint")

// search runs a look for another link beside the one in use, one at a time.
type search struct {
	found  chan *link // answers once for each begin
	cancel context.CancelFunc
}

func (s *search) running() bool { return s.cancel != nil }

func (s *search) begin(ctx context.Context, look func(context.Context) *link) {
	ctx, s.cancel = context.WithCancel(ctx)
	go func() { s.found <- look(ctx) }()
}

// done takes note that the answer was taken.
func (s *search) done() {
	s.cancel()
	s.cancel = nil
}

// end gives up what still runs.
func (s *search) end() {
	if !s.running() {
		return
	}
	s.cancel()
	s.cancel = nil
	if l := <-s.found; l != nil {
		l.Close("not needed any more")
	}
}

// hold returns when a link is of no more use, and why: errLost if it may come back, errMoved with the next one.
func (c *Client) hold(ctx context.Context, l *link) (next *link, err error) {
	grace := time.NewTimer(c.opts.LostGrace)
	grace.Stop()
	defer grace.Stop()
	look := time.NewTicker(lookEvery)
	defer look.Stop()
	s := &search{found: make(chan *link, 1)}
	defer s.end()
	due, soonest := time.Now().Add(surveyFirst), time.Now()
	best := time.Duration(0)
	rerouted := c.opts.Rerouted()
	was := false
	for {
		lost, changed := l.LossState()
		switch {
		case lost && !was:
			wait := c.opts.LostGrace
			if len(c.Endpoints()) > 1 {
				wait /= 2
			}
			grace.Reset(wait)
		case !lost:
			grace.Stop()
		}
		was = lost
		select {
		case <-l.Done():
			return nil, l.Err()
		case <-changed:
		case <-grace.C:
			return nil, errLost
		case <-l.leaving:
			s.end()
			s.begin(ctx, func(ctx context.Context) *link { return c.refuge(ctx, l) })
		case <-rerouted:
			rerouted = c.opts.Rerouted()
			s.end()
			s.begin(ctx, func(ctx context.Context) *link { return c.outrun(ctx, l) })
		case <-look.C:
			now := cost(l)
			if best == 0 || now < best {
				best = now
			}
			at := time.Now()
			if s.running() || lost || at.Before(due) && (at.Before(soonest) || !worse(now, best)) {
				continue
			}
			due, soonest = at.Add(surveyEvery), at.Add(surveyAgain)
			s.begin(ctx, func(ctx context.Context) *link { return c.survey(ctx, l) })
		case next := <-s.found:
			s.done()
			if next != nil {
				return next, errMoved
			}
		case <-ctx.Done():
			return nil, ctx.Err()
		}
	}
}
