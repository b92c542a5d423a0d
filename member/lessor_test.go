package member

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/mvcc"
)

// keeping is a lessor in office 1 with leases of the TTLs given, whose ids are 1 and on, and a clock that stands still.
func keeping(t *testing.T, ttls ...int64) (l *lessor, pass func(time.Duration)) {
	t.Helper()
	var now time.Duration
	l = newLessor(func() time.Duration { return now })
	var there []kv.Lease
	for i, ttl := range ttls {
		there = append(there, kv.Lease{ID: int64(i + 1), Granted: ttl})
	}
	if err := l.assume(1, func() ([]kv.Lease, error) { return there, nil }); err != nil {
		t.Fatal(err)
	}
	return l, func(d time.Duration) {
		for ; d > 0; d -= leaseStep {
			now += min(d, leaseStep)
			l.inTime()
		}
	}
}

func ids(due []*lease) string {
	s := ""
	for _, x := range due {
		s += fmt.Sprint(x.id, " ")
	}
	return s
}

func TestLeastTTLFollowsFromTheElectionTimeout(t *testing.T) {
	ticks := 3 * electionTicks / 2
	if least := time.Duration(ticks*tickMillis) * time.Millisecond; (least+time.Second-1)/time.Second != mvcc.MinLeaseTTL {
		t.Errorf("one and a half election timeouts are %s, the least TTL is %d s", least, mvcc.MinLeaseTTL)
	}
}

func TestLeasesAreDueInOrderAndInBatches(t *testing.T) {
	l, pass := keeping(t, 30, 10, 20, 10, mvcc.MaxLeaseTTL)
	pass(9999 * time.Millisecond)
	if _, due := l.due(9); len(due) > 0 {
		t.Errorf("due early: %s", ids(due))
	}
	pass(time.Hour)
	office, due := l.due(3)
	if office != 1 || len(due) != 3 || due[2].id != 3 || due[0].id+due[1].id != 6 {
		t.Errorf("office %d, due %s", office, ids(due))
	}
	_, rest := l.due(3)
	if ids(rest) != "1 " {
		t.Errorf("then due %s, want 1: the others are being revoked, and the longest is not over", ids(rest))
	}
	l.told(1, 0)
	l.settle(1, rest)
	l.settle(1, due)
	if leases, _, expired := l.count(); leases != 4 || expired != 1 {
		t.Errorf("%d leases, %d have ended", leases, expired)
	}
	if _, again := l.due(9); len(again) > 0 {
		t.Errorf("tried again at once: %s", ids(again))
	}
	pass(leaseRetry)
	if _, again := l.due(9); len(again) != 3 {
		t.Errorf("tried again: %s", ids(again))
	}
}

func TestLeaseWhoseRenewalHasArrivedIsNotDue(t *testing.T) {
	l, pass := keeping(t, 10, 10)
	release := l.hold(1)
	again := l.hold(1)
	pass(11 * time.Second)
	if _, due := l.due(9); ids(due) != "2 " {
		t.Errorf("due %s, want 2", ids(due))
	}
	release()
	if x, wait, err := l.renew(1, 1); err != nil || wait != nil || x.TTL != 10 {
		t.Errorf("renewal: %+v, %v", x, err)
	}
	pass(9 * time.Second)
	if x, err := l.left(1, 1); err != nil || x.TTL != 1 {
		t.Errorf("left %+v, %v", x, err)
	}
	again()
	pass(time.Second)
	if _, due := l.due(9); ids(due) != "1 " {
		t.Errorf("due %s, want 1", ids(due))
	}
	if x, err := l.left(1, 1); err != nil || x.TTL != 0 {
		t.Errorf("over, and has left %+v, %v", x, err)
	}
}

func TestRenewalThatIsTooLateWaitsForTheRevocation(t *testing.T) {
	for name, decide := range map[string]func(l *lessor, due []*lease){
		"revoked":     func(l *lessor, due []*lease) { l.told(1, 0); l.settle(1, due) },
		"not revoked": func(l *lessor, due []*lease) { l.settle(1, due) },
		"resigned":    func(l *lessor, due []*lease) { l.resign(); l.settle(1, due) },
	} {
		t.Run(name, func(t *testing.T) {
			l, pass := keeping(t, 10)
			pass(11 * time.Second)
			_, due := l.due(9)
			_, wait, err := l.renew(1, 1)
			if wait == nil || err != nil {
				t.Fatalf("renewed while it is being revoked: %v", err)
			}
			decide(l, due)
			select {
			case <-wait:
			default:
				t.Fatal("the renewal waits on")
			}
			_, _, err = l.renew(1, 1)
			want := map[string]kv.Code{"revoked": kv.LeaseNotFound, "not revoked": kv.OK, "resigned": kv.NoLeader}[name]
			if kv.CodeOf(err) != want {
				t.Errorf("then: %v, want %v", err, want)
			}
		})
	}
}

func TestTakingOfficeMissesNoLease(t *testing.T) {
	l := newLessor(func() time.Duration { return 0 })
	l.told(9, 100) // before: it is in the list, or gone
	err := l.assume(1, func() ([]kv.Lease, error) {
		l.told(1, 0)   // ended while the list was made
		l.told(3, 30)  // begun, and not in it
		l.told(4, 40)  // begun and ended
		l.told(4, 0)   //
		l.told(2, 0)   // begun anew
		l.told(2, 200) //
		return []kv.Lease{{ID: 1, Granted: 10}, {ID: 2, Granted: 20}, {ID: 4, Granted: 40}, {ID: 5, Granted: 50}}, nil
	})
	if err != nil {
		t.Fatal(err)
	}
	l.told(6, 60)
	for id, want := range map[int64]int64{1: -1, 2: 200, 3: 30, 4: -1, 5: 50, 6: 60, 9: -1} {
		if x, err := l.left(1, id); err != nil || x.TTL != want {
			t.Errorf("lease %d has left %+v, %v; want %d", id, x, err, want)
		}
	}
	if err := l.assume(2, func() ([]kv.Lease, error) { return nil, errTest }); !errors.Is(err, errTest) {
		t.Errorf("an office without the leases: %v", err)
	}
	if office, _ := l.inOffice(); office != 1 {
		t.Errorf("office %d", office)
	}
	_, changed := l.inOffice()
	l.resign()
	select {
	case <-changed:
	default:
		t.Error("nobody is told of the resignation")
	}
	if _, err := l.left(1, 5); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("time left, out of office: %v", err)
	}
	if office, due := l.due(9); office != 0 || len(due) > 0 {
		t.Error("something is due out of office")
	}
}

func TestTimeOfLeasesPassesInSmallSteps(t *testing.T) {
	var now time.Duration
	l := newLessor(func() time.Duration { return now })
	if err := l.assume(1, func() ([]kv.Lease, error) { return []kv.Lease{{ID: 1, Granted: 100}}, nil }); err != nil {
		t.Fatal(err)
	}
	for i, step := range []struct {
		by   time.Duration
		left int64
	}{{0, 100}, {time.Hour, 99}, {-2 * time.Hour, 99}, {leaseStep, 99}, {time.Minute, 98}, {1, 98}} {
		now += step.by
		if x, err := l.left(1, 1); err != nil || x.TTL != step.left {
			t.Errorf("step %d: left %+v, %v; want %d", i, x, err, step.left)
		}
	}
}

// asked runs asks over a leader that answers with f.
func asked(t *testing.T, f func(ctx context.Context, leader uint64, b []byte) ([]byte, error), test func(t *testing.T, a *asks)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		a := newAsks(f)
		ctx, cancel := context.WithCancel(t.Context())
		var wg sync.WaitGroup
		wg.Go(func() { _ = a.run(ctx) })
		test(t, a)
		cancel()
		wg.Wait()
		if _, err := a.ask(t.Context(), 1, kv.LeaseKeepAlive{ID: 1}, nil); kv.CodeOf(err) != kv.Stopping {
			t.Errorf("asked after the end: %v", err)
		}
	})
}

func TestQuestionsBeyondTheLimitAreRefused(t *testing.T) {
	asked(t, func(ctx context.Context, _ uint64, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }, func(t *testing.T, a *asks) {
		var wg sync.WaitGroup
		ask := func() {
			wg.Go(func() {
				if _, err := a.ask(t.Context(), 1, kv.LeaseKeepAlive{ID: 1}, nil); kv.CodeOf(err) != kv.NoLeader && kv.CodeOf(err) != kv.Stopping {
					t.Errorf("got %v", err)
				}
			})
		}
		for range askSenders { // each of the senders has one
			ask()
			synctest.Wait()
		}
		for range maxAsking {
			ask()
		}
		synctest.Wait()
		if _, err := a.ask(t.Context(), 1, kv.LeaseKeepAlive{ID: 1}, nil); kv.CodeOf(err) != kv.Busy {
			t.Errorf("one more: %v, want busy", err)
		}
		time.Sleep(100 * askTimeout) // by and by all are given up
		wg.Wait()
	})
}

func TestQuestionIsGivenUpWhenTheLeaderChanges(t *testing.T) {
	asked(t, func(ctx context.Context, _ uint64, _ []byte) ([]byte, error) { <-ctx.Done(); return nil, ctx.Err() }, func(t *testing.T, a *asks) {
		changed := make(chan struct{})
		time.AfterFunc(time.Second, func() { close(changed) })
		began := time.Now()
		if _, err := a.ask(t.Context(), 1, kv.LeaseKeepAlive{ID: 1}, changed); kv.CodeOf(err) != kv.NoLeader || time.Since(began) != time.Second {
			t.Errorf("%v after %s", err, time.Since(began))
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := a.ask(ctx, 1, kv.LeaseKeepAlive{ID: 1}, nil); kv.CodeOf(err) != kv.NoLeader {
			t.Errorf("%v when the caller gives up", err)
		}
		time.Sleep(askTimeout)
	})
}

// What another member answers is not taken on trust.
func TestAnswersOfAnotherShapeAreNone(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	good := m.answerAsked
	for name, answer := range map[string][]byte{
		"nothing":         nil,
		"garbage":         []byte("garbage"),
		"a refusal":       good(t.Context(), nil),
		"too few answers": good(t.Context(), oneQuestion(kv.LeaseTTL{ID: 7}, 0)),
		"too many":        good(t.Context(), oneQuestion(kv.LeaseTTL{ID: 7}, 2)),
	} {
		asked(t, func(context.Context, uint64, []byte) ([]byte, error) { return answer, nil }, func(t *testing.T, a *asks) {
			if l, err := a.ask(context.Background(), 1, kv.LeaseTTL{ID: 7}, nil); err == nil {
				t.Errorf("%s: %+v", name, l)
			}
		})
	}
	for name, request := range map[string][]byte{
		"a put":             oneQuestion(kv.Put{Key: []byte("k")}, 1),
		"a write":           oneQuestion(kv.LeaseRevoke{ID: 7}, 1),
		"too many at once":  oneQuestion(kv.LeaseTTL{ID: 7}, maxAsked+1),
		"not a question":    []byte("garbage"),
		"a command of many": manyOps(),
	} {
		rev := m.store.Revision()
		if len(good(t.Context(), request)) > AskMax || m.store.Revision() != rev {
			t.Errorf("%s: the answer is too long, or it was done", name)
		}
	}
	if n := len(good(t.Context(), oneQuestion(kv.LeaseKeepAlive{ID: -1 << 63}, maxAsked))); n > AskMax {
		t.Errorf("the longest answer has %d bytes, %d travel", n, AskMax)
	}
}

func oneQuestion(op kv.Op, times int) []byte {
	var each kv.Each
	for range times {
		each.Commands = append(each.Commands, kv.Command{Ops: []kv.Op{op}})
	}
	return wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{each}})
}

func manyOps() []byte {
	return wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.LeaseTTL{ID: 1}, kv.LeaseTTL{ID: 1}}})
}

// inTime looks at the clock, as every call does.
func (l *lessor) inTime() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.pass()
}
