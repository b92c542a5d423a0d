package contract

import (
	"context"
	"fmt"
	"net"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/api/etcd"
)

// leading is a node that sees its leader.
type leading struct{}

func (leading) Report() api.Status {
	return api.Status{Ready: true, Member: &api.MemberStatus{Leader: "1"}}
}

// serveEtcd puts etcd's API in front of a node, and returns a client's connection.
func serveEtcd(t *testing.T, b api.Backend) *grpc.ClientConn {
	t.Helper()
	s := etcd.New(etcd.Options{Backend: b, Reporter: leading{}})
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := s.Serve(l); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(func() {
		ctx, cancel := context.WithTimeout(context.Background(), time.Second)
		defer cancel()
		s.Close(ctx)
		wg.Wait()
	})
	conn, err := grpc.NewClient(l.Addr().String(), grpc.WithTransportCredentials(insecure.NewCredentials()))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// What an etcd client sees of a node does not depend on what kind it is.
func TestEtcdsAPIIsTheSameOnEveryKindOfNode(t *testing.T) {
	for name, open := range map[string]func(t *testing.T) api.Backend{
		"a member":               openMember,
		"a proxy that forwards":  func(t *testing.T) api.Backend { return openProxy(t, upstream(t, openMember(t))) },
		"a proxy that mirrors":   func(t *testing.T) api.Backend { return mirror(t, openMember(t)) },
		"a proxy behind a proxy": func(t *testing.T) api.Backend { return mirror(t, mirror(t, openMember(t))) },
		"a queue before a member": func(t *testing.T) api.Backend {
			return openQueue(t, openMember(t), [16]byte{7})
		},
	} {
		t.Run(name, func(t *testing.T) {
			conn := serveEtcd(t, open(t))
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			etcdKeys(ctx, t, pb.NewKVClient(conn))
			etcdWatches(ctx, t, pb.NewKVClient(conn), pb.NewWatchClient(conn))
			if r, err := pb.NewMaintenanceClient(conn).Alarm(ctx, &pb.AlarmRequest{}); err != nil || len(r.Alarms) != 0 {
				t.Errorf("alarms %v, %v", r.GetAlarms(), err) // etcdctl endpoint health asks for them
			}
		})
	}
}

func mirror(t *testing.T, b api.Backend) api.Backend {
	t.Helper()
	p := openProxy(t, upstream(t, b), "")
	synced(t, p)
	return p
}

// etcdKeys leaves the store at revision 6, compacted at 4.
func etcdKeys(ctx context.Context, t *testing.T, c pb.KVClient) {
	t.Helper()
	for i, value := range []string{"1", "2", "3"} {
		r, err := c.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: []byte(value), PrevKv: true})
		if err != nil {
			t.Fatal(err)
		}
		if r.Header.Revision != int64(i+2) || r.Header.ClusterId == 0 || r.Header.MemberId == 0 || r.Header.RaftTerm == 0 || i > 0 && string(r.PrevKv.GetValue()) != fmt.Sprint(i) {
			t.Errorf("put %d: %v", i, r)
		}
	}
	read := func(r *pb.RangeRequest) *pb.RangeResponse {
		t.Helper()
		a, err := c.Range(ctx, r)
		if err != nil {
			t.Fatal(err)
		}
		return a
	}
	for _, serializable := range []bool{false, true} {
		if r := read(&pb.RangeRequest{Key: []byte("a"), Serializable: serializable}); r.Count != 1 || string(r.Kvs[0].Value) != "3" || r.Kvs[0].Version != 3 || r.Kvs[0].CreateRevision != 2 || r.Header.ClusterId == 0 {
			t.Errorf("read, serializable %v: %v", serializable, r)
		}
	}
	if r := read(&pb.RangeRequest{Key: []byte("a"), Revision: 3}); string(r.Kvs[0].Value) != "2" || r.Header.Revision != 4 {
		t.Errorf("historical read: %v", r)
	}
	get := &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: []byte("b")}}}
	put := &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: []byte("b"), Value: []byte("x")}}}
	absent := &pb.Compare{Key: []byte("b"), Target: pb.Compare_CREATE, TargetUnion: &pb.Compare_CreateRevision{}}
	for _, first := range []bool{true, false} {
		r, err := c.Txn(ctx, &pb.TxnRequest{Compare: []*pb.Compare{absent}, Success: []*pb.RequestOp{get, put, get}, Failure: []*pb.RequestOp{get}})
		if err != nil {
			t.Fatal(err)
		}
		want := map[bool]int{true: 3, false: 1}[first]
		if r.Succeeded != first || len(r.Responses) != want || r.Header.Revision != 5 || len(r.Responses[want-1].GetResponseRange().Kvs) != 1 {
			t.Errorf("transaction: %v", r)
		}
	}
	d, err := c.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("a"), PrevKv: true})
	if err != nil || d.Deleted != 1 || string(d.PrevKvs[0].Value) != "3" || d.Header.Revision != 6 {
		t.Errorf("delete: %v, %v", d, err)
	}
	if _, err := c.Compact(ctx, &pb.CompactionRequest{Revision: 4}); err != nil {
		t.Error(err)
	}
	for name, refused := range map[string]struct{ got, want error }{
		"compacted":     {errOf(c.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 2})), rpctypes.ErrGRPCCompacted},
		"future":        {errOf(c.Range(ctx, &pb.RangeRequest{Key: []byte("a"), Revision: 99})), rpctypes.ErrGRPCFutureRev},
		"written twice": {errOf(c.Txn(ctx, &pb.TxnRequest{Success: []*pb.RequestOp{put, put}})), rpctypes.ErrGRPCDuplicateKey},
		"too large":     {errOf(c.Put(ctx, &pb.PutRequest{Key: []byte("a"), Value: make([]byte, 1700<<10)})), rpctypes.ErrGRPCRequestTooLarge},
		"nothing there": {errOf(c.Put(ctx, &pb.PutRequest{Key: []byte("none"), IgnoreValue: true})), rpctypes.ErrGRPCKeyNotFound},
		"no lease":      {errOf(c.Put(ctx, &pb.PutRequest{Key: []byte("a"), Lease: 99})), rpctypes.ErrGRPCLeaseNotFound},
	} {
		if got, want := status.Convert(refused.got), status.Convert(refused.want); got.Code() != want.Code() || got.Message() != want.Message() {
			t.Errorf("%s: %v %q, want %v %q", name, got.Code(), got.Message(), want.Code(), want.Message())
		}
	}
}

func errOf[T any](_ T, err error) error { return err }

// etcdWatches goes on where etcdKeys has ended.
func etcdWatches(ctx context.Context, t *testing.T, c pb.KVClient, w pb.WatchClient) {
	t.Helper()
	stream, err := w.Watch(ctx)
	if err != nil {
		t.Fatal(err)
	}
	send := func(r *pb.WatchRequest) {
		t.Helper()
		if err := stream.Send(r); err != nil {
			t.Fatal(err)
		}
	}
	create := func(r *pb.WatchCreateRequest) {
		t.Helper()
		send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: r}})
	}
	next := func() *pb.WatchResponse {
		t.Helper()
		r, err := stream.Recv()
		if err != nil {
			t.Fatal(err)
		}
		return r
	}
	create(&pb.WatchCreateRequest{Key: []byte("a"), RangeEnd: []byte("c"), StartRevision: 4, PrevKv: true})
	if r := next(); !r.Created || r.WatchId != 0 || r.Header.Revision != 6 {
		t.Fatalf("got %v, want watch 0 to be created", r)
	}
	var got string
	for n := 0; n < 3; {
		for _, e := range next().Events {
			got += fmt.Sprintf("%v %s@%d %s; ", e.Type, e.Kv.Key, e.Kv.ModRevision, e.PrevKv.GetValue())
			n++
		}
	}
	// The value that revision 4 replaced is of a revision given up, and may be gone.
	if want := "PUT b@5 ; DELETE a@6 3; "; len(got) < len(want) || got[len(got)-len(want):] != want {
		t.Errorf("events %q, want %q at the end", got, want)
	}
	create(&pb.WatchCreateRequest{Key: []byte("a"), StartRevision: 2})
	if r := next(); !r.Created || r.WatchId != 1 {
		t.Fatalf("got %v, want watch 1 to be created", r)
	}
	if r := next(); !r.Canceled || r.WatchId != 1 || r.CompactRevision != 4 {
		t.Fatalf("got %v, want watch 1 to be overtaken by the compaction", r)
	}
	create(&pb.WatchCreateRequest{Key: []byte("b"), RangeEnd: []byte("a")})
	if r := next(); !r.Created || !r.Canceled || r.WatchId != -1 {
		t.Fatalf("got %v, want a refusal", r)
	}
	if _, err := c.Put(ctx, &pb.PutRequest{Key: []byte("b"), Value: []byte("y")}); err != nil {
		t.Fatal(err)
	}
	if r := next(); len(r.Events) != 1 || string(r.Events[0].PrevKv.GetValue()) != "x" || r.Header.Revision < 7 {
		t.Errorf("got %v, want the put", r)
	}
	send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_ProgressRequest{ProgressRequest: &pb.WatchProgressRequest{}}})
	if r := next(); r.WatchId != -1 || r.Header.Revision != 7 || len(r.Events) > 0 {
		t.Errorf("got %v, want progress at 7", r)
	}
	send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CancelRequest{CancelRequest: &pb.WatchCancelRequest{WatchId: 0}}})
	if r := next(); !r.Canceled || r.WatchId != 0 || r.CompactRevision != 0 {
		t.Errorf("got %v, want the end of watch 0", r)
	}
}
