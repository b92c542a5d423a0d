package bridge

import (
	"context"
	"fmt"
	"math/rand/v2"
	"strings"
	"sync"
	"time"

	"holdfast/member/raftnet"
	"holdfast/transport"
)

// Peer is a connection to a member as raftnet sees it.
type Peer struct{ *transport.Conn }

// Done is closed when the connection has ended.
func (p Peer) Done() <-chan struct{} { return p.Context().Done() }

// OpenUni opens a stream that only this side writes.
func (p Peer) OpenUni(ctx context.Context) (raftnet.Outgoing, error) {
	s, err := p.OpenUniStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// AcceptUni waits for a stream that only the peer writes.
func (p Peer) AcceptUni(ctx context.Context) (raftnet.Incoming, error) {
	s, err := p.AcceptUniStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Open opens a stream for a snapshot.
func (p Peer) Open(ctx context.Context) (raftnet.Stream, error) {
	s, err := p.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Accept waits for a stream for a snapshot.
func (p Peer) Accept(ctx context.Context) (raftnet.Stream, error) {
	s, err := p.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Close ends the connection.
func (p Peer) Close(reason string) { p.CloseWithError(transport.CodeDone, reason) }

// Members keeps the connections of n to other members on ep. Set says which, and Run keeps them.
func Members(ep *transport.Endpoint, n *raftnet.Net, opts transport.PoolOptions) (*transport.Pool, error) {
	opts.Protocol = transport.Raft
	opts.Serve = func(ctx context.Context, c *transport.Conn) {
		ctx, cancel := context.WithCancel(ctx)
		var wg sync.WaitGroup
		node := MemberNode(c.Peer().Node)
		wg.Go(func() { n.ServePath(ctx, node, Peer{c}) })
		if c.Dialed() { // this end knows where the peer can be reached
			wg.Go(func() { keepPaths(ctx, ep, n, c) })
		}
		n.ServeConn(ctx, node, Peer{c})
		cancel()
		wg.Wait()
	}
	ep.Listen(transport.Path, func(ctx context.Context, c *transport.Conn) {
		n.ServePath(ctx, MemberNode(c.Peer().Node), Peer{c})
	})
	return transport.NewPool(ep, opts)
}

// Pauses between attempts to open a path.
const (
	pathBackoffMin = time.Second
	pathBackoffMax = time.Minute
)

// keepPaths keeps as many connections beside c as n wants, until ctx ends.
func keepPaths(ctx context.Context, ep *transport.Endpoint, n *raftnet.Net, c *transport.Conn) {
	node := MemberNode(c.Peer().Node)
	var wg sync.WaitGroup
	defer wg.Wait()
	var stops []context.CancelFunc
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for {
		want, changed, err := n.PathsWanted(node)
		if err != nil {
			return // the member has stopped
		}
		for len(stops) < want-1 {
			pathCtx, stop := context.WithCancel(ctx)
			stops = append(stops, stop)
			wg.Go(func() { keepPath(pathCtx, ep, n, c) })
		}
		for len(stops) > max(want-1, 0) {
			stops[len(stops)-1]()
			stops = stops[:len(stops)-1]
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return
		}
	}
}

// keepPath keeps one.
func keepPath(ctx context.Context, ep *transport.Endpoint, n *raftnet.Net, beside *transport.Conn) {
	peer := beside.Peer()
	for pause := pathBackoffMin; ; pause = min(2*pause, pathBackoffMax) {
		target := transport.Target{Addrs: []string{beside.RemoteAddr().String()}, Node: peer.Node}
		if c, err := ep.Dial(ctx, transport.Path, target); err == nil {
			pause = pathBackoffMin
			pathCtx, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(c.Context(), cancel)
			n.ServePath(pathCtx, MemberNode(peer.Node), Peer{c})
			stop()
			cancel()
			c.CloseWithError(transport.CodeDone, "")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)):
		}
	}
}

// MemberNode is a node id of transport in the form that members use, that of a UUID.
func MemberNode(id string) string {
	if len(id) != 32 {
		return id
	}
	return fmt.Sprintf("%s-%s-%s-%s-%s", id[:8], id[8:12], id[12:16], id[16:20], id[20:])
}

// TransportNode is the inverse of MemberNode.
func TransportNode(id string) string { return strings.ReplaceAll(id, "-", "") }
