package member

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/kv"
)

// handClock is a clock that a test moves. It is read by the member all the time, so it also goes by itself.
type handClock struct {
	began time.Time
	ahead atomic.Int64
}

func newHandClock() *handClock { return &handClock{began: time.Now()} }

func (c *handClock) now() time.Duration { return time.Since(c.began) + time.Duration(c.ahead.Load()) }

// jump moves it at once.
func (c *handClock) jump(d time.Duration) { c.ahead.Add(int64(d)) }

// fast makes the time of a member's leases run ten times as fast.
func fast(c *Config) {
	began := time.Now()
	c.Clock = func() time.Duration { return 10 * time.Since(began) }
}

func grant(m *Member, id, ttl int64) (kv.Lease, error) {
	res, err := m.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.LeaseGrant{ID: id, TTL: ttl}}})
	if err != nil {
		return kv.Lease{}, err
	}
	return res.Ops[0].Leases[0], nil
}

func (m *testMember) grant(id, ttl int64, keys ...string) int64 {
	m.t.Helper()
	l, err := grant(m.Member, id, ttl)
	if err != nil {
		m.t.Fatalf("grant: %v", err)
	}
	for _, k := range keys {
		m.attach(l.ID, k)
	}
	return l.ID
}

func (m *testMember) attach(id int64, key string) {
	m.t.Helper()
	if _, err := m.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Lease: id}}}); err != nil {
		m.t.Fatalf("put %s under %d: %v", key, id, err)
	}
}

func renew(m *Member, id int64) (kv.Lease, error) {
	res, err := m.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.LeaseKeepAlive{ID: id}}})
	if err != nil {
		return kv.Lease{}, err
	}
	return res.Ops[0].Leases[0], nil
}

func (m *testMember) left(id int64) kv.Lease {
	m.t.Helper()
	p, err := m.Read(context.Background(), kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: id}}})
	if err != nil {
		m.t.Fatalf("time left of %d: %v", id, err)
	}
	return p.Ops[0].Leases[0]
}

func (m *testMember) gone(key string) bool {
	_, there := m.get(key)
	return !there
}

func TestLeaseEndsWithItsKeysAfterItsTime(t *testing.T) {
	m := start(t, t.TempDir(), quiet, fast)
	long := m.grant(7, 4000, "c")
	began := m.cfg.Clock()
	short := m.grant(0, 12, "a", "b") // 1.2 s, in which both are put even where a sync takes long
	if short <= 0 {
		t.Errorf("the id chosen is %d, want a positive one", short)
	}
	within(t, 20*time.Second, "the lease ends", func() bool { return m.gone("a") })
	if took := m.cfg.Clock() - began; took < 12*time.Second {
		t.Errorf("ended after %s, its TTL is 12 s", took)
	}
	if !m.gone("b") || m.gone("c") {
		t.Error("a key stayed, or went that should not")
	}
	if l := m.left(short); l != (kv.Lease{ID: short, TTL: -1}) {
		t.Errorf("a lease that has ended: %+v", l)
	}
	if _, err := renew(m.Member, short); kv.CodeOf(err) != kv.LeaseNotFound {
		t.Errorf("renewal of a lease that has ended: %v", err)
	}
	if l := m.left(long); l.TTL > 4000 || l.TTL < 3000 || l.Granted != 4000 {
		t.Errorf("the other lease: %+v", l)
	}
	within(t, 10*time.Second, "it is counted", func() bool {
		leases, _, expired := m.lessor.count()
		return leases == 1 && expired == 1
	})
}

func TestRenewalsKeepALease(t *testing.T) {
	m := start(t, t.TempDir(), quiet, fast)
	id := m.grant(0, 12, "a")
	began := m.cfg.Clock()
	for m.cfg.Clock()-began < 30*time.Second {
		l, err := renew(m.Member, id)
		if err != nil || l != (kv.Lease{ID: id, TTL: 12, Granted: 12}) {
			t.Fatalf("renewal: %+v, %v", l, err)
		}
		time.Sleep(50 * time.Millisecond)
	}
	if m.gone("a") {
		t.Error("ended though it was renewed")
	}
	if _, renewed, _ := m.lessor.count(); renewed == 0 {
		t.Error("no renewal is counted")
	}
	applied := m.store.Applied()
	for range 10 {
		if _, err := renew(m.Member, id); err != nil {
			t.Fatal(err)
		}
	}
	if now := m.store.Applied(); now != applied {
		t.Errorf("renewals took the log from %d to %d", applied, now)
	}
	within(t, 20*time.Second, "it ends when it is renewed no more", func() bool { return m.gone("a") })
}

// A clock that leaps, or a process that is stopped for an hour, ends no lease: renewals come first.
func TestJumpOfTheClockEndsNoLease(t *testing.T) {
	clock := newHandClock()
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Clock = clock.now })
	id := m.grant(0, 60, "a")
	for _, by := range []time.Duration{time.Hour, -2 * time.Hour, 1000 * time.Hour} {
		clock.jump(by)
		time.Sleep(3 * leaseTick)
		if l := m.left(id); l.TTL < 50 || l.TTL > 60 || m.gone("a") {
			t.Errorf("after a jump by %s: %+v, key gone: %t", by, l, m.gone("a"))
		}
	}
	// In steps the same time does pass.
	for range 70 * (time.Second / leaseStep) {
		clock.jump(leaseStep)
		m.left(id)
	}
	within(t, 10*time.Second, "the lease ends", func() bool { return m.gone("a") })
}

func TestRestartGivesLeasesTheirFullTime(t *testing.T) {
	dir := t.TempDir()
	clock := newHandClock()
	hand := func(c *Config) { c.Clock = clock.now }
	m := start(t, dir, quiet, hand)
	id := m.grant(0, 100, "a")
	for range 60 * (time.Second / leaseStep) {
		clock.jump(leaseStep)
		m.left(id)
	}
	if l := m.left(id); l.TTL > 40 || l.TTL < 30 {
		t.Fatalf("after 60 s of 100: %+v", l)
	}
	m.close()
	m = start(t, dir, quiet, hand)
	if l := m.left(id); l.TTL < 95 || l.Granted != 100 {
		t.Errorf("after a restart: %+v, want about 100 s", l)
	}
	p, err := m.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: id, Keys: true}, kv.LeaseList{}}})
	if err != nil || fmt.Sprint(p.Ops[0].KVs[0].Key) != fmt.Sprint([]byte("a")) || p.Ops[1].Leases[0].ID != id {
		t.Errorf("keys and list after a restart: %+v, %v", p.Ops, err)
	}
}

// Who takes himself for the leader and is not, because another has taken office meanwhile, ends no lease and renews none.
func TestKeeperWhoseOfficeIsOverDoesNothing(t *testing.T) {
	clock := newHandClock()
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Clock = clock.now })
	id := m.grant(0, 5, "a")
	if err := m.lessor.assume(m.nonce.Load()+1, m.listLeases); err != nil {
		t.Fatal(err)
	}
	for range 10 * (time.Second / leaseStep) {
		clock.jump(leaseStep)
		m.lessor.inTime()
	}
	applied := m.store.Applied()
	if err := m.expireDue(t.Context()); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("revocation: %v, want no-leader", err)
	}
	for _, op := range []kv.Op{kv.LeaseKeepAlive{ID: id}, kv.LeaseTTL{ID: id}} {
		if _, err := m.keeper(t.Context(), op); kv.CodeOf(err) != kv.NoLeader {
			t.Errorf("%T: %v, want no-leader", op, err)
		}
	}
	if now := m.store.Applied(); now != applied || m.gone("a") {
		t.Errorf("the log went from %d to %d", applied, now)
	}
	// In office again it does.
	if err := m.lessor.assume(m.nonce.Load(), m.listLeases); err != nil {
		t.Fatal(err)
	}
	if l, err := renew(m.Member, id); err != nil || l.TTL != 5 {
		t.Errorf("renewal: %+v, %v", l, err)
	}
}

func TestWhatEndsAtOnceIsRevokedInBatches(t *testing.T) {
	clock := newHandClock()
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Clock = clock.now })
	const n = 2*revokeMost + 10
	ops := make([]kv.Command, n)
	for i := range ops {
		ops[i].Ops = []kv.Op{kv.LeaseGrant{ID: int64(i + 1), TTL: 30}, kv.Put{Key: fmt.Append(nil, "k", i), Lease: int64(i + 1)}}
	}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Each{Commands: ops}}}); err != nil {
		t.Fatal(err)
	}
	before, rev := m.store.Applied(), m.store.Revision()
	for range 31 * (time.Second / leaseStep) {
		clock.jump(leaseStep)
		m.lessor.inTime()
	}
	within(t, 20*time.Second, "all leases end", func() bool { leases, _, _ := m.lessor.count(); return leases == 0 })
	within(t, 10*time.Second, "all are counted", func() bool { _, _, expired := m.lessor.count(); return expired == n })
	if now := m.store.Revision(); now != rev+n {
		t.Errorf("%d revisions for %d leases", now-rev, n)
	}
	if entries := m.store.Applied() - before; entries > 10 {
		t.Errorf("%d log entries for %d leases", entries, n)
	}
}

func TestTimeOfALeaseInATransactionAndLocally(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	id := m.grant(0, 100, "a")
	txn := kv.Txn{
		Compares: []kv.Compare{{Key: []byte("a"), Target: kv.TargetLease, Num: id}},
		Then:     []kv.Op{kv.LeaseTTL{ID: id, Keys: true}, kv.LeaseTTL{ID: id + 1}}, Else: []kv.Op{kv.LeaseTTL{ID: id + 2}},
	}
	for _, q := range []kv.Query{{Ops: []kv.Op{txn}}, {Ops: []kv.Op{txn}, MaxAge: kv.Unlimited, LocalOnly: true}} {
		p, err := m.Read(t.Context(), q)
		if err != nil {
			t.Fatal(err)
		}
		then := p.Ops[0].Ops
		if !p.Ops[0].Succeeded || len(then) != 2 || then[0].Leases[0].TTL > 100 || then[0].Leases[0].TTL < 80 || len(then[0].KVs) != 1 || then[1].Leases[0].TTL != -1 {
			t.Errorf("got %+v", p.Ops[0])
		}
	}
}

// childRenews renews a lease of 2 s again and again, as fast as a client does, and says how that goes.
func childRenews(m *Member) {
	l, err := grant(m, 0, 2)
	for ; err == nil; time.Sleep(100 * time.Millisecond) {
		fmt.Println("renewed")
		_, err = renew(m, l.ID)
	}
	fmt.Println("lost:", err)
	os.Exit(1)
}

// A process that is stopped for longer than a lease lives, member and client alike, goes on as if nothing had been.
func TestStoppedProcessEndsNoLease(t *testing.T) {
	t.Parallel()
	p := startChild(t, "renew", t.TempDir())
	renewals := func(n int) {
		t.Helper()
		for range n {
			if !p.out.Scan() || !strings.HasPrefix(p.out.Text(), "renewed") {
				t.Fatalf("the child says %q\n%s", p.out.Text(), p.err)
			}
		}
	}
	renewals(3)
	if err := p.Process.Signal(syscall.SIGSTOP); err != nil {
		t.Fatal(err)
	}
	time.Sleep(2500 * time.Millisecond) // this is what it is about: real time that passes
	if err := p.Process.Signal(syscall.SIGCONT); err != nil {
		t.Fatal(err)
	}
	renewals(15) // what was said before the stop, and beyond it
}

func TestMetricsCountLeases(t *testing.T) {
	r := prometheus.NewRegistry()
	m := start(t, t.TempDir(), quiet, fast, func(c *Config) { c.Metrics = r })
	id := m.grant(0, 1000)
	m.grant(0, 1000)
	m.grant(0, 2)
	for range 3 {
		if _, err := renew(m.Member, id); err != nil {
			t.Fatal(err)
		}
	}
	if _, err := renew(m.Member, id+1); err == nil {
		t.Fatal("a lease that is not there was renewed")
	}
	within(t, 20*time.Second, "the short one ends", func() bool { return gathered(t, r)["holdfast_member_leases_expired_total"] == 1 })
	got := gathered(t, r)
	for name, want := range map[string]float64{"leases": 2, "lease_renewals_total": 3} {
		if v, ok := got["holdfast_member_"+name]; !ok || v != want {
			t.Errorf("%s is %v, %t, want %v", name, v, ok, want)
		}
	}
}
