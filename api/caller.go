package api

import (
	"context"
	"crypto/x509"
	"fmt"
	"net"
	"net/netip"
)

// Caller is who is at the other end of a request, as far as the connection proves it: nothing in it is what the client
// says of itself. The agent puts it into the context of every request, whichever server answers it.
type Caller struct {
	Addr    netip.AddrPort    // of the client, an IPv4 one as such; the zero value: it came over a unix socket
	Admin   bool              // it came over the administration socket
	Process *Process          // over any unix socket, where the kernel tells
	Secure  bool              // over TLS, in which the client has seen this node's certificate
	Cert    *x509.Certificate // the client's own certificate, verified against the client CA and the CRL; nil: it showed none

	device string // what Device returns, made once for a connection by CallerOf; empty: not made
}

// Process is the client at the other end of a unix socket, as it was when it connected.
type Process struct {
	PID      int32
	UID, GID uint32
}

// Device names the client for its share: its address without the port, the Network of an IPv6 one, or its user on this machine;
// empty where nothing is known.
func (c Caller) Device() string {
	switch {
	case c.device != "":
		return c.device
	case c.Addr.Addr().Is4():
		return c.Addr.Addr().String()
	case c.Addr.IsValid():
		return c.Network().String()
	case c.Process != nil:
		return fmt.Sprintf("uid:%d", c.Process.UID)
	default:
		return ""
	}
}

// Network is where the client is among those who cannot be told apart: an IPv4 address, or the first 64 bits of an IPv6 one, of
// which a household has as many as it likes. The zero value: it came over a unix socket, or nothing is known.
func (c Caller) Network() netip.Prefix {
	addr := c.Addr.Addr().WithZone("")
	bits := 64
	if addr.Is4() {
		bits = 32
	}
	p, err := addr.Prefix(bits)
	if err != nil {
		return netip.Prefix{}
	}
	return p
}

// Place names Network, or the user on this machine, for who counts what comes from there; empty where nothing is known.
func (c Caller) Place() string {
	if n := c.Network(); n.IsValid() {
		return n.String()
	}
	return c.Device()
}

// PlaceOf is the Place of the request that ctx belongs to.
func PlaceOf(ctx context.Context) string {
	caller, _ := CallerFrom(ctx)
	return caller.Place()
}

// String is for a person who reads where a request came from.
func (c Caller) String() string {
	switch {
	case c.Addr.IsValid():
		return c.Addr.String()
	case c.Process != nil:
		return fmt.Sprintf("uid:%d pid:%d", c.Process.UID, c.Process.PID)
	case c.Admin:
		return "the administration socket"
	default:
		return "unknown"
	}
}

type callerKey struct{}

// WithCaller returns ctx with c in it, for whoever accepts connections.
func WithCaller(ctx context.Context, c Caller) context.Context {
	return context.WithValue(ctx, callerKey{}, &c)
}

// CallerFrom is the Caller of the request that ctx belongs to; false if there is none, as in a program that embeds the
// agent and calls its Backend itself.
func CallerFrom(ctx context.Context) (Caller, bool) {
	c, ok := ctx.Value(callerKey{}).(*Caller)
	if !ok {
		return Caller{}, false
	}
	return *c, true
}

// CallerOf finds the Caller that a connection carries, below what it is wrapped in: a wrapper has a method NetConn, as
// tls.Conn has. Of a connection that carries none it is the address alone.
func CallerOf(conn net.Conn) Caller {
	c := callerOf(conn)
	c.device = c.Device()
	return c
}

func callerOf(conn net.Conn) Caller {
	for inner := conn; inner != nil; {
		if c, ok := inner.(interface{ Caller() Caller }); ok {
			return c.Caller()
		}
		outer, ok := inner.(interface{ NetConn() net.Conn })
		if !ok {
			break
		}
		inner = outer.NetConn()
	}
	return Caller{Addr: AddrPort(conn.RemoteAddr())}
}

// AddrPort is an address of IP, the zero value of any other.
func AddrPort(a net.Addr) netip.AddrPort {
	ip, ok := a.(interface{ AddrPort() netip.AddrPort })
	if !ok {
		return netip.AddrPort{}
	}
	at := ip.AddrPort()
	return netip.AddrPortFrom(at.Addr().Unmap(), at.Port())
}
