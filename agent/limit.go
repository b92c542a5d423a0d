package agent

import (
	"context"
	"net"
	"sync"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/internal/sniff"
	"holdfast/kv"
)

// limiter bounds the connections of the listeners of one purpose. A connection beyond the limit is not left hanging: it
// gets one answer, 503 for a request to the API and the usual one for health and metrics, and is closed. A reserve is
// set aside for those answers; beyond it a connection is closed at once.
type limiter struct {
	purpose purpose
	ledger  *ledger       // of clients; nil: each may have all
	beyond  atomic.Int64  // of open, those that get one answer
	max     *atomic.Int64 // the ledger's, where there is one
	open    atomic.Int64
	refused atomic.Int64 // got a 503
	dropped atomic.Int64 // closed at once
	full    error        // the answer of those beyond max
}

// How many connections a listener takes that is not for clients: a few people and scrapers at a time.
const (
	adminConnections   = 128
	metricsConnections = 64
)

// reserve is how many connections beyond the limit are answered at a time.
const reserve = 64

func newLimiter(p purpose, limit int, clients *ledger, reg prometheus.Registerer) *limiter {
	l := &limiter{purpose: p, ledger: clients, max: new(atomic.Int64), full: errTooManyConnections}
	if clients != nil {
		l.max = &clients.max[useConnection]
	} else {
		l.full = kv.Errorf(kv.Busy, "the listener for %s has all the %d connections that it may have: close one, and use those again that stay open", p, limit)
	}
	l.max.Store(int64(limit))
	const refusals = "holdfast_agent_connections_refused_total"
	help := "Connections beyond the limit: answered once with 503, or dropped when the reserve was used up too."
	label := func(how ...string) prometheus.Labels {
		labels := prometheus.Labels{"for": p.String()}
		for _, how := range how {
			labels["how"] = how
		}
		return labels
	}
	reg.MustRegister(
		gauge("holdfast_agent_connections", "Open connections.", label(), &l.open),
		gauge("holdfast_agent_connections_max", "Most connections at a time.", label(), l.max),
		counter(refusals, help, label("answered"), &l.refused),
		counter(refusals, help, label("dropped"), &l.dropped),
	)
	return l
}

func gauge(name, help string, labels prometheus.Labels, v *atomic.Int64) prometheus.Collector {
	return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(v.Load()) })
}

func counter(name, help string, labels prometheus.Labels, v *atomic.Int64) prometheus.Collector {
	return prometheus.NewCounterFunc(prometheus.CounterOpts{Name: name, Help: help, ConstLabels: labels}, func() float64 { return float64(v.Load()) })
}

// listener counts the connections of inner.
func (l *limiter) listener(inner net.Listener) net.Listener { return &limitedListener{inner, l} }

type limitedListener struct {
	net.Listener
	limiter *limiter
}

func (l *limitedListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil {
			return nil, err
		}
		if limited := l.limiter.admit(c); limited != nil {
			keepAlive(c)
			return limited, nil
		}
		l.limiter.dropped.Add(1)
		drop(c)
	}
}

// drop closes a connection on which nothing was said, by a reset: one packet where an end that both sides agree upon takes four,
// and the kernel remembers it for a minute. It makes a flood of connections half as dear.
func drop(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetLinger(0) // it is closed in any case
	}
	_ = c.Close() // likewise
}

// keepAlive has the kernel find out whether a client is still there. Listeners leave it to those that may stay: it takes four system calls.
func keepAlive(c net.Conn) {
	if tcp, ok := c.(*net.TCPConn); ok {
		_ = tcp.SetKeepAliveConfig(net.KeepAliveConfig{Enable: true}) // one that is gone is noticed by its first read
	}
}

// admit finds a place for a connection, nil if there is none, or it is one too many of a client that opens them too fast.
func (l *limiter) admit(c net.Conn) *limitedConn {
	lc := &limitedConn{Conn: c, limiter: l, caller: l.callerOf(c)}
	regular := l.open.Add(1) - l.beyond.Load()
	if regular > l.max.Load() {
		lc.beyond = l.full
	} else if l.ledger != nil {
		lc.beyond = l.ledger.take(lc.caller, useConnection)
		if lc.beyond == error(errTooHasty) { //nolint:errorlint // this very one
			l.open.Add(-1)
			return nil
		}
	}
	if lc.beyond != nil && l.beyond.Add(1) > reserve {
		l.beyond.Add(-1)
		l.open.Add(-1)
		return nil
	}
	return lc
}

var errTooManyConnections = kv.Errorf(kv.Busy, "this node has all the connections it may have (limits.connections): keep connections open and use them again, or raise the limit")

// callerOf is who has opened a connection, as the listener knows it.
func (l *limiter) callerOf(c net.Conn) api.Caller {
	return api.Caller{Addr: api.AddrPort(c.RemoteAddr()), Admin: l.purpose == forAdmin, Process: processOf(c)}
}

// limitedConn gives its place back when it is closed.
type limitedConn struct {
	net.Conn
	limiter *limiter
	caller  api.Caller
	beyond  error // gets one answer, this; nil: it is one of those that may be
	once    sync.Once
	reading readDeadline
	bounded atomic.Bool  // a handler has set a write deadline of its own
	stall   atomic.Int64 // when the write deadline that is in force was set, in nanoseconds since 1970; 0 for never
}

// Caller is for api.CallerOf.
func (c *limitedConn) Caller() api.Caller { return c.caller }

func (c *limitedConn) Close() error {
	c.once.Do(func() {
		c.limiter.open.Add(-1)
		switch {
		case c.beyond != nil:
			c.limiter.beyond.Add(-1)
		case c.limiter.ledger != nil:
			c.limiter.ledger.give(c.caller, useConnection)
		}
	})
	return c.Conn.Close()
}

// CloseWrite lets net/http end a connection without losing the answer.
func (c *limitedConn) CloseWrite() error {
	if half, ok := c.Conn.(interface{ CloseWrite() error }); ok {
		return half.CloseWrite()
	}
	return nil
}

// stallTimeout is how long one write to a client may take: then the client has stopped reading and is cut off. It may be
// less by stallStep, within which the deadline of a former write will do: setting one for each answer costs something.
const (
	stallTimeout = 60 * time.Second
	stallStep    = time.Second
)

func (c *limitedConn) Write(b []byte) (int, error) {
	if !c.bounded.Load() {
		if err := c.boundWrite(time.Now()); err != nil {
			return 0, err
		}
	}
	return c.Conn.Write(b)
}

// boundWrite sees to it that a write deadline is in force. A clock that was put back counts as one that has gone on.
func (c *limitedConn) boundWrite(now time.Time) error {
	at := now.UnixNano()
	if since := at - c.stall.Load(); since >= 0 && since < int64(stallStep) {
		return nil
	}
	c.stall.Store(at)
	return c.Conn.SetWriteDeadline(now.Add(stallTimeout))
}

// SetWriteDeadline replaces stallTimeout until it is called with the zero time, which net/http does after each request.
func (c *limitedConn) SetWriteDeadline(t time.Time) error {
	if was := c.bounded.Swap(!t.IsZero()); !was && t.IsZero() {
		return nil
	}
	c.stall.Store(0)
	return c.Conn.SetWriteDeadline(t)
}

// beyondKey marks the requests of a connection beyond the limit.
type beyondKey struct{}

// mark is for http.Server.ConnContext.
func (l *limiter) mark(ctx context.Context, c net.Conn) context.Context {
	ctx = api.WithCaller(ctx, api.CallerOf(c))
	if why := beyond(c); why != nil {
		l.refused.Add(1)
		return context.WithValue(ctx, beyondKey{}, why)
	}
	return ctx
}

// beyond says why a connection gets one answer only, nil if it does not.
func beyond(c net.Conn) error {
	for {
		if lc, ok := c.(*limitedConn); ok {
			return lc.beyond
		}
		outer, ok := c.(interface{ NetConn() net.Conn })
		if !ok {
			return nil
		}
		c = outer.NetConn()
	}
}

// whyBeyond is the answer for a request of a connection beyond the limit, nil for any other.
func whyBeyond(ctx context.Context) error {
	why, _ := ctx.Value(beyondKey{}).(error)
	return why
}

// turnAway is l without the connections beyond the limit: gRPC has a word for that, and clients try another node.
func (l *limiter) turnAway(inner net.Listener) net.Listener { return &turningListener{inner, l} }

type turningListener struct {
	net.Listener
	limiter *limiter
}

// farewellTimeout is how long the word may take; nothing else was written on the connection that could be in its way.
const farewellTimeout = time.Second

func (l *turningListener) Accept() (net.Conn, error) {
	for {
		c, err := l.Listener.Accept()
		if err != nil || beyond(c) == nil {
			return c, err
		}
		l.limiter.refused.Add(1)
		if c.SetWriteDeadline(time.Now().Add(farewellTimeout)) == nil {
			_, _ = c.Write(sniff.TooManyConnections) // a client that has gone needs no word
		}
		_ = c.Close() // nothing was begun on it
	}
}
