package transport

import (
	"context"
	"errors"
	"testing"
	"testing/synctest"
	"time"
)

// lostIn waits until the link is called lost and tells how long that took.
func lostIn(t *testing.T, c *Conn, within time.Duration) time.Duration {
	t.Helper()
	start := time.Now()
	lost, changed := c.LossState()
	if lost {
		return 0
	}
	select {
	case <-changed:
		if !c.Lost() {
			t.Error("told of a change, but not lost")
		}
		return time.Since(start)
	case <-time.After(within):
		t.Fatalf("not lost within %v", within)
		return 0
	}
}

func TestLinkIsLostAfterAnAttemptWithoutAPacketBack(t *testing.T) {
	for _, tc := range []struct {
		delay time.Duration // one way
		want  time.Duration
	}{
		{5 * time.Millisecond, time.Second},
		{100 * time.Millisecond, time.Second},
		{300 * time.Millisecond, 2400 * time.Millisecond},
	} {
		bubble(t, 1, func(t *testing.T, w *world) {
			w.net.Link("a", "b").Delay(tc.delay)
			a, b := w.start("a"), w.start("b")
			b.Listen(Raft, echo)
			c := w.dial(a, "b", Raft)
			time.Sleep(10 * time.Second)
			for name, attempt := range map[string]func(){
				"datagram": func() { _ = c.SendDatagram([]byte("x")) },
				"stream": func() {
					if s, err := c.OpenStream(t.Context()); err == nil {
						_, _ = s.Write([]byte("x"))
					}
				},
				"probe": c.Probe,
			} {
				w.net.Cut("a", "b")
				time.Sleep(time.Minute / 6)
				if c.Lost() {
					t.Fatalf("%s, RTT %v: lost with nothing attempted", name, 2*tc.delay)
				}
				attempt()
				if took := lostIn(t, c, 5*time.Second); took < tc.want*99/100 || took > tc.want*102/100 {
					t.Errorf("%s, RTT %v: lost after %v, want %v", name, 2*tc.delay, took, tc.want)
				}
				w.net.Heal("a", "b")
				// The probes go once a second.
				took := eventually(t, 3*time.Second, "found again", func() bool { return !c.Lost() })
				if limit := 1200*time.Millisecond + 2*tc.delay; took > limit {
					t.Errorf("%s, RTT %v: found after %v, want at most %v", name, 2*tc.delay, took, limit)
				}
				time.Sleep(10 * time.Second)
			}
			if h := c.Health(); h.Losses != 3 || h.Lost {
				t.Errorf("health %+v, want three losses", h)
			}
		})
	}
}

func TestLinkIsNotLostWhileItWorks(t *testing.T) {
	for _, tc := range []struct {
		name  string
		delay time.Duration
		loss  float64
		most  uint64 // times that the link may be called lost
	}{
		{"fast", 5 * time.Millisecond, 0, 0}, {"slow", 300 * time.Millisecond, 0, 0}, {"5 %", 25 * time.Millisecond, 0.05, 0},
		// Within 1.2 s there is time for three tries. All go unanswered in 0.04^3 of the 200 questions: once in 80 runs.
		{"2 %, slow", 150 * time.Millisecond, 0.02, 1},
	} {
		bubble(t, 3, func(t *testing.T, w *world) {
			w.net.Link("a", "b").Delay(tc.delay).Loss(tc.loss)
			a, b := w.start("a"), w.start("b")
			b.Listen(Raft, echo)
			c := w.dial(a, "b", Raft)
			for i := range 300 {
				// Every kind of pause, so that attempts fall on every point of the watch.
				time.Sleep(time.Duration(i%13) * 113 * time.Millisecond)
				if i%3 == 0 {
					if err := c.SendDatagram([]byte("x")); err != nil {
						t.Fatal(err)
					}
					continue
				}
				if _, err := ask(c, "x", time.Minute); err != nil {
					t.Fatal(err)
				}
			}
			if h := c.Health(); h.Losses > tc.most {
				t.Errorf("%s: lost %d times, want at most %d", tc.name, h.Losses, tc.most)
			}
		})
	}
}

// TestLinkLostForLongIsFoundSoonAfterItHeals: quic-go's own probes are up to half a minute apart by then.
func TestLinkLostForLongIsFoundSoonAfterItHeals(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		c := w.dial(a, "b", Raft)
		w.net.Cut("a", "b")
		c.Probe()
		time.Sleep(50 * time.Second)
		w.net.Heal("a", "b")
		if took := eventually(t, 30*time.Second, "found", func() bool { return !c.Lost() }); took > 1200*time.Millisecond {
			t.Errorf("found after %v", took)
		}
	})
}

// TestCutInTheMiddleOfARequestIsNoticed: packets have come back since the last attempt, for the part that got through.
func TestCutInTheMiddleOfARequestIsNoticed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Link("a", "b").Delay(25 * time.Millisecond).Rate(2_000_000)
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, swallow)
		c := w.dial(a, "b", Raft)
		time.Sleep(10 * time.Second)
		s, err := c.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		go func() { _, _ = s.Write(make([]byte, 100_000)) }() // takes 400 ms
		time.Sleep(120 * time.Millisecond)
		w.net.Cut("a", "b")
		time.Sleep(30 * time.Millisecond) // what was under way arrives
		before := c.Health().PacketsReceived
		if took := lostIn(t, c, 5*time.Second); took > 1600*time.Millisecond {
			t.Errorf("lost after %v, want little more than 1s", took)
		}
		if after := c.Health().PacketsReceived; after != before {
			t.Errorf("%d packets came after the cut", after-before)
		}
	})
}

func TestQuietLinkCostsNoTimerAndIsNotLost(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		c := w.dial(a, "b", Raft)
		if _, err := ask(c, "x", time.Second); err != nil {
			t.Fatal(err)
		}
		time.Sleep(5 * time.Second)
		c.monitor.mu.Lock()
		running := c.monitor.running
		c.monitor.mu.Unlock()
		if running {
			t.Error("the monitor still runs after 5 s of quiet")
		}
		time.Sleep(time.Hour)
		if h := c.Health(); h.Losses != 0 || h.Silent > defaultKeepAlive+samplePeriod {
			t.Errorf("after an hour of quiet: %+v", h)
		}
	})
}

func TestDeadLinkEndsAfterTheIdleTimeout(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		conns := make(chan *Conn, 1)
		b.Listen(Raft, func(ctx context.Context, c *Conn) { conns <- c; <-ctx.Done() })
		c := w.dial(a, "b", Raft)
		server := <-conns
		time.Sleep(time.Minute)
		w.net.Cut("a", "b")
		start := time.Now()
		c.Probe()
		<-c.Context().Done()
		if took := time.Since(start); took < defaultIdleTimeout || took > defaultIdleTimeout+time.Second || !errors.Is(c.Err(), ErrUnreachable) {
			t.Errorf("ended after %v with %v", took, c.Err())
		}
		<-server.Context().Done()
		synctest.Wait()
		if k := b.Counters(); k.Open != 0 || k.Incoming != 0 || k.Handshaking != 0 {
			t.Errorf("counters %+v", k)
		}
	})
}
