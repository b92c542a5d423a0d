// Package simnet is a small network for tests, in one process and in virtual time: nodes with a packet socket each, and
// between every two of them a link with delay, loss and rate that can be cut and healed.
//
//	net := simnet.New(t, 1)
//	a, b := net.Node("a"), net.Node("b")
//	net.Link("a", "b").Delay(25 * time.Millisecond).Loss(0.05)
//	net.Cut("a", "b")
//	net.Heal("a", "b")
//
// It stands on quic-go's testutils/simnet and is meant for testing/synctest, though it works in real time too. Loss is
// drawn per direction from the seed, so one link's traffic does not change another's luck.
package simnet

import (
	"context"
	"fmt"
	"hash/fnv"
	"math/rand/v2"
	"net"
	"net/netip"
	"sync"
	"testing"
	"time"

	quicsim "github.com/quic-go/quic-go/testutils/simnet"
)

// Port is the UDP port of every node.
const Port = 2380

// mtu is the longest packet that a link carries, UDP payload only.
const mtu = 1452

// Net is the network. All methods may be called concurrently.
type Net struct {
	t    testing.TB
	seed uint64

	mu     sync.Mutex
	nodes  map[string]*node
	owner  map[netip.AddrPort]*node // by the address that others see
	dirs   map[[2]string]*direction // by names: from, to
	lastIP int
	links  []*quicsim.SimulatedLink // of every socket ever made, to stop

	listeners  map[string]*listener
	streams    []stream
	streamsCut map[[2]string]bool // by names, either order
	relays     int
	carrying   sync.WaitGroup
}

type node struct {
	name     string
	outside  netip.AddrPort // what others see and send to
	inside   netip.AddrPort // what its socket is bound to
	socket   *socket
	downlink *quicsim.SimulatedLink
	keeps    time.Duration // how long the NAT in front of it keeps a mapping; 0: there is none
	spoke    time.Time     // when its last packet went through that
}

// New makes a network that ends with the test. Links begin with 5 ms of delay and nothing else.
func New(t testing.TB, seed uint64) *Net {
	n := &Net{t: t, seed: seed, nodes: make(map[string]*node), owner: make(map[netip.AddrPort]*node),
		dirs: make(map[[2]string]*direction), listeners: make(map[string]*listener), streamsCut: make(map[[2]string]bool)}
	t.Cleanup(n.close)
	t.Cleanup(func() {
		if t.Failed() {
			t.Logf("simnet: seed %d", seed)
		}
	})
	return n
}

func (n *Net) close() {
	n.mu.Lock()
	links, streams := n.links, n.streams
	var open []*socket
	for _, nd := range n.nodes {
		if nd.socket != nil {
			open = append(open, nd.socket)
		}
	}
	n.mu.Unlock()
	for _, s := range open {
		_ = s.SimConn.Close()
	}
	for _, s := range streams {
		_, _ = s.near.Close(), s.far.Close()
	}
	n.carrying.Wait()
	for _, l := range links {
		_ = l.Close()
	}
}

// Node opens the socket of a node, which is made by the first mention. The node keeps its address when its socket is
// closed and opened again, as a restarted process does.
func (n *Net) Node(name string) net.PacketConn {
	n.mu.Lock()
	defer n.mu.Unlock()
	nd := n.node(name)
	if nd.socket != nil {
		n.t.Fatalf("simnet: the socket of node %s is open already", name)
	}
	link := &quicsim.SimulatedLink{
		UplinkSettings:   quicsim.LinkSettings{MTU: mtu},
		DownlinkSettings: quicsim.LinkSettings{MTU: mtu},
		LatencyFunc:      func(p quicsim.Packet) time.Duration { return n.latency(nd, p) },
		UploadPacket:     uplink{n, nd},
	}
	conn := quicsim.NewBlockingSimConn(net.UDPAddrFromAddrPort(nd.inside), link)
	link.Start()
	n.links = append(n.links, link)
	nd.socket, nd.downlink = &socket{SimConn: conn, net: n, node: nd}, link
	return nd.socket
}

// Addr is where others reach a node now, as host:port.
func (n *Net) Addr(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.node(name).outside.String()
}

// Move gives a node a new address, as a NAT or a mobile network does: its packets come from there at once, and what is
// sent to the old one is lost. The node itself does not notice.
func (n *Net) Move(name string) string {
	n.mu.Lock()
	defer n.mu.Unlock()
	nd := n.node(name)
	n.move(nd)
	return nd.outside.String()
}

// move is called with mu held.
func (n *Net) move(nd *node) {
	delete(n.owner, nd.outside)
	nd.outside = n.newAddr()
	n.owner[nd.outside] = nd
}

// NAT puts a node behind a NAT that keeps a mapping for so long after a packet from inside; what comes from outside does not
// prolong it (RFC 4787, REQ-6, allows that). Then what is sent to the node is lost, and its next packet comes from another address.
// 0 takes the NAT away.
func (n *Net) NAT(name string, keeps time.Duration) {
	n.mu.Lock()
	defer n.mu.Unlock()
	n.node(name).keeps = keeps
}

// mapped reports whether a packet from outside reaches a node. The caller holds mu.
func (nd *node) mapped() bool { return nd.keeps == 0 || time.Since(nd.spoke) <= nd.keeps }

// Resolve finds nodes by name: it fits transport.Config.Resolve.
func (n *Net) Resolve(_ context.Context, host string) ([]netip.Addr, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	nd, ok := n.nodes[host]
	if !ok {
		return nil, fmt.Errorf("simnet: no node named %s", host)
	}
	return []netip.Addr{nd.outside.Addr()}, nil
}

// Link is the pair of directions between two nodes.
func (n *Net) Link(a, b string) Link { return Link{n, []*direction{n.dir(a, b), n.dir(b, a)}} }

// OneWay is the direction from one node to another.
func (n *Net) OneWay(from, to string) Link { return Link{n, []*direction{n.dir(from, to)}} }

// Cut stops all packets between two nodes. Those under way still arrive.
func (n *Net) Cut(a, b string) { n.Link(a, b).set(func(d *direction) { d.cut = true }) }

// CutOneWay stops the packets from one node to another; the other way stays open.
func (n *Net) CutOneWay(from, to string) { n.OneWay(from, to).set(func(d *direction) { d.cut = true }) }

// Heal undoes Cut and CutOneWay between two nodes.
func (n *Net) Heal(a, b string) { n.Link(a, b).set(func(d *direction) { d.cut = false }) }

// node and newAddr are called with mu held.
func (n *Net) node(name string) *node {
	nd, ok := n.nodes[name]
	if !ok {
		addr := n.newAddr()
		nd = &node{name: name, inside: addr, outside: addr}
		n.nodes[name], n.owner[addr] = nd, nd
	}
	return nd
}

func (n *Net) newAddr() netip.AddrPort {
	n.lastIP++
	return netip.AddrPortFrom(netip.AddrFrom4([4]byte{10, 0, byte(n.lastIP >> 8), byte(n.lastIP)}), Port)
}

func (n *Net) dir(from, to string) *direction {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dirLocked(from, to)
}

func (n *Net) dirLocked(from, to string) *direction {
	d, ok := n.dirs[[2]string{from, to}]
	if !ok {
		h := fnv.New64a()
		_, _ = h.Write([]byte(from + "\x00" + to))                                                  // never fails
		d = &direction{delay: 5 * time.Millisecond, rand: rand.New(rand.NewPCG(n.seed, h.Sum64()))} //nolint:gosec // repeatable
		n.dirs[[2]string{from, to}] = d
	}
	return d
}

// uplink is where a node's packets enter the network.
type uplink struct {
	net  *Net
	from *node
}

// AddNode is never called: sockets are wired by Net.Node.
func (uplink) AddNode(net.Addr, quicsim.PacketReceiver) {}

// SendPacket passes a packet to the receiver's link, or loses it.
func (u uplink) SendPacket(p quicsim.Packet) error {
	to, ok := addrPort(p.To)
	if !ok {
		return fmt.Errorf("simnet: send to %v: not an IP address", p.To)
	}
	n := u.net
	n.mu.Lock()
	if !u.from.mapped() {
		n.move(u.from)
	}
	u.from.spoke = time.Now()
	dest := n.owner[to]
	var link *quicsim.SimulatedLink
	if dest != nil && dest.socket != nil && dest.mapped() && n.dirLocked(u.from.name, dest.name).pass(len(p.Data)) {
		link = dest.downlink
		p.From = net.UDPAddrFromAddrPort(u.from.outside)
	}
	n.mu.Unlock()
	if link != nil {
		link.RecvPacket(p)
	}
	return nil // as UDP: nobody hears of a loss
}

// latency is how long a packet that was not lost takes to reach a node.
func (n *Net) latency(to *node, p quicsim.Packet) time.Duration {
	from, _ := addrPort(p.From)
	n.mu.Lock()
	defer n.mu.Unlock()
	sender := n.owner[from]
	if sender == nil { // has moved this instant
		return 0
	}
	return n.dirLocked(sender.name, to.name).latency(time.Now())
}

func addrPort(a net.Addr) (netip.AddrPort, bool) {
	u, ok := a.(*net.UDPAddr)
	if !ok {
		return netip.AddrPort{}, false
	}
	ap := u.AddrPort()
	return netip.AddrPortFrom(ap.Addr().Unmap(), ap.Port()), true
}

// socket is a node's packet connection.
type socket struct {
	*quicsim.SimConn
	net  *Net
	node *node
}

// Close takes the node off the network until Net.Node opens another socket for it.
func (s *socket) Close() error {
	s.net.mu.Lock()
	if s.node.socket == s {
		s.node.socket = nil
	}
	s.net.mu.Unlock()
	return s.SimConn.Close()
}
