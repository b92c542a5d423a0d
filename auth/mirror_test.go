package auth

import (
	"cmp"
	"context"
	"iter"
	"log/slog"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// cluster answers a Mirror.
type cluster struct {
	mu     sync.Mutex
	policy *Policy
	err    error
	full   int // answers with the whole policy
}

func (c *cluster) ask(_ context.Context, q kv.Query) (kv.Page, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.err != nil {
		return kv.Page{}, c.err
	}
	op, _ := only[kv.ReadAuth](q.Ops)
	res, err := c.policy.Answer(op)
	c.full += len(res.KVs)
	return kv.Page{Ops: []kv.OpResult{res}}, err
}

// become changes how the cluster answers from now on.
func (c *cluster) become(p *Policy, err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.policy, c.err = p, err
}

func (c *cluster) whole() int {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.full
}

// box is the machine of a Mirror: its file, and a clock that goes with the bubble's.
type box struct {
	mu     sync.Mutex
	kept   []byte
	writes int
	began  time.Time
	behind time.Duration // how far the wall clock is behind

	offline time.Duration // for which a policy is good without the cluster, 0 for 160 hours
}

func (b *box) mirror(c *cluster) *Mirror {
	kept, _ := b.has()
	return NewMirror(MirrorOptions{
		Node: testNode, Ask: c.ask, Kept: kept,
		Keep: func(content []byte) error {
			b.mu.Lock()
			defer b.mu.Unlock()
			b.kept = slices.Clone(content)
			b.writes++
			return nil
		},
		Clock:      func() time.Duration { return time.Since(b.began) },
		Now:        func() time.Time { return time.Now().Add(-b.behind) },
		MaxOffline: cmp.Or(b.offline, 160*time.Hour),
		Log:        slog.New(slog.DiscardHandler),
	})
}

// has is the file, and how often it was written.
func (b *box) has() ([]byte, int) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.kept, b.writes
}

// runs runs a Mirror until the test of it ends.
func runs(t *testing.T, m *Mirror) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	done := make(chan struct{})
	go func() {
		defer close(done)
		m.Run(ctx)
	}()
	return func() {
		cancel()
		<-done
	}
}

func TestAMirrorJudgesAsTheClusterDoesUntilItIsTooOld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := &box{began: time.Now()}, &cluster{policy: shop(t)}
		m := b.mirror(c)
		if _, known := m.Source().Policy(); known {
			t.Error("a policy is known before there was one")
		}
		m.FirstWithin(t.Context(), time.Second)
		stop := runs(t, m)
		p, known := m.Source().Policy()
		if !known || !p.Enabled() || p.HasKey() || p.PermitsWatch(by(p, "reader"), []byte("b"), nil) != nil {
			t.Fatalf("the mirrored policy is %+v", p)
		}
		time.Sleep(24 * time.Hour)
		if age, _ := m.Age(); age > mirrorEvery || c.whole() != 1 {
			t.Errorf("after a day with the cluster: age %v, sent whole %d times", age, c.whole())
		}
		if _, writes := b.has(); writes > 1+mirrorsKept {
			t.Errorf("a policy that stays the same was written %d times in a day", writes)
		}
		c.become(nil, kv.Errorf(kv.UpstreamUnavailable, "gone"))
		time.Sleep(159 * time.Hour)
		if err := m.Source().Stale(); err != nil {
			t.Errorf("before auth.max-offline: %v", err)
		}
		time.Sleep(2 * time.Hour)
		if err := m.Source().Stale(); kv.CodeOf(err) != kv.AuthStale {
			t.Errorf("after auth.max-offline: %v, want %v", err, kv.AuthStale)
		}
		stop()

		b.behind = 10000 * time.Hour // the battery of the clock is empty, and it starts anew
		m = b.mirror(c)
		time.Sleep(20 * time.Hour)
		if err := m.Source().Stale(); kv.CodeOf(err) != kv.AuthStale {
			t.Errorf("a restart without a clock has made the policy young: %v", err)
		}
		c.become(p, nil)
		defer runs(t, m)()
		time.Sleep(2 * mirrorEvery)
		if err := m.Source().Stale(); err != nil {
			t.Errorf("with the cluster again: %v", err)
		}
	})
}

// A policy that stays the same for long is as young as the cluster has confirmed it last, over a restart too.
func TestAMirrorThatIsConfirmedStaysYoung(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := &box{began: time.Now()}, &cluster{policy: shop(t)}
		m := b.mirror(c)
		m.FirstWithin(t.Context(), time.Second)
		stop := runs(t, m)
		time.Sleep(1000*time.Hour + time.Minute)
		stop()
		if age, known := b.mirror(c).Age(); !known || age > mirrorEvery {
			t.Errorf("after a restart its age is %v", age)
		}
	})
}

// However short the time is for which a policy is good without the cluster, with it a node does not forget who may do what.
func TestAMirrorWithLittleTimeAsksInTime(t *testing.T) {
	for _, offline := range []time.Duration{10 * time.Second, time.Minute, mirrorEvery} {
		synctest.Test(t, func(t *testing.T) {
			b, c := &box{began: time.Now(), offline: offline}, &cluster{policy: shop(t)}
			m := b.mirror(c)
			m.FirstWithin(t.Context(), time.Second)
			stop := runs(t, m)
			for end := time.Now().Add(time.Hour); time.Now().Before(end); time.Sleep(time.Second) {
				if err := m.Source().Stale(); err != nil {
					t.Fatalf("with auth.max-offline %v: %v", offline, err)
				}
			}
			stop()
			if whole := c.whole(); whole != 1 {
				t.Errorf("the policy was sent whole %d times", whole)
			}
		})
	}
}

// A box without a clock that is switched off each evening does not begin anew each morning.
func TestAMirrorAgesOverManyShortRuns(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := &box{began: time.Now()}, &cluster{policy: shop(t)}
		b.mirror(c).FirstWithin(t.Context(), time.Second)
		c.become(nil, kv.Errorf(kv.UpstreamUnavailable, "gone"))
		const each = 8 * time.Hour // less than what is lost by a power cut
		for range 21 {
			m := b.mirror(c)
			stop := runs(t, m)
			time.Sleep(each)
			stop()
			b.behind += each // the clock stands where it was
		}
		if err := b.mirror(c).Source().Stale(); kv.CodeOf(err) != kv.AuthStale {
			t.Errorf("after %v without the cluster: %v, want %v", 21*each, err, kv.AuthStale)
		}
	})
}

func TestAMirrorTakesAChangeOverWhenItHearsOfIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := &box{began: time.Now()}, &cluster{policy: shop(t)}
		m := b.mirror(c)
		m.FirstWithin(t.Context(), time.Second)
		defer runs(t, m)()
		changed := m.Source().Changed()
		p, _, err := shop(t).Change(kv.SetDevice{ID: "d1"})
		if err != nil {
			t.Fatal(err)
		}
		m.Heard(shop(t).Text()) // what it has
		c.become(p, nil)
		m.Heard(p.Text())
		synctest.Wait()
		select {
		case <-changed:
		default:
			t.Error("nobody was told")
		}
		if got, _ := m.Source().Policy(); got.Text() != p.Text() {
			t.Errorf("the policy is %s, want %s", got.Text(), p.Text())
		}
		if m := b.mirror(c); m.at.Load().text != p.Text() {
			t.Error("after a restart the device is back")
		}
	})
}

func TestADamagedMirrorLetsNothingThrough(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := &box{began: time.Now()}, &cluster{policy: shop(t)}
		b.mirror(c).FirstWithin(t.Context(), time.Second)
		b.kept[len(b.kept)/2] ^= 1
		m := b.mirror(c)
		if err := m.Source().Stale(); kv.CodeOf(err) != kv.AuthStale {
			t.Fatalf("damaged: %v, want %v", err, kv.AuthStale)
		}
		if _, known := m.Age(); known {
			t.Error("a damaged policy has an age")
		}
		defer runs(t, m)()
		time.Sleep(2 * mirrorEvery)
		if err := m.Source().Stale(); err != nil {
			t.Errorf("once the cluster has answered: %v", err)
		}
	})
}

func TestAMirrorOfAClusterWithoutPoliciesLetsEverythingThroughAndDoesNotAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		b, c := &box{began: time.Now()}, &cluster{err: kv.Errorf(kv.Unsupported, "what is that")}
		m := b.mirror(c)
		m.FirstWithin(t.Context(), time.Second)
		time.Sleep(1000 * time.Hour)
		if p, known := m.Source().Policy(); !known || p.Enabled() || m.Source().Stale() != nil {
			t.Errorf("policy %+v, known %t, stale %v", p, known, m.Source().Stale())
		}
		c.become(shop(t), nil)
		_ = m.ask(t.Context())
		c.become(nil, kv.Errorf(kv.Unsupported, "what is that")) // an answer that cannot be: it does not turn authentication off
		if err := m.ask(t.Context()); err == nil {
			t.Error("a policy was given up")
		}
		if p, _ := m.Source().Policy(); !p.Enabled() {
			t.Error("authentication is off")
		}
	})
}

func TestAFormerMemberGoesOnWithItsPolicy(t *testing.T) {
	b, c := &box{began: time.Now()}, &cluster{err: kv.Errorf(kv.UpstreamUnavailable, "gone")}
	o := b.mirror(c).o
	o.From = shop(t)
	m := NewMirror(o)
	if p, known := m.Source().Policy(); !known || !p.Enabled() || p.HasKey() {
		t.Errorf("policy %+v, known %t", p, known)
	}
	if b.writes != 1 {
		t.Error("it is not kept")
	}
}

// behind notes what comes through a Guard.
type behind struct {
	did  []kv.Command
	read []kv.Query
}

func (b *behind) Do(_ context.Context, c kv.Command) (kv.Result, error) {
	b.did = append(b.did, c)
	return kv.Result{}, nil
}

func (b *behind) Read(_ context.Context, q kv.Query) (kv.Page, error) {
	b.read = append(b.read, q)
	return kv.Page{}, nil
}

func (b *behind) Watch(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(func(kv.Batch, error) bool) {}
}

// proxied is a Guard with a mirrored policy, and what is behind it.
func proxied(t *testing.T, p *Policy) (*Guard, *behind) {
	t.Helper()
	b, c := &box{began: time.Now()}, &cluster{policy: p}
	m := b.mirror(c)
	m.FirstWithin(t.Context(), time.Second)
	n := &behind{}
	return NewGuard(n, m.Source, Options{}), n
}

func writes(key string, w kv.Write, by kv.By) kv.Command {
	return kv.Command{By: by, Write: w, Ops: []kv.Op{kv.Put{Key: []byte(key)}}}
}

func TestAProxysGuardNamesWhoAsksAndShowsRootsToken(t *testing.T) {
	p := shop(t)
	dev := &kv.Device{Name: "pump", Verbs: kv.VerbPut, Prefixes: []string{"q/"}, Share: 3}
	id, token := NewDevice(dev)
	p = changed(t, p, kv.SetDevice{ID: id, Device: dev})
	g, n := proxied(t, p)

	if _, err := g.Do(t.Context(), writes("q/1", kv.WriteQueue, kv.By{Token: "Bearer " + token})); err != nil {
		t.Fatal(err)
	}
	if got := n.did[0]; got.By.Token != "" || got.By.Principal != kv.DevicePrincipal+id || got.Device != got.By.Principal || got.Share != 3<<10 {
		t.Errorf("queued by %+v, device %q with %d bytes", got.By, got.Device, got.Share)
	}
	if _, err := g.Do(t.Context(), writes("r/1", kv.WriteQueue, kv.By{Token: token})); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("outside its prefix: %v", err)
	}

	root, err := p.Sign("root", time.Now(), time.Hour)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := g.Do(t.Context(), writes("x", kv.WriteAuto, kv.By{Token: root})); err != nil {
		t.Fatal(err)
	}
	if got := n.did[1]; got.By.Token != root || got.Write != kv.WriteSync {
		t.Errorf("root's write goes on as %+v, %v", got.By, got.Write)
	}
	if _, err := g.Do(t.Context(), writes("x", kv.WriteQueue, kv.By{Token: root})); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("root's write into a queue: %v", err)
	}
	if _, err := g.Read(t.Context(), kv.Query{By: kv.By{Token: root}, Ops: []kv.Op{kv.Range{Key: []byte("x")}}}); err != nil {
		t.Fatal(err)
	}
	if got := n.read[0].By.Token; got != root {
		t.Errorf("root's read goes on with the token %q", got)
	}
	if _, err := g.Do(t.Context(), writes("x", kv.WriteSync, kv.By{})); kv.CodeOf(err) != kv.UserEmpty {
		t.Errorf("nobody's write: %v", err)
	}
}

// changed is a policy after one more change.
func changed(t *testing.T, p *Policy, op kv.Op) *Policy {
	t.Helper()
	next, _, err := p.Change(op)
	if err != nil {
		t.Fatal(err)
	}
	return next
}

func TestADeviceKeepsToItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		dev := &kv.Device{Name: "pump", Verbs: kv.VerbsAll, Prefixes: []string{""}, Rate: 10}
		id, token := NewDevice(dev)
		g, n := proxied(t, changed(t, shop(t), kv.SetDevice{ID: id, Device: dev}))
		send := func() (refused int) {
			for range 30 {
				if _, err := g.Do(t.Context(), writes("a", kv.WriteSync, kv.By{Token: token})); err != nil {
					if kv.CodeOf(err) != kv.RateLimited {
						t.Fatal(err)
					}
					refused++
				}
			}
			return refused
		}
		if got := send(); got != 20 {
			t.Errorf("%d of 30 at once were refused, want 20", got)
		}
		time.Sleep(500 * time.Millisecond)
		if got := send(); got != 25 {
			t.Errorf("after half a second %d were refused, want 25", got)
		}
		time.Sleep(time.Hour)
		if got := send(); got != 20 {
			t.Errorf("after an hour %d were refused, want 20: what was not used does not add up", got)
		}
		if len(n.did) != 25 {
			t.Errorf("%d came through, want 25", len(n.did))
		}
		if at, ok := g.LastSeen()[id]; !ok || time.Since(at) > time.Second {
			t.Errorf("last seen %v", at)
		}
	})
}

func TestAMirrorAnswersTheNodesBelowIt(t *testing.T) {
	p := shop(t)
	g, n := proxied(t, p)
	self := kv.By{Principal: kv.NodePrincipal + testNode, Node: testNode}
	page, err := g.Read(t.Context(), kv.Query{By: self, Ops: []kv.Op{kv.ReadAuth{What: kv.AuthPolicy}}})
	if err != nil || len(page.Ops) != 1 || len(page.Ops[0].KVs) != 1 || len(n.read) != 0 {
		t.Fatalf("%+v, %v; asked above: %d", page.Ops, err, len(n.read))
	}
	if got, err := Decode(page.Ops[0].KVs[0].Value); err != nil || got.Text() != p.Text() {
		t.Errorf("got %v, %v", got.Text(), err)
	}
	other := kv.By{Principal: kv.NodePrincipal + testNode, Node: "ff"}
	if _, err := g.Read(t.Context(), kv.Query{By: other, Ops: []kv.Op{kv.ReadAuth{What: kv.AuthPolicy}}}); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("a node that asks as another: %v", err)
	}
}

func TestAStaleGuardLetsNobodyThroughButTheSocket(t *testing.T) {
	n := &behind{}
	stale := kv.Errorf(kv.AuthStale, "too old")
	g := NewGuard(n, func() Source {
		return Source{Policy: func() (*Policy, bool) { return shop(t), true }, Stale: func() error { return stale }}
	}, Options{})
	if _, err := g.Do(t.Context(), writes("a", kv.WriteQueue, kv.By{Principal: "both"})); kv.CodeOf(err) != kv.AuthStale {
		t.Errorf("a write: %v", err)
	}
	if _, err := g.Read(t.Context(), kv.Query{By: kv.By{Principal: "both"}, MaxAge: kv.Unlimited, Ops: []kv.Op{kv.Range{Key: []byte("a")}}}); kv.CodeOf(err) != kv.AuthStale {
		t.Errorf("a read: %v", err)
	}
	for _, err := range g.Watch(t.Context(), kv.WatchSpec{}) {
		if kv.CodeOf(err) != kv.AuthStale {
			t.Errorf("a watch: %v", err)
		}
	}
	if len(n.did)+len(n.read) != 0 {
		t.Error("something came through")
	}
	if _, err := g.Read(t.Context(), kv.Query{By: kv.By{Principal: kv.RootName}, Ops: []kv.Op{kv.ReadAuth{What: kv.AuthRoot}}}); err != nil {
		t.Errorf("the administration socket: %v", err)
	}
}
