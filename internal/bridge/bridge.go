// Package bridge fits the connections of transport to what client and api/uplink ask for, so that neither knows the
// other or QUIC.
package bridge

import (
	"bufio"
	"context"
	"io"
	"time"

	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/transport"
)

// Dialed is a connection as a client sees it.
type Dialed struct{ *transport.Conn }

// OpenStream opens a stream for one request.
func (d Dialed) OpenStream(ctx context.Context) (client.Stream, error) {
	s, err := d.Conn.OpenStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Line is the round-trip time of the link, and its loss.
func (d Dialed) Line() (rtt time.Duration, loss float64) {
	q := d.Quality()
	return q.RTT, q.Loss
}

// Done is closed when the connection has ended.
func (d Dialed) Done() <-chan struct{} { return d.Context().Done() }

// Close ends the connection.
func (d Dialed) Close(reason string) { d.CloseWithError(transport.CodeDone, reason) }

// Follow opens a stream on a connection and hands it to speak, until that returns. The error is speak's.
func Follow(ctx context.Context, c *transport.Conn, speak func(in *bufio.Reader, out io.Writer) error) error {
	st, err := c.OpenStream(ctx)
	if err != nil {
		return err
	}
	defer st.Abort(0)
	defer context.AfterFunc(ctx, func() { st.Abort(0) })()
	return speak(bufio.NewReaderSize(st, 512), st)
}

// NodeLink is a connection as enroll.Roll sees it.
type NodeLink struct{ *transport.Conn }

// Address is where the node is now.
func (l NodeLink) Address() string { return l.RemoteAddr().String() }

// Close sends the node away.
func (l NodeLink) Close(reason string) { l.CloseWithError(transport.CodeNotAllowed, reason) }

// TunnelLink is the tunnel of a node that is behind a proxy, as enroll.Roll sees it: its link is that of the proxy.
type TunnelLink struct {
	NodeLink
	Tunnel *transport.Tunnel
}

// Address is where the proxy is, and which it is.
func (l TunnelLink) Address() string {
	return l.NodeLink.Address() + " (through " + l.Peer().Node + ")"
}

// Close sends the node away, and not the proxy.
func (l TunnelLink) Close(string) { l.Tunnel.Abort(0) }

// Accepted is a connection as a server sees it.
type Accepted struct{ *transport.Conn }

// AcceptStream waits for the next request.
func (a Accepted) AcceptStream(ctx context.Context) (uplink.Stream, error) {
	s, err := a.Conn.AcceptStream(ctx)
	if err != nil {
		return nil, err
	}
	return s, nil
}

// Serve lets ep answer uplinks from s.
func Serve(ep *transport.Endpoint, s *uplink.Server) {
	ep.Listen(transport.Uplink, func(ctx context.Context, c *transport.Conn) {
		line(ctx, s, c).Serve() // nothing else: ten thousand wait in it
	})
}

//go:noinline
func line(ctx context.Context, s *uplink.Server, c *transport.Conn) *uplink.Line {
	peer := peerOf(c)
	return s.Line(ctx, Accepted{c}, &peer)
}

func peerOf(c *transport.Conn) uplink.Peer {
	peer := c.Peer()
	scope := peer.Scope
	if peer.Role == transport.Member {
		scope = []string{""}
	}
	return uplink.Peer{Node: peer.Node, Scope: scope}
}

// Dial is client.Options.Dial over ep. An endpoint may be marked as a proxy's, see transport.ViaPrefix.
func Dial(ep *transport.Endpoint) func(ctx context.Context, endpoint string, early func(client.Conn)) (client.Conn, error) {
	return func(ctx context.Context, endpoint string, early func(client.Conn)) (client.Conn, error) {
		target := transport.TargetOf(endpoint)
		target.OnEarly = func(c *transport.Conn) { early(Dialed{c}) }
		c, err := ep.Dial(ctx, transport.Uplink, target)
		if err != nil {
			return nil, err
		}
		return Dialed{c}, nil
	}
}
