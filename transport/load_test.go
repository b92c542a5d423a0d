package transport

import (
	"context"
	"errors"
	"fmt"
	"io"
	"sync"
	"testing"
	"time"
)

// swallow answers each stream with nothing once it has read it all.
func swallow(ctx context.Context, c *Conn) {
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		_, _ = io.Copy(io.Discard, s)
		_ = s.Close()
	}
}

// storm dials from many nodes at once and returns what each got.
func storm(t *testing.T, w *world, from []*node, to string) []error {
	t.Helper()
	errs := make([]error, len(from))
	var wg sync.WaitGroup
	for i, n := range from {
		wg.Go(func() { _, errs[i] = n.Dial(t.Context(), Raft, w.target(to)) })
	}
	wg.Wait()
	return errs
}

func (w *world) crowd(n int) []*node {
	nodes := make([]*node, n)
	for i := range nodes {
		nodes[i] = w.start(fmt.Sprintf("n%d", i))
	}
	return nodes
}

func TestManyHandshakesAtOnceMustProveTheirAddress(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		m := w.start("m", func(c *Config) { c.MaxHandshakes = 16 })
		m.Listen(Raft, echo)
		for i, err := range storm(t, w, w.crowd(10), "m") {
			if err != nil {
				t.Errorf("dial %d: %v", i, err)
			}
		}
		if k := m.Counters(); k.Retries < 6 || k.Busy != 0 || k.Open != 10 || k.Handshaking != 0 {
			t.Errorf("counters %+v, want the 6 beyond a quarter of 16 retried and all connected", k)
		}
	})
}

func TestHandshakesAndConnectionsBeyondTheBoundAreRefusedAtOnce(t *testing.T) {
	for _, tc := range []struct{ handshakes, conns int }{{4, 100}, {100, 4}} {
		bubble(t, 1, func(t *testing.T, w *world) {
			m := w.start("m", func(c *Config) { c.MaxHandshakes, c.MaxConns = tc.handshakes, tc.conns })
			m.Listen(Raft, echo)
			crowd := w.crowd(10)
			var ok, busy int
			for _, err := range storm(t, w, crowd, "m") {
				switch {
				case err == nil:
					ok++
				case errors.Is(err, ErrBusy):
					busy++
				default:
					t.Error(err)
				}
			}
			// Those who come back from a Retry may find that a handshake has ended meanwhile.
			if ok < 4 || busy == 0 || tc.conns == 4 && ok != 4 {
				t.Errorf("%+v: %d connected, %d told to come back", tc, ok, busy)
			}
			if k := m.Counters(); k.Busy < uint64(busy) || k.Open != ok || k.Incoming-k.Handshaking != ok {
				t.Errorf("%d connected, %d told to come back, counters %+v", ok, busy, k)
			}
			if tc.conns == 4 {
				for _, n := range crowd[:9] {
					n.stop()
				}
			}
			time.Sleep(handshakeMax) // what was under way is over, one way or the other
			if _, err := crowd[9].Dial(t.Context(), Raft, w.target("m")); err != nil {
				t.Errorf("%+v: with room again: %v", tc, err)
			}
		})
	}
}

func TestLastPlacesAreForMembers(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		m := w.start("m", func(c *Config) { c.MaxConns = 16 })
		m.Listen(Uplink, echo)
		m.Listen(Raft, echo)
		w.role("p", Grant{Role: Proxy})
		proxy, other := w.start("p"), w.start("other")
		for range 15 {
			w.dial(proxy, "m", Uplink)
		}
		if err := w.dialTooMany(proxy, Uplink, w.target("m")); !isFull(err) {
			t.Errorf("the proxy's 16th connection: %v, want closed as full", err)
		}
		w.dial(other, "m", Raft)
		if k := m.Counters(); k.Full != 1 || k.Open != 16 {
			t.Errorf("counters %+v", k)
		}
	})
}

// dialTooMany dials where there is no place left: Dial or the connection a moment later says so.
func (w *world) dialTooMany(from *node, p Protocol, target Target) error {
	c, err := from.Dial(w.t.Context(), p, target)
	if err != nil {
		return err
	}
	time.Sleep(time.Second)
	return c.Err()
}

func isFull(err error) bool {
	closed, ok := errors.AsType[*CloseError](err)
	return ok && closed.Code == CodeFull && closed.Remote
}

func TestReceiveWindowsGrowWithinTheBudgetAndAreGivenBack(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		w.net.Link("a", "b").Delay(100 * time.Millisecond)
		b.Listen(Raft, swallow)
		c := w.dial(a, "b", Raft)
		msg := string(make([]byte, 4<<20))
		if _, err := ask(c, msg, time.Minute); err != nil {
			t.Fatal(err)
		}
		if got := b.Counters().WindowBytes; got == 0 || got > maxConnWindow {
			t.Errorf("window grew by %d, want something up to %d", got, maxConnWindow)
		}
		c.CloseWithError(CodeDone, "")
		time.Sleep(time.Second)
		for _, n := range []*node{a, b} {
			if got := n.Counters().WindowBytes; got != 0 {
				t.Errorf("%d bytes of window not given back", got)
			}
		}

		b.adm.mu.Lock()
		b.adm.windowSum = windowBudget // as if others had taken it all
		b.adm.mu.Unlock()
		if _, err := ask(w.dial(a, "b", Raft), msg, 10*time.Minute); err != nil {
			t.Errorf("with the budget spent: %v, want slow but whole", err)
		}
		if got := b.Counters().WindowBytes; got != windowBudget {
			t.Errorf("budget overdrawn: %d", got)
		}
	})
}
