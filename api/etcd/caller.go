package etcd

import (
	"context"
	"net"
	"strconv"
	"sync"
	"sync/atomic"

	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/test/bufconn"

	"holdfast/api"
)

// A call finds its api.Caller in its context, however it came: net/http has put it there for a call that it has read;
// a connection of gRPC's own carries it, and passport hands it on; a call of the gateway comes over a connection in
// memory and shows the ticket of the request behind it.

// withCaller returns the context of a call with its Caller in it.
func (s *Server) withCaller(ctx context.Context) context.Context {
	p, ok := peer.FromContext(ctx)
	if !ok {
		return ctx
	}
	info, ok := p.AuthInfo.(carried)
	switch {
	case !ok: // net/http's
		return ctx
	case info.gateway:
		return s.gateway.tickets.redeem(ctx)
	default:
		return api.WithCaller(ctx, info.caller)
	}
}

// carried is what a connection of gRPC's own says about itself.
type carried struct {
	credentials.CommonAuthInfo
	caller  api.Caller
	gateway bool // the connection in memory
}

// AuthType implements credentials.AuthInfo.
func (carried) AuthType() string { return "holdfast" }

// passport lets a connection through as it is, and reads what it carries. TLS was spoken before gRPC got it.
type passport struct{}

// ServerHandshake implements credentials.TransportCredentials.
func (passport) ServerHandshake(c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	level := credentials.CommonAuthInfo{SecurityLevel: credentials.NoSecurity}
	if _, ok := c.(memoryConn); ok {
		return c, carried{CommonAuthInfo: level, gateway: true}, nil
	}
	return c, carried{CommonAuthInfo: level, caller: api.CallerOf(c)}, nil
}

// ClientHandshake implements credentials.TransportCredentials; the server has no use for it.
func (passport) ClientHandshake(_ context.Context, _ string, c net.Conn) (net.Conn, credentials.AuthInfo, error) {
	return c, carried{}, nil
}

// Info implements credentials.TransportCredentials.
func (passport) Info() credentials.ProtocolInfo { return credentials.ProtocolInfo{} }

// Clone implements credentials.TransportCredentials.
func (p passport) Clone() credentials.TransportCredentials { return p }

// OverrideServerName implements credentials.TransportCredentials.
func (passport) OverrideServerName(string) error { return nil }

// memoryListener marks the connections of the gateway, which nobody else can open.
type memoryListener struct{ *bufconn.Listener }

type memoryConn struct{ net.Conn }

func (l memoryListener) Accept() (net.Conn, error) {
	c, err := l.Listener.Accept()
	if err != nil {
		return nil, err
	}
	return memoryConn{c}, nil
}

// ticketKey is the metadata that a call of the gateway shows. Of any other connection it means nothing, and a client of
// the gateway that sends it is overruled.
const ticketKey = "holdfast-gateway-ticket"

// tickets are the requests of the gateway that are calls at present.
type tickets struct {
	last atomic.Uint64
	open sync.Map // ticket to api.Caller
}

// issue gives the call that ctx is for a ticket, which is good until give is called.
func (t *tickets) issue(ctx context.Context) (_ context.Context, give func()) {
	caller, ok := api.CallerFrom(ctx)
	if !ok {
		return ctx, func() {}
	}
	ticket := strconv.FormatUint(t.last.Add(1), 36)
	t.open.Store(ticket, caller)
	md, _ := metadata.FromOutgoingContext(ctx)
	if md == nil {
		md = metadata.MD{}
	}
	md.Set(ticketKey, ticket)
	return metadata.NewOutgoingContext(ctx, md), func() { t.open.Delete(ticket) }
}

// redeem is issue's other end.
func (t *tickets) redeem(ctx context.Context) context.Context {
	shown := metadata.ValueFromIncomingContext(ctx, ticketKey)
	if len(shown) != 1 {
		return ctx
	}
	caller, ok := t.open.Load(shown[0])
	if !ok {
		return ctx
	}
	return api.WithCaller(ctx, caller.(api.Caller))
}

func (t *tickets) unary(ctx context.Context, method string, req, res any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
	ctx, give := t.issue(ctx)
	defer give()
	return invoke(ctx, method, req, res, conn, opts...)
}

// stream gives its ticket back when the request ends, as each does: the server ends the context of every one.
func (t *tickets) stream(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, begin grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
	ctx, give := t.issue(ctx)
	context.AfterFunc(ctx, give)
	return begin(ctx, desc, conn, method, opts...)
}
