package etcd

import (
	"context"
	"io"
	"net"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/grpc-ecosystem/grpc-gateway/v2/runtime"
	"go.etcd.io/etcd/api/v3/etcdserverpb/gw"
	electiongw "go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb/gw"
	lockgw "go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb/gw"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/test/bufconn"
	"google.golang.org/protobuf/encoding/protojson"
)

// gateway is etcd's JSON form of its API, below /v3: each request becomes a gRPC call to the Server over a connection in
// memory, so that both are served by the same code. Nothing is connected before the first request.
type gateway struct {
	server   *Server
	mux      *runtime.ServeMux
	conn     *grpc.ClientConn
	listener *bufconn.Listener
	tickets  tickets

	serving sync.WaitGroup // of the listener
	mu      sync.Mutex
	begun   bool
	closed  bool // guards serving.Go against serving.Wait
}

const (
	gatewayPath = "/v3/"
	gatewayBeta = "/v3beta/" // as clients of etcd 3.3 call it

	// gatewayBuffer is how much of a message may be under way in memory.
	gatewayBuffer = 64 << 10
)

// Owns reports whether a path belongs to the JSON gateway.
func Owns(path string) bool {
	return strings.HasPrefix(path, gatewayPath) || strings.HasPrefix(path, gatewayBeta)
}

func newGateway(s *Server) *gateway {
	g := &gateway{server: s, listener: bufconn.Listen(gatewayBuffer)}
	conn, err := grpc.NewClient("passthrough:///gateway",
		grpc.WithContextDialer(func(ctx context.Context, _ string) (net.Conn, error) { return g.listener.DialContext(ctx) }),
		grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithUnaryInterceptor(g.tickets.unary),
		grpc.WithStreamInterceptor(g.tickets.stream),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(gatewayMessageMax)),
	)
	if err != nil {
		panic(err) // of options that are constants here
	}
	g.conn = conn
	g.mux = runtime.NewServeMux(runtime.WithErrorHandler(refuse), runtime.WithMarshalerOption(runtime.MIMEWildcard, &runtime.HTTPBodyMarshaler{
		Marshaler: &runtime.JSONPb{
			MarshalOptions:   protojson.MarshalOptions{UseProtoNames: true},
			UnmarshalOptions: protojson.UnmarshalOptions{DiscardUnknown: true},
		},
	}))
	for _, register := range []func(context.Context, *runtime.ServeMux, *grpc.ClientConn) error{
		gw.RegisterKVHandler, gw.RegisterWatchHandler, gw.RegisterLeaseHandler, gw.RegisterClusterHandler,
		gw.RegisterMaintenanceHandler, gw.RegisterAuthHandler, lockgw.RegisterLockHandler, electiongw.RegisterElectionHandler,
	} {
		if err := register(context.Background(), g.mux, conn); err != nil {
			panic(err) // of a route that is a constant there
		}
	}
	return g
}

// refuse answers with an error as etcd's gateway does, and says when to come again.
func refuse(ctx context.Context, mux *runtime.ServeMux, m runtime.Marshaler, w http.ResponseWriter, r *http.Request, err error) {
	if md, ok := runtime.ServerMetadataFromContext(ctx); ok {
		if after := md.TrailerMD.Get(retryAfter); len(after) > 0 {
			w.Header().Set("Retry-After", after[0])
		}
	}
	runtime.DefaultHTTPErrorHandler(ctx, mux, m, w, r, err)
}

// gatewayMessageMax is the largest answer; etcd has no limit either.
const gatewayMessageMax = 1<<31 - 1

func (g *gateway) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	g.begin()
	if rest, ok := strings.CutPrefix(r.URL.Path, gatewayBeta); ok {
		r.URL.Path = gatewayPath + rest
	}
	g.boundBody(w, r)
	// Base64 makes four bytes of three.
	r.Body = http.MaxBytesReader(w, r.Body, int64(g.server.messageMax())*4/3)
	g.mux.ServeHTTP(w, r)
}

// begin serves the connection in memory, unless somebody does already or nobody is to any more.
func (g *gateway) begin() {
	g.mu.Lock()
	defer g.mu.Unlock()
	if g.begun || g.closed {
		return
	}
	g.begun = true
	g.serving.Go(func() { _ = g.server.grpc.Serve(memoryListener{g.listener}) }) // ends with the server
}

// boundBody gives the body of a request its time. A body of requests for a stream may last as long as that.
func (g *gateway) boundBody(w http.ResponseWriter, r *http.Request) {
	if r.Body == nil || r.URL.Path == gatewayPath+"watch" || r.URL.Path == gatewayPath+"lease/keepalive" {
		return
	}
	c := http.NewResponseController(w)
	_ = c.SetReadDeadline(time.Now().Add(g.server.opts.BodyTimeout)) // a recorder in a test has none
	r.Body = &timedBody{r.Body, c}
}

// timedBody is a body that must have arrived by a deadline, after which net/http reads to see whether the client leaves.
type timedBody struct {
	io.ReadCloser
	conn *http.ResponseController
}

func (b *timedBody) Read(p []byte) (int, error) {
	n, err := b.ReadCloser.Read(p)
	if err == io.EOF { //nolint:errorlint // as io.Reader has it
		_ = b.conn.SetReadDeadline(time.Time{})
	}
	return n, err
}

// close ends the connection in memory.
func (g *gateway) close() {
	g.mu.Lock()
	g.closed = true
	g.mu.Unlock()
	_ = g.conn.Close()     // nothing of it is left
	_ = g.listener.Close() // has nothing to fail
}
