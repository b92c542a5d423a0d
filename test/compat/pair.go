package compat

import (
	"context"
	"os"
	"sync"
	"testing"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"go.uber.org/zap"
)

// subjectName is what is compared with etcd.
func subjectName() string {
	if os.Getenv("SUBJECT") == "etcd" {
		return "etcd again"
	}
	return "agent"
}

// pair is etcd and what is compared with it.
type pair struct{ etcd, subject *side }

// newPair starts both, empty. They end with the test.
func newPair(t testing.TB) *pair {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	return newPairWith(t, b.ctl)
}

func newPairWith(t testing.TB, ctl string) *pair {
	t.Helper()
	ref, sub := kinds(t)
	p := &pair{etcd: newSide(t, ref, ctl), subject: newSide(t, sub, ctl)}
	// Better one word now than a time-out for each row.
	c := dial(t, p.subject.addr)
	ctx, cancel := context.WithTimeout(t.Context(), 5*time.Second)
	defer cancel()
	if _, err := c.Get(ctx, "x"); err != nil {
		t.Fatalf("the agent does not answer etcd's Range: %v", err)
	}
	return p
}

func kinds(t testing.TB) (ref, sub kind) {
	t.Helper()
	b, err := built()
	if err != nil {
		t.Fatal(err)
	}
	ref, sub = etcdKind(b), agentKind(b)
	if subjectName() != "agent" {
		sub = ref
		sub.name = subjectName()
	}
	return ref, sub
}

// withDest gives each side a second server of its kind.
func (p *pair) withDest(t testing.TB) {
	t.Helper()
	ref, sub := kinds(t)
	p.etcd.dest, p.subject.dest = ref.start(t), sub.start(t)
}

// both does something on both sides at once.
func (p *pair) both(do func(s *side) error) (etcd, subject error) {
	var wg sync.WaitGroup
	wg.Go(func() { etcd = do(p.etcd) })
	wg.Go(func() { subject = do(p.subject) })
	wg.Wait()
	return etcd, subject
}

// dial makes a client that ends with the test. It says nothing.
func dial(t testing.TB, addr string) *clientv3.Client {
	t.Helper()
	c, err := clientv3.New(clientv3.Config{Endpoints: []string{addr}, DialTimeout: 5 * time.Second, Logger: zap.NewNop()})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.Close() }) // it says that its context is canceled
	return c
}
