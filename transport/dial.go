package transport

import (
	"context"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"strconv"
	"strings"
	"time"

	"github.com/quic-go/quic-go"
)

// Target is whom to dial.
type Target struct {
	// Addrs are host:port, tried in order, each 250 ms after the one before or as soon as that has failed; the first
	// that answers wins. srv:NAME stands for the hosts of the SRV record _holdfast._udp.NAME, or of NAME if it begins
	// with an underscore.
	Addrs []string
	// Node is the id that must answer; empty: any that the cluster has certified.
	Node string
	// CAHash pins the cluster's CA, for Join: SHA-256 of its public key in hexadecimal. A node that has joined may leave it
	// empty and goes by the CAs it trusts.
	CAHash string
	// AllowProxy takes a proxy for an answer, for a proxy behind a proxy.
	AllowProxy bool
	// Early returns as soon as data can be sent, one round trip before the peer has let this node in. A refusal then
	// shows as the end of the connection. See Conn.Confirm.
	Early bool
	// OnEarly gets a connection on which data can be sent before the peer has answered, where there was one to the same
	// peer within a day (see Config.EarlyData). The peer acts on what does no harm twice, and holds the rest until Confirm.
	// If Dial then returns another connection or none, this one has ended, and what was sent on it may have been done.
	OnEarly func(*Conn)
}

const (
	// dialStagger is RFC 8305's: late enough for a near address to answer before a second one is asked.
	dialStagger = 250 * time.Millisecond
	// maxDialAddrs bounds how many addresses one Dial tries.
	maxDialAddrs = 16
)

// Dial opens a connection. It returns once the peer has let this node in, unless t.Early. It gives up when ctx ends, and
// ten seconds after the last address was tried. The error says for each address what happened.
func (e *Endpoint) Dial(ctx context.Context, p Protocol, t Target) (*Conn, error) {
	select {
	case <-e.started:
	case <-e.stopped:
		return nil, ErrClosed
	case <-ctx.Done():
		return nil, fmt.Errorf("wait for the endpoint to run: %w", context.Cause(ctx))
	}
	if p.anonymous() && t.CAHash == "" && !e.cfg.Identity().Joined() {
		return nil, errors.New("dial to join: the hash of the CA is required (it is in the join token)")
	}
	addrs, err := e.resolve(ctx, t.Addrs)
	if len(addrs) == 0 {
		if err == nil {
			err = errors.New("no address")
		}
		return nil, fmt.Errorf("dial %s: %w", p, err)
	}
	c, dialErr := e.race(ctx, p, t, addrs)
	if dialErr != nil {
		return nil, fmt.Errorf("dial %s: %w", p, errors.Join(dialErr, err))
	}
	return c, nil
}

// race dials the addresses one after another and keeps the first connection.
func (e *Endpoint) race(ctx context.Context, p Protocol, t Target, addrs []netip.AddrPort) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   *Conn
		err error
	}
	results := make(chan result) // each dial ends in one receive below
	var errs []error
	var won *Conn
	started, running := 0, 0
	next := time.NewTimer(0)
	defer next.Stop()
	for started < len(addrs) && won == nil || running > 0 {
		select {
		case <-next.C:
			if started == len(addrs) || won != nil {
				continue
			}
			addr := addrs[started]
			started++
			running++
			next.Reset(dialStagger)
			go func() {
				c, err := e.dialOne(ctx, p, t, addr)
				results <- result{c, err}
			}()
		case r := <-results:
			running--
			switch {
			case r.err != nil:
				errs = append(errs, r.err)
				next.Reset(0)
			case won != nil:
				r.c.CloseWithError(CodeDuplicate, "another address answered first")
			default:
				won = r.c
				cancel()
			}
		}
	}
	if won != nil {
		return won, nil
	}
	return nil, errors.Join(errs...)
}

// dialOne dials an address, over UDP and if need be over TCP.
func (e *Endpoint) dialOne(ctx context.Context, p Protocol, t Target, addr netip.AddrPort) (_ *Conn, err error) {
	e.routes.note(addr.Addr())
	defer func() {
		e.mu.Lock()
		e.totals.Dials++
		if err != nil {
			e.totals.DialsFailed++
			if blocked(err) && !addr.Addr().IsLoopback() {
				e.totals.WireBytes += failedDial
			}
			err = fmt.Errorf("%s: %w", addr, err)
		}
		e.mu.Unlock()
	}()
	if e.cfg.DialTCP != nil && !t.Early {
		return e.dialEither(ctx, p, t, addr)
	}
	return e.dialOver(ctx, p, t, addr, nil)
}

// dialOver dials an address over UDP, or over the way that is given, which is the connection's from then on.
func (e *Endpoint) dialOver(ctx context.Context, p Protocol, t Target, addr netip.AddrPort, way *tcpWay) (*Conn, error) {
	d, err := e.newDial(p, t, addr, way)
	if err != nil {
		return nil, err
	}
	return d.connect(ctx)
}

// connect returns once the peer has let this node in, unless it is not to wait for that.
func (d *dial) connect(ctx context.Context) (*Conn, error) {
	ctx, cancel := context.WithTimeoutCause(ctx, handshakeMax, ErrUnreachable)
	defer cancel()
	c, err := d.open(ctx)
	if err == nil && !d.t.Early && c.qc.ConnectionState().Used0RTT {
		return c, nil // it took what was sent early, so it has let this node in
	}
	if err == nil && !d.t.Early {
		if err = c.Confirm(ctx); err != nil { // the end of c ends the way too
			c.CloseWithError(CodeDone, "gave up on the handshake")
		}
	}
	if err != nil {
		return nil, d.ep.dialError(d.p, d.addr, err)
	}
	return c, nil
}

// dial is one attempt to open a connection.
type dial struct {
	ep     *Endpoint
	p      Protocol
	t      Target
	addr   netip.AddrPort
	way    *tcpWay
	tr     *quic.Transport
	tls    *tls.Config
	conf   *quic.Config
	tokens *keyedTokens
	cache  *sessionCache       // nil: the protocol has no sessions
	chain  []*x509.Certificate // that the peer showed before; with it the connection opens with early data
}

func (e *Endpoint) newDial(p Protocol, t Target, addr netip.AddrPort, way *tcpWay) (*dial, error) {
	dest, tr := addr.String(), e.tr
	if way != nil {
		tr = &quic.Transport{Conn: way}
		dest += " tcp" // where this node has another address
	}
	d := &dial{ep: e, p: p, t: t, addr: addr, way: way, tr: tr, conf: e.quicConfig()}
	d.tokens = &keyedTokens{TokenStore: e.tokens, key: dest, let: make(chan struct{})}
	d.conf.KeepAlivePeriod, d.conf.TokenStore = e.cfg.KeepAlive, d.tokens
	if p == Uplink && e.keeper.measures() {
		d.conf.KeepAlivePeriod = 0 // it is for keepAlives, which can change while the connection lives
	}
	var err error
	if d.tls, err = e.clientTLS(p, t); err != nil {
		return nil, err
	}
	if e.cfg.EarlyData && p == Uplink && way == nil {
		key := e.cfg.Identity().sessionKey(p, t, dest)
		d.chain = e.known.get(key)
		d.cache = &sessionCache{sessions: e.known, key: key, used: d.chain != nil, warn: func(err error) {
			e.cfg.Log.Warn("TLS sessions are not kept", "err", err)
		}}
		d.tls.ClientSessionCache = d.cache
		d.tokens.kept, d.tokens.session = e.known, key
	}
	return d, nil
}

// open returns once the handshake is done. A session that the peer does not take costs another handshake.
func (d *dial) open(ctx context.Context) (*Conn, error) {
	c, err := d.attempt(ctx)
	if d.chain == nil || err == nil && c.qc.ConnectionState().Used0RTT {
		return c, err
	}
	d.cache.drop(d.cache.key)
	_, refused := errors.AsType[*RefusedError](explain(err))
	if err != nil && !refused { // such as no answer
		return nil, err
	}
	if c != nil {
		c.CloseWithError(CodeDone, "the session was not taken")
	}
	d.chain, d.cache.used = nil, false
	return d.attempt(ctx)
}

func (d *dial) attempt(ctx context.Context) (c *Conn, err error) {
	e := d.ep
	if d.way != nil {
		defer func() {
			if err != nil && c == nil {
				closeTransport(d.tr)
			}
		}()
	}
	open := d.tr.Dial
	if d.chain != nil {
		open = d.tr.DialEarly
	}
	qc, err := open(ctx, net.UDPAddrFromAddrPort(d.addr), d.tls, d.conf)
	if err != nil {
		return nil, err
	}
	chain, early := d.chain, d.chain != nil
	select {
	case <-qc.HandshakeComplete():
		chain, early = qc.ConnectionState().TLS.PeerCertificates, false
	default:
	}
	peer, ca, refused := e.verifier(d.p, false, d.t).judge(chain)
	if refused != nil { // it passed a moment ago, or when the session began
		_ = qc.CloseWithError(quic.ApplicationErrorCode(CodeDone), refused.Why.Error())
		return nil, refused
	}
	c = newConn(qc, d.p, peer, ca.Raw, true)
	c.confirmed = d.tokens.let
	if d.way != nil {
		c.tcp.packets, c.tcp.tr = d.way, d.tr
		c.tcp.using.Store(true)
	}
	if e.cfg.DialTCP != nil && d.p != Mapping {
		c.wg.Go(func() { e.changeWays(c, d.addr) })
	}
	if _, ok := e.register(c); !ok {
		c.CloseWithError(CodeShutdown, "the node is stopping")
		c.end()
		return nil, ErrClosed
	}
	if early {
		err = d.speakEarly(ctx, c)
	}
	if err == nil && d.cache != nil {
		d.cache.shown(qc.ConnectionState().TLS.PeerCertificates)
	}
	return c, err
}

// speakEarly lets the caller send before the peer has answered, and waits for the answer.
func (d *dial) speakEarly(ctx context.Context, c *Conn) error {
	if d.t.OnEarly != nil {
		d.t.OnEarly(c)
	}
	select {
	case <-c.qc.HandshakeComplete():
		return nil
	case <-c.qc.Context().Done():
		return context.Cause(c.qc.Context())
	case <-ctx.Done():
		c.CloseWithError(CodeDone, "gave up on the handshake")
		return context.Cause(ctx)
	}
}

func (e *Endpoint) dialError(p Protocol, addr netip.AddrPort, err error) error {
	err = explain(err)
	if refused, ok := errors.AsType[*RefusedError](err); ok {
		e.noteRefusal(net.UDPAddrFromAddrPort(addr), refused)
		if refused.Remote && e.cfg.Refused != nil {
			e.cfg.Refused(p, refused.Why)
		}
	}
	return err
}

// resolve turns addresses and names into addresses, in order and without repetition. An error is of the names that could
// not be resolved; the rest is returned with it.
func (e *Endpoint) resolve(ctx context.Context, hostports []string) ([]netip.AddrPort, error) {
	var out []netip.AddrPort
	var errs []error
	seen := make(map[netip.AddrPort]bool)
	add := func(a netip.AddrPort) {
		a = netip.AddrPortFrom(a.Addr().Unmap(), a.Port())
		if !seen[a] && len(out) < maxDialAddrs {
			seen[a] = true
			out = append(out, a)
		}
	}
	for _, hp := range hostports {
		hps := []string{hp}
		if name, ok := strings.CutPrefix(hp, srvPrefix); ok {
			var err error
			if hps, err = e.service(ctx, name); err != nil {
				errs = append(errs, err)
			}
		}
		for _, hp := range hps {
			if err := e.resolveOne(ctx, hp, add); err != nil {
				errs = append(errs, err)
			}
		}
	}
	return out, errors.Join(errs...)
}

// byTurns orders the addresses of a host so that IPv4 and IPv6 alternate, beginning with the kind of the first (RFC 8305,
// section 4): where one of the two leads nowhere, the second attempt is of the other.
func byTurns(ips []netip.Addr) []netip.Addr {
	var kinds [2][]netip.Addr // as the first, and the other
	for _, ip := range ips {
		other := 0
		if ip.Unmap().Is4() != ips[0].Unmap().Is4() {
			other = 1
		}
		kinds[other] = append(kinds[other], ip)
	}
	turns := make([]netip.Addr, 0, len(ips))
	for i := range max(len(kinds[0]), len(kinds[1])) {
		for _, kind := range kinds {
			if i < len(kind) {
				turns = append(turns, kind[i])
			}
		}
	}
	return turns
}

func (e *Endpoint) resolveOne(ctx context.Context, hp string, add func(netip.AddrPort)) error {
	if a, err := netip.ParseAddrPort(hp); err == nil {
		add(a)
		return nil
	}
	host, portText, err := net.SplitHostPort(hp)
	if err != nil {
		return fmt.Errorf("address %q: want host:port", clip(hp))
	}
	port, err := strconv.ParseUint(portText, 10, 16)
	if err != nil || port == 0 {
		return fmt.Errorf("address %q: want a port from 1 to 65535", clip(hp))
	}
	ips, err := e.cfg.Resolve(ctx, host)
	if err != nil {
		return fmt.Errorf("look up %s: %w", host, err)
	}
	for _, ip := range byTurns(ips) {
		add(netip.AddrPortFrom(ip, uint16(port)))
	}
	return nil
}

// srvPrefix marks the name of a service among addresses.
const srvPrefix = "srv:"

// service looks up where a service is: a name that begins with an underscore as it is, another one as _holdfast._udp.
func (e *Endpoint) service(ctx context.Context, name string) ([]string, error) {
	if !strings.HasPrefix(name, "_") {
		name = "_holdfast._udp." + name
	}
	found, err := e.cfg.ResolveService(ctx, name)
	if len(found) == 0 {
		if err == nil {
			err = errors.New("there is none")
		}
		return nil, fmt.Errorf("look up the SRV record %s: %w", name, err)
	}
	var hps []string
	for _, s := range found {
		if host := strings.TrimSuffix(s.Target, "."); host != "" { // "." says that the service is not there: RFC 2782
			hps = append(hps, net.JoinHostPort(host, strconv.Itoa(int(s.Port))))
		}
	}
	return hps, nil // names that LookupSRV has left out, as malformed, are no reason not to try the others
}
