package agent

import (
	"context"
	"crypto/rand"
	"errors"
	"fmt"
	"net"
	"net/netip"
	"slices"
	"strconv"
	"sync"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/api"
	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/internal/netwatch"
	"holdfast/member"
	"holdfast/member/raftnet"
	"holdfast/transport"
	"holdfast/transport/courier"
)

// network is the node's one UDP socket, and who the node is on it.
type network struct {
	conn      net.PacketConn
	found     atomic.Pointer[net.UDPAddr] // where others find this node, if not at conn: see takePeerPort
	tcp       net.Listener                // at the same port, for nodes that UDP does not reach; nil: there is none
	ep        *transport.Endpoint
	identity  atomic.Pointer[transport.Identity]
	authority atomic.Pointer[enroll.Authority] // of a member, once it is open
	desk      atomic.Pointer[enroll.Desk]      // of a member, once it is open
	revoked   atomic.Pointer[[]string]         // of a proxy, once it is open: members that were revoked
	shut      atomic.Pointer[[]string]         // of a proxy, once it is open: proxies behind it that were revoked
	up        atomic.Pointer[client.Client]    // of a proxy that runs
	tunnels   atomic.Int64                     // that this proxy carries
	floor     atomic.Int64                     // newest time that the cluster has told, in seconds since 1970
	renew     chan bool                        // of one slot: look at the certificate; true: it may be of no use any more

	boot      string                         // random, another one each time that the agent starts
	above     atomic.Pointer[transport.Conn] // the newest uplink to a member that this node has dialed
	following sync.WaitGroup                 // control streams of uplinks that this node has dialed
}

// peerListenDefault is where a member listens. A proxy only dials, so one beside it takes any port instead, and this one when it is
// promoted. One that may become a member by itself takes it at once if it is free: the others are told of it then, and firewalls
// know it.
const peerListenDefault = ":2380"

// openNetwork takes the socket. A taken port is a temporary error.
func (a *Agent) openNetwork(ctx context.Context) (*network, error) {
	address := a.cfg.PeerListen
	if a.planned().record.Mode == config.ModeProxy && address == peerListenDefault {
		address = ":0"
		if a.cfg.Mode == config.ModeAuto {
			conn, err := a.opts.ListenPacket(ctx, "udp", peerListenDefault)
			if err == nil {
				return &network{conn: conn, renew: make(chan bool, 1), boot: rand.Text()}, nil
			}
			if !errors.Is(err, syscall.EADDRINUSE) {
				a.opts.Log.Info("the usual port for other nodes is not taken", "err", err)
			}
		}
	}
	conn, err := a.opts.ListenPacket(ctx, "udp", address)
	if err != nil {
		err = fmt.Errorf("listen for other nodes on UDP %s: %w", address, err)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, temporaryf("%w: stop what has the port, or set --peer-listen", err)
		}
		return nil, refusef("%w: set --peer-listen", err)
	}
	return &network{conn: conn, tcp: a.listenTCP(ctx, conn), renew: make(chan bool, 1), boot: rand.Text()}, nil
}

// listenTCP takes the TCP port beside the UDP one. Without it the node works, and those that UDP does not reach stay away.
func (a *Agent) listenTCP(ctx context.Context, conn net.PacketConn) net.Listener {
	if a.planned().record.Mode == config.ModeProxy && a.cfg.PeerListen == peerListenDefault {
		return nil // it only dials
	}
	return a.listenBeside(ctx, conn)
}

func (a *Agent) listenBeside(ctx context.Context, conn net.PacketConn) net.Listener {
	socket, ok := conn.(*net.UDPConn)
	if !ok || a.cfg.Link.TCP == "off" {
		return nil
	}
	at := socket.LocalAddr()
	lc := net.ListenConfig{KeepAlive: -1} // QUIC's keep-alives pass through it
	ln, err := lc.Listen(ctx, "tcp", at.String())
	if err != nil {
		a.opts.Log.Warn("nodes that UDP does not reach cannot come over TCP: free the port and restart, or set link.tcp to off", "address", at.String(), "err", err)
		return nil
	}
	return ln
}

// takePeerPort has a proxy that is to be a member listen where members do: as one that only dialed it took any port. An error says
// that somebody else has the port. The next start, as a member, would fail for that.
func (a *Agent) takePeerPort(ctx context.Context) error {
	at, isUDP := a.net.conn.LocalAddr().(*net.UDPAddr)
	if _, socket := a.net.conn.(*net.UDPConn); !isUDP || !socket || a.cfg.PeerListen != peerListenDefault || a.net.found.Load() != nil {
		return nil
	}
	conn, more := a.net.conn, net.PacketConn(nil)
	if ":"+strconv.Itoa(at.Port) != peerListenDefault {
		var err error
		if more, err = a.opts.ListenPacket(ctx, "udp", peerListenDefault); err != nil {
			return fmt.Errorf("listen for other nodes on UDP %s: %w: stop what has the port, or set --peer-listen and restart", peerListenDefault, err)
		}
		conn = more
	}
	var tcp net.Listener
	if a.net.tcp == nil {
		tcp = a.listenBeside(ctx, conn)
	}
	if err := a.net.ep.Extend(ctx, more, tcp); err != nil {
		return fmt.Errorf("listen for other nodes: %w", err)
	}
	if own, ok := conn.LocalAddr().(*net.UDPAddr); ok {
		a.net.found.Store(own)
	}
	return nil
}

// listensAt is the address at which other nodes find this one.
func (n *network) listensAt() net.Addr {
	if at := n.found.Load(); at != nil {
		return at
	}
	return n.conn.LocalAddr()
}

// dialTCP opens a TCP connection to a node that UDP does not reach.
func dialTCP(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
	d := net.Dialer{KeepAlive: -1}
	return d.DialContext(ctx, "tcp", addr.String())
}

// close gives up the sockets of a network that was not started.
func (n *network) close() error {
	err := ignoreClosed(n.conn.Close())
	if n.tcp != nil {
		err = errors.Join(err, ignoreClosed(n.tcp.Close()))
	}
	return err
}

// start makes the endpoint, once the node has an identity.
func (n *network) start(a *Agent) error {
	id, err := a.dir.readIdentity()
	if err != nil {
		return storageError(err)
	}
	n.identity.Store(id)
	n.told(id.Confirmed())
	cfg := transport.Config{
		Conn:      n.conn,
		Identity:  n.identity.Load,
		Allowed:   n.judge,
		Refused:   n.refused,
		Now:       a.judgedTime,
		Log:       a.opts.Log,
		ListenTCP: n.tcp,

		Sparing: a.sparing,

		EarlyData:  true,
		SessionDir: a.dir.join(identityName),
		Seal:       a.dir.seal,
	}
	if socket, ok := n.conn.(*net.UDPConn); ok {
		cfg.Spare, cfg.Network = a.spareOf(socket), netwatch.Name
		if a.cfg.Link.TCP != "off" {
			cfg.DialTCP = dialTCP
		}
	}
	n.ep, err = transport.New(cfg)
	if err != nil {
		return err
	}
	a.openBudget()
	return a.opts.Metrics.Register(n.ep.Metrics())
}

// spareOf opens further sockets as that of the node, at any port.
func (a *Agent) spareOf(socket *net.UDPConn) func(context.Context) (net.PacketConn, error) {
	return func(ctx context.Context) (net.PacketConn, error) {
		address := ":0"
		if at, ok := socket.LocalAddr().(*net.UDPAddr); ok && !at.IP.IsUnspecified() {
			address = (&net.UDPAddr{IP: at.IP, Zone: at.Zone}).String()
		}
		return a.opts.ListenPacket(ctx, "udp", address)
	}
}

// keepAlive describes how often uplinks at rest speak, nil for a node that has no network.
func (a *Agent) keepAlive() *api.KeepAliveStatus {
	if a.net == nil || a.net.ep == nil {
		return nil
	}
	k := a.net.ep.KeepAlive()
	s := &api.KeepAliveStatus{EverySeconds: k.Every.Seconds(), Short: k.Short}
	if !k.Found.IsZero() {
		s.Found = &k.Found
	}
	return s
}

func (a *Agent) runNetwork(ctx context.Context, ready func()) error {
	ready()
	watching, stop := context.WithCancel(ctx)
	counting, stopCounting := context.WithCancel(context.WithoutCancel(ctx)) // to the last byte
	var watch sync.WaitGroup
	if b := a.budget.Load(); b != nil {
		watch.Go(func() { b.Run(counting) })
	}
	watch.Go(func() {
		if _, ok := a.net.conn.(*net.UDPConn); !ok {
			return // the kernel knows nothing of another network
		}
		if err := netwatch.Run(watching, func() { a.net.ep.Rerouted() }); err != nil {
			a.opts.Log.Warn("links follow a change of this machine's addresses only by their keep-alives", "err", err)
		}
	})
	err := a.net.ep.Run(ctx)
	stop()
	stopCounting()
	watch.Wait()
	return err
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// serveUplinks lets proxies use this node.
func (a *Agent) serveUplinks() {
	s := uplink.New(a.tracer.Backend("serve uplink", a.gate), a.opts.Log, uplink.Hooks{Attend: a.attend, Carry: a.carry})
	if a.uplinks.CompareAndSwap(nil, s) {
		bridge.Serve(a.net.ep, s)
	}
}

// letIn lets other nodes use a member, boxes join, and nodes renew their certificates.
func (a *Agent) letIn(m *member.Member, ca *enroll.Authority) {
	a.openRoll(m, ca)
	a.serveUplinks()
	a.tokens.Store(&tokenOffice{store: m, caHash: func() string { return a.net.identity.Load().CAHash() }, now: ca.Time})
	desk := &enroll.Desk{
		Store:     m,
		CA:        ca,
		Admit:     admitter(m),
		Seated:    func(node string) bool { return seatOf(m, node) != nil },
		Endpoints: func() []string { return memberAddresses(m.Roster()) },
		Now:       ca.Time,
		Log:       a.opts.Log,
	}
	a.net.desk.Store(desk)
	a.net.ep.Listen(transport.Join, func(ctx context.Context, c *transport.Conn) {
		st, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		if err := desk.Serve(ctx, st, c.RemoteAddr().String()); err != nil {
			a.opts.Log.Debug("joining ended early", "from", c.RemoteAddr().String(), "err", err)
			return
		}
		select { // the box closes when it has read the answer
		case <-c.Context().Done():
		case <-time.After(joinLinger):
		}
	})
}

// leaveMax bounds how long the nodes that use this member are given to turn to another one before it goes.
const leaveMax = 1500 * time.Millisecond

// sendAway has the nodes that use this member turn to others while it still answers, if there are others. Who comes meanwhile
// is not let in.
func (a *Agent) sendAway() {
	r := a.roll.Load()
	if r == nil || len(r.member.Roster().Seats) < 2 {
		return
	}
	a.net.ep.Listen(transport.Uplink, nil)
	a.net.ep.Listen(transport.Join, nil)
	ctx, cancel := context.WithTimeout(context.Background(), leaveMax)
	defer cancel()
	r.Leave(ctx)
}

// runUplinks sends other nodes away before the doors close.
func (a *Agent) runUplinks(ctx context.Context, ready func()) error {
	ready()
	<-ctx.Done()
	a.sendAway()
	return nil
}

// seatOf is the seat of a node, named as in certificates, nil if it has none.
func seatOf(m *member.Member, node string) *member.Seat {
	r := m.Roster()
	i := slices.IndexFunc(r.Seats, func(s member.Seat) bool { return bridge.TransportNode(s.Node) == node })
	if i < 0 {
		return nil
	}
	return &r.Seats[i]
}

// letOut turns other nodes away, which find another member. What they have under way is answered within a moment.
func (a *Agent) letOut() {
	a.sendAway()
	a.tokens.Store(nil)
	a.roll.Store(nil)
	a.net.authority.Store(nil)
	a.net.desk.Store(nil)
	for _, p := range []transport.Protocol{transport.Uplink, transport.Join, transport.Raft} {
		a.net.ep.Listen(p, nil)
	}
	if s := a.uplinks.Swap(nil); s != nil {
		s.End()
	}
	a.serveBelow() // if this node goes on as a proxy
}

// joinLinger is how long the answer to a joining box is given to arrive.
const joinLinger = 5 * time.Second

// links describes the connections to other nodes.
func (a *Agent) links() (all []api.LinkStatus) {
	if a.net == nil || a.net.ep == nil {
		return nil
	}
	var mail map[string]courier.Stats
	var bulk map[string]raftnet.Bulk
	if raft := a.mail.Load(); raft != nil {
		mail, bulk = raft.Mail(), raft.Bulk()
	}
	for _, h := range a.net.ep.Health() {
		link := api.LinkStatus{Node: h.Node, Role: string(h.Role), Protocol: string(h.Protocol), Address: h.Addr, Way: string(h.Way), Lost: h.Lost,
			RTTMillis: float64(h.RTTSmoothed) / float64(time.Millisecond), LossShare: h.Loss, BytesSent: h.BytesSent, BytesReceived: h.BytesReceived}
		if s, ok := mail[bridge.MemberNode(h.Node)]; ok && h.Protocol == transport.Raft {
			link.Mail = &api.MailStatus{LossShare: s.Loss, Copies: s.CopiesNow, Paths: s.Paths, Retries: s.RetriedCount, Bytes: map[string]uint64{
				"first": s.First, "copy": s.Copies, "repeat": s.Repeats, "retry": s.Retries, "ack": s.Acks,
			}}
			b := bulk[bridge.MemberNode(h.Node)]
			link.Mail.BulkBytes, link.Mail.BulkPace, link.Mail.BulkLimit = b.Sent, b.Pace, b.Limit
		}
		all = append(all, link)
	}
	return all
}
