package etcd

import (
	"context"
	"errors"
	"fmt"
	"io"
	"math"
	"slices"
	"sync/atomic"
	"testing"
	"testing/synctest"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"

	"holdfast/kv"
)

func TestLeaseGrantChoosesAnID(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	seen := map[int64]bool{}
	for range 20 {
		r := ok[*pb.LeaseGrantResponse](t)(c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{TTL: 30}))
		if r.ID <= 0 || seen[r.ID] || r.TTL != 30 || r.Error != "" {
			t.Errorf("granted %+v, want an id above 0 that is new, and a TTL of 30", r)
		}
		if r.Header.GetRevision() != 1 || r.Header.ClusterId == 0 || r.Header.MemberId == 0 {
			t.Errorf("header %+v", r.Header)
		}
		seen[r.ID] = true
	}
}

func TestLeaseGrantKeepsToTheRules(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	for _, tc := range []struct {
		id, ttl, granted int64
		code             codes.Code
		text             string
	}{
		{id: 7, ttl: 10, granted: 10},
		{id: 7, ttl: 10, code: codes.FailedPrecondition, text: "etcdserver: lease already exists"},
		{id: -8, ttl: 10, granted: 10},
		{id: 9, ttl: 0, granted: ttlMin},
		{id: 10, ttl: -5, granted: ttlMin},
		{id: 11, ttl: ttlMax, granted: ttlMax},
		{id: 12, ttl: ttlMax + 1, code: codes.OutOfRange, text: "etcdserver: too large lease TTL"},
		{id: 12, ttl: math.MaxInt64, code: codes.OutOfRange, text: "etcdserver: too large lease TTL"},
	} {
		r, err := c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: tc.id, TTL: tc.ttl})
		if tc.code != codes.OK {
			n.refused(err, tc.code, tc.text)
			continue
		}
		if err != nil || r.ID != tc.id || r.TTL != tc.granted {
			t.Errorf("grant of %d for %d s: %v %v, want %d s", tc.id, tc.ttl, r, err, tc.granted)
		}
	}
}

func TestLeaseRevokeDeletesItsKeys(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	ok[*pb.LeaseGrantResponse](t)(c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 10}))
	n.put("a", "1", 7)
	n.put("b", "1", 0)
	r := ok[*pb.LeaseRevokeResponse](t)(c.LeaseRevoke(n.ctx, &pb.LeaseRevokeRequest{ID: 7}))
	if got := n.keys(""); !slices.Equal(got, []string{"b"}) || r.Header.GetRevision() != 4 {
		t.Errorf("keys %q at revision %d, want b alone at 4", got, r.Header.GetRevision())
	}
	for _, id := range []int64{7, 0} {
		_, err := c.LeaseRevoke(n.ctx, &pb.LeaseRevokeRequest{ID: id})
		n.refused(err, codes.NotFound, "etcdserver: requested lease not found")
	}
}

func TestLeaseTimeToLive(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	ok[*pb.LeaseGrantResponse](t)(c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: 7, TTL: 10}))
	n.put("a", "1", 7)
	r := ok[*pb.LeaseTimeToLiveResponse](t)(c.LeaseTimeToLive(n.ctx, &pb.LeaseTimeToLiveRequest{ID: 7, Keys: true}))
	if r.ID != 7 || r.TTL != 10 || r.GrantedTTL != 10 || len(r.Keys) != 1 || string(r.Keys[0]) != "a" || r.Header.GetRevision() != 2 {
		t.Errorf("with keys: %v", r)
	}
	if r = ok[*pb.LeaseTimeToLiveResponse](t)(c.LeaseTimeToLive(n.ctx, &pb.LeaseTimeToLiveRequest{ID: 7})); len(r.Keys) != 0 {
		t.Errorf("without keys: %v", r)
	}
	if r = ok[*pb.LeaseTimeToLiveResponse](t)(c.LeaseTimeToLive(n.ctx, &pb.LeaseTimeToLiveRequest{ID: 8, Keys: true})); r.ID != 8 || r.TTL != -1 || r.GrantedTTL != 0 || r.Header.GetRevision() != 2 {
		t.Errorf("of a lease that is gone: %v", r)
	}
}

func TestLeaseLeasesListsAll(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	if r := ok[*pb.LeaseLeasesResponse](t)(c.LeaseLeases(n.ctx, &pb.LeaseLeasesRequest{})); len(r.Leases) != 0 || r.Header.GetRevision() != 1 {
		t.Errorf("of nothing: %v", r)
	}
	for id := range int64(3) {
		ok[*pb.LeaseGrantResponse](t)(c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: id + 1, TTL: 10}))
	}
	var got []int64
	for _, l := range ok[*pb.LeaseLeasesResponse](t)(c.LeaseLeases(n.ctx, &pb.LeaseLeasesRequest{})).Leases {
		got = append(got, l.ID)
	}
	if slices.Sort(got); !slices.Equal(got, []int64{1, 2, 3}) {
		t.Errorf("leases %v", got)
	}
}

func TestKeepAliveAnswersEachInOrder(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	for _, id := range []int64{1, 2} {
		ok[*pb.LeaseGrantResponse](t)(c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: id, TTL: 10 * id}))
	}
	stream := ok[pb.Lease_LeaseKeepAliveClient](t)(c.LeaseKeepAlive(n.ctx))
	asked := []int64{2, 1, 99, 2, 0, 1}
	for _, id := range asked {
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id}); err != nil {
			t.Fatal(err)
		}
	}
	ttl := map[int64]int64{1: 10, 2: 20} // what is gone has 0
	for _, id := range asked {
		r := ok[*pb.LeaseKeepAliveResponse](t)(stream.Recv())
		if r.ID != id || r.TTL != ttl[id] || r.Header.GetRevision() != 1 {
			t.Errorf("answer %v, want id %d with %d s", r, id, ttl[id])
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("after the client was done: %v, want the end", err)
	}
}

// A client library renews everything it has on one stream. One round of the cluster has to do for many, but not for any
// number.
func TestKeepAlivesOfOneStreamGoTogetherUpToALimit(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		backend := newLeased()
		if _, err := backend.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.LeaseGrant{ID: 1, TTL: 10}}}); err != nil {
			t.Fatal(err)
		}
		var running atomic.Int32
		release := make(chan struct{})
		backend.before = func(context.Context, kv.Op) error {
			running.Add(1)
			<-release
			return nil
		}
		s := leaseService{Server: &Server{opts: Options{Backend: backend}, stopping: t.Context()}}
		stream := &keepAlives{ctx: t.Context(), asks: 3*keepAlivesMax + 1}
		done := make(chan error)
		go func() { done <- s.LeaseKeepAlive(stream) }()
		synctest.Wait() // until nothing moves any more
		if got := running.Load(); got != keepAlivesMax {
			t.Errorf("%d renewals run at once, want %d", got, keepAlivesMax)
		}
		close(release)
		if err := <-done; err != nil || stream.answers != 3*keepAlivesMax+1 {
			t.Errorf("%d answers: %v", stream.answers, err)
		}
		s.receivers.Wait()
	})
}

// keepAlives is a stream whose client asks for lease 1 so many times.
type keepAlives struct {
	grpc.ServerStream
	ctx           context.Context
	asks, answers int
}

func (k *keepAlives) Context() context.Context { return k.ctx }

func (k *keepAlives) Recv() (*pb.LeaseKeepAliveRequest, error) {
	if k.asks == 0 {
		return nil, io.EOF
	}
	k.asks--
	return &pb.LeaseKeepAliveRequest{ID: 1}, nil
}

func (k *keepAlives) Send(r *pb.LeaseKeepAliveResponse) error {
	if r.ID == 1 && r.TTL == 10 {
		k.answers++
	}
	return nil
}

func TestKeepAliveStreamEndsWithAFailure(t *testing.T) {
	n := openRig(t, nil)
	n.backend.before = func(context.Context, kv.Op) error { return kv.Errorf(kv.NoLeader, "an election") }
	stream := ok[pb.Lease_LeaseKeepAliveClient](t)(pb.NewLeaseClient(n.conn).LeaseKeepAlive(n.ctx))
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	_, err := stream.Recv()
	n.refused(err, codes.Unavailable, "etcdserver: no leader")
}

func TestKeepAliveStreamEndsWithTheServer(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewLeaseClient(n.conn)
	ok[*pb.LeaseGrantResponse](t)(c.LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: 1, TTL: 10}))
	stream := ok[pb.Lease_LeaseKeepAliveClient](t)(c.LeaseKeepAlive(n.ctx))
	if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: 1}); err != nil {
		t.Fatal(err)
	}
	ok[*pb.LeaseKeepAliveResponse](t)(stream.Recv())
	n.stop()
	_, err := stream.Recv()
	n.refused(err, codes.Unavailable, "etcdserver: server stopped")
}

func TestLeasesNeedNoReplica(t *testing.T) {
	n := openRig(t, asProxy)
	r := ok[*pb.LeaseGrantResponse](t)(pb.NewLeaseClient(n.conn).LeaseGrant(n.ctx, &pb.LeaseGrantRequest{TTL: 10}))
	if r.ID == 0 {
		t.Errorf("granted %v", r)
	}
}

func TestLeasesOverJSON(t *testing.T) {
	n := openRig(t, nil)
	if code, r := n.post("/v3/lease/grant", `{"ID":"7","TTL":"10"}`); code != 200 || r["ID"] != "7" || r["TTL"] != "10" {
		t.Errorf("grant: %d %v", code, r)
	}
	n.put("a", "1", 7)
	for _, path := range []string{"/v3/lease/timetolive", "/v3/kv/lease/timetolive"} {
		if code, r := n.post(path, `{"ID":"7","keys":true}`); code != 200 || r["grantedTTL"] != "10" || fmt.Sprint(r["keys"]) != "[YQ==]" {
			t.Errorf("%s: %d %v", path, code, r)
		}
	}
	if code, r := n.post("/v3/lease/leases", `{}`); code != 200 || fmt.Sprint(r["leases"]) != "[map[ID:7]]" {
		t.Errorf("leases: %d %v", code, r)
	}
	if code, r := n.post("/v3/lease/keepalive", `{"ID":"7"}`); code != 200 || fmt.Sprint(r["result"].(map[string]any)["TTL"]) != "10" {
		t.Errorf("keepalive: %d %v", code, r)
	}
	if code, r := n.post("/v3/lease/revoke", `{"ID":"7"}`); code != 200 {
		t.Errorf("revoke: %d %v", code, r)
	}
	if code, r := n.post("/v3/kv/lease/revoke", `{"ID":"7"}`); code != 404 || r["message"] != "etcdserver: requested lease not found" {
		t.Errorf("revoke of what is gone: %d %v", code, r)
	}
}
