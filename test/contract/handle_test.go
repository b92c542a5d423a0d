package contract

import (
	"net"
	"path/filepath"
	"sync"
	"sync/atomic"
	"testing"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/proxy"
)

// plug is a socket that can be pulled out: then nothing goes and nothing comes.
type plug struct {
	net.PacketConn
	out atomic.Bool
}

func newPlug(t *testing.T) *plug { return &plug{PacketConn: socket(t)} }

func socket(t *testing.T) net.PacketConn {
	t.Helper()
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

func (p *plug) WriteTo(b []byte, to net.Addr) (int, error) {
	if p.out.Load() {
		return len(b), nil
	}
	return p.PacketConn.WriteTo(b, to)
}

func (p *plug) ReadFrom(b []byte) (n int, from net.Addr, err error) {
	for {
		if n, from, err = p.PacketConn.ReadFrom(b); err != nil || !p.out.Load() {
			return n, from, err
		}
	}
}

func (p *plug) pull() (heal func()) {
	p.out.Store(true)
	return func() { p.out.Store(false) }
}

// handle is a node, and what a test can do to it; nil is nothing.
type handle struct {
	node    api.Backend
	origin  [16]byte // under which it queues
	restart func() api.Backend
	isolate func() (heal func())
}

// handles runs the contract suite on a kind of node that can be restarted or cut off.
type handles struct {
	apitest.Harness

	mu  sync.Mutex
	all map[api.Backend]handle
}

func handled(t *testing.T, open func(t *testing.T) handle) {
	t.Helper()
	new(handles).run(t, open)
}

func (h *handles) run(t *testing.T, open func(t *testing.T) handle) {
	t.Helper()
	h.all = map[api.Backend]handle{}
	of := func(b api.Backend) handle {
		h.mu.Lock()
		defer h.mu.Unlock()
		return h.all[b]
	}
	note := func(one handle) api.Backend {
		h.mu.Lock()
		defer h.mu.Unlock()
		h.all[one.node] = one
		return one.node
	}
	h.Second, h.IDs = second, true
	h.Open = func(t *testing.T) api.Backend { return note(open(t)) }
	kind := open(t)
	if kind.restart != nil {
		h.Restart = func(_ *testing.T, b api.Backend) api.Backend {
			one := of(b)
			one.node = one.restart()
			return note(one)
		}
	}
	if kind.isolate != nil {
		h.Isolate = func(_ *testing.T, b api.Backend) func() { return of(b).isolate() }
	}
	h.Run(t)
}

func memberHandle(t *testing.T) handle {
	dir := filepath.Join(t.TempDir(), "member")
	m, stop := openMemberIn(t, dir)
	return handle{node: m, restart: func() api.Backend {
		stop()
		m, stop = openMemberIn(t, dir)
		return m
	}}
}

func clientHandle(t *testing.T, above api.Backend) handle {
	conn := newPlug(t)
	up, origin := upstreamBy(t, above, conn)
	return handle{node: up, origin: origin, isolate: conn.pull}
}

func proxyHandle(t *testing.T, above api.Backend, prefixes ...string) handle {
	link := newPlug(t)
	up, origin := upstreamBy(t, above, link)
	h := proxyOn(t, up, prefixes...)
	h.origin, h.isolate = origin, link.pull
	return h
}

// proxyOn is a proxy that can be restarted over a client that goes on.
func proxyOn(t *testing.T, up proxy.Upstream, prefixes ...string) handle {
	dir := t.TempDir()
	p, stop := openProxyIn(t, dir, up, prefixes...)
	if len(prefixes) > 0 {
		synced(t, p)
	}
	return handle{node: p, restart: func() api.Backend {
		stop()
		p, stop = openProxyIn(t, dir, up, prefixes...)
		return p
	}}
}

// queueHandle is a queue in front of a node, which is restarted with it.
func queueHandle(t *testing.T, below handle) handle {
	dir := t.TempDir()
	q, stop := openQueueIn(t, dir, below.node, below.origin)
	h := below
	h.node = q
	h.restart = func() api.Backend {
		stop()
		q, stop = openQueueIn(t, dir, below.restart(), below.origin)
		return q
	}
	return h
}
