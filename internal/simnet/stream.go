package simnet

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"sync"
	"time"
)

// This file is the TCP of the network: byte streams between nodes that take as long as a packet does and lose nothing.
// Cut stops packets only, as a firewall does that lets TCP pass; CutStreams stops these.

// streamChunk and streamWindow bound what is under way in one direction.
const (
	streamChunk  = 4 << 10
	streamWindow = 64
)

// listener takes the streams to one node.
type listener struct {
	net   *Net
	name  string
	queue chan net.Conn
	once  sync.Once
	done  chan struct{}
}

// Listen opens the TCP port of a node, until it is closed.
func (n *Net) Listen(name string) net.Listener {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node(name)
	l := &listener{net: n, name: name, queue: make(chan net.Conn, 16), done: make(chan struct{})}
	n.listeners[name] = l
	return l
}

func (l *listener) Accept() (net.Conn, error) {
	select {
	case c := <-l.queue:
		return c, nil
	case <-l.done:
		return nil, net.ErrClosed
	}
}

func (l *listener) Close() error {
	l.once.Do(func() {
		l.net.mu.Lock()
		if l.net.listeners[l.name] == l {
			delete(l.net.listeners, l.name)
		}
		l.net.mu.Unlock()
		close(l.done)
	})
	return nil
}

func (l *listener) Addr() net.Addr {
	l.net.mu.Lock()
	defer l.net.mu.Unlock()
	return net.TCPAddrFromAddrPort(l.net.node(l.name).outside)
}

var errRefused = errors.New("simnet: connection refused")

// Dialer opens TCP connections from a node: it fits transport.Config.DialTCP. One costs a round trip; where streams are
// cut it waits for ctx.
func (n *Net) Dialer(from string) func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	return func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
		n.mu.Lock()
		dest := n.owner[addr]
		var l *listener
		var there, back time.Duration
		if dest != nil {
			l = n.listeners[dest.name]
			there, back = n.dirLocked(from, dest.name).delay, n.dirLocked(dest.name, from).delay
		}
		cut := dest == nil || n.streamsCut[[2]string{from, dest.name}]
		local := net.TCPAddrFromAddrPort(netip.AddrPortFrom(n.node(from).outside.Addr(), uint16(40000+len(n.streams)%20000)))
		n.mu.Unlock()
		if cut {
			<-ctx.Done()
			return nil, context.Cause(ctx)
		}
		select {
		case <-time.After(there + back):
		case <-ctx.Done():
			return nil, context.Cause(ctx)
		}
		if l == nil {
			return nil, fmt.Errorf("dial %s: %w", addr, errRefused)
		}
		remote := net.TCPAddrFromAddrPort(addr)
		near, nearEnd := net.Pipe()
		far, farEnd := net.Pipe()
		n.mu.Lock()
		n.carrying.Go(func() { carry(nearEnd, farEnd, there) })
		n.carrying.Go(func() { carry(farEnd, nearEnd, back) })
		n.streams = append(n.streams, stream{[2]string{from, dest.name}, nearEnd, farEnd})
		n.mu.Unlock()
		select {
		case l.queue <- &streamConn{far, remote, local}:
		case <-l.done:
			_ = far.Close()
		}
		return &streamConn{near, local, remote}, nil
	}
}

// stream is the inner ends of a TCP connection.
type stream struct {
	ends      [2]string
	near, far net.Conn
}

// CutStreams ends the TCP connections between two nodes and lets no others come about, until HealStreams.
func (n *Net) CutStreams(a, b string) {
	n.mu.Lock()
	n.streamsCut[[2]string{a, b}], n.streamsCut[[2]string{b, a}] = true, true
	var ending []stream
	for _, s := range n.streams {
		if n.streamsCut[s.ends] {
			ending = append(ending, s)
		}
	}
	n.mu.Unlock()
	for _, s := range ending {
		_, _ = s.near.Close(), s.far.Close()
	}
}

// HealStreams undoes CutStreams.
func (n *Net) HealStreams(a, b string) {
	n.mu.Lock()
	defer n.mu.Unlock()
	delete(n.streamsCut, [2]string{a, b})
	delete(n.streamsCut, [2]string{b, a})
}

// carry copies one direction, each chunk delay later, until either end is closed.
func carry(from, to net.Conn, delay time.Duration) {
	type chunk struct {
		data []byte
		due  time.Time
	}
	line := make(chan chunk, streamWindow)
	done := make(chan struct{})
	go func() {
		defer close(done)
		for c := range line {
			time.Sleep(time.Until(c.due))
			if _, err := to.Write(c.data); err != nil {
				_ = from.Close()
			}
		}
	}()
	for {
		buf := make([]byte, streamChunk)
		n, err := from.Read(buf)
		if n > 0 {
			line <- chunk{buf[:n], time.Now().Add(delay)}
		}
		if err != nil {
			break
		}
	}
	close(line)
	<-done
	_, _ = from.Close(), to.Close()
}

// streamConn is an end of a pipe with addresses.
type streamConn struct {
	net.Conn
	local, remote net.Addr
}

func (c *streamConn) LocalAddr() net.Addr  { return c.local }
func (c *streamConn) RemoteAddr() net.Addr { return c.remote }

// Relay opens a packet socket beside that of a node, connected to it and without delay or loss: it fits
// transport.Config.Relay.
func (n *Net) Relay(name string) func(context.Context) (net.Conn, error) {
	return func(context.Context) (net.Conn, error) {
		n.mu.Lock()
		n.relays++
		beside := fmt.Sprintf("%s#%d", name, n.relays)
		n.mu.Unlock()
		n.Link(beside, name).Delay(0)
		at, err := net.ResolveUDPAddr("udp", n.Addr(name))
		if err != nil {
			return nil, err
		}
		return &connected{n.Node(beside), at}, nil
	}
}

// connected is a packet socket that knows whom it is for.
type connected struct {
	net.PacketConn
	to net.Addr
}

func (c *connected) Read(p []byte) (int, error) {
	n, _, err := c.ReadFrom(p)
	return n, err
}
func (c *connected) Write(p []byte) (int, error) { return c.WriteTo(p, c.to) }
func (c *connected) RemoteAddr() net.Addr        { return c.to }
