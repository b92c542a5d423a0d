package agent

import (
	"bufio"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"strings"
	"time"

	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/enroll"
	"holdfast/internal/bridge"
	"holdfast/internal/wire"
	"holdfast/transport"
)

// This file is a proxy that others are behind: a site's one box that talks to the cluster for all.
//
// What they read and write goes through its own cache and uplink. What is between them and the cluster alone (joining, renewal,
// the control stream) goes through it in a tunnel to a member: it sees neither tokens nor what is said, and cannot change it.
// The tunnel of the control stream is also what proves to the member that a node is behind this one.

const (
	// tunnelsMax bounds the nodes behind a proxy: each takes one of the 256 streams of its uplink for as long as it is connected.
	tunnelsMax = 128
	// tunnelShake bounds the handshake in a tunnel.
	tunnelShake = 10 * time.Second
	// The pauses before a node behind a proxy opens its tunnel again, while its connection stands.
	tunnelFirst = 100 * time.Millisecond
	tunnelLast  = 5 * time.Second
)

// shutFile, in the folder of the identity, has the ids of nodes that were behind this proxy and were revoked.
const shutFile = "revoked-below.json"

// servesBelow reports whether this proxy is one that others may be behind: it has an address that they can be told.
func (a *Agent) servesBelow() bool { return a.cfg.PeerListen != peerListenDefault }

// letBelow begins to serve proxies behind this one.
func (a *Agent) letBelow(up *client.Client) {
	a.net.up.Store(up)
	a.serveBelow()
}

func (a *Agent) serveBelow() {
	if a.net.up.Load() == nil || !a.servesBelow() {
		return
	}
	a.serveUplinks()
	a.net.ep.Listen(transport.Relay, a.relay)
}

// turnBelow ends that, unless this node goes on as a member.
func (a *Agent) turnBelow(up *client.Client) {
	if !a.net.up.CompareAndSwap(up, nil) || !a.servesBelow() {
		return
	}
	a.net.ep.Listen(transport.Relay, nil)
	if a.net.desk.Load() != nil {
		return
	}
	a.net.ep.Listen(transport.Uplink, nil)
	if s := a.uplinks.Swap(nil); s != nil {
		s.End()
	}
}

// relay carries what a box without a certificate says to a member.
func (a *Agent) relay(ctx context.Context, c *transport.Conn) {
	st, err := c.AcceptStream(ctx)
	if err != nil {
		return
	}
	_ = a.passOn(ctx, st) // a box that joins is told itself
	select {              // the box closes when it has read the end
	case <-c.Context().Done():
	case <-time.After(joinLinger):
	}
}

// carry serves a tunnel: a member is its end, a proxy passes it on.
func (a *Agent) carry(ctx context.Context, conn uplink.Conn, peer uplink.Peer, st uplink.Stream, enter func(string) func()) error {
	if a.net.desk.Load() != nil {
		return a.endTunnel(ctx, conn, peer, st, enter)
	}
	if why := a.passOn(ctx, st); why == transport.Revoked {
		a.shutOut(peer.Node)
	}
	return nil
}

// passOn carries a tunnel to the node above. It returns why that has refused the node that it is of, if it has.
func (a *Agent) passOn(ctx context.Context, st client.Stream) transport.Refusal {
	up := a.net.up.Load()
	defer a.net.tunnels.Add(-1)
	if n := a.net.tunnels.Add(1); up == nil || n > tunnelsMax || strings.HasPrefix(up.State().Endpoint, transport.ViaPrefix) {
		a.opts.Log.Warn("a node behind this proxy is not connected to the cluster: this proxy is itself behind another, has too many behind it, or is about to end",
			"behind", n, "most", tunnelsMax)
		st.Abort(0)
		return 0
	}
	err := up.Carry(ctx, st)
	if err == nil {
		if err = st.Close(); err == nil {
			return 0
		}
	}
	why := transport.TunnelRefusal(err)
	st.Abort(transport.RefusalCode(why))
	return why
}

// shutOut cuts off a node behind this proxy that the cluster has revoked, over restarts too.
func (a *Agent) shutOut(node string) {
	for {
		was := a.net.shut.Load()
		if was == nil || slices.Contains(*was, node) {
			break
		}
		all := append(slices.Clone(*was), node)
		b, err := json.Marshal(all) // written down first: who is cut off stays so
		if err == nil {
			err = writeFile(a.dir.join(identityName, shutFile), b)
		}
		if err != nil {
			a.opts.Log.Error("a revoked node is shut out until this proxy restarts; it is not remembered", "node", node, "file", shutFile, "err", err)
		}
		if !a.net.shut.CompareAndSwap(was, &all) {
			continue
		}
		break
	}
	a.net.ep.Recheck()
}

// endTunnel talks to a node that is behind a proxy. For as long as it does, the connection of that proxy may bring the node's
// queued writes.
func (a *Agent) endTunnel(ctx context.Context, conn uplink.Conn, peer uplink.Peer, st uplink.Stream, enter func(string) func()) error {
	shaking, cancel := context.WithTimeout(ctx, tunnelShake)
	t, err := a.net.ep.AcceptTunnel(shaking, st)
	cancel()
	if err != nil {
		return err
	}
	if t.Protocol() == transport.Join {
		desk := a.net.desk.Load()
		if desk == nil {
			return errors.New("this node is no member any more")
		}
		behind := *desk
		behind.Endpoints = func() []string { return nil } // the box talks through the proxy, and nowhere else
		return behind.Serve(ctx, t, "behind node "+peer.Node)
	}
	c, ok := conn.(bridge.Accepted)
	r := a.roll.Load()
	if !ok || r == nil {
		return errors.New("this node keeps no list of nodes")
	}
	in := wire.NewPatient(t)
	if err := readNodeRequest(in); err != nil {
		return err
	}
	ctx, end := context.WithCancel(ctx)
	defer end()
	watched := make(chan struct{})
	go func() { defer close(watched); a.watchTunnel(ctx, t) }()
	defer func() { end(); <-watched }()
	defer enter(t.Peer().Node)()
	listen, err := r.Attend(ctx, t.Peer().Node, bridge.TunnelLink{NodeLink: bridge.NodeLink(c), Tunnel: t}, in, t)
	if listen == nil {
		return err
	}
	return listen()
}

func readNodeRequest(in *wire.Patient) error {
	frame, err := wire.ReadFrame(in)
	if err != nil {
		return err
	}
	q, err := wire.DecodeUplinkRequest(frame)
	if err == nil && q.Verb != wire.UplinkNode {
		err = fmt.Errorf("a tunnel is for the control stream, not for request %d", q.Verb)
	}
	return err
}

// watchTunnel ends a tunnel once its node is no longer allowed.
func (a *Agent) watchTunnel(ctx context.Context, t *transport.Tunnel) {
	for {
		r := a.roll.Load()
		if r == nil {
			return
		}
		changed := r.auth.News()
		err := a.net.judge(t.Peer())
		if why, refused := errors.AsType[transport.Refusal](err); refused && why != transport.Starting {
			t.Refuse(why)
			return
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// followThrough is follow for a node behind a proxy: the control stream is in a tunnel, which is opened again for as long as the
// connection to the proxy stands. A tunnel has ended when the proxy's own uplink has.
func (a *Agent) followThrough(c *transport.Conn) {
	ctx := c.Context()
	for pause := tunnelFirst; ; {
		began := time.Now()
		err := a.tunnel(ctx, c)
		if errors.Is(err, enroll.ErrCopied) {
			a.opts.Log.Error("the cluster has sent this node away", "through", c.Peer().Node, "err", err)
			c.CloseWithError(transport.CodeNotAllowed, "this node is a copy")
		}
		if ctx.Err() != nil {
			return
		}
		if time.Since(began) > tunnelLast {
			pause = tunnelFirst
		}
		a.opts.Log.Debug("no control stream through the proxy", "proxy", c.Peer().Node, "err", err, "again_in", pause.String())
		if !pauseFor(ctx, pause/2+rand.N(pause/2)) {
			return
		}
		pause = min(2*pause, tunnelLast)
	}
}

// tunnel speaks on the control stream once.
func (a *Agent) tunnel(ctx context.Context, c *transport.Conn) error {
	st, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	defer st.Abort(0)
	defer context.AfterFunc(ctx, func() { st.Abort(0) })()
	if err := wire.WriteFrame(st, wire.UplinkRequest{Verb: wire.UplinkTunnel}.Append(nil)); err != nil {
		return err
	}
	shaking, cancel := context.WithTimeout(ctx, tunnelShake)
	defer cancel()
	t, err := a.net.ep.OpenTunnel(shaking, st, transport.Uplink, transport.Target{})
	if err != nil {
		return err
	}
	return enroll.Follow(bufio.NewReaderSize(t, 512), t, a.net.boot, a.report, a.heard, a.obey) // the other end has proven that it is a member
}
