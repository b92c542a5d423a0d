package member

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// manualClock is a clock that only a test moves.
type manualClock struct{ now atomic.Int64 }

func (c *manualClock) read() time.Duration     { return time.Duration(c.now.Load()) }
func (c *manualClock) advance(d time.Duration) { c.now.Add(int64(d)) }

func clocked(c *manualClock) func(*Config) { return func(cfg *Config) { cfg.Clock = c.read } }

func TestReadProvesItsAge(t *testing.T) {
	clock := &manualClock{}
	m := start(t, t.TempDir(), quiet, clocked(clock))
	m.put("k", "v")
	read := func(q kv.Query) kv.Page {
		t.Helper()
		q.Ops = get("k").Ops
		p, err := m.Read(t.Context(), q)
		if err != nil || len(p.Ops[0].KVs) != 1 {
			t.Fatalf("%+v: %+v, %v", q, p, err)
		}
		return p
	}
	if p := read(kv.Query{}); p.Age != 0 || p.Source != kv.SourceMember {
		t.Errorf("linearizable: age %s, source %s", p.Age, p.Source)
	}
	clock.advance(3 * time.Second)
	if p := read(kv.Query{MaxAge: 5 * time.Second}); p.Age != 3*time.Second {
		t.Errorf("bounded by 5 s, 3 s after a round: age %s, want 3s", p.Age)
	}
	if p := read(kv.Query{MaxAge: 2 * time.Second}); p.Age != 0 {
		t.Errorf("bounded by 2 s, 3 s after a round: age %s, want a new round", p.Age)
	}
	clock.advance(time.Hour)
	if p := read(kv.Query{MaxAge: kv.Unlimited, LocalOnly: true}); p.Age != time.Hour {
		t.Errorf("local, an hour after a round: age %s", p.Age)
	}
	if p := read(kv.Query{MaxAge: kv.Unlimited}); p.Age != time.Hour {
		t.Errorf("unlimited, an hour after a round: age %s", p.Age)
	}
}

func TestReadWaitsForARevision(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	rev := m.put("k", "1")
	q := get("k")
	q.MinRevision, q.Wait = rev+1, 10*time.Second
	done := make(chan error, 1)
	go func() {
		p, err := m.Read(t.Context(), q)
		if err == nil && (p.Revision < rev+1 || string(p.Ops[0].KVs[0].Value) != "2") {
			err = fmt.Errorf("read %+v", p)
		}
		done <- err
	}()
	m.put("k", "2")
	if err := <-done; err != nil {
		t.Error(err)
	}
	q.MinRevision, q.Wait = rev+10, 10*time.Millisecond
	_, err := m.Read(t.Context(), q)
	if e, ok := errors.AsType[*kv.Error](err); !ok || e.Code != kv.RevisionTimeout || e.Revision != rev+1 {
		t.Errorf("%v, want a revision timeout at %d", err, rev+1)
	}
}

// TestReadJoinsOnlyRoundsNotYetSent is the heart of linearizable reads: a read that arrives while a round is under way
// gets another one.
func TestReadJoinsOnlyRoundsNotYetSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		var taken atomic.Int64
		release := make(chan struct{})
		r := newRounds(func() time.Duration { return time.Since(begun) }, func(ctx context.Context, sent func()) error {
			sent()
			taken.Add(1)
			<-release
			return nil
		})
		ctx, cancel := context.WithCancel(t.Context())
		var runs, reads sync.WaitGroup
		runs.Go(func() { _ = r.run(ctx) })
		for i := range roundsAtOnce { // each comes while the ones before are under way
			reads.Go(func() { _ = r.join(ctx) })
			synctest.Wait()
			if got := taken.Load(); got != int64(i+1) {
				t.Errorf("read %d: %d rounds were sent", i, got)
			}
		}
		for range 100 { // all workers are busy: these share one
			reads.Go(func() { _ = r.join(ctx) })
		}
		synctest.Wait()
		if got := taken.Load(); got != roundsAtOnce {
			t.Errorf("%d rounds were sent while %d were under way", got, roundsAtOnce)
		}
		time.Sleep(time.Second)
		close(release)
		reads.Wait()
		if got := taken.Load(); got != roundsAtOnce+1 {
			t.Errorf("%d rounds were sent for all, want %d", got, roundsAtOnce+1)
		}
		if age := r.age(); age != 0 {
			t.Errorf("age %s right after a round", age)
		}
		cancel()
		runs.Wait()
		if err := r.join(t.Context()); kv.CodeOf(err) != kv.Stopping {
			t.Errorf("a read of a stopped member: %v", err)
		}
	})
}

func TestAgeCountsFromWhenTheRoundWasSent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begun := time.Now()
		r := newRounds(func() time.Duration { return time.Since(begun) }, func(ctx context.Context, sent func()) error {
			time.Sleep(time.Second) // turned away once
			sent()
			time.Sleep(2 * time.Second)
			return nil
		})
		if r.age() != kv.AgeUnknown {
			t.Error("an age is known before any round")
		}
		ctx, cancel := context.WithCancel(t.Context())
		var runs sync.WaitGroup
		runs.Go(func() { _ = r.run(ctx) })
		if err := r.join(ctx); err != nil {
			t.Error(err)
		}
		if age := r.age(); age != 2*time.Second {
			t.Errorf("age %s at the end of a round that took 2 s, want 2s", age)
		}
		cancel()
		runs.Wait()
	})
}

// leaderless makes a member believe that its leader was lost a while ago.
func leaderless(m *testMember, clock *manualClock, since time.Duration) {
	l := m.leader
	l.mu.Lock()
	defer l.mu.Unlock()
	l.now.replica = 0
	l.lost = clock.read() - since
}

func TestWithoutALeaderReadsDegradeAsFarAsAllowed(t *testing.T) {
	clock := &manualClock{}
	clock.advance(time.Hour)
	m := start(t, t.TempDir(), quiet, clocked(clock))
	m.put("k", "v")
	m.get("k")
	clock.advance(time.Minute)
	leaderless(m, clock, 10*time.Second)
	ops := get("k").Ops
	for _, c := range []struct {
		name string
		q    kv.Query
		want kv.Code
		age  time.Duration
	}{
		{"linearizable", kv.Query{}, kv.NoLeader, 0},
		{"bounded", kv.Query{MaxAge: 5 * time.Second}, kv.NoLeader, 0},
		{"bounded, young enough", kv.Query{MaxAge: time.Hour}, kv.OK, time.Minute},
		{"auto", kv.Query{MaxAge: 5 * time.Second, StaleIfError: time.Hour}, kv.OK, time.Minute},
		{"auto, too old", kv.Query{MaxAge: 5 * time.Second, StaleIfError: 30 * time.Second}, kv.StalenessExceeded, 0},
		{"local", kv.Query{MaxAge: kv.Unlimited, LocalOnly: true}, kv.OK, time.Minute},
	} {
		c.q.Ops = ops
		p, err := m.Read(t.Context(), c.q)
		if kv.CodeOf(err) != c.want || err == nil && p.Age != c.age {
			t.Errorf("%s: age %s, %v, want %s and %s", c.name, p.Age, err, c.want, c.age)
		}
	}
	if _, err := m.Do(t.Context(), put("k", "w")); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("write: %v, want no leader", err)
	}
}

func TestCallWaitsForAnElection(t *testing.T) {
	clock := &manualClock{}
	m := start(t, t.TempDir(), quiet, clocked(clock))
	now, _ := m.leader.get()
	leaderless(m, clock, 0)
	done := make(chan error, 1)
	go func() {
		_, err := m.Do(t.Context(), put("k", "v"))
		done <- err
	}()
	select {
	case err := <-done:
		t.Fatalf("answered without a leader: %v", err)
	case <-time.After(20 * time.Millisecond):
	}
	m.leader.LeaderUpdated(leaderUpdate(now))
	if err := <-done; err != nil {
		t.Errorf("after the election: %v", err)
	}
}

func TestCallerThatGivesUpLearnsWhatIsKnown(t *testing.T) {
	clock := &manualClock{}
	m := start(t, t.TempDir(), quiet, clocked(clock))
	leaderless(m, clock, 0)
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Millisecond)
	defer cancel()
	if _, err := m.Do(ctx, put("k", "v")); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("given up before it was sent: %v, want no leader", err)
	}
	if _, err := m.Read(ctx, get("k")); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("read given up: %v, want no leader", err)
	}
}

func TestCommandGivenUpOnceSentIsUnknown(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	unknown := 0
	for i := range 100 { // the answer may come first
		_, err := m.Do(ctx, put(fmt.Sprint(i), "v"))
		switch kv.CodeOf(err) {
		case kv.OutcomeUnknown:
			unknown++
		case kv.OK:
		default:
			t.Fatalf("put %d: %v", i, err)
		}
	}
	if unknown == 0 {
		t.Error("no outcome was unknown")
	}
}

func TestWatchSeesEveryChangeAndEndsWithTheMember(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	key, end := kv.PrefixRange([]byte("w/"))
	spec := kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: key, End: end, From: 2}}}
	got := make(chan kv.Event, 100)
	ended := make(chan error, 1)
	go func() {
		for b, err := range m.Watch(t.Context(), spec) {
			if err != nil {
				ended <- err
				return
			}
			if b.Member != 1 || b.Epoch.IsZero() {
				t.Errorf("header %+v", b.Header)
			}
			for _, e := range b.Events {
				got <- e
			}
		}
		ended <- nil
	}()
	for i := range 50 {
		m.put(fmt.Sprintf("w/%02d", i), "v")
	}
	for i := range 50 {
		select {
		case e := <-got:
			if want := fmt.Sprintf("w/%02d", i); string(e.KV.Key) != want {
				t.Fatalf("event %d is of %s, want %s", i, e.KV.Key, want)
			}
		case <-time.After(10 * time.Second):
			t.Fatalf("event %d did not come", i)
		}
	}
	m.close()
	select {
	case err := <-ended:
		if kv.CodeOf(err) != kv.Stopping {
			t.Errorf("the stream ended with %v, want stopping", err)
		}
	case <-time.After(10 * time.Second):
		t.Error("the stream did not end with the member")
	}
}

// collected keeps what a pushed stream brings.
type collected struct {
	events chan kv.Event
	ended  chan error
}

func (c *collected) Bring(b kv.Batch) (more bool) {
	if b.Member != 1 || b.Epoch.IsZero() {
		c.ended <- fmt.Errorf("header %+v", b.Header)
	}
	for _, e := range b.Events {
		c.events <- e
	}
	return true
}

func (c *collected) End(err error) { c.ended <- err }

func TestAPushedStreamSeesChangesAndEndsWithTheMember(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	to := &collected{events: make(chan kv.Event, 10), ended: make(chan error, 10)}
	p, err := m.Push(t.Context(), kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte("w"), From: 2}}}, to)
	if err != nil {
		t.Fatal(err)
	}
	p.Start()
	for i := range 10 {
		m.put("w", fmt.Sprint(i))
		if e := <-to.events; string(e.KV.Value) != fmt.Sprint(i) {
			t.Fatalf("got %s, want %d", e.KV.Value, i)
		}
	}
	m.close()
	if err := <-to.ended; kv.CodeOf(err) != kv.Stopping {
		t.Errorf("the stream ended with %v, want stopping", err)
	}
}
