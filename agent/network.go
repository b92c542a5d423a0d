package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"net"
	"sync/atomic"
	"syscall"
	"time"

	"holdfast/api"
	"holdfast/api/uplink"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/internal/failpoint"
	"holdfast/member"
	"holdfast/transport"
)

// network is the node's one UDP socket, and who the node is on it.
type network struct {
	conn     net.PacketConn
	ep       *transport.Endpoint
	identity atomic.Pointer[transport.Identity]
}

// peerListenDefault is where a member listens. A proxy only dials, so one beside it takes any port instead.
const peerListenDefault = ":2380"

// openNetwork takes the socket. A taken port is a temporary error.
func (a *Agent) openNetwork(ctx context.Context) (*network, error) {
	address := a.cfg.PeerListen
	if a.planned().record.Mode == config.ModeProxy && address == peerListenDefault {
		address = ":0"
	}
	conn, err := a.opts.ListenPacket(ctx, "udp", address)
	if err != nil {
		err = fmt.Errorf("listen for other nodes on UDP %s: %w", address, err)
		if errors.Is(err, syscall.EADDRINUSE) {
			return nil, temporaryf("%w: stop what has the port, or set --peer-listen", err)
		}
		return nil, refusef("%w: set --peer-listen", err)
	}
	return &network{conn: conn}, nil
}

// start makes the endpoint, once the node has an identity.
func (n *network) start(a *Agent) error {
	id, err := a.dir.readIdentity()
	if err != nil {
		return storageError(err)
	}
	n.identity.Store(id)
	n.ep, err = transport.New(transport.Config{
		Conn:     n.conn,
		Identity: n.identity.Load,
		Now:      judgedTime(a.opts.Now),
		Log:      a.opts.Log,
	})
	if err != nil {
		return err
	}
	return nil
}

// judgedTime is the time by which certificates are judged: a box without a clock starts in 1970.
func judgedTime(now func() time.Time) func() time.Time {
	floor := buildTime()
	return func() time.Time {
		if t := now(); t.After(floor) {
			return t
		}
		return floor
	}
}

func (a *Agent) runNetwork(ctx context.Context, ready func()) error {
	ready()
	return a.net.ep.Run(ctx)
}

func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) {
		return nil
	}
	return err
}

// become takes over a certificate that the node has just got, once it is on disk.
func (a *Agent) become(id *transport.Identity) error {
	if err := id.Save(a.dir.join(identityName)); err != nil {
		return storageError(fmt.Errorf("record the certificate: %w", err))
	}
	a.net.identity.Store(id)
	return nil
}

// certify makes sure that a member has a certificate, and its founder the cluster's CA. A member that has joined has no
// CA: nil.
func (a *Agent) certify(m *member.Member) (*transport.CA, error) {
	dir := a.dir.join(identityName)
	ca, err := transport.LoadCA(dir)
	fresh := errors.Is(err, fs.ErrNotExist)
	// A member that was recovered, or restored under an identity of old, without the CA's key begins with a CA of its own.
	begins := a.plan.Load().record.Reason == restoring || a.plan.Load().record.Reason == recovering
	if id := a.net.identity.Load(); fresh && id.Joined() && (!begins || id.Info().Cluster == fmt.Sprintf("%016x", m.Status().ClusterID)) {
		if mine, its := id.Info().Cluster, fmt.Sprintf("%016x", m.Status().ClusterID); mine != its {
			return nil, refusef("this node has a certificate of cluster %s and its data is of cluster %s: start it with --join and a token of "+
				"the cluster it is to belong to, on an empty data dir", mine, its)
		}
		return nil, nil // another member has it
	}
	if errors.Is(err, fs.ErrNotExist) {
		if ca, err = transport.NewCA(fmt.Sprintf("%016x", m.Status().ClusterID)); err == nil {
			err = ca.Save(dir)
		}
		if err == nil {
			err = a.dir.step(failpoint.BootstrapCA)
		}
	}
	if err != nil {
		return nil, storageError(fmt.Errorf("the cluster's CA: %w", err))
	}
	id := a.net.identity.Load()
	if id.Joined() && !fresh {
		return ca, nil
	}
	now := judgedTime(a.opts.Now)()
	cert, err := ca.Issue(id.PublicKey(), transport.Grant{Node: id.Node(), Role: transport.Member, Life: memberCertificateLife}, now)
	if err != nil {
		return nil, fmt.Errorf("issue this member's certificate: %w", err)
	}
	if id, err = id.WithCertificate(cert, ca.Certificate()); err != nil {
		return nil, fmt.Errorf("take this member's certificate: %w", err)
	}
	if err := a.become(id); err != nil {
		return nil, err
	}
	return ca, a.dir.step(failpoint.BootstrapCertified)
}

// memberCertificateLife is long: a founder holds the CA itself, and nobody could renew it.
const memberCertificateLife = 20 * 365 * 24 * time.Hour

// serveUplinks lets proxies use this node.
func (a *Agent) serveUplinks() {
	s := uplink.New(a.gate, a.opts.Log)
	if a.uplinks.CompareAndSwap(nil, s) {
		bridge.Serve(a.net.ep, s)
	}
}

// letIn lets other nodes use a member, and boxes join.
func (a *Agent) letIn(m *member.Member, ca *transport.CA) {
	a.serveUplinks()
	a.tokens.Store(&tokenOffice{store: m, caHash: a.net.identity.Load().CAHash(), now: judgedTime(a.opts.Now)})
	if ca == nil {
		return
	}
	desk := &enroll.Desk{
		Store:     m,
		CA:        ca,
		Admit:     admitter(m),
		Endpoints: func() []string { return memberAddresses(m.Roster()) },
		Now:       judgedTime(a.opts.Now),
		Log:       a.opts.Log,
	}
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

// letOut turns other nodes away, which find another member. What they have under way is answered within a moment.
func (a *Agent) letOut() {
	a.tokens.Store(nil)
	for _, p := range []transport.Protocol{transport.Uplink, transport.Join, transport.Raft} {
		a.net.ep.Listen(p, nil)
	}
	if s := a.uplinks.Swap(nil); s != nil {
		s.End()
	}
}

// joinLinger is how long the answer to a joining box is given to arrive.
const joinLinger = 5 * time.Second

// links describes the connections to other nodes.
func (a *Agent) links() (all []api.LinkStatus) {
	if a.net == nil || a.net.ep == nil {
		return nil
	}
	for _, h := range a.net.ep.Health() {
		all = append(all, api.LinkStatus{Node: h.Node, Role: string(h.Role), Protocol: string(h.Protocol), Address: h.Addr, Lost: h.Lost,
			RTTMillis: float64(h.RTTSmoothed) / float64(time.Millisecond), LossShare: h.Loss, BytesSent: h.BytesSent, BytesReceived: h.BytesReceived})
	}
	return all
}
