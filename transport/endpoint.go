package transport

import (
	"bytes"
	"context"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"os"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Handler serves one connection that a peer opened. The connection is closed when it returns; ctx ends with the
// connection.
type Handler func(ctx context.Context, c *Conn)

// Endpoint is a node on the network. Listen and Dial may be called before Run; Dial waits for it.
type Endpoint struct {
	cfg    Config
	tr     *quic.Transport
	adm    admission
	door   protocolConfigs
	relays *relays
	known  *sessions
	silent silent
	routes *routes
	keeper *keeper
	tokens quic.TokenStore // of addresses validated before: they skip a Retry

	extend  chan extension // to Run
	started chan struct{}  // closed by Run once dialing works
	stopped chan struct{}  // closed by Run when it no longer does
	wg      sync.WaitGroup

	mappings atomic.Int64 // measurements of peers that are being answered

	mu       sync.Mutex
	running  bool
	closing  bool
	handlers map[Protocol]Handler
	conns    map[*Conn]struct{}
	totals   Counters // of what has ended, and what is counted here
	logged   map[Refusal]time.Time
}

// New prepares an endpoint. Run starts it.
func New(cfg Config) (*Endpoint, error) {
	if cfg.Conn == nil || cfg.Identity == nil {
		return nil, errors.New("transport: Conn and Identity are required")
	}
	cfg = cfg.withDefaults()
	if err := withoutECN(); err != nil {
		return nil, err
	}
	e := &Endpoint{
		cfg:      cfg,
		tokens:   quic.NewLRUTokenStore(64, 2),
		extend:   make(chan extension),
		started:  make(chan struct{}),
		stopped:  make(chan struct{}),
		handlers: make(map[Protocol]Handler),
		conns:    make(map[*Conn]struct{}),
		logged:   make(map[Refusal]time.Time),
		routes:   newRoutes(cfg.Source),
	}
	e.adm = admission{maxConns: cfg.MaxConns, maxHandshakes: cfg.MaxHandshakes, windows: make(map[*quic.Conn]uint64)}
	var err error
	if e.relays, err = newRelays(e); err != nil {
		return nil, err
	}
	if e.known, err = openSessions(cfg.SessionDir, cfg.Seal); err != nil {
		cfg.Log.Warn("uplinks open with a round trip more", "err", err)
	}
	if e.keeper, err = newKeeper(e); err != nil {
		cfg.Log.Warn("the keep-alive is measured anew", "err", err)
	}
	e.tr = e.transportOn(cfg.Conn)
	return e, nil
}

// transportOn is QUIC on one socket.
func (e *Endpoint) transportOn(conn net.PacketConn) *quic.Transport {
	id := e.cfg.Identity()
	reset := quic.StatelessResetKey(id.derive("stateless reset"))
	token := quic.TokenGeneratorKey(id.derive("address validation"))
	return &quic.Transport{
		Conn:                conn,
		StatelessResetKey:   &reset,
		TokenGeneratorKey:   &token,
		VerifySourceAddress: func(net.Addr) bool { return e.adm.mustValidate() },
		ConnContext:         e.admit,
	}
}

// withoutECN has quic-go not mark packets. It panics when a connection on which marks have arrived moves to a way that has
// none, as TCP is (sys_conn.go: "cannot use ECN with a basicConn"), and it takes no other word than this one.
func withoutECN() error { return os.Setenv("QUIC_GO_DISABLE_ECN", "true") }

// Node is the id of this node.
func (e *Endpoint) Node() string { return e.cfg.Identity().Node() }

// Sparing is Config.Sparing.
func (e *Endpoint) Sparing() bool { return e.cfg.Sparing() }

// Addr is the address of the socket.
func (e *Endpoint) Addr() net.Addr { return e.cfg.Conn.LocalAddr() }

// Listen serves connections of a protocol with h from now on; nil no longer serves it. A protocol that nobody serves is
// refused during the handshake.
func (e *Endpoint) Listen(p Protocol, h Handler) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if h == nil {
		delete(e.handlers, p)
	} else {
		e.handlers[p] = h
	}
	if p != Uplink {
		return
	}
	if h == nil {
		delete(e.handlers, Mapping)
	} else {
		e.handlers[Mapping] = e.answerMapping
	}
}

// Run serves until ctx ends or the socket fails, then closes every connection, tells the peers, and waits for the
// handlers. It runs once. The error is nil after ctx has ended.
func (e *Endpoint) Run(ctx context.Context) error {
	e.mu.Lock()
	if e.running {
		e.mu.Unlock()
		return errors.New("transport: Run runs once")
	}
	e.running = true
	e.mu.Unlock()

	ln, err := e.tr.ListenEarly(e.serverTLS(), e.quicConfig())
	if err != nil {
		close(e.stopped)
		if e.cfg.ListenTCP != nil {
			_ = e.cfg.ListenTCP.Close()
		}
		return fmt.Errorf("listen on %s: %w", e.Addr(), explain(err))
	}
	runCtx, cancel := context.WithCancel(ctx)
	e.wg.Go(func() { e.sampleIdle(runCtx) })
	if e.keeper.measures() {
		e.wg.Go(func() { e.keeper.run(runCtx) })
	}
	if e.cfg.ListenTCP != nil {
		e.wg.Go(func() { e.relays.run(runCtx, e.cfg.ListenTCP) })
	}
	more := e.takeExtensions(runCtx)
	close(e.started)
	err = e.acceptAll(runCtx, ln)
	more.stop()
	e.shutdown(ln, cancel)
	more.close()
	if ctx.Err() == nil {
		return fmt.Errorf("serve on %s: %w", e.Addr(), err)
	}
	return nil // on request
}

func (e *Endpoint) acceptAll(ctx context.Context, ln *quic.EarlyListener) error {
	for {
		qc, err := ln.Accept(ctx)
		if err != nil {
			return explain(err)
		}
		if state := qc.ConnectionState(); state.Used0RTT && state.TLS.DidResume {
			e.accept(qc) // the session says who it is
			continue
		}
		e.wg.Go(func() {
			select {
			case <-qc.HandshakeComplete():
				e.accept(qc)
			case <-qc.Context().Done():
			}
		})
	}
}

// accept hands a connection to its handler: its handshake has passed, or it resumes a session and may be a copy of an
// earlier one, by somebody who cannot read the answers. See Conn.Confirm.
func (e *Endpoint) accept(qc *quic.Conn) {
	state := qc.ConnectionState().TLS
	p := Protocol(state.NegotiatedProtocol)
	peer, ca, refused := e.verifier(p, true, Target{}).judge(state.PeerCertificates)
	if refused != nil { // it passed a moment ago; what it may do has changed since
		e.noteRefusal(attemptOf(qc.Context()).addr, refused)
		_ = qc.CloseWithError(quic.ApplicationErrorCode(CodeDone), refused.Why.Error())
		return
	}
	if !e.adm.accept(attemptOf(qc.Context()), p, peer.Role) {
		_ = qc.CloseWithError(quic.ApplicationErrorCode(CodeFull), "no place left for more connections (try later or another node)")
		return
	}
	var authority []byte
	if ca != nil {
		authority = ca.Raw
	}
	c := newConn(qc, p, peer, authority, false)
	c.relays, c.confirmed = e.relays, qc.HandshakeComplete()
	h, ok := e.register(c)
	if !ok {
		c.CloseWithError(CodeShutdown, "the node is stopping")
		c.end()
		return
	}
	e.wg.Go(func() {
		if p.anonymous() {
			late := time.AfterFunc(joinLife, func() { c.CloseWithError(CodeTooSlow, "joining took too long") })
			defer late.Stop()
		}
		if h == nil {
			c.CloseWithError(CodeDone, "the protocol is no longer served")
			return
		}
		h(c.Context(), c)
		c.CloseWithError(CodeDone, "")
	})
}

// register makes c one of the endpoint's connections and returns what serves its protocol; not once it is stopping.
func (e *Endpoint) register(c *Conn) (Handler, bool) {
	e.mu.Lock()
	defer e.mu.Unlock()
	if e.closing {
		return nil, false
	}
	e.conns[c] = struct{}{}
	e.adm.track(c.qc)
	e.totals.Opened++
	e.wg.Add(1)
	context.AfterFunc(c.qc.Context(), func() {
		defer e.wg.Done()
		e.forget(c)
	})
	return e.handlers[c.protocol], true
}

// forget runs when a connection has ended.
func (e *Endpoint) forget(c *Conn) {
	c.end()
	c.endTCP()
	e.adm.untrack(c.qc)
	h := c.Health()
	e.mu.Lock()
	delete(e.conns, c)
	e.totals.add(h)
	e.mu.Unlock()
	e.cfg.Log.Debug("connection ended", "peer", c.peer.String(), "protocol", c.protocol, "addr", h.Addr,
		"dialed", c.dialed, "age", h.Age, "cause", c.Err())
}

// shutdown ends everything in the order in which the peers get to know.
func (e *Endpoint) shutdown(ln *quic.EarlyListener, cancel context.CancelFunc) {
	_ = ln.Close() // refuses handshakes under way, waits for them; always nil
	e.mu.Lock()
	e.closing = true
	open := make([]*Conn, 0, len(e.conns))
	for c := range e.conns {
		open = append(open, c)
	}
	e.mu.Unlock()
	close(e.stopped)
	for _, c := range open {
		c.CloseWithError(CodeShutdown, "the node is stopping")
	}
	cancel() // and with it what carries packets over TCP, now that the peers have been told
	if err := e.known.save(); err != nil {
		e.cfg.Log.Warn("TLS sessions are not kept", "err", err)
	}
	_ = e.tr.Close() // ends what is still being dialed; an error would be of a socket that is the caller's
	e.wg.Wait()
}

// admit is called with the first packet of each incoming connection.
func (e *Endpoint) admit(ctx context.Context, info *quic.ClientInfo) (context.Context, error) {
	from, _ := e.relays.origin(info.RemoteAddr)
	t, err := e.adm.begin(from)
	if err != nil {
		return nil, err // quic-go answers CONNECTION_REFUSED
	}
	ctx = context.WithValue(ctx, attemptKey{}, t)
	e.wg.Add(1)
	context.AfterFunc(ctx, func() {
		defer e.wg.Done()
		if !e.adm.end(t) {
			return
		}
		e.mu.Lock()
		e.totals.HandshakesFailed++
		e.mu.Unlock()
		if refused, ok := errors.AsType[*RefusedError](explain(context.Cause(ctx))); ok {
			e.noteRefusal(t.addr, refused)
		}
	})
	return ctx, nil
}

// noteRefusal counts a refusal by or of a peer and logs it, at most once a reason in ten seconds.
func (e *Endpoint) noteRefusal(addr net.Addr, r *RefusedError) {
	e.mu.Lock()
	if e.totals.Refused == nil {
		e.totals.Refused = make(map[string]uint64)
	}
	e.totals.Refused[r.Why.label()]++
	count := e.totals.Refused[r.Why.label()]
	now := time.Now()
	last, seen := e.logged[r.Why]
	silent := seen && now.Sub(last) < refusalLogPeriod
	if !silent {
		e.logged[r.Why] = now
	}
	e.mu.Unlock()
	if !silent {
		e.cfg.Log.Warn("handshake refused", "addr", addr.String(), "reason", r.Why.label(), "by_peer", r.Remote, "err", r, "count", count)
	}
}

// sampleIdle looks at all connections now and then, so that Health of an idle one is not of long ago.
func (e *Endpoint) sampleIdle(ctx context.Context) {
	tick := time.NewTicker(samplePeriod)
	defer tick.Stop()
	for {
		select {
		case <-ctx.Done():
			return
		case <-tick.C:
		}
		open := e.open()
		for _, c := range open {
			if c.monitor.sampleIdle() && c.protocol != Mapping {
				c.Probe()
			}
			c.loss.add(c.qc.ConnectionStats())
		}
		e.keepAlives(open, time.Now())
	}
}

func (e *Endpoint) open() []*Conn {
	e.mu.Lock()
	defer e.mu.Unlock()
	open := make([]*Conn, 0, len(e.conns))
	for c := range e.conns {
		open = append(open, c)
	}
	return open
}

// Recheck judges the peers of all open connections again, by certificate life, the CAs trusted now and Config.Allowed, and
// closes those that would be refused now. To be called when membership or revocations change, and now and then for certificates that end.
// It returns how many were closed.
func (e *Endpoint) Recheck() (closed int) {
	for _, c := range e.open() {
		if c.peer.Anonymous() {
			continue
		}
		var why error
		if now := e.cfg.Now(); now.After(c.peer.NotAfter) {
			why = Expired
		} else if !c.protocol.anonymous() && !e.trusts(c.authority) {
			why = UnknownCA
		} else if e.cfg.Allowed != nil && !(c.dialed && c.protocol.anonymous()) {
			why = e.cfg.Allowed(c.Peer())
		}
		if why != nil {
			closed++
			e.cfg.Log.Warn("connection closed: the peer is no longer allowed", "peer", c.peer.String(), "protocol", c.protocol, "err", why)
			c.CloseWithError(CodeNotAllowed, why.Error())
		}
	}
	return closed
}

// trusts reports whether a CA is one that peers are judged by now.
func (e *Endpoint) trusts(ca []byte) bool {
	return slices.ContainsFunc(e.cfg.Identity().roots, func(r *x509.Certificate) bool { return bytes.Equal(r.Raw, ca) })
}

// Health takes stock of every open connection, ordered by protocol and node.
func (e *Endpoint) Health() []Health {
	open := e.open()
	all := make([]Health, 0, len(open))
	for _, c := range open {
		all = append(all, c.Health())
	}
	slices.SortFunc(all, func(a, b Health) int {
		if n := strings.Compare(string(a.Protocol), string(b.Protocol)); n != 0 {
			return n
		}
		if n := strings.Compare(a.Node, b.Node); n != 0 {
			return n
		}
		return strings.Compare(a.Addr, b.Addr)
	})
	return all
}
