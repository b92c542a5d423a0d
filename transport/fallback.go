package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"net/netip"
	"sync"
	"sync/atomic"
	"time"

	"github.com/quic-go/quic-go"
)

// Way is how the packets of a connection travel.
type Way string

// The ways.
const (
	OverUDP Way = "udp"
	OverTCP Way = "tcp"
)

const (
	// tcpAfter is how long UDP has to get a handshake through before TCP is tried beside it: with TCP's and TLS's round
	// trips a connection stands within a second where UDP is blocked, up to an RTT of 100 ms. UDP wins on a satellite.
	tcpAfter = 400 * time.Millisecond
	// silentFor is how long an address is remembered that only TCP reached: there both begin at once.
	silentFor = 10 * time.Minute
	// maxSilent bounds the addresses remembered.
	maxSilent = 256

	// A connection over TCP looks for UDP after 5 s and then ever more seldom, down to once in a quarter of an hour: that is
	// 96 times a day, three packets of 1228 bytes each where UDP is blocked, 0.35 MB.
	upFirst = 5 * time.Second
	upMax   = 15 * time.Minute
	// upProbes is how often in a row UDP must answer: a network that throttles it lets single packets pass.
	upProbes = 3
	// tcpLinger is how long TCP stays open after a connection has left it, for what is still under way there.
	tcpLinger = 3 * time.Second
	// A connection that lost its peer over UDP tries TCP at once, then ever more seldom.
	downFirst = time.Second
	downMax   = time.Minute
	// downProbe is how long the peer has to answer on the new way.
	downProbe = 3 * time.Second
)

// silent remembers addresses that answer over TCP and not over UDP.
type silent struct {
	mu    sync.Mutex
	until map[netip.AddrPort]time.Time
}

func (s *silent) has(a netip.AddrPort) bool {
	s.mu.Lock()
	defer s.mu.Unlock()
	return time.Now().Before(s.until[a])
}

func (s *silent) set(a netip.AddrPort, is bool) {
	s.mu.Lock()
	defer s.mu.Unlock()
	if !is {
		delete(s.until, a)
		return
	}
	if s.until == nil || len(s.until) >= maxSilent {
		s.until = make(map[netip.AddrPort]time.Time)
	}
	s.until[a] = time.Now().Add(silentFor)
}

// dialEither races UDP and TCP, with a head start for UDP. A peer that answers and refuses has answered: its reason is
// not asked for twice.
func (e *Endpoint) dialEither(ctx context.Context, p Protocol, t Target, addr netip.AddrPort) (*Conn, error) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	type result struct {
		c   *Conn
		err error
	}
	udp, tcp := make(chan result, 1), make(chan result, 1)
	go func() {
		c, err := e.dialOver(ctx, p, t, addr, nil)
		udp <- result{c, err}
	}()
	wait := tcpAfter
	if e.silent.has(addr) {
		wait = 0
	}
	late := time.NewTimer(wait)
	defer late.Stop()
	started := false
	start := func() {
		if started {
			return
		}
		started = true
		go func() {
			c, err := e.dialTCP(ctx, p, t, addr)
			tcp <- result{c, err}
		}()
	}
	var udpErr, tcpErr error
	for udpErr == nil || tcpErr == nil {
		select {
		case <-late.C:
			start()
		case r := <-udp:
			if r.err != nil && !blocked(r.err) {
				cancel()
				if started && tcpErr == nil {
					giveUp((<-tcp).c)
				}
				return nil, r.err
			}
			if r.err == nil {
				e.silent.set(addr, false)
				cancel()
				if started && tcpErr == nil {
					giveUp((<-tcp).c)
				}
				return r.c, nil
			}
			udpErr = r.err
			start()
		case r := <-tcp:
			if r.err == nil {
				e.silent.set(addr, true)
				cancel()
				if udpErr == nil {
					giveUp((<-udp).c)
				}
				return r.c, nil
			}
			tcpErr = r.err
			if !blocked(tcpErr) { // the peer has refused
				cancel()
				if udpErr == nil {
					giveUp((<-udp).c)
				}
				return nil, tcpErr
			}
		}
	}
	return nil, fmt.Errorf("%w; %w", udpErr, tcpErr)
}

// giveUp closes a connection that another way was faster than.
func giveUp(c *Conn) {
	if c != nil {
		c.CloseWithError(CodeDuplicate, "another way was faster")
	}
}

// blocked reports whether a dial failed before the peer had said anything, so that another way may do better.
func blocked(err error) bool {
	if _, refused := errors.AsType[*RefusedError](err); refused {
		return false
	}
	if _, closed := errors.AsType[*CloseError](err); closed {
		return false
	}
	return !errors.Is(err, ErrBusy) && !errors.Is(err, ErrProtocol) && !errors.Is(err, ErrNotJoined) && !errors.Is(err, ErrClosed)
}

func (e *Endpoint) dialTCP(ctx context.Context, p Protocol, t Target, addr netip.AddrPort) (*Conn, error) {
	stream, err := e.openTCP(ctx, addr)
	if err != nil {
		return nil, err
	}
	way := newTCPWay(addr)
	way.attach(stream)
	c, err := e.dialOver(ctx, p, t, addr, way)
	if err != nil {
		_ = way.Close()
		return nil, fmt.Errorf("over TCP: %w", err)
	}
	return c, nil
}

// tcpSide is what a dialed connection has of TCP.
type tcpSide struct {
	packets *tcpWay         // nil until TCP is first tried
	tr      *quic.Transport // over packets
	using   atomic.Bool
}

func (s *tcpSide) way() Way {
	if s.using.Load() {
		return OverTCP
	}
	return OverUDP
}

// closeTransport ends a transport over a tcpWay and waits for its goroutines.
func closeTransport(tr *quic.Transport) { _ = tr.Close() } // closes the way; it has no error of its own

// endTCP ends what a connection has of TCP, once it has ended itself and changeWays has.
func (c *Conn) endTCP() {
	if c.tcp.tr != nil {
		closeTransport(c.tcp.tr)
	}
}

// changeWays moves a dialed connection to TCP when it is lost over UDP, and back when UDP answers again, until it ends.
//
//	        lost, and TCP answers
//	UDP ------------------------------> TCP
//	 ^                                   |
//	 +--- UDP answers three times -------+
func (e *Endpoint) changeWays(c *Conn, addr netip.AddrPort) {
	up, down := upFirst, downFirst
	rerouted := e.RouteChange() // kept while something else is done: a change meanwhile counts afterwards
	for {
		var wait <-chan time.Time
		lost, changed := c.LossState()
		switch {
		case c.Way() == OverTCP:
			wait = time.After(jittered(up))
			up = min(2*up, upMax)
			changed = nil
		case lost:
			if e.moveToTCP(c, addr) {
				down = downFirst
				continue
			}
			wait = time.After(jittered(down))
			down = min(2*down, downMax)
		}
		select {
		case <-c.Context().Done():
			return
		case <-changed:
		case <-rerouted:
			rerouted = e.RouteChange()
			switch {
			case c.Way() != OverTCP:
			case e.moveToUDP(c, addr):
				lingerTCP(c)
				c.tcp.packets.detach()
			default:
				e.renewTCP(c, addr)
			}
			up, down = upFirst, downFirst
		case <-wait:
			if c.Way() == OverTCP && e.moveToUDP(c, addr) {
				lingerTCP(c)
				c.tcp.packets.detach()
			}
		}
	}
}

func jittered(d time.Duration) time.Duration { return d/2 + rand.N(d/2) } //nolint:gosec // jitter

// moveToUDP moves a connection to UDP if that answers. TCP stays open.
func (e *Endpoint) moveToUDP(c *Conn, addr netip.AddrPort) bool {
	path, err := c.qc.AddPath(e.tr)
	if err != nil {
		return false
	}
	ctx, cancel := context.WithTimeout(c.Context(), upProbes*(500*time.Millisecond+2*c.qc.ConnectionStats().SmoothedRTT))
	defer cancel()
	for range upProbes {
		if err = path.Probe(ctx); err != nil {
			_ = path.Close() // it is not in use, so it closes
			return false
		}
	}
	if path.Switch() != nil {
		return false // the connection has ended
	}
	e.moved(c, addr, OverUDP)
	c.Probe() // tells the peer, by a packet that is no mere probe of a path
	return true
}

// moveToTCP moves a connection to TCP if that answers.
func (e *Endpoint) moveToTCP(c *Conn, addr netip.AddrPort) bool {
	stream, err := e.openTCP(c.Context(), addr)
	if err != nil {
		return false
	}
	if !c.Lost() { // UDP is back meanwhile
		_ = stream.Close()
		return true
	}
	if c.tcp.packets == nil {
		c.tcp.packets = newTCPWay(addr)
		c.tcp.tr = &quic.Transport{Conn: c.tcp.packets}
	}
	c.tcp.packets.attach(stream)
	path, err := c.qc.AddPath(c.tcp.tr)
	if err == nil {
		ctx, cancel := context.WithTimeout(c.Context(), downProbe)
		defer cancel()
		if err = path.Probe(ctx); err == nil {
			err = path.Switch()
		}
	}
	if err != nil {
		if path != nil {
			_ = path.Close()
		}
		c.tcp.packets.detach()
		return false
	}
	e.silent.set(addr, true)
	e.moved(c, addr, OverTCP)
	c.Probe()
	return true
}

// renewTCP gives a connection over TCP another TCP connection: the one that it has may be bound to an address that this machine no
// longer has, and says nothing of that for minutes. If there is none to be had, the connection goes on with what it has.
func (e *Endpoint) renewTCP(c *Conn, addr netip.AddrPort) {
	stream, err := e.openTCP(c.Context(), addr)
	if err != nil {
		return
	}
	former := c.tcp.packets.replace(stream)
	c.Probe() // tells the peer the new way
	if former == nil {
		return
	}
	c.wg.Go(func() {
		lingerTCP(c)
		_ = former.Close()
	})
}

// lingerTCP waits for what is under way on a TCP connection that is no longer used.
func lingerTCP(c *Conn) {
	select {
	case <-time.After(tcpLinger):
	case <-c.Context().Done():
	}
}

// moved takes note that a connection has changed its way.
func (e *Endpoint) moved(c *Conn, addr netip.AddrPort, to Way) {
	c.tcp.using.Store(to == OverTCP)
	if to == OverUDP {
		e.silent.set(addr, false)
	}
	e.mu.Lock()
	if e.totals.Moves == nil {
		e.totals.Moves = make(map[Way]uint64)
	}
	e.totals.Moves[to]++
	e.mu.Unlock()
	e.cfg.Log.Info("connection moved", "peer", c.peer.String(), "protocol", c.protocol, "to", string(to))
}
