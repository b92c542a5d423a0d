package transport

import (
	"context"
	"net"
	"net/netip"
	"sync"
	"time"
)

// A machine's address changes: a cable is pulled and radio takes over, a vehicle comes into another network. A connection lives
// on, once the peer has had a packet from the new address and has made sure of it, in one round trip (RFC 9000, section 9). But
// at rest nothing is sent for a keep-alive's time, and until then the peer speaks to where nobody is.

// routesMax bounds the peers whose routes are remembered; beyond it all but those in use are forgotten.
const routesMax = 64

// Where a default route leads, whoever is dialed next: addresses of documents (RFC 5737, RFC 3849). Nothing is sent there.
var routesAnywhere = []netip.Addr{netip.MustParseAddr("192.0.2.1"), netip.MustParseAddr("2001:db8::1")}

// routes remembers from which address of this machine packets to each peer leave.
type routes struct {
	source func(netip.Addr) netip.Addr

	mu      sync.Mutex
	from    map[netip.Addr]netip.Addr // by peer; the zero address: none, there was no route
	changed chan struct{}             // closed when one changes, then replaced
}

func newRoutes(source func(netip.Addr) netip.Addr) *routes {
	r := &routes{source: source, from: make(map[netip.Addr]netip.Addr), changed: make(chan struct{})}
	for _, to := range routesAnywhere {
		r.note(to)
	}
	return r
}

// note takes note of the route to a peer that is about to be dialed.
func (r *routes) note(to netip.Addr) {
	from := r.source(to)
	r.mu.Lock()
	defer r.mu.Unlock()
	if _, known := r.from[to]; !known && len(r.from) >= routesMax {
		clear(r.from) // an open connection to one of them is probed with the next change, as that of a route never seen
	}
	r.from[to] = from
}

// look finds the routes that have changed since they were last looked at and lead somewhere now, and wakes who waits for that.
func (r *routes) look(open []netip.Addr) (moved map[netip.Addr]bool) {
	r.mu.Lock()
	defer r.mu.Unlock()
	for _, to := range append(open, routesAnywhere...) {
		if _, known := r.from[to]; !known {
			r.from[to] = netip.Addr{}
		}
	}
	moved = make(map[netip.Addr]bool)
	for to, was := range r.from {
		now := r.source(to) // does no I/O: under the lock, so that two looks do not take turns
		r.from[to] = now
		if now != was && now.IsValid() {
			moved[to] = true
		}
	}
	if len(moved) > 0 {
		close(r.changed)
		r.changed = make(chan struct{})
	}
	return moved
}

func (r *routes) wait() <-chan struct{} {
	r.mu.Lock()
	defer r.mu.Unlock()
	return r.changed
}

// sourceOf is the address of this machine from which packets to another one leave, as the kernel has it: connecting a UDP
// socket sends nothing.
func sourceOf(to netip.Addr) netip.Addr {
	c, err := net.DialUDP("udp", nil, net.UDPAddrFromAddrPort(netip.AddrPortFrom(to, 9)))
	if err != nil {
		return netip.Addr{} // no route
	}
	defer func() { _ = c.Close() }() // nothing was written
	local, ok := c.LocalAddr().(*net.UDPAddr)
	if !ok {
		return netip.Addr{}
	}
	return local.AddrPort().Addr().Unmap()
}

// Rerouted is to be called when addresses or routes of this machine may have changed. Connections whose packets leave from another
// address than before are probed at once, which makes the peer follow in a round trip; those over TCP get another TCP connection, or
// go back to UDP; and who waits for RouteChange is woken. It reports whether anything has changed. It never blocks on the network.
func (e *Endpoint) Rerouted() bool {
	dialed := make(map[*Conn]netip.Addr)
	var open []netip.Addr
	for _, c := range e.open() {
		if at, ok := c.RemoteAddr().(*net.UDPAddr); ok && c.dialed {
			dialed[c] = at.AddrPort().Addr().Unmap()
			open = append(open, dialed[c])
		}
	}
	moved := e.routes.look(open)
	if len(moved) == 0 {
		return false
	}
	e.mu.Lock()
	e.totals.Reroutes++
	e.mu.Unlock()
	for c, at := range dialed {
		if moved[at] {
			c.Probe()
		}
	}
	e.cfg.Log.Info("the network of this machine has changed", "routes", len(moved))
	return true
}

// RouteChange returns a channel that is closed when Rerouted next finds a change.
func (e *Endpoint) RouteChange() <-chan struct{} { return e.routes.wait() }

// aliveLook is how often Alive looks whether a packet has come.
const aliveLook = 5 * time.Millisecond

// Alive asks the peer for a sign of life and returns once any packet has come from it. It fails when ctx ends, or the connection.
func (c *Conn) Alive(ctx context.Context) error {
	before := c.qc.ConnectionStats().PacketsReceived
	c.Probe()
	tick := time.NewTicker(aliveLook)
	defer tick.Stop()
	for c.qc.ConnectionStats().PacketsReceived == before {
		select {
		case <-tick.C:
		case <-c.Context().Done():
			return c.Err()
		case <-ctx.Done():
			return context.Cause(ctx)
		}
	}
	return nil
}
