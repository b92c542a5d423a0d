package etcd

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc/codes"

	"holdfast/kv"
)

// lease grants leases of the given ids.
func (n *rig) lease(ids ...int64) {
	n.Helper()
	for _, id := range ids {
		ok[*pb.LeaseGrantResponse](n.T)(pb.NewLeaseClient(n.conn).LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: id, TTL: 60}))
	}
}

// leases lists those that there are.
func (n *rig) leases() []*pb.LeaseStatus {
	n.Helper()
	return ok[*pb.LeaseLeasesResponse](n.T)(pb.NewLeaseClient(n.conn).LeaseLeases(n.ctx, &pb.LeaseLeasesRequest{})).Leases
}

func (n *rig) revoke(id int64) {
	n.Helper()
	ok[*pb.LeaseRevokeResponse](n.T)(pb.NewLeaseClient(n.conn).LeaseRevoke(n.ctx, &pb.LeaseRevokeRequest{ID: id}))
}

func (n *rig) lock(name string, lease int64) *v3lockpb.LockResponse {
	n.Helper()
	return ok[*v3lockpb.LockResponse](n.T)(v3lockpb.NewLockClient(n.conn).Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: lease}))
}

func (n *rig) unlock(key []byte) {
	n.Helper()
	ok[*v3lockpb.UnlockResponse](n.T)(v3lockpb.NewLockClient(n.conn).Unlock(n.ctx, &v3lockpb.UnlockRequest{Key: key}))
}

// call is one that runs.
type call[T any] struct {
	answer T
	err    error
	done   chan struct{}
}

func begin[T any](do func() (T, error)) *call[T] {
	c := &call[T]{done: make(chan struct{})}
	go func() {
		defer close(c.done)
		c.answer, c.err = do()
	}()
	return c
}

// end waits for a call.
func (c *call[T]) end(t *testing.T) (T, error) {
	t.Helper()
	select {
	case <-c.done:
	case <-time.After(patience):
		t.Fatal("the call goes on waiting")
	}
	return c.answer, c.err
}

// waits fails the test if a call has ended.
func (c *call[T]) waits(t *testing.T) {
	t.Helper()
	select {
	case <-c.done:
		t.Fatalf("the call has ended: %v %v", c.answer, c.err)
	default:
	}
}

// tryLock begins a lock and returns when its key is in the line.
func (n *rig) tryLock(ctx context.Context, name string, lease int64) *call[*v3lockpb.LockResponse] {
	n.Helper()
	c := begin(func() (*v3lockpb.LockResponse, error) {
		return v3lockpb.NewLockClient(n.conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte(name), Lease: lease})
	})
	n.until("the key is in the line", func() bool { return slices.Contains(n.keys(name+"/"), fmt.Sprintf("%s/%x", name, lease)) })
	return c
}

// until waits for what has to come.
func (n *rig) until(what string, holds func() bool) {
	n.Helper()
	for end := time.Now().Add(patience); !holds(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			n.Fatalf("waited in vain until %s", what)
		}
	}
}

func TestLockIsAKeyUnderTheLease(t *testing.T) {
	n := openRig(t, nil)
	n.lease(0xab)
	r := n.lock("l", 0xab)
	if string(r.Key) != "l/ab" || r.Header.GetRevision() != 2 || r.Header.ClusterId == 0 {
		t.Errorf("locked: %v", r)
	}
	if again := n.lock("l", 0xab); string(again.Key) != "l/ab" || again.Header.GetRevision() != 2 {
		t.Errorf("locked again by the same lease: %v, want the same lock", again)
	}
	n.unlock(r.Key)
	if got := n.keys(""); len(got) != 0 {
		t.Errorf("keys %q are left", got)
	}
	n.unlock(r.Key)
	_, err := v3lockpb.NewLockClient(n.conn).Unlock(n.ctx, &v3lockpb.UnlockRequest{})
	n.refused(err, codes.InvalidArgument, "etcdserver: key is not provided")
}

func TestLockWithoutALeaseGetsOne(t *testing.T) {
	n := openRig(t, nil)
	r := n.lock("l", 0)
	made := n.leases()
	if len(made) != 1 || string(r.Key) != fmt.Sprintf("l/%x", made[0].ID) {
		t.Fatalf("locked %v with leases %v", r, made)
	}
	ttl := ok[*pb.LeaseTimeToLiveResponse](t)(pb.NewLeaseClient(n.conn).LeaseTimeToLive(n.ctx, &pb.LeaseTimeToLiveRequest{ID: made[0].ID}))
	if ttl.GrantedTTL != 60 {
		t.Errorf("it lives %d s, want etcd's 60", ttl.GrantedTTL)
	}
}

func TestLockNeedsALeaseThatExists(t *testing.T) {
	n := openRig(t, nil)
	_, err := v3lockpb.NewLockClient(n.conn).Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 99})
	n.refused(err, codes.NotFound, "etcdserver: requested lease not found")
}

func TestLockPassesOnInOrder(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2, 3)
	n.lock("l", 1)
	second := n.tryLock(n.ctx, "l", 2)
	third := n.tryLock(n.ctx, "l", 3)
	n.lock("other", 3) // another name is another lock
	second.waits(t)
	n.unlock([]byte("l/1"))
	r, err := second.end(t)
	if err != nil || string(r.Key) != "l/2" {
		t.Fatalf("the second: %v %v", r, err)
	}
	third.waits(t)
	n.revoke(2) // as when it expires
	if r, err := third.end(t); err != nil || string(r.Key) != "l/3" {
		t.Errorf("the third: %v %v", r, err)
	}
}

func TestLockSkipsWhoeverGaveUp(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2, 3)
	n.lock("l", 1)
	ctx, cancel := context.WithCancel(n.ctx)
	second := n.tryLock(ctx, "l", 2)
	third := n.tryLock(n.ctx, "l", 3)
	cancel()
	_, err := second.end(t)
	n.refused(err, codes.Canceled, "...")
	n.until("the place is given up", func() bool { return slices.Equal(n.keys("l/"), []string{"l/1", "l/3"}) })
	third.waits(t)
	n.unlock([]byte("l/1"))
	if r, err := third.end(t); err != nil || string(r.Key) != "l/3" {
		t.Errorf("the third: %v %v", r, err)
	}
}

func TestLockGivesUpWithTheDeadline(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	n.lock("l", 1)
	ctx, cancel := context.WithTimeout(n.ctx, 50*time.Millisecond)
	defer cancel()
	_, err := v3lockpb.NewLockClient(n.conn).Lock(ctx, &v3lockpb.LockRequest{Name: []byte("l")})
	n.refused(err, codes.DeadlineExceeded, "...")
	n.until("only the holder and its lease are left", func() bool {
		return slices.Equal(n.keys(""), []string{"l/1"}) && len(n.leases()) == 1
	})
}

// Who waits with a lease that has ended waits in vain, and is told so before the holder is done.
func TestLockEndsWithItsOwnLease(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2)
	n.lock("l", 1)
	second := n.tryLock(n.ctx, "l", 2)
	n.revoke(2)
	_, err := second.end(t)
	n.refused(err, codes.Unknown, "mutex: session is expired")
}

func TestLockWaitsThroughACompaction(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2)
	n.lock("l", 1)
	second := n.tryLock(n.ctx, "l", 2)
	h := n.put("other", "1", 0)
	if _, err := n.backend.Do(n.ctx, kv.Command{Ops: []kv.Op{kv.Compact{Revision: h.Revision}}}); err != nil {
		t.Fatal(err)
	}
	second.waits(t)
	n.unlock([]byte("l/1"))
	if r, err := second.end(t); err != nil || string(r.Key) != "l/2" {
		t.Errorf("the second: %v %v", r, err)
	}
}

// Between the look at who is before and the watch on it there is time for everything.
func TestLockMissesNothingBeforeItWatches(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2)
	n.lock("l", 1)
	var once sync.Once
	n.backend.opening = func() {
		once.Do(func() {
			if _, err := n.backend.Do(n.ctx, kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("l/1")}}}); err != nil {
				t.Error(err)
			}
		})
	}
	if r, err := n.tryLock(n.ctx, "l", 2).end(t); err != nil || string(r.Key) != "l/2" {
		t.Errorf("the second: %v %v", r, err)
	}
}

func TestAPlaceLooksAtTheOneJustBefore(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2, 3)
	l := newLine(n.server)
	var places []*place
	for id := range int64(3) {
		p, err := l.enter(n.ctx, []byte("l"), nil, id+1)
		if err != nil {
			t.Fatal(err)
		}
		places = append(places, p)
	}
	before := func(p *place) string {
		t.Helper()
		page, err := p.look(n.ctx)
		if err != nil || len(page.Ops[0].KVs) != 1 {
			t.Fatalf("%v %v", page, err)
		}
		return string(page.Ops[0].KVs[0].Key)
	}
	if got := before(places[2]); got != "l/2" {
		t.Errorf("the third waits for %q, want the second: a lock that is given up wakes one", got)
	}
	n.unlock([]byte("l/2"))
	if got := before(places[2]); got != "l/1" {
		t.Errorf("the third waits for %q, want the first", got)
	}
	// The second comes again, behind the third. Its former place is another.
	if _, err := l.enter(n.ctx, []byte("l"), nil, 2); err != nil {
		t.Fatal(err)
	}
	if _, err := places[1].look(n.ctx); !errors.Is(err, errLost) {
		t.Errorf("a place whose key was made anew: %v", err)
	}
}

// What the store refuses leaves nothing behind, whoever asks: one who may not have the place could not end a lease either.
func TestALockThatIsRefusedLeavesNoLease(t *testing.T) {
	n := openRig(t, nil)
	n.backend.before = func(_ context.Context, op kv.Op) error {
		switch op.(type) {
		case kv.Txn:
			return kv.Errorf(kv.PermissionDenied, "device/1 may not write that")
		case kv.LeaseRevoke:
			return kv.Errorf(kv.PermissionDenied, "device/1 may not do that with leases")
		}
		return nil
	}
	_, err := v3lockpb.NewLockClient(n.conn).Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l")})
	n.refused(err, codes.PermissionDenied, "etcdserver: permission denied")
	if got := n.leases(); len(got) != 0 {
		t.Errorf("leases %v are left", got)
	}
}

// A place that was perhaps taken is given up.
func TestALockThatWasPerhapsTakenIsGivenUp(t *testing.T) {
	n := openRig(t, nil)
	n.backend.lost = true
	_, err := v3lockpb.NewLockClient(n.conn).Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l")})
	n.refused(err, codes.Unavailable, "etcdserver: request timed out")
	if keys, leases := n.keys(""), n.leases(); len(keys)+len(leases) != 0 {
		t.Errorf("keys %v and leases %v are left", keys, leases)
	}
}

// The client goes on at another node, with the same lease: it must find its place.
func TestAStopOfTheServerKeepsThePlace(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2)
	n.lock("l", 1)
	second := n.tryLock(n.ctx, "l", 2)
	unnamed := begin(func() (*v3lockpb.LockResponse, error) {
		return v3lockpb.NewLockClient(n.conn).Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l")})
	})
	n.until("all are in line", func() bool { return len(n.keys("l/")) == 3 })
	n.stop()
	for _, c := range []*call[*v3lockpb.LockResponse]{second, unnamed} {
		_, err := c.end(t)
		n.refused(err, codes.Unavailable, "etcdserver: server stopped")
	}
	// The lease of the one that named none is known to nobody.
	if got := n.keys("l/"); !slices.Equal(got, []string{"l/1", "l/2"}) {
		t.Errorf("keys %q, want those of the leases that clients have", got)
	}
}

func TestWaitersAreLimited(t *testing.T) {
	n := openRig(t, nil)
	full := newLine(n.server)
	for range waitersMax {
		if _, err := full.wait(); err != nil {
			t.Fatal(err)
		}
	}
	done, err := full.wait()
	if done != nil {
		t.Fatal("one more may wait")
	}
	n.refused(err, codes.ResourceExhausted, "etcdserver: too many requests")
	<-full.waiting
	if _, err := full.wait(); err != nil {
		t.Errorf("nobody may wait where one has ended: %v", err)
	}
}

// Who is refused because too many wait has no place in line either.
func TestWhoMayNotWaitLeavesTheLine(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2)
	locks := lockService{line: newLine(n.server)}
	if _, err := locks.Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 1}); err != nil {
		t.Fatal(err)
	}
	for range waitersMax {
		locks.waiting <- struct{}{}
	}
	_, err := locks.Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: 2})
	n.refused(err, codes.ResourceExhausted, "etcdserver: too many requests")
	if got := n.keys("l/"); !slices.Equal(got, []string{"l/1"}) {
		t.Errorf("keys %q, want the holder's alone", got)
	}
}

// Many clients take one lock again and again, by unlocking or by letting their leases end. At no time do two have it.
func TestLockExcludes(t *testing.T) {
	n := openRig(t, nil)
	const clients, turns = 8, 12
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	var inside, taken atomic.Int32
	var wg sync.WaitGroup
	for i := range clients {
		wg.Go(func() {
			r := rand.New(rand.NewPCG(seed, uint64(i)))
			for turn := range turns {
				lease := int64(1 + i*turns + turn)
				if _, err := pb.NewLeaseClient(n.conn).LeaseGrant(n.ctx, &pb.LeaseGrantRequest{ID: lease, TTL: 60}); err != nil {
					t.Error(err)
					return
				}
				lock, err := v3lockpb.NewLockClient(n.conn).Lock(n.ctx, &v3lockpb.LockRequest{Name: []byte("l"), Lease: lease})
				if err != nil {
					t.Error(err)
					return
				}
				if inside.Add(1) != 1 {
					t.Error("two have the lock")
				}
				taken.Add(1)
				inside.Add(-1)
				if r.IntN(2) == 0 {
					_, err = v3lockpb.NewLockClient(n.conn).Unlock(n.ctx, &v3lockpb.UnlockRequest{Key: lock.Key})
				} else {
					_, err = pb.NewLeaseClient(n.conn).LeaseRevoke(n.ctx, &pb.LeaseRevokeRequest{ID: lease})
				}
				if err != nil {
					t.Error(err)
					return
				}
			}
		})
	}
	wg.Wait()
	if got := taken.Load(); got != clients*turns || len(n.keys("l/")) != 0 {
		t.Errorf("taken %d times, want %d; keys %q are left", got, clients*turns, n.keys("l/"))
	}
}

func TestLocksNeedNoReplica(t *testing.T) {
	n := openRig(t, asProxy)
	n.lease(1)
	if r := n.lock("l", 1); string(r.Key) != "l/1" {
		t.Errorf("locked %v", r)
	}
}

func TestLocksOverJSON(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	if code, r := n.post("/v3/lock/lock", `{"name":"bA==","lease":"1"}`); code != 200 || r["key"] != "bC8x" {
		t.Errorf("lock: %d %v", code, r)
	}
	if code, r := n.post("/v3/lock/unlock", `{"key":"bC8x"}`); code != 200 || len(n.keys("")) != 0 {
		t.Errorf("unlock: %d %v", code, r)
	}
}
