package transport

import (
	"context"
	"crypto/ed25519"
	"crypto/rand"
	"crypto/tls"
	"crypto/x509"
	"errors"
	"fmt"
	"math/big"
	"net"
	"net/netip"
	"sync"
	"time"
)

const (
	// maxRelays bounds peers that come over TCP. Each costs two file descriptors, two goroutines and about 60 kB.
	maxRelays = 4096
	// relayFirst is how long a TCP connection has for its TLS handshake and first packet.
	relayFirst = 10 * time.Second
	// relaySlack is how much longer than QUIC's idle timeout a TCP connection may be silent.
	relaySlack = 15 * time.Second
	// acceptPause keeps a listener without file descriptors from spinning.
	acceptPause = 100 * time.Millisecond
)

// relays lets peers in that come over TCP: each one's packets go to the endpoint's own socket from a socket on the
// loopback, so that QUIC sees a peer at an address of this machine and a connection can change its way.
type relays struct {
	ep     *Endpoint
	config *tls.Config

	mu     sync.Mutex
	byAddr map[netip.AddrPort]net.Addr // where the peer of each loopback address really is
	open   int
	busy   uint64
}

func newRelays(ep *Endpoint) (*relays, error) {
	cert, err := envelopeCertificate()
	if err != nil {
		return nil, err
	}
	return &relays{ep: ep, byAddr: make(map[netip.AddrPort]net.Addr), config: &tls.Config{
		MinVersion:             tls.VersionTLS13,
		Certificates:           []tls.Certificate{cert},
		NextProtos:             []string{alpnTCP},
		SessionTicketsDisabled: true,
	}}, nil
}

// envelopeCertificate is one that proves nothing, as TLS wants one.
func envelopeCertificate() (tls.Certificate, error) {
	pub, key, err := ed25519.GenerateKey(nil)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a key for TCP: %w", err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(0, 0), NotAfter: time.Unix(1<<33, 0)}
	der, err := x509.CreateCertificate(rand.Reader, template, template, pub, key)
	if err != nil {
		return tls.Certificate{}, fmt.Errorf("make a certificate for TCP: %w", err)
	}
	return tls.Certificate{Certificate: [][]byte{der}, PrivateKey: key}, nil
}

// run accepts until ctx ends, then closes the listener and every relay and waits for them.
func (r *relays) run(ctx context.Context, ln net.Listener) {
	var wg sync.WaitGroup
	defer wg.Wait()
	defer context.AfterFunc(ctx, func() { _ = ln.Close() })()
	for {
		c, err := ln.Accept()
		switch {
		case ctx.Err() != nil || errors.Is(err, net.ErrClosed):
			if err == nil {
				_ = c.Close()
			}
			return
		case err != nil:
			r.ep.cfg.Log.Warn("no TCP connection can be accepted", "err", err)
			select {
			case <-ctx.Done():
			case <-time.After(acceptPause):
			}
			continue
		case !r.enter():
			_ = c.Close()
			continue
		}
		wg.Go(func() {
			defer r.leave()
			if err := r.serve(ctx, c); err != nil {
				r.ep.cfg.Log.Debug("TCP connection ended", "addr", c.RemoteAddr().String(), "err", err)
			}
		})
	}
}

func (r *relays) enter() bool {
	r.mu.Lock()
	defer r.mu.Unlock()
	if r.open >= maxRelays {
		r.busy++
		return false
	}
	r.open++
	return true
}

func (r *relays) leave() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.open--
}

func (r *relays) counts() (open int, busy uint64) {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.open, r.busy
}

// origin is where the peer behind an address really is, if it came over TCP.
func (r *relays) origin(a net.Addr) (net.Addr, bool) {
	if r == nil {
		return a, false
	}
	key, ok := addrPort(a)
	if !ok {
		return a, false
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	from, ok := r.byAddr[key]
	if !ok {
		return a, false
	}
	return from, true
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// serve carries the packets of one TCP connection until either end is closed.
func (r *relays) serve(ctx context.Context, raw net.Conn) (err error) {
	defer func() { err = errors.Join(err, ignoreClosed(raw.Close())) }()
	defer context.AfterFunc(ctx, func() { _ = raw.Close() })()
	limitNotSent(raw)
	if err := raw.SetDeadline(time.Now().Add(relayFirst)); err != nil {
		return err
	}
	session := tls.Server(raw, r.config)
	if err := session.HandshakeContext(ctx); err != nil {
		return err
	}
	local, err := r.ep.cfg.Relay(ctx)
	if err != nil {
		return fmt.Errorf("open a socket on the loopback: %w", err)
	}
	key, _ := addrPort(local.LocalAddr())
	r.mu.Lock()
	r.byAddr[key] = raw.RemoteAddr()
	r.mu.Unlock()
	stream := newPacketStream(session)
	var wg sync.WaitGroup
	wg.Go(func() {
		r.down(local, stream)
		_ = raw.Close()
	})
	err = r.up(raw, local, stream)
	_ = local.Close()
	wg.Wait()
	r.ep.closeAt(key)
	r.mu.Lock()
	delete(r.byAddr, key)
	r.mu.Unlock()
	return err
}

// up carries packets from TCP to the endpoint.
func (r *relays) up(raw net.Conn, local net.Conn, from *packetStream) error {
	buf := make([]byte, maxPacket)
	for {
		n, err := from.read(buf)
		if err != nil {
			return err
		}
		if err := raw.SetReadDeadline(time.Now().Add(r.ep.cfg.IdleTimeout + relaySlack)); err != nil {
			return err
		}
		if _, err := local.Write(buf[:n]); err != nil && !transient(err) {
			return err
		}
	}
}

// down carries packets from the endpoint to TCP. While the line is full, the socket on the loopback overflows, and QUIC
// slows down as it does for any lost packet.
func (r *relays) down(local net.Conn, to *packetStream) {
	buf := make([]byte, maxPacket)
	for {
		n, err := local.Read(buf)
		if err != nil {
			if transient(err) {
				continue
			}
			return
		}
		if to.write(buf[:n]) != nil {
			return
		}
	}
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// closeAt ends the connections whose peer was reached over a TCP connection that is gone. One that has moved to UDP
// meanwhile has another address.
func (e *Endpoint) closeAt(addr netip.AddrPort) {
	for _, c := range e.open() {
		if at, ok := addrPort(c.qc.RemoteAddr()); ok && at == addr && !c.dialed {
			c.CloseWithError(CodeDone, "the TCP connection ended")
		}
	}
}

// dialLoopback is Config.Relay for a socket of this machine: one that is connected to it.
func dialLoopback(conn net.PacketConn) func(context.Context) (net.Conn, error) {
	return func(ctx context.Context) (net.Conn, error) {
		at, ok := addrPort(conn.LocalAddr())
		if !ok {
			return nil, fmt.Errorf("%s is not a UDP address", conn.LocalAddr())
		}
		ip := at.Addr()
		if ip.IsUnspecified() {
			ip = netip.AddrFrom4([4]byte{127, 0, 0, 1})
			if at.Addr().Is6() && !dualStack(conn) {
				ip = netip.IPv6Loopback()
			}
		}
		d := net.Dialer{LocalAddr: net.UDPAddrFromAddrPort(netip.AddrPortFrom(ip, 0))}
		c, err := d.DialContext(ctx, "udp", netip.AddrPortFrom(ip, at.Port()).String())
		if err != nil {
			return nil, err
		}
		if u, ok := c.(*net.UDPConn); ok { // what waits here waits for TCP: about 50 packets
			_ = u.SetReadBuffer(relayBuffer) // a larger one is only slower
		}
		return c, nil
	}
}

// relayBuffer bounds what waits for a line that is full, together with tcpNotSent.
const relayBuffer = 64 << 10
