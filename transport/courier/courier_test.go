package courier

import (
	"bytes"
	"context"
	"encoding/binary"
	"math/rand/v2"
	"slices"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"
)

const testRTT = 50 * time.Millisecond

// lane is one way between two couriers: what is sent arrives after half a round trip, unless drop says no.
type lane struct {
	to   *post
	drop func() bool

	mu    sync.Mutex
	sent  int
	bytes int
	at    []time.Time
}

func (l *lane) SendDatagram(b []byte) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.sent++
	l.bytes += len(b)
	l.at = append(l.at, time.Now())
	if l.drop == nil || !l.drop() {
		time.AfterFunc(testRTT/2, func() { l.to.receive(b) })
	}
	return nil
}

func (l *lane) Quality() Quality { return Quality{RTT: testRTT} }

// post is a courier and what was handed over.
type post struct {
	*Courier
	t *testing.T

	mu   sync.Mutex
	got  map[uint64]time.Time // by number, when first
	more int                  // copies beyond the first
}

func (p *post) receive(b []byte) {
	_, messages, err := p.Receive(b)
	if err != nil {
		p.t.Error(err)
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	for _, m := range messages {
		n := binary.BigEndian.Uint64(m)
		if _, again := p.got[n]; again {
			p.more++
			continue
		}
		p.got[n] = time.Now()
	}
}

// came is when a message came first; zero: it has not.
func (p *post) came(n uint64) time.Time {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.got[n]
}

// count is how many have come.
func (p *post) count() int {
	p.mu.Lock()
	defer p.mu.Unlock()
	return len(p.got)
}

func newPost(t *testing.T, life byte, o Options) *post {
	o.Life = Life{life, 1, 2, 3}
	p := &post{Courier: New(o), t: t, got: make(map[uint64]time.Time)}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() { p.Run(ctx) })
	t.Cleanup(func() { cancel(); wg.Wait() })
	return p
}

// join makes n paths between two couriers, with a share of loss each way.
func join(a, b *post, n int, ab, ba func() bool) (there []*lane, detach func()) {
	var ends []func()
	for range n {
		out, back := &lane{to: b, drop: ab}, &lane{to: a, drop: ba}
		there = append(there, out)
		ends = append(ends, a.Attach(out), b.Attach(back))
	}
	time.Sleep(2 * testRTT)
	return there, func() {
		for _, end := range ends {
			end()
		}
	}
}

func losing(seed uint64, share float64) func() bool {
	var mu sync.Mutex                   // lanes share it
	r := rand.New(rand.NewPCG(seed, 1)) //nolint:gosec // a test
	return func() bool {
		mu.Lock()
		defer mu.Unlock()
		return r.Float64() < share
	}
}

func numbered(n uint64, size int) []byte {
	return append(binary.BigEndian.AppendUint64(nil, n), make([]byte, size-8)...)
}

func TestLostMessageComesAgainAfterAQuarterMoreThanARoundTrip(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		var lose atomic.Int32 // so many datagrams
		join(a, b, 1, func() bool { return lose.Add(-1) >= 0 }, nil)
		lose.Store(1)
		began := time.Now()
		if !a.Send(numbered(1, 100), Sure) {
			t.Fatal("not taken")
		}
		time.Sleep(time.Second)
		if took, want := b.came(1).Sub(began), testRTT*5/4+testRTT/2; took != want {
			t.Errorf("it came after %v, want %v", took, want)
		}
		if s := a.Stats(); s.RetriedCount != 1 || s.Waiting != 0 {
			t.Errorf("%d attempts after the first, %d still wait; want 1 and 0", s.RetriedCount, s.Waiting)
		}
		lose.Store(1)
		if !a.Send(numbered(2, 100), Once) {
			t.Fatal("not taken")
		}
		time.Sleep(time.Second)
		if !b.came(2).IsZero() {
			t.Error("what is sent once came although it was lost")
		}
	})
}

func TestLossDecidesTheCopies(t *testing.T) {
	for _, tc := range []struct {
		loss  float64
		level int
		least float64 // copies for each message
		most  float64
	}{{0, levelPlain, 0, 0}, {.02, levelTwo, .9, 1.1}, {.055, levelRepeat, .9, 1.3}, {.15, levelThree, 1.9, 2.2}} {
		synctest.Test(t, func(t *testing.T) {
			a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
			join(a, b, 2, losing(7, tc.loss), losing(8, tc.loss))
			n := uint64(0)
			send := func(count int) {
				for range count {
					n++
					if !a.Send(numbered(n, 100), Sure) {
						t.Fatal("not taken")
					}
					time.Sleep(10 * time.Millisecond)
				}
			}
			send(1000)
			s := a.Stats()
			if s.Level != tc.level || s.Bursty {
				t.Fatalf("loss %.3f: level %d, bursty %t with %.3f measured, want level %d", tc.loss, s.Level, s.Bursty, s.Loss, tc.level)
			}
			before := s.Copies
			send(500)
			perMessage := float64(a.Stats().Copies-before) / 500 / 125
			if perMessage < tc.least || perMessage > tc.most {
				t.Errorf("loss %.3f: %.2f copies for each message, want %.1f to %.1f", tc.loss, perMessage, tc.least, tc.most)
			}
			time.Sleep(5 * time.Second)
			if b.count() != int(n) {
				t.Errorf("loss %.3f: %d of %d messages came", tc.loss, b.count(), n)
			}
		})
	}
}

// TestLossIsSeenWhereMuchIsUnderWay sends 400 messages a second over 600 ms: a thousand datagrams are under way until the first of them is known to be lost.
func TestLossIsSeenWhereMuchIsUnderWay(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		slowingLink(a, b, 600*time.Millisecond, losing(4, .05))
		const count = 400 * 30
		n, seen := uint64(0), 0.0
		for range count {
			n++
			if !a.Send(numbered(n, 100), Sure) {
				t.Fatal("not taken")
			}
			if n > count/2 {
				seen += a.Stats().Loss / (count / 2)
			}
			time.Sleep(time.Second / 400)
		}
		if seen < .04 || seen > .06 {
			t.Errorf("%.3f measured on average, want 0.05", seen)
		}
		time.Sleep(2 * lifeMax)
		if b.count() != int(n) {
			t.Errorf("%d of %d messages came", b.count(), n)
		}
		time.Sleep(2 * idleAfter)
		a.Courier.mu.Lock()
		defer a.Courier.mu.Unlock()
		if kept := len(a.flights); kept > leastFlights {
			t.Errorf("room for %d datagrams is kept at rest, want %d", kept, leastFlights)
		}
	})
}

func TestLevelIsLeftAtHalfTheLoss(t *testing.T) {
	var m lossMeter
	for range 1000 {
		for range 24 {
			m.arrived()
		}
		m.lost(false) // 4 %
	}
	if m.level != levelRepeat || m.bursty {
		t.Fatalf("level %d at %.3f", m.level, m.share)
	}
	for range 1000 {
		for range 44 {
			m.arrived()
		}
		m.lost(false) // 2.2 %: below 3, above 1.5
	}
	if m.level != levelRepeat {
		t.Errorf("level %d at %.3f, want it kept", m.level, m.share)
	}
	for range 3 * lossReach {
		m.arrived()
	}
	if m.level > levelTwo {
		t.Errorf("level %d at %.4f", m.level, m.share)
	}
	for range 10 * lossReach {
		m.arrived()
	}
	if m.level != levelPlain {
		t.Errorf("level %d at %.4f, want none", m.level, m.share)
	}
}

func TestRunsOfLossesSpreadTheCopies(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		r := rand.New(rand.NewPCG(3, 3)) //nolint:gosec // a test
		run := 0
		var mu sync.Mutex // lanes share it
		there, _ := join(a, b, 2, func() bool {
			mu.Lock()
			defer mu.Unlock()
			if run > 0 {
				run--
				return true
			}
			if r.Float64() < 0.02 {
				run = 3
				return true
			}
			return false
		}, nil)
		for n := range uint64(3000) {
			a.Send(numbered(n+1, 100), Sure)
			time.Sleep(100 * time.Millisecond)
		}
		if s := a.Stats(); !s.Bursty {
			t.Fatalf("runs of four were not noticed: %+v", s)
		}
		var all []time.Time
		for _, l := range there {
			l.mu.Lock()
			all = append(all, l.at[len(l.at)-200:]...)
			l.mu.Unlock()
		}
		slices.SortFunc(all, time.Time.Compare)
		for i := range all[1:] {
			if gap := all[i+1].Sub(all[i]); gap < copyGapLeast {
				t.Fatalf("two datagrams %v apart", gap)
			}
		}
	})
}

func TestCopiesStayWithinTheBudget(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const budget = 10_000
		a, b := newPost(t, 1, Options{Budget: budget}), newPost(t, 2, Options{})
		join(a, b, 2, losing(1, .05), losing(2, .05))
		began := time.Now()
		n := uint64(0)
		for time.Since(began) < 20*time.Second {
			n++
			a.Send(numbered(n, 500), Sure)
			time.Sleep(5 * time.Millisecond)
		}
		s := a.Stats()
		if limit := uint64(21 * budget); s.Copies+s.Repeats > limit || s.Copies < limit/2 {
			t.Errorf("%d bytes of copies and repeats in 20 s, want at most %d and not much less", s.Copies+s.Repeats, limit)
		}
		time.Sleep(lifeMax)
		if b.count() != int(n) {
			t.Errorf("%d of %d messages came", b.count(), n)
		}
	})
}

func TestNoCopiesWhileSparing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var sparing atomic.Bool
		a, b := newPost(t, 1, Options{Sparing: sparing.Load}), newPost(t, 2, Options{})
		join(a, b, 2, losing(1, .05), losing(2, .05))
		n := uint64(0)
		send := func() uint64 {
			before := a.Stats()
			for range 2000 {
				n++
				a.Send(numbered(n, 500), Sure)
				time.Sleep(5 * time.Millisecond)
			}
			time.Sleep(lifeMax)
			s := a.Stats()
			return s.Copies + s.Repeats - before.Copies - before.Repeats
		}
		if send() == 0 {
			t.Fatal("no copies on a link that loses one in twenty")
		}
		sparing.Store(true)
		if bytes := send(); bytes != 0 {
			t.Errorf("%d bytes of copies and repeats", bytes)
		}
		if b.count() != int(n) {
			t.Errorf("%d of %d messages came", b.count(), n)
		}
	})
}

func TestMessagesForAnEarlierLifeAreNotDelivered(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		var lossBack atomic.Bool
		_, detach := join(a, b, 1, nil, lossBack.Load)
		lossBack.Store(true) // b has it, a does not know
		a.Send(numbered(1, 100), Sure)
		time.Sleep(testRTT)
		if b.count() != 1 {
			t.Fatal("it has not come")
		}
		detach()
		again := newPost(t, 3, Options{}) // b has started anew
		join(a, again, 1, nil, nil)
		time.Sleep(2 * lifeMax)
		if again.count() != 0 {
			t.Error("what the earlier life had was delivered to the later one")
		}
		a.Send(numbered(2, 100), Sure)
		time.Sleep(testRTT)
		if again.count() != 1 {
			t.Error("nothing comes any more")
		}
	})
}

// TestAPeerThatHasStartedAnewSaysSoAgain loses the datagram by which it says so first. It has nothing to send itself.
func TestAPeerThatHasStartedAnewSaysSoAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		_, detach := join(a, b, 1, nil, nil)
		a.Send(numbered(1, 100), Sure)
		time.Sleep(testRTT)
		detach()
		again := newPost(t, 3, Options{})
		var silent atomic.Bool
		silent.Store(true)
		join(a, again, 1, nil, silent.Load)
		time.Sleep(2 * lifeMax)
		silent.Store(false)
		for n := uint64(2); n < 5; n++ {
			a.Send(numbered(n, 100), Sure)
			time.Sleep(2 * testRTT)
		}
		if again.count() == 0 {
			t.Error("nothing comes any more")
		}
	})
}

func TestWithoutAPathNothingIsTaken(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		if a.Send(numbered(1, 100), Sure) {
			t.Error("taken without a path")
		}
		_, detach := join(a, b, 1, nil, nil)
		if a.Send(make([]byte, a.MaxMessage()+1), Sure) || a.Send(nil, Sure) {
			t.Error("taken although it does not fit")
		}
		for range maxWaiting {
			if !a.Send(numbered(1, 8), Sure) {
				t.Fatal("not taken")
			}
		}
		if a.Send(numbered(1, 8), Sure) {
			t.Error("taken beyond the bound")
		}
		if !a.Send(numbered(1, 8), Once) {
			t.Error("what waits for nothing was refused")
		}
		detach()
	})
}

func TestPathsAreWantedWhileThereIsLossAndTraffic(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
		join(a, b, 1, losing(1, .05), losing(2, .05))
		for n := range uint64(2000) {
			a.Send(numbered(n, 1000), Sure)
			time.Sleep(5 * time.Millisecond)
		}
		want, _ := a.Wanted()
		theirs, changed := b.Wanted()
		if want < 4 || want > maxPaths || theirs != want {
			t.Errorf("the ends want %d and %d paths for 400 kB/s", want, theirs)
		}
		began := time.Now()
		for want > 0 && time.Since(began) < 5*time.Minute {
			select {
			case <-changed:
			case <-time.After(time.Second):
				a.Send(numbered(0, 100), Once) // as heartbeats go on
			}
			want, changed = b.Wanted()
		}
		if took := time.Since(began); want != 0 || took < idleAfter {
			t.Errorf("%d are wanted %v after the end of the traffic", want, took)
		}
	})
}

// TestAPathIsMadeForWhatArrives loses 5 % on links of one path. A handshake takes as much as a thin link carries in seconds, and what is sent in
// vain is no reason for one.
func TestAPathIsMadeForWhatArrives(t *testing.T) {
	for _, tc := range []struct {
		name  string
		rtt   time.Duration
		every time.Duration // between messages of 1,000 bytes
		most  int           // datagrams a second that the link takes; 0: all
		want  int
	}{
		{name: "near, a trickle", rtt: testRTT, every: time.Second, want: minPaths},
		{name: "far, a trickle", rtt: 600 * time.Millisecond, every: time.Second},
		{name: "far and thin, ten times what it takes", rtt: 600 * time.Millisecond, every: 50 * time.Millisecond, most: 3},
		{name: "far, 40 kB a second in two copies", rtt: 600 * time.Millisecond, every: 50 * time.Millisecond, want: maxPaths},
	} {
		t.Run(tc.name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				a, b := newPost(t, 1, Options{}), newPost(t, 2, Options{})
				unlucky := losing(9, .05)
				var second time.Time
				took := 0
				slowingLink(a, b, tc.rtt, func() bool {
					if now := time.Now().Truncate(time.Second); now != second {
						second, took = now, 0
					}
					took++
					return tc.most > 0 && took > tc.most || unlucky()
				})
				most := 0
				for began := time.Now(); time.Since(began) < 2*time.Minute; time.Sleep(tc.every) {
					a.Send(numbered(1, 1000), Sure) // refused when too many wait
					most = max(most, a.Stats().Wanted)
				}
				if s := a.Stats(); s.Level == levelPlain {
					t.Fatalf("the loss was not seen: %+v", s)
				}
				if most != tc.want {
					t.Errorf("%d paths were wanted, want %d", most, tc.want)
				}
			})
		})
	}
}

func FuzzReceive(f *testing.F) {
	c := New(Options{Life: Life{1}})
	h := header{life: Life{2}, number: 7, account: account{known: true, tag: [4]byte{1}, largest: 3, before: 1}}
	f.Add(appendMessage(h.append(nil), []byte("message")))
	f.Add(h.append(nil))
	f.Add([]byte{version, 0xff})
	f.Fuzz(func(t *testing.T, b []byte) {
		h, messages, err := parse(b)
		if err == nil {
			again := h.append(nil)
			for _, m := range messages {
				again = appendMessage(again, m)
			}
			h2, messages2, err := parse(again)
			if err != nil || h2 != h || !slices.EqualFunc(messages, messages2, bytes.Equal) {
				t.Errorf("%+v is %+v once written and read: %v", h, h2, err)
			}
		}
		if _, _, err2 := c.Receive(b); (err == nil) != (err2 == nil) {
			t.Errorf("parse says %v, receive %v", err, err2)
		}
	})
}

func FuzzAccount(f *testing.F) {
	f.Add([]byte{1, 2, 4, 3, 3, 200, 130, 201})
	f.Add([]byte{1, 254, 2, 255, 255, 3, 251, 3})
	f.Fuzz(func(t *testing.T, steps []byte) {
		var r received
		seen := map[uint64]bool{}
		base, first := uint64(0), uint64(0)
		for _, s := range steps {
			if s > 250 {
				base += 100 << (s - 251)
			}
			n := base + uint64(s) + 1
			if first == 0 {
				first = n // what was before the first one is not told
			}
			_, _, again := r.take(header{life: Life{1}, number: n}, time.Now())
			if again != seen[n] && n+longAccount > r.account.largest {
				t.Fatalf("%d again: %t, want %t", n, again, seen[n])
			}
			seen[n] = true
			kept := n+longAccount > r.account.largest
			for _, a := range []account{r.account, r.upTo(n)} {
				for k := a.largest; k > 0 && k+64 >= a.largest; k-- {
					if a.has(k) != seen[k] && (a.has(k) || kept && k+longAccount > r.account.largest && k > first) {
						t.Fatalf("the account up to %d has %d: %t, which has come: %t", a.largest, k, a.has(k), seen[k])
					}
				}
			}
		}
	})
}

// A copy of the peer's data dir that ran for a moment must not shut the peer itself out.
func TestALifeGoesOnOnceALaterOneIsSilent(t *testing.T) {
	var r received
	at := time.Now()
	take := func(life byte, number uint64, want bool) {
		t.Helper()
		if present, _, _ := r.take(header{life: Life{life}, number: number}, at); present != want {
			t.Errorf("a datagram of life %d is of the present one: %t, want %t", life, present, want)
		}
	}
	take(1, 1, true)
	take(2, 1, true)
	at = at.Add(Silence - 1)
	take(1, 2, false)
	take(2, 2, true)
	at = at.Add(Silence)
	take(1, 3, true)
	take(2, 3, false)
}
