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
			wg.Go(func() { beside{ep, c, transport.Path, pathsBeside(n), servePath(n)}.keep(ctx) })
			wg.Go(func() { beside{ep, c, transport.Bulk, n.BulkWanted, serveBulk(n)}.keep(ctx) })
		}
		n.ServeConn(ctx, node, Peer{c})
		cancel()
		wg.Wait()
	}
	for protocol, serve := range map[transport.Protocol]serveFunc{transport.Path: servePath(n), transport.Bulk: serveBulk(n)} {
		ep.Listen(protocol, func(ctx context.Context, c *transport.Conn) { serve(ctx, MemberNode(c.Peer().Node), Peer{c}) })
	}
	return transport.NewPool(ep, opts)
}

type serveFunc func(ctx context.Context, node string, p Peer)

func servePath(n *raftnet.Net) serveFunc {
	return func(ctx context.Context, node string, p Peer) { n.ServePath(ctx, node, p) }
}

func serveBulk(n *raftnet.Net) serveFunc {
	return func(ctx context.Context, node string, p Peer) { n.ServeBulk(ctx, node, p) }
}

// pathsBeside is how many connections carry datagrams beside the one of the pool.
func pathsBeside(n *raftnet.Net) wantedFunc {
	return func(node string) (int, <-chan struct{}, error) {
		paths, changed, err := n.PathsWanted(node)
		return max(paths-1, 0), changed, err
	}
}

type wantedFunc func(node string) (conns int, changed <-chan struct{}, err error)

// Pauses between attempts to open a connection beside another one.
const (
	besideBackoffFirst = time.Second
	besideBackoffMax   = time.Minute
)

// beside keeps connections beside one of a pool, to the same peer, as many as are wanted.
type beside struct {
	ep       *transport.Endpoint
	conn     *transport.Conn
	protocol transport.Protocol
	wanted   wantedFunc
	serve    serveFunc
}

// keep does so until ctx ends.
func (b beside) keep(ctx context.Context) {
	node := MemberNode(b.conn.Peer().Node)
	var wg sync.WaitGroup
	defer wg.Wait()
	var stops []context.CancelFunc
	defer func() {
		for _, stop := range stops {
			stop()
		}
	}()
	for {
		want, changed, err := b.wanted(node)
		if err != nil {
			return // the member has stopped
		}
		for len(stops) < want {
			oneCtx, stop := context.WithCancel(ctx)
			stops = append(stops, stop)
			wg.Go(func() { b.keepOne(oneCtx, node) })
		}
		for len(stops) > want {
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

func (b beside) keepOne(ctx context.Context, node string) {
	for pause := besideBackoffFirst; ; pause = min(2*pause, besideBackoffMax) {
		target := transport.Target{Addrs: []string{b.conn.RemoteAddr().String()}, Node: b.conn.Peer().Node}
		if c, err := b.ep.Dial(ctx, b.protocol, target); err == nil {
			pause = besideBackoffFirst
			serveCtx, cancel := context.WithCancel(ctx)
			stop := context.AfterFunc(c.Context(), cancel)
			b.serve(serveCtx, node, Peer{c})
			stop()
			cancel()
			c.CloseWithError(transport.CodeDone, "")
		}
		select {
		case <-ctx.Done():
			return
		case <-time.After(pause/2 + rand.N(pause/2)): //nolint:gosec // jitter
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
