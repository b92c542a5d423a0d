package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"fmt"
	"io"
	"net"
	"slices"
	"strings"
	"time"
)

// Carrier is a stream that nodes between the two ends of a Tunnel carry. A *Stream is one.
type Carrier interface {
	io.Reader
	io.Writer
	Close() error
	CancelRead(code uint64)
	Abort(code uint64)
}

// Tunnel is a conversation with a member through a proxy, which only carries it: TLS on a stream. By it a node proves itself
// to a member that it cannot reach, and what the two say is hidden from the proxy and cannot be changed by it.
//
// Read and Write may be called concurrently with each other, not with themselves. Close ends the writing half.
type Tunnel struct {
	tls      *tls.Conn
	under    Carrier
	protocol Protocol
	peer     PeerInfo
	refused  func(Refusal) // hears that the other end does not let this node in
}

// OpenTunnel begins one over a stream that leads to a member, which is proven as in Dial. t.Addrs is not used.
func (e *Endpoint) OpenTunnel(ctx context.Context, under Carrier, p Protocol, t Target) (*Tunnel, error) {
	cfg, err := e.clientTLS(p, t)
	if err != nil {
		return nil, err
	}
	u := &Tunnel{tls: tls.Client(carried{under}, cfg), under: under, protocol: p, refused: func(why Refusal) {
		if e.cfg.Refused != nil {
			e.cfg.Refused(p, why)
		}
	}}
	if err := u.shake(ctx, e.verifier(p, false, t)); err != nil {
		return nil, fmt.Errorf("tunnel for %s: %w", p, err)
	}
	return u, nil
}

// AcceptTunnel is the other end of OpenTunnel, for Join and Uplink if this endpoint serves them. A node that is not let in
// is told why; see TunnelRefusal for who carries it.
func (e *Endpoint) AcceptTunnel(ctx context.Context, under Carrier) (*Tunnel, error) {
	var p Protocol
	cfg := e.serverTLS()
	choose := cfg.GetConfigForClient
	cfg.GetConfigForClient = func(hello *tls.ClientHelloInfo) (*tls.Config, error) {
		offered := slices.DeleteFunc(slices.Clone(hello.SupportedProtos), func(o string) bool { return Protocol(o) != Join && Protocol(o) != Uplink })
		hello.SupportedProtos = offered
		chosen, err := choose(hello)
		if err != nil {
			return nil, err
		}
		p = Protocol(chosen.NextProtos[0])
		chosen.SessionTicketsDisabled = true
		return chosen, nil
	}
	u := &Tunnel{tls: tls.Server(carried{under}, cfg), under: under, refused: func(Refusal) {}}
	if err := u.tls.HandshakeContext(ctx); err != nil {
		err = explain(err)
		u.refuse(err)
		return nil, fmt.Errorf("accept a tunnel: %w", err)
	}
	u.protocol = p
	if err := u.shake(ctx, e.verifier(p, true, Target{})); err != nil {
		return nil, fmt.Errorf("accept a tunnel: %w", err)
	}
	return u, nil
}

// shake ends the handshake, and takes down who the peer is.
func (u *Tunnel) shake(ctx context.Context, v verifier) error {
	if err := u.tls.HandshakeContext(ctx); err != nil {
		return u.explain(err)
	}
	peer, _, refused := v.judge(u.tls.ConnectionState().PeerCertificates)
	if refused != nil { // it passed a moment ago
		u.refuse(refused)
		return refused
	}
	u.peer = peer
	return nil
}

// refuse tells the other end, and those between, why it is not let in.
func (u *Tunnel) refuse(err error) {
	code := uint64(0)
	if r, ok := errors.AsType[*RefusedError](err); ok {
		code = refusalBase + uint64(r.Why)
	}
	u.under.Abort(code)
}

// Refuse ends the tunnel because its node may not be connected any more.
func (u *Tunnel) Refuse(why Refusal) { u.refuse(&RefusedError{Why: why}) }

// TunnelRefusal is why the end of a stream says that the node whose tunnel it carried was not let in; 0 if it does not.
func TunnelRefusal(err error) Refusal {
	s, ok := errors.AsType[*StreamError](err)
	if !ok || !s.Remote || s.Code <= refusalBase || s.Code >= refusalBase+uint64(refusalEnd) {
		return 0
	}
	return Refusal(s.Code - refusalBase)
}

// RefusalCode is the code that a stream is aborted with to pass a refusal on; the inverse of TunnelRefusal.
func RefusalCode(why Refusal) uint64 {
	if why == 0 {
		return 0
	}
	return refusalBase + uint64(why)
}

// explain finds out why the other end has ended the tunnel.
func (u *Tunnel) explain(err error) error {
	if alert, ok := errors.AsType[*net.OpError](err); ok && alert.Op == "remote error" { // the code of the stream says more, and comes behind it
		if _, rerr := u.under.Read(make([]byte, 1)); rerr != nil && TunnelRefusal(rerr) != 0 {
			err = rerr
		}
	}
	if why := TunnelRefusal(err); why != 0 {
		u.refused(why)
		return &RefusedError{Why: why, Remote: true}
	}
	return explain(err)
}

// Protocol is what the tunnel is for.
func (u *Tunnel) Protocol() Protocol { return u.protocol }

// Peer is who is at the other end; anonymous for a node that joins.
func (u *Tunnel) Peer() PeerInfo { return u.peer.clone() }

// Binding is as of a Stream: a secret of the two ends.
func (u *Tunnel) Binding() []byte {
	state := u.tls.ConnectionState()
	b, err := state.ExportKeyingMaterial(bindingLabel, nil, 32)
	if err != nil {
		return nil // which no proof is verified with
	}
	return b
}

// Read reads what the peer wrote; io.EOF after its Close.
func (u *Tunnel) Read(p []byte) (int, error) {
	n, err := u.tls.Read(p)
	if err != nil && !errors.Is(err, io.EOF) {
		err = u.explain(err)
	}
	return n, err
}

// Write blocks while the link allows no more.
func (u *Tunnel) Write(p []byte) (int, error) {
	n, err := u.tls.Write(p)
	return n, explain(err)
}

// Close ends what this end writes. It fails where the other end has read enough and gone, which is no fault: who reads the answer
// finds out what became of what was written.
func (u *Tunnel) Close() error {
	_ = errors.Join(u.tls.CloseWrite(), u.under.Close())
	return nil
}

// CancelRead and Abort are those of the stream below.
func (u *Tunnel) CancelRead(code uint64) { u.under.CancelRead(code) }

// Abort gives up both halves.
func (u *Tunnel) Abort(code uint64) { u.under.Abort(code) }

// carried is a stream as crypto/tls wants one. Its bounds are those of the contexts around it.
type carried struct{ Carrier }

func (c carried) Close() error                   { c.Abort(0); return nil }
func (carried) LocalAddr() net.Addr              { return tunnelAddr{} }
func (carried) RemoteAddr() net.Addr             { return tunnelAddr{} }
func (carried) SetDeadline(time.Time) error      { return nil }
func (carried) SetReadDeadline(time.Time) error  { return nil }
func (carried) SetWriteDeadline(time.Time) error { return nil }

type tunnelAddr struct{}

func (tunnelAddr) Network() string { return "tunnel" }
func (tunnelAddr) String() string  { return "tunnel" }

// ViaPrefix marks an address as one of a proxy that this node is to be behind. What is not marked so has to be a member's:
// else whoever has stolen a proxy's certificate could pose as the cluster.
const ViaPrefix = "proxy:"

// TargetOf is whom to dial at an address that may be marked.
func TargetOf(address string) Target {
	at, via := strings.CutPrefix(address, ViaPrefix)
	return Target{Addrs: []string{at}, AllowProxy: via}
}
