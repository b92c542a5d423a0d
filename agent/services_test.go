package agent

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"slices"
	"sync"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	grpcstatus "google.golang.org/grpc/status"
)

// got is the answer of a call that did not fail.
func got[T any](t *testing.T) func(T, error) T {
	t.Helper()
	return func(answer T, err error) T {
		t.Helper()
		if err != nil {
			t.Fatal(err)
		}
		return answer
	}
}

// etcdMember opens a member and a client of its etcd API.
func etcdMember(t *testing.T) (*Agent, *grpc.ClientConn, context.Context) {
	t.Helper()
	a := serving(t, settings(t))
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	t.Cleanup(cancel)
	conn := etcdClient(t, a.Addrs()[0])
	got[*pb.RangeResponse](t)(pb.NewKVClient(conn).Range(ctx, &pb.RangeRequest{Key: []byte("a")}, grpc.WaitForReady(true)))
	return a, conn, ctx
}

// The holder of a lock and the leader of an election stop renewing: both pass on.
func TestLocksAndElectionsPassOnWhenALeaseExpires(t *testing.T) {
	_, conn, ctx := etcdMember(t)
	leases, locks, elections := pb.NewLeaseClient(conn), v3lockpb.NewLockClient(conn), v3electionpb.NewElectionClient(conn)
	short := got[*pb.LeaseGrantResponse](t)(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 1})) // raised to 2 s
	long := got[*pb.LeaseGrantResponse](t)(leases.LeaseGrant(ctx, &pb.LeaseGrantRequest{TTL: 60}))
	if short.TTL != 2 || short.ID <= 0 || long.TTL != 60 {
		t.Errorf("granted %v and %v", short, long)
	}
	got[*v3lockpb.LockResponse](t)(locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: short.ID}))
	got[*v3electionpb.CampaignResponse](t)(elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: short.ID, Value: []byte("short")}))
	ttl := got[*pb.LeaseTimeToLiveResponse](t)(leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: short.ID, Keys: true}))
	if ttl.GrantedTTL != 2 || ttl.TTL > 2 || ttl.TTL < 0 || len(ttl.Keys) != 2 {
		t.Errorf("the lease has %v", ttl)
	}
	lock := got[*v3lockpb.LockResponse](t)(locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: long.ID}))
	leader := got[*v3electionpb.CampaignResponse](t)(elections.Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte("e"), Lease: long.ID, Value: []byte("long")}))
	if want := fmt.Sprintf("%x", long.ID); string(lock.Key) != "l/"+want || string(leader.Leader.Key) != "e/"+want {
		t.Errorf("locked %v, elected %v", lock, leader)
	}
	ttl = got[*pb.LeaseTimeToLiveResponse](t)(leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: short.ID}))
	if ttl.TTL != -1 || ttl.Header.GetRevision() < lock.Header.GetRevision() {
		t.Errorf("the lease that ended has %v", ttl)
	}
	list := got[*pb.LeaseLeasesResponse](t)(leases.LeaseLeases(ctx, &pb.LeaseLeasesRequest{}))
	if len(list.Leases) != 1 || list.Leases[0].ID != long.ID {
		t.Errorf("leases %v", list)
	}
}

func TestKeepAliveOverTheWholeNode(t *testing.T) {
	_, conn, ctx := etcdMember(t)
	c := pb.NewLeaseClient(conn)
	for id := range int64(100) {
		got[*pb.LeaseGrantResponse](t)(c.LeaseGrant(ctx, &pb.LeaseGrantRequest{ID: id + 1, TTL: 30 + id}))
	}
	stream := got[pb.Lease_LeaseKeepAliveClient](t)(c.LeaseKeepAlive(ctx))
	for id := range int64(101) { // the last is none
		if err := stream.Send(&pb.LeaseKeepAliveRequest{ID: id + 1}); err != nil {
			t.Fatal(err)
		}
	}
	for id := range int64(101) {
		want := 30 + id
		if id == 100 {
			want = 0
		}
		if r := got[*pb.LeaseKeepAliveResponse](t)(stream.Recv()); r.ID != id+1 || r.TTL != want || r.Header.GetRevision() != 1 {
			t.Errorf("lease %d: %v, want %d s", id+1, r, want)
		}
	}
	if err := stream.CloseSend(); err != nil {
		t.Fatal(err)
	}
	if _, err := stream.Recv(); !errors.Is(err, io.EOF) {
		t.Errorf("the stream ends with %v", err)
	}
}

func TestManyClientsTakeOneLock(t *testing.T) {
	_, conn, ctx := etcdMember(t)
	const clients, turns = 6, 5
	var wg sync.WaitGroup
	kvs, locks := pb.NewKVClient(conn), v3lockpb.NewLockClient(conn)
	for i := range clients {
		wg.Go(func() {
			for range turns {
				lock, err := locks.Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l")})
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				// Without the lock, writes of others would be lost here.
				old, err := kvs.Range(ctx, &pb.RangeRequest{Key: []byte("count")})
				if err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
				var value []byte
				if len(old.Kvs) > 0 {
					value = old.Kvs[0].Value
				}
				_, putErr := kvs.Put(ctx, &pb.PutRequest{Key: []byte("count"), Value: append(slices.Clone(value), 'x')})
				_, err = locks.Unlock(ctx, &v3lockpb.UnlockRequest{Key: lock.Key})
				if err := errors.Join(putErr, err); err != nil {
					t.Errorf("client %d: %v", i, err)
					return
				}
			}
		})
	}
	wg.Wait()
	r := got[*pb.RangeResponse](t)(kvs.Range(ctx, &pb.RangeRequest{Key: []byte("count")}))
	if want := bytes.Repeat([]byte("x"), clients*turns); len(r.Kvs) != 1 || !bytes.Equal(r.Kvs[0].Value, want) {
		t.Errorf("counted %v, want %d", r.Kvs, len(want))
	}
}

func TestClientsFindTheNodeByItsMembers(t *testing.T) {
	a, conn, ctx := etcdMember(t)
	c := pb.NewClusterClient(conn)
	r := got[*pb.MemberListResponse](t)(c.MemberList(ctx, &pb.MemberListRequest{Linearizable: true}))
	if len(r.Members) != 1 {
		t.Fatalf("members %v", r.Members)
	}
	m := r.Members[0]
	if m.ID != r.Header.GetMemberId() || m.Name == "" || m.IsLearner || !slices.Equal(m.ClientURLs, a.Addrs()) {
		t.Errorf("this node is %v, want the client URLs %q", m, a.Addrs())
	}
}

func TestMaintenanceOfAMember(t *testing.T) {
	_, conn, ctx := etcdMember(t)
	kvs, c := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	for i := range 10 {
		got[*pb.PutResponse](t)(kvs.Put(ctx, &pb.PutRequest{Key: fmt.Appendf(nil, "k%d", i), Value: make([]byte, 1000)}))
	}
	s := got[*pb.StatusResponse](t)(c.Status(ctx, &pb.StatusRequest{}))
	if s.Leader == 0 || s.Leader != s.Header.GetMemberId() || s.RaftTerm == 0 || s.RaftAppliedIndex == 0 || s.DbSize == 0 || s.DbSizeQuota == 0 ||
		s.Header.Revision != 11 || len(s.Errors) != 0 {
		t.Errorf("status %v", s)
	}
	hash := got[*pb.HashKVResponse](t)(c.HashKV(ctx, &pb.HashKVRequest{}))
	if again := got[*pb.HashKVResponse](t)(c.HashKV(ctx, &pb.HashKVRequest{Revision: 11})); again.Hash != hash.Hash || again.HashRevision != 11 {
		t.Errorf("hashes %v and %v of one revision", hash, again)
	}
	got[*pb.DefragmentResponse](t)(c.Defragment(ctx, &pb.DefragmentRequest{}))
	if after := got[*pb.HashKVResponse](t)(c.HashKV(ctx, &pb.HashKVRequest{})); after.Hash != hash.Hash {
		t.Errorf("hash %v, after a defragmentation %v", hash, after)
	}
	stream := got[pb.Maintenance_SnapshotClient](t)(c.Snapshot(ctx, &pb.SnapshotRequest{}))
	var file []byte
	for {
		r, err := stream.Recv()
		if errors.Is(err, io.EOF) {
			break
		}
		if err != nil {
			t.Fatal(err)
		}
		file = append(file, r.Blob...)
	}
	if len(file) < 10*1000 || len(file)%512 != sha256.Size {
		t.Fatalf("a snapshot of %d bytes", len(file))
	}
	if want := sha256.Sum256(file[:len(file)-sha256.Size]); !bytes.Equal(file[len(file)-sha256.Size:], want[:]) {
		t.Error("the checksum of the snapshot is of something else")
	}
}

// An alarm stops writes until it is disarmed, here as in etcd.
func TestAlarmsOfAMember(t *testing.T) {
	_, conn, ctx := etcdMember(t)
	kvs, c := pb.NewKVClient(conn), pb.NewMaintenanceClient(conn)
	put := func() error {
		_, err := kvs.Put(ctx, &pb.PutRequest{Key: []byte("a")})
		return err
	}
	ask := func(action pb.AlarmRequest_AlarmAction, member uint64, kind pb.AlarmType) []*pb.AlarmMember {
		t.Helper()
		r := got[*pb.AlarmResponse](t)(c.Alarm(ctx, &pb.AlarmRequest{Action: action, MemberID: member, Alarm: kind}))
		if r.Header.GetMemberId() == 0 {
			t.Errorf("header %v", r.Header)
		}
		return r.Alarms
	}
	if err := put(); err != nil {
		t.Fatal(err)
	}
	if a := ask(pb.AlarmRequest_ACTIVATE, 7, pb.AlarmType_NOSPACE); len(a) != 1 || a[0].MemberID != 7 || a[0].Alarm != pb.AlarmType_NOSPACE {
		t.Errorf("raised %v", a)
	}
	if err := put(); err == nil || grpcstatus.Convert(err).Message() != "etcdserver: mvcc: database space exceeded" {
		t.Errorf("a put under the alarm: %v", err)
	}
	if a := ask(pb.AlarmRequest_GET, 0, pb.AlarmType_NONE); len(a) != 1 {
		t.Errorf("alarms %v", a)
	}
	if a := ask(pb.AlarmRequest_GET, 0, pb.AlarmType_CORRUPT); len(a) != 0 {
		t.Errorf("alarms of another kind %v", a)
	}
	if s := got[*pb.StatusResponse](t)(c.Status(ctx, &pb.StatusRequest{})); len(s.Errors) != 1 {
		t.Errorf("status names %q", s.Errors)
	}
	if a := ask(pb.AlarmRequest_DEACTIVATE, 8, pb.AlarmType_NOSPACE); len(a) != 0 {
		t.Errorf("disarmed what did not stand: %v", a)
	}
	if a := ask(pb.AlarmRequest_DEACTIVATE, 7, pb.AlarmType_NOSPACE); len(a) != 1 {
		t.Errorf("disarmed %v", a)
	}
	if err := put(); err != nil {
		t.Errorf("a put after all is well: %v", err)
	}
}
