package etcd

import (
	"errors"
	"math"
	"net"
	"net/http"
	"strings"
	"time"

	"google.golang.org/grpc"
	"google.golang.org/grpc/keepalive"
)

const (
	// overhead is what a message may have beyond the largest request, as in etcd.
	overhead = 512 << 10

	// etcd's limits on keepalives: a client that pings more often than this, or without a call, is sent away.
	pingAfter   = 5 * time.Second
	pingEvery   = 2 * time.Hour
	pingTimeout = 20 * time.Second

	// streamsMax is how many calls may run on one connection; a client waits before it begins another. etcd has no such
	// limit; this one is far above what its clients do, and bounds what one connection can hold here.
	streamsMax = 1 << 16

	// workers are goroutines that answer one call after the other: their stacks have grown already. A new goroutine for
	// each call spends about 7 % of a PUT's CPU on growing its own. Calls beyond these get one all the same.
	workers = 64

	// Windows of flow control: what a client may send before it is read, on a call and on a connection. gRPC would find
	// out itself what a link can take, by a ping with the first bytes of nearly every request, which cost a PUT 5 % of
	// its CPU. A larger message gets the window it needs once its handler reads, a round trip later. The window of a connection
	// bounds what is on its way only, not what it holds here: gRPC renews it for bytes that nobody has read (sniff.Bounds
	// bounds that).
	streamWindow = 128 << 10
	connWindow   = 1 << 20

	// headerMax is the most bytes of metadata that a call may have, as net/http takes them here.
	headerMax = 64 << 10
)

// serverOptions is how the gRPC server is set up.
func (s *Server) serverOptions() []grpc.ServerOption {
	return []grpc.ServerOption{
		grpc.Creds(passport{}),
		grpc.ForceServerCodecV2(codec{s.metrics}),
		grpc.UnaryInterceptor(s.unary),
		grpc.StreamInterceptor(s.stream),
		grpc.MaxRecvMsgSize(s.messageMax()),
		grpc.RPCDecompressor(uncompressed{}), //nolint:staticcheck // the other way is a registry of the whole program
		grpc.MaxSendMsgSize(math.MaxInt32),
		grpc.MaxConcurrentStreams(streamsMax),
		grpc.MaxHeaderListSize(headerMax),
		grpc.WaitForHandlers(true),
		grpc.NumStreamWorkers(workers),
		grpc.StaticStreamWindowSize(streamWindow),
		grpc.StaticConnWindowSize(connWindow),
		grpc.KeepaliveEnforcementPolicy(keepalive.EnforcementPolicy{MinTime: pingAfter}),
		grpc.KeepaliveParams(keepalive.ServerParameters{MaxConnectionIdle: s.opts.IdleTimeout, Time: pingEvery, Timeout: pingTimeout}),
	}
}

// messageMax is the largest message that is read, and above which a watch that allows it gets fragments.
func (s *Server) messageMax() int { return s.opts.RequestMax + overhead }

// IsCall reports whether a request that net/http has read is a gRPC call.
func IsCall(r *http.Request) bool {
	return r.ProtoMajor == 2 && strings.HasPrefix(r.Header.Get("Content-Type"), "application/grpc")
}

// ignoreClosed is for the end of a listener, which is somebody's decision and no failure.
func ignoreClosed(err error) error {
	if errors.Is(err, net.ErrClosed) || errors.Is(err, grpc.ErrServerStopped) {
		return nil
	}
	return err
}
