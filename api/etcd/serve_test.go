package etcd

import (
	"context"
	"log/slog"
	"net"
	"net/http"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/api/apitest"
)

// patience is how long a test waits for what must come.
const patience = 20 * time.Second

// reporter is a member whose leader can be taken away.
type reporter struct {
	mu     sync.Mutex
	leader string
}

func (r *reporter) Report() api.Status {
	r.mu.Lock()
	defer r.mu.Unlock()
	return api.Status{Ready: true, Member: &api.MemberStatus{Leader: r.leader}}
}

func (r *reporter) set(leader string) {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.leader = leader
}

// node is a Server on a loopback listener, and its clients.
type node struct {
	*Server
	reporter *reporter
	addr     string
	conn     *grpc.ClientConn
	kv       pb.KVClient
	watch    pb.WatchClient
}

// serve starts a Server in front of a Backend, or of Memory if that is nil.
func serve(t testing.TB, o Options) *node {
	t.Helper()
	if o.Backend == nil {
		o.Backend = apitest.NewMemory()
	}
	n := &node{reporter: &reporter{leader: "1"}}
	o.Reporter = n.reporter
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(t.Output(), nil))
	}
	n.Server = New(o)
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	n.addr = l.Addr().String()
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := n.Serve(l); err != nil {
			t.Errorf("Serve: %v", err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		n.Close(ctx)
		wg.Wait()
	})
	n.conn = dial(t, n.addr)
	n.kv, n.watch = pb.NewKVClient(n.conn), pb.NewWatchClient(n.conn)
	return n
}

func dial(t testing.TB, addr string) *grpc.ClientConn {
	t.Helper()
	conn, err := grpc.NewClient(addr, grpc.WithTransportCredentials(insecure.NewCredentials()),
		grpc.WithDefaultCallOptions(grpc.MaxCallRecvMsgSize(1<<30), grpc.MaxCallSendMsgSize(1<<30)))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// refused fails the test unless err is what etcd answers, code and text.
func refused(t *testing.T, err, want error) {
	t.Helper()
	got, wanted := status.Convert(err), status.Convert(want)
	if got.Code() != wanted.Code() || got.Message() != wanted.Message() {
		t.Errorf("got %v %q, want %v %q", got.Code(), got.Message(), wanted.Code(), wanted.Message())
	}
}

// must returns an answer that is no refusal.
func must[T any](t *testing.T, answer T, err error) T {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
	return answer
}

func (n *node) put(t *testing.T, key, value string) *pb.PutResponse {
	t.Helper()
	r, err := n.kv.Put(t.Context(), &pb.PutRequest{Key: []byte(key), Value: []byte(value)})
	return must(t, r, err)
}

func (n *node) get(t *testing.T, r *pb.RangeRequest) *pb.RangeResponse {
	t.Helper()
	a, err := n.kv.Range(t.Context(), r)
	return must(t, a, err)
}

// http serves a Server's other half.
func (n *node) http(t testing.TB) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var protocols http.Protocols
	protocols.SetHTTP1(true)
	protocols.SetUnencryptedHTTP2(true)
	srv := &http.Server{Handler: n.Server, Protocols: &protocols}
	var wg sync.WaitGroup
	wg.Go(func() { _ = srv.Serve(l) })
	t.Cleanup(func() { _ = srv.Close(); wg.Wait() })
	return l.Addr().String()
}
