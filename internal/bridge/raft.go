package bridge

import (
	"context"
	"fmt"
	"strings"

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
	opts.Serve = func(ctx context.Context, c *transport.Conn) { n.ServeConn(ctx, MemberNode(c.Peer().Node), Peer{c}) }
	return transport.NewPool(ep, opts)
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
