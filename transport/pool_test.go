package transport

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// pooled is a node with a pool that answers like echo.
type pooled struct {
	*node
	*Pool
	stopPool func()

	mu     sync.Mutex
	states []LinkState
	served int // connections that Serve saw and that have not ended
}

func (w *world) pool(name string, opts ...func(*PoolOptions)) *pooled {
	w.t.Helper()
	return w.poolOn(w.start(name), opts...)
}

// poolOn is pool on a node that runs.
func (w *world) poolOn(n *node, opts ...func(*PoolOptions)) *pooled {
	w.t.Helper()
	p := &pooled{node: n}
	o := PoolOptions{
		Protocol: Raft,
		Serve: func(ctx context.Context, c *Conn) {
			p.count(1)
			defer p.count(-1)
			echo(ctx, c)
		},
		OnState: func(s LinkState) {
			p.mu.Lock()
			defer p.mu.Unlock()
			p.states = append(p.states, s)
		},
		Rand: rand.New(rand.NewPCG(1, 2)),
	}
	for _, f := range opts {
		f(&o)
	}
	var err error
	if p.Pool, err = NewPool(p.Endpoint, o); err != nil {
		w.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- p.Pool.Run(ctx) }()
	p.stopPool = sync.OnceFunc(func() {
		cancel()
		if err := <-done; err != nil {
			w.t.Errorf("pool of %s: %v", n.Node(), err)
		}
	})
	w.t.Cleanup(p.stopPool)
	return p
}

func (p *pooled) count(n int) {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.served += n
}

func (p *pooled) serving() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.served
}

// seen is the sequence of states that the pool reported, with how the connection came about.
func (p *pooled) seen() []string {
	p.mu.Lock()
	defer p.mu.Unlock()
	var all []string
	for _, s := range p.states {
		text := string(s.State)
		if s.Conn != nil && s.Conn.Dialed() {
			text += " dialed"
		}
		all = append(all, text)
	}
	return all
}

// both makes two pools that know each other's address.
func (w *world) both() (a, b *pooled) {
	a, b = w.pool("a"), w.pool("b")
	a.Set(map[string][]string{b.id.Node(): {"b:2380"}})
	b.Set(map[string][]string{a.id.Node(): {"a:2380"}})
	return a, b
}

// joined reports whether both ends have a connection, the same one, and no other.
func joined(a, b *pooled) bool {
	ca, cb := a.Conn(b.id.Node()), b.Conn(a.id.Node())
	return ca != nil && cb != nil && ca.Err() == nil && cb.Err() == nil && ca.Dialed() != cb.Dialed() &&
		a.Counters().Open == 1 && b.Counters().Open == 1
}

func mustAsk(t *testing.T, p *pooled, node string) {
	t.Helper()
	c := p.Conn(node)
	if c == nil {
		t.Fatalf("no connection to %s", node)
	}
	if got, err := ask(c, "x", time.Minute); err != nil || got != "x" {
		t.Errorf("answer %q, %v", got, err)
	}
}

func TestSimultaneousDialsSettleOnTheSmallerNodesConnection(t *testing.T) {
	for _, delay := range []time.Duration{5 * time.Millisecond, 200 * time.Millisecond, time.Second} {
		for seed := range uint64(5) {
			bubble(t, seed, func(t *testing.T, w *world) {
				w.net.Link("a", "b").Delay(delay).Loss(float64(seed) * 0.03)
				a, b := w.both()
				time.Sleep(time.Minute)
				if !joined(a, b) {
					t.Fatalf("delay %v, seed %d: a has %+v, b has %+v", delay, seed, a.Health(), b.Health())
				}
				if c := a.Conn(b.id.Node()); seed == 0 && c.Dialed() != (a.id.Node() < b.id.Node()) {
					t.Errorf("delay %v, seed %d: the larger node's connection was kept", delay, seed)
				}
				mustAsk(t, a, b.id.Node())
				mustAsk(t, b, a.id.Node())
				if a.serving() != 1 || b.serving() != 1 {
					t.Errorf("a serves %d, b serves %d connections, want 1 each", a.serving(), b.serving())
				}
			})
		}
	}
}

// TestCrossedConnectionsSettleOnOne lets both ends finish a connection, in every order: a pool alone avoids that where
// it can.
func TestCrossedConnectionsSettleOnOne(t *testing.T) {
	for seed := range uint64(20) {
		bubble(t, seed, func(t *testing.T, w *world) {
			rng := rand.New(rand.NewPCG(seed, 0))
			delay := func() time.Duration { return time.Duration(1+rng.IntN(400)) * time.Millisecond }
			w.net.OneWay("a", "b").Delay(delay())
			w.net.OneWay("b", "a").Delay(delay())
			a, b := w.pool("a"), w.pool("b")
			a.Set(map[string][]string{b.id.Node(): nil})
			b.Set(map[string][]string{a.id.Node(): nil})
			open := func(p *pooled, to string, wait time.Duration) {
				time.Sleep(wait)
				target := w.target(to)
				target.Early = seed%2 == 0
				c, err := p.Dial(t.Context(), Raft, target)
				if err != nil {
					return // the other one was kept already
				}
				p.Pool.mu.Lock()
				l := p.links[target.Node]
				p.Pool.mu.Unlock()
				if kept, old := l.offer(c); kept {
					supersede(old)
					echo(c.Context(), c)
				}
			}
			go open(a, "b", 0)
			go open(b, "a", time.Duration(rng.IntN(300))*time.Millisecond)
			time.Sleep(handshakeMax)
			if !joined(a, b) {
				t.Fatalf("seed %d: a has %+v, b has %+v", seed, a.Health(), b.Health())
			}
			mustAsk(t, a, b.id.Node())
			mustAsk(t, b, a.id.Node())
		})
	}
}

func TestConnectionThatThePeerOpenedServesBothWays(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pool("a"), w.pool("b")
		a.Set(map[string][]string{b.id.Node(): {"b:2380"}})
		b.Set(map[string][]string{a.id.Node(): nil}) // behind a NAT: no address
		time.Sleep(time.Second)
		mustAsk(t, b, a.id.Node())
		if c := b.Conn(a.id.Node()); c.Dialed() {
			t.Error("dialed a node without an address")
		}
	})
}

func TestPeerThatNobodyNamedIsTakenAndForgottenAgain(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pool("a"), w.pool("b")
		a.Set(map[string][]string{b.id.Node(): {"b:2380"}})
		time.Sleep(time.Second)
		mustAsk(t, b, a.id.Node())
		a.Set(nil)
		time.Sleep(time.Second)
		if links := b.Links(); len(links) != 0 {
			t.Errorf("b still has %+v", links)
		}
		if links := a.Links(); len(links) != 0 {
			t.Errorf("a still has %+v", links)
		}
		if got := b.seen(); !slices.Equal(got, []string{"up", "down"}) {
			t.Errorf("b saw %v", got)
		}
	})
}

func TestLinkComesBackAfterAPartition(t *testing.T) {
	for _, cut := range []time.Duration{10 * time.Second, 30 * time.Second, 10 * time.Minute} {
		bubble(t, 1, func(t *testing.T, w *world) {
			a, b := w.both()
			time.Sleep(time.Minute)
			w.net.Cut("a", "b")
			_ = a.Conn(b.id.Node()).SendDatagram([]byte("x"))
			took := eventually(t, 2*time.Second, "lost", func() bool { return a.Links()[0].State != Up })
			if took > 1100*time.Millisecond {
				t.Errorf("lost after %v", took)
			}
			time.Sleep(cut)
			w.net.Heal("a", "b")
			took = eventually(t, time.Minute, "joined again", func() bool { return joined(a, b) && a.Links()[0].State == Up && b.Links()[0].State == Up })
			t.Logf("cut for %v: back after %v", cut, took)
			if limit := defaultMaxBackoff + handshakeMax; took > limit {
				t.Errorf("cut for %v: back after %v, want at most %v", cut, took, limit)
			}
			mustAsk(t, a, b.id.Node())
			mustAsk(t, b, a.id.Node())
		})
	}
}

func TestBackoffStaysWithinItsBounds(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		const low, high = 200 * time.Millisecond, 2 * time.Second
		b := w.start("b") // serves nothing: each dial fails within a round trip
		a := w.pool("a", func(o *PoolOptions) { o.MinBackoff, o.MaxBackoff = low, high })
		var dials []time.Time
		var last uint64
		a.Set(map[string][]string{b.id.Node(): {"b:2380"}})
		for range 30_000 {
			if n := a.Counters().Dials; n != last {
				last = n
				dials = append(dials, time.Now())
			}
			time.Sleep(time.Millisecond)
		}
		var gaps []time.Duration
		for i := 1; i < len(dials); i++ {
			gaps = append(gaps, dials[i].Sub(dials[i-1]))
		}
		bound := low
		for i, gap := range gaps {
			if gap < bound/2 || gap > bound+50*time.Millisecond {
				t.Errorf("gap %d is %v, want %v to %v", i, gap, bound/2, bound)
			}
			bound = min(2*bound, high)
		}
		if s := a.Links()[0]; len(gaps) < 15 || s.State != Down || s.Fails != len(dials) || !errors.Is(s.Err, ErrProtocol) || s.Next.IsZero() {
			t.Errorf("%d gaps, state %+v", len(gaps), s)
		}
		distinct := slices.Compact(slices.Sorted(slices.Values(gaps[5:])))
		if len(distinct) < 5 {
			t.Errorf("gaps are not jittered: %v", gaps)
		}
	})
}

// TestAnOlderConnectionIsKeptUntilANewerOneHasLasted: whoever has the peer's identity may open one, and be sent away by who serves it.
func TestAnOlderConnectionIsKeptUntilANewerOneHasLasted(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pool("a"), w.pool("b")
		b.Set(map[string][]string{a.id.Node(): {w.net.Addr("a")}})
		time.Sleep(time.Minute)
		first := a.Conn(b.id.Node())
		second, err := b.Dial(t.Context(), Raft, w.target("a"))
		if err != nil {
			t.Fatal(err)
		}
		eventually(t, time.Second, "the newer one is used", func() bool { c := a.Conn(b.id.Node()); return c != nil && c != first })
		l := a.linkLocked(b.id.Node())
		l.finish(l.current()) // as run does if it hears of the end before settle does
		second.CloseWithError(CodeDone, "")
		eventually(t, time.Second, "the older one is used again", func() bool { return a.Conn(b.id.Node()) == first })
		time.Sleep(2 * settling)
		if first.Err() != nil {
			t.Fatalf("the older one has ended: %v", first.Err())
		}
		if _, err = b.Dial(t.Context(), Raft, w.target("a")); err != nil {
			t.Fatal(err)
		}
		time.Sleep(2 * settling)
		if c := a.Conn(b.id.Node()); c == first || c.Err() != nil || first.Err() == nil {
			t.Error("the newer one lasts, and has not taken the place of the older")
		}
	})
}

func TestPeerThatMovesIsFoundAtItsNewAddress(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pool("a"), w.pool("b")
		a.Set(map[string][]string{b.id.Node(): {w.net.Addr("b")}})
		time.Sleep(time.Minute)
		mustAsk(t, a, b.id.Node())
		b.stopPool()
		b.kill()
		old := w.net.Addr("b")
		b2addr := w.net.Move("b")
		b2 := w.pool("b")
		_ = a.Conn(b.id.Node()).SendDatagram([]byte("x"))
		time.Sleep(30 * time.Second)
		if s := a.Links()[0]; s.State == Up {
			t.Fatalf("still up at %s: %+v", old, s)
		}
		start := time.Now()
		a.Set(map[string][]string{b.id.Node(): {b2addr}})
		took := eventually(t, time.Minute, "joined at the new address", func() bool { return joined(a, b2) })
		if took > 500*time.Millisecond {
			t.Errorf("took %v since %v", took, start)
		}
		mustAsk(t, b2, a.id.Node())
	})
}

func TestRestartedPeerIsBackSoon(t *testing.T) {
	for _, restarts := range []string{"smaller", "larger"} {
		for _, age := range []time.Duration{2 * time.Second, time.Minute} { // within the time of crossing, and after
			bubble(t, 1, func(t *testing.T, w *world) {
				a, b := w.both()
				if (restarts == "larger") != (a.id.Node() < b.id.Node()) {
					a, b = b, a
				}
				time.Sleep(age)
				if !joined(a, b) {
					t.Fatal("not joined")
				}
				name := "b"
				if w.ids["a"] == b.id {
					name = "a"
				}
				b.stopPool = func() {}
				b.kill()
				b = w.pool(name)
				b.Set(map[string][]string{a.id.Node(): {map[string]string{"a": "b:2380", "b": "a:2380"}[name]}})
				took := eventually(t, time.Minute, "joined again", func() bool { return joined(a, b) })
				t.Logf("%s restarts after %v: joined after %v", restarts, age, took)
				if took > time.Second {
					t.Errorf("%s restarts after %v: joined after %v", restarts, age, took)
				}
				mustAsk(t, a, b.id.Node())
			})
		}
	}
}

// TestRestartedPeerAtAnotherAddressIsTaken: nobody answers at the old one any more, not even with a reset.
func TestRestartedPeerAtAnotherAddressIsTaken(t *testing.T) {
	for _, restarts := range []string{"smaller", "larger"} {
		for age, limit := range map[time.Duration]time.Duration{
			2 * time.Second: 3 * time.Second, // may have crossed: the old one must be lost first
			time.Minute:     time.Second,
		} {
			bubble(t, 1, func(t *testing.T, w *world) {
				a, b := w.both()
				stays, goes, name, other := a, b, "b", "a"
				if (restarts == "larger") != (a.id.Node() < b.id.Node()) {
					stays, goes, name, other = b, a, "a", "b"
				}
				time.Sleep(age)
				goes.stopPool = func() {}
				goes.kill()
				w.net.Move(name)
				back := w.pool(name)
				back.Set(map[string][]string{stays.id.Node(): {other + ":2380"}})
				took := eventually(t, time.Minute, "joined again", func() bool { return joined(stays, back) })
				if took > limit {
					t.Errorf("%s restarts after %v: joined after %v", restarts, age, took)
				}
			})
		}
	}
}

// TestLostLinkIsDialedAnew: the peer has moved, does not know where we are, and nobody tells us.
func TestLostLinkIsDialedAnew(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pool("a"), w.pool("b")
		a.Set(map[string][]string{b.id.Node(): {"b:2380"}})
		time.Sleep(time.Minute)
		b.stopPool = func() {}
		b.kill()
		w.net.Move("b")
		back := w.pool("b")
		a.Conn(b.id.Node()).Probe()
		took := eventually(t, time.Minute, "joined again", func() bool { return joined(a, back) })
		if limit := lostAtLeast + redialAfter + time.Second; took > limit {
			t.Errorf("joined after %v, want %v", took, limit)
		}
		synctest.Wait() // for the report
		if got := a.seen(); !slices.Equal(got, []string{"up dialed", "lost dialed", "up dialed"}) {
			t.Errorf("saw %v", got)
		}
	})
}

func TestRefusedPeerIsReportedWithTheReason(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		b := w.start("b", func(c *Config) { c.Allowed = func(PeerInfo) error { return Removed } })
		b.Listen(Raft, echo)
		a := w.pool("a")
		a.Set(map[string][]string{b.id.Node(): {"b:2380"}})
		time.Sleep(5 * time.Second)
		if s := a.Links()[0]; s.State != Down || !errors.Is(s.Err, Removed) {
			t.Errorf("state %+v", s)
		}
		if got := a.seen(); slices.Contains(got, "up dialed") {
			t.Errorf("was up before it was refused: %v", got)
		}
	})
}

func TestPoolOfManyAllMeet(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		const n = 7
		var all []*pooled
		peers := make(map[string][]string)
		for i := range n {
			name := fmt.Sprintf("n%d", i)
			for j := range i {
				w.net.Link(name, fmt.Sprintf("n%d", j)).Delay(time.Duration(20*(i+j)) * time.Millisecond).Loss(0.02)
			}
			p := w.pool(name)
			all = append(all, p)
			peers[p.id.Node()] = []string{name + ":2380"}
		}
		for _, p := range all {
			p.Set(peers) // itself is left out
		}
		time.Sleep(time.Minute)
		for _, p := range all {
			if k := p.Counters(); k.Open != n-1 || len(p.Links()) != n-1 {
				t.Errorf("%d connections and %d links, want %d", k.Open, len(p.Links()), n-1)
			}
			for _, q := range all {
				if p != q {
					mustAsk(t, p, q.id.Node())
				}
			}
		}
	})
}

func TestStoppedPoolTakesAndKeepsNothing(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.both()
		time.Sleep(time.Second)
		b.stopPool()
		synctest.Wait()
		if b.serving() != 0 || b.Counters().Open != 0 {
			t.Errorf("still serving %d of %d", b.serving(), b.Counters().Open)
		}
		time.Sleep(time.Minute)
		if s := a.Links()[0]; s.State == Up || a.Conn(b.id.Node()) != nil && a.Conn(b.id.Node()).Err() == nil {
			t.Errorf("a has %+v", s)
		}
	})
}
