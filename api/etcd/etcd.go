// Package etcd is the door for etcd's clients: its v3 API over gRPC and its JSON gateway, on any node, from an
// api.Backend.
//
// Clients are unchanged, so what they see is etcd's to the letter: which fields of a header are set, in which order a
// request is checked, and the texts of errors, which clients compare. Files are named for the services; a service is a
// small type around the Server, registered in services.go. A request is checked whole, translated into a kv.Command or
// kv.Query, and handed to the Backend; errors.go says how a refusal looks. Writes wait for a quorum: nothing that comes
// in here is ever queued.
package etcd

import (
	"cmp"
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/health"

	"holdfast/api"
	"holdfast/kv"
)

// Options is what a Server needs. The zero value of a field is the default its comment names.
type Options struct {
	Backend  api.Backend  // required
	Reporter api.Reporter // required: knows whether there is a leader

	// Admin is what only a full replica can do; nil, or returning nil: this node is none, and such calls are
	// Unimplemented.
	Admin func() api.Admin

	// Members lists the members of the cluster for a node that is none; nil: it cannot tell. Local is from what it has at
	// hand.
	Members func(ctx context.Context, local bool) (kv.Header, []kv.Replica, error)

	// How this node is to be found: its name, and the URLs of its listeners for clients. They stand for it in the list of
	// members, as far as the cluster does not know them.
	Name       string
	ClientURLs []string

	// Audit hears of calls that change the node, the cluster or who may do what, once they have ended; nil: nobody does.
	Audit func(ctx context.Context, call, outcome string)

	// Trace begins what is recorded of a call with one answer, below the place in a trace that its metadata names as
	// traceparent, and returns what ends it; nil: calls are not traced.
	Trace func(ctx context.Context, call, traceparent string) (context.Context, func(code string, err error))

	// Hash makes the hash of a new password; nil: users cannot be given one here.
	Hash func(ctx context.Context, password string) ([]byte, error)

	Log     *slog.Logger          // nil: discarded
	Metrics prometheus.Registerer // nil: not counted. New panics if another Server has registered there

	RequestMax  int           // largest request in bytes, as the Backend has it; 0: 1.5 MiB
	TxnOpsMax   int           // most compares, and most operations in a branch, of a transaction; 0: 128
	WatchesMax  int           // most watches on one stream; 0: 65536, where etcd has no limit
	BodyTimeout time.Duration // a body of the JSON gateway must have arrived within; 0: 60 s
	IdleTimeout time.Duration // after which a connection without calls is closed; 0: never
}

// Defaults of Options. The first two are etcd's.
const (
	requestMax = 1536 << 10
	txnOpsMax  = 128
	watchesMax = 1 << 16

	bodyTimeout = 60 * time.Second
)

// Server serves etcd's API. It is safe for concurrent use.
type Server struct {
	opts    Options
	grpc    *grpc.Server
	gateway *gateway
	health  *health.Server
	metrics *metrics
	leaders *leaders
	shared  sharedEvents // of all watches
	ranges  keptRanges

	receivers sync.WaitGroup // goroutines that end when their call has

	stopping context.Context // ended by EndStreams
	stop     context.CancelFunc
}

// New returns a Server that answers once Serve or ServeHTTP is called. Close it.
func New(o Options) *Server {
	if o.Backend == nil || o.Reporter == nil {
		panic("etcd: Options without Backend or Reporter")
	}
	o.RequestMax = cmp.Or(o.RequestMax, requestMax)
	o.TxnOpsMax = cmp.Or(o.TxnOpsMax, txnOpsMax)
	o.WatchesMax = cmp.Or(o.WatchesMax, watchesMax)
	o.BodyTimeout = cmp.Or(o.BodyTimeout, bodyTimeout)
	if o.Hash == nil {
		o.Hash = func(context.Context, string) ([]byte, error) {
			return nil, kv.Errorf(kv.Unsupported, "this node does not take passwords")
		}
	}
	o.Backend = api.Signed(o.Backend)
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	s := &Server{opts: o, health: health.NewServer(), metrics: newMetrics(o.Metrics)}
	s.stopping, s.stop = context.WithCancel(context.Background())
	s.leaders = newLeaders(s.hasLeader)
	s.grpc = grpc.NewServer(s.serverOptions()...)
	s.register(s.grpc)
	s.metrics.learn(s.grpc.GetServiceInfo())
	s.gateway = newGateway(s)
	return s
}

// Serve answers gRPC connections of l until it is closed or the Server is; it returns nil then. It may be called for
// several listeners.
func (s *Server) Serve(l net.Listener) error { return ignoreClosed(s.grpc.Serve(l)) }

// ServeHTTP answers what came over net/http: the JSON gateway below /v3, and gRPC calls on an HTTP/2 connection that
// began with something else.
func (s *Server) ServeHTTP(w http.ResponseWriter, r *http.Request) {
	if IsCall(r) {
		s.grpc.ServeHTTP(w, r)
		return
	}
	s.gateway.ServeHTTP(w, r)
}

// EndStreams ends open streams with an error that sends their clients to another node, and tells whoever asks for the
// health of this one that it does not serve any more. It does not wait.
func (s *Server) EndStreams() {
	s.health.Shutdown()
	s.stop()
}

// Close ends the Server: calls that run are waited for until ctx ends, then cut off. It reports whether any was.
func (s *Server) Close(ctx context.Context) (cut bool) {
	s.EndStreams()
	s.gateway.close()
	done := make(chan struct{})
	go func() {
		defer close(done)
		s.grpc.GracefulStop()
	}()
	select {
	case <-done:
	case <-ctx.Done():
		s.grpc.Stop()
		<-done
		cut = true
	}
	s.receivers.Wait()
	s.gateway.serving.Wait()
	s.leaders.close()
	return cut
}
