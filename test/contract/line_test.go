package contract

import (
	"context"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"

	"holdfast/api"
)

// A lock is of the cluster: who waits for it at one node gets it when it is given up at another, or when the lease ends.
func TestLocksAndElectionsAreOneLineOnAllNodes(t *testing.T) {
	m := openMember(t)
	nodes := map[string]api.Backend{
		"a member":               m,
		"a proxy that forwards":  openProxy(t, upstream(t, m)),
		"a proxy that mirrors":   mirror(t, m),
		"a proxy behind a proxy": mirror(t, mirror(t, m)),
	}
	member := serveEtcd(t, m)
	for name, b := range nodes {
		t.Run(name, func(t *testing.T) {
			ctx, cancel := context.WithTimeout(t.Context(), time.Minute)
			defer cancel()
			node := serveEtcd(t, b)
			passOn(ctx, t, member, node)
			passOn(ctx, t, node, member)
		})
	}
}

// passOn has a lock and an election pass from the client of one node to that of another.
func passOn(ctx context.Context, t *testing.T, from, to *grpc.ClientConn) {
	t.Helper()
	holder := grant(ctx, t, from)
	waiter := grant(ctx, t, to)
	lock := func(conn *grpc.ClientConn, lease int64) error {
		return errOf(v3lockpb.NewLockClient(conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease}))
	}
	campaign := func(conn *grpc.ClientConn, lease int64) error {
		return errOf(v3electionpb.NewElectionClient(conn).Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: lease}))
	}
	for _, take := range []func(*grpc.ClientConn, int64) error{lock, campaign} {
		if err := take(from, holder); err != nil {
			t.Fatal(err)
		}
	}
	taken := make(chan error, 2)
	for _, take := range []func(*grpc.ClientConn, int64) error{lock, campaign} {
		go func() { taken <- take(to, waiter) }()
	}
	for lines := 0; lines < 2; { // until both wait
		lines = 0
		for _, prefix := range []string{"l", "e"} {
			r, err := pb.NewKVClient(from).Range(ctx, &pb.RangeRequest{Key: []byte(prefix + "/"), RangeEnd: []byte(prefix + "0")})
			if err != nil {
				t.Fatal(err)
			}
			if len(r.Kvs) == 2 {
				lines++
			}
		}
	}
	select {
	case err := <-taken:
		t.Fatalf("taken from its holder: %v", err)
	default:
	}
	revoke(ctx, t, from, holder)
	for range 2 {
		if err := <-taken; err != nil {
			t.Error(err)
		}
	}
	revoke(ctx, t, to, waiter)
}

func grant(ctx context.Context, t *testing.T, conn *grpc.ClientConn) int64 {
	t.Helper()
	r, err := pb.NewLeaseClient(conn).LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 600})
	if err != nil {
		t.Fatal(err)
	}
	return r.ID
}

func revoke(ctx context.Context, t *testing.T, conn *grpc.ClientConn, lease int64) {
	t.Helper()
	if _, err := pb.NewLeaseClient(conn).LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: lease}); err != nil {
		t.Fatal(err)
	}
}
