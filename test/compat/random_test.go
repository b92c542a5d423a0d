package compat

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"os"
	"strconv"
	"strings"
	"sync"
	"testing"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/protobuf/proto"
)

// smokeOps is how many operations the random test sends if OPS does not say: a few seconds' worth.
const smokeOps = 3000

// TestRandomOperationsAnswerAlike sends the same random operations to both sides, one after the other, and compares each
// answer, and at the end what watches have seen all the while.
func TestRandomOperationsAnswerAlike(t *testing.T) {
	t.Parallel()
	seed, n := environment(t, "SEED", int(time.Now().UnixNano()&0xffffffff)), environment(t, "OPS", smokeOps)
	fmt.Printf("random operations: SEED=%d OPS=%d\n", seed, n)
	p := newPair(t)
	g := &generator{Rand: rand.New(rand.NewPCG(uint64(seed), 1)), rev: 1}
	watches := map[*side][]*watched{}
	for _, s := range []*side{p.etcd, p.subject} {
		c := dial(t, s.addr)
		for _, opts := range [][]clientv3.OpOption{
			{clientv3.WithFromKey(), clientv3.WithPrevKV()}, {clientv3.WithRange("d")}, {clientv3.WithFromKey(), clientv3.WithFilterPut()},
			{clientv3.WithFromKey(), clientv3.WithFilterDelete(), clientv3.WithFragment()},
		} {
			watches[s] = append(watches[s], newWatched(t, c, opts))
		}
	}
	etcd, subject := dial(t, p.etcd.addr), dial(t, p.subject.addr)
	var recent []string
	for i := range n {
		op := g.next()
		var a, b proto.Message
		var aErr, bErr error
		var wg sync.WaitGroup
		wg.Go(func() { a, aErr = op.send(t.Context(), etcd) })
		wg.Go(func() { b, bErr = op.send(t.Context(), subject) })
		wg.Wait()
		recent = append(recent[max(0, len(recent)-10):], fmt.Sprintf("%d: %s %s", i, op.name, dump(op.request)))
		if d := diff(op.told(a, aErr), op.told(b, bErr)); d != "" {
			t.Fatalf("SEED=%d: operation %d is answered differently:\n%s\nafter\n%s", seed, i, d, strings.Join(recent, "\n"))
		}
		g.learn(op, a, aErr)
	}
	for i := range watches[p.etcd] {
		a, b := watches[p.etcd][i].until(t, g.rev), watches[p.subject][i].until(t, g.rev)
		if len(a) == 0 {
			t.Errorf("SEED=%d: watch %d saw nothing", seed, i)
		}
		if d := diff(strings.Join(a, "\n"), strings.Join(b, "\n")); d != "" {
			t.Errorf("SEED=%d: watch %d saw something else:\n%s", seed, i, d)
		}
	}
	t.Logf("%d operations to revision %d, %d refused", n, g.rev, g.refused)
	if g.refused > n/3 || g.rev < int64(n/5) {
		t.Errorf("SEED=%d: too little happened", seed)
	}
}

func environment(t *testing.T, name string, otherwise int) int {
	t.Helper()
	text := os.Getenv(name)
	if text == "" {
		return otherwise
	}
	v, err := strconv.Atoi(text)
	if err != nil {
		t.Fatalf("%s: %v", name, err)
	}
	return v
}

// told is the answer as it is compared.
func (o operation) told(m proto.Message, err error) string {
	if err != nil {
		return told(err)
	}
	return told(m)
}

// watched collects what a watch sees, from the beginning on.
type watched struct {
	mu     sync.Mutex
	events []string
	rev    int64
	err    error

	progress func() error
}

func newWatched(t *testing.T, c *clientv3.Client, opts []clientv3.OpOption) *watched {
	t.Helper()
	w := &watched{}
	ctx, cancel := context.WithCancel(context.Background())
	ch := c.Watch(ctx, "a", append(opts, clientv3.WithRev(2))...)
	w.progress = func() error { return c.RequestProgress(ctx) }
	done := make(chan struct{})
	go func() {
		defer close(done)
		for r := range ch {
			w.take(r)
		}
	}()
	t.Cleanup(func() {
		cancel()
		<-done
	})
	return w
}

func (w *watched) take(r clientv3.WatchResponse) {
	w.mu.Lock()
	defer w.mu.Unlock()
	if err := r.Err(); err != nil {
		w.err = err
		return
	}
	if r.Header.GetRevision() < w.rev {
		w.err = fmt.Errorf("the watch went back from revision %d to %d", w.rev, r.Header.GetRevision())
	}
	w.rev = r.Header.GetRevision()
	for _, e := range r.Events {
		w.events = append(w.events, dump(e))
	}
}

// until waits until the watch has been told of a revision, and returns what it saw.
func (w *watched) until(t *testing.T, rev int64) []string {
	t.Helper()
	for end := time.Now().Add(30 * time.Second); ; time.Sleep(50 * time.Millisecond) {
		if err := w.progress(); err != nil {
			t.Fatal(err)
		}
		w.mu.Lock()
		events, at, err := w.events, w.rev, w.err
		w.mu.Unlock()
		if err == nil && at < rev && time.Now().After(end) {
			err = errors.New("it does not get on")
		}
		if err != nil {
			t.Fatalf("watch at revision %d of %d: %v", at, rev, err)
		}
		if at >= rev {
			return events
		}
	}
}

// operation is a request of any kind.
type operation struct {
	name    string
	request proto.Message
}

func (o operation) send(ctx context.Context, c *clientv3.Client) (proto.Message, error) {
	ctx, cancel := context.WithTimeout(ctx, commandLimit)
	defer cancel()
	conn := c.ActiveConnection()
	switch r := o.request.(type) {
	case *pb.RangeRequest:
		return pb.NewKVClient(conn).Range(ctx, r)
	case *pb.PutRequest:
		return pb.NewKVClient(conn).Put(ctx, r)
	case *pb.DeleteRangeRequest:
		return pb.NewKVClient(conn).DeleteRange(ctx, r)
	case *pb.TxnRequest:
		return pb.NewKVClient(conn).Txn(ctx, r)
	case *pb.CompactionRequest:
		return pb.NewKVClient(conn).Compact(ctx, r)
	case *pb.LeaseGrantRequest:
		return pb.NewLeaseClient(conn).LeaseGrant(ctx, r)
	case *pb.LeaseRevokeRequest:
		return pb.NewLeaseClient(conn).LeaseRevoke(ctx, r)
	case *pb.LeaseTimeToLiveRequest:
		a, err := pb.NewLeaseClient(conn).LeaseTimeToLive(ctx, r)
		if err != nil {
			return nil, err
		}
		// The time that is left is nobody's business, and the keys come in no order.
		return &pb.LeaseTimeToLiveResponse{Header: a.Header, ID: a.ID, GrantedTTL: a.GrantedTTL, Keys: sorted(a.Keys)}, nil
	default:
		return nil, fmt.Errorf("no such operation: %T", r)
	}
}
