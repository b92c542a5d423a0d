package transport

import (
	"context"
	"errors"
	"net"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"
)

func TestStoppingTellsPeersAndLeavesNothingBehind(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) { // which fails if a goroutine is left
		a, b := w.start("a"), w.start("b")
		var ended atomic.Int32
		b.Listen(Raft, func(ctx context.Context, c *Conn) {
			echo(ctx, c)
			time.Sleep(time.Second) // it is waited for
			ended.Add(1)
		})
		c1, c2 := w.dial(a, "b", Raft), w.dial(a, "b", Raft)
		if err := c1.SendDatagram([]byte("x")); err != nil {
			t.Fatal(err)
		}
		start := time.Now()
		b.stop()
		if ended.Load() != 2 {
			t.Errorf("%d of 2 handlers had ended", ended.Load())
		}
		for _, c := range []*Conn{c1, c2} {
			<-c.Context().Done()
			if closed, ok := errors.AsType[*CloseError](c.Err()); !ok || closed.Code != CodeShutdown || !closed.Remote {
				t.Errorf("ended with %v", c.Err())
			}
		}
		if took := time.Since(start); took > 1100*time.Millisecond {
			t.Errorf("took %v", took)
		}
		if _, err := b.Dial(t.Context(), Raft, w.target("a")); !errors.Is(err, ErrClosed) {
			t.Errorf("dialed from a stopped endpoint: %v", err)
		}
		if err := b.Run(t.Context()); err == nil {
			t.Error("ran twice")
		}
	})
}

func TestStoppingEndsADialUnderWay(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a := w.start("a")
		errs := make(chan error, 1)
		go func() {
			_, err := a.Dial(t.Context(), Raft, Target{Addrs: []string{"10.9.9.9:1"}})
			errs <- err
		}()
		time.Sleep(time.Second)
		a.stop()
		if err := <-errs; !errors.Is(err, ErrClosed) {
			t.Errorf("got %v, want ErrClosed", err)
		}
	})
}

func TestDialWaitsForRun(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		ep, err := New(Config{Conn: w.net.Node("x"), Identity: func() *Identity { return newIdentity(t, w.ca, Grant{}) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		if _, err := ep.Dial(ctx, Raft, Target{Addrs: []string{"10.9.9.9:1"}}); !errors.Is(err, context.DeadlineExceeded) {
			t.Errorf("got %v", err)
		}
	})
}

func TestRestartedPeerResetsTheOldConnection(t *testing.T) {
	for name, ask := range map[string]func(*Conn) (wait time.Duration){
		"on a request": func(c *Conn) time.Duration {
			_, _ = ask(c, "are you still there, and do you remember me?", time.Second)
			return 0
		},
		"on a probe": func(c *Conn) time.Duration { c.Probe(); return 50 * time.Millisecond },
		"at rest":    func(*Conn) time.Duration { return defaultKeepAlive + samplePeriod + time.Second },
	} {
		bubble(t, 1, func(t *testing.T, w *world) {
			a, b := w.start("a"), w.start("b")
			b.Listen(Raft, echo)
			c := w.dial(a, "b", Raft)
			time.Sleep(time.Second)
			b.kill()
			w.start("b").Listen(Raft, echo)
			time.Sleep(ask(c))
			synctest.Wait() // a stream may tell an instant before the connection does
			if !errors.Is(c.Err(), ErrRestarted) {
				t.Errorf("%s: got %v, want ErrRestarted", name, c.Err())
			}
		})
	}
}

func TestDeadPeerOfAnIdleLinkIsNoticedByTheKeepAlive(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		c := w.dial(a, "b", Raft)
		time.Sleep(time.Minute)
		w.net.Cut("a", "b")
		if took := lostIn(t, c, time.Minute); took > defaultKeepAlive+samplePeriod+lostAtLeast+lostAtLeast/10 {
			t.Errorf("lost after %v", took)
		}
	})
}

func TestBrokenSocketEndsRunWithAnError(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		conn := w.net.Node("x")
		id := newIdentity(t, w.ca, Grant{})
		ep, err := New(Config{Conn: conn, Identity: func() *Identity { return id }})
		if err != nil {
			t.Fatal(err)
		}
		time.AfterFunc(time.Second, func() { _ = conn.Close() })
		if err := ep.Run(t.Context()); !errors.Is(err, net.ErrClosed) {
			t.Errorf("got %v, want the socket's error", err)
		}
	})
}

// TestIdleLinkCostsSeventeenKilobytesAnHour counts on the wire: UDP payload and 28 bytes of UDP and IP for each packet.
func TestIdleLinkCostsSeventeenKilobytesAnHour(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.start("a"), w.start("b")
		b.Listen(Uplink, echo)
		c := w.dial(a, "b", Uplink)
		time.Sleep(time.Minute)
		before := w.net.Link("a", "b").Stats()
		time.Sleep(10 * time.Hour)
		after := w.net.Link("a", "b").Stats()
		packets := after.Packets - before.Packets
		perHour := (after.Bytes - before.Bytes + 28*packets) / 10
		t.Logf("%d bytes in %d packets an hour", perHour, packets/10)
		if perHour > 17_500 || packets/10 < 2*143 || c.Err() != nil {
			t.Errorf("%d bytes in %d packets an hour, want at most 17500 in 288; %v", perHour, packets/10, c.Err())
		}
	})
}

func TestResumedSessionIsJudgedAgain(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var denied atomic.Bool
		b := w.start("b", func(c *Config) {
			c.EarlyData = true
			c.Allowed = func(PeerInfo) error {
				if denied.Load() {
					return Revoked
				}
				return nil
			}
		})
		b.Listen(Uplink, echo)
		a := w.start("a", func(c *Config) { c.EarlyData = true })
		bytesOf := func() int {
			before := w.net.Link("a", "b").Stats().Bytes
			c := w.dial(a, "b", Uplink)
			if c.Peer().Node != b.id.Node() {
				t.Errorf("peer is %v", c.Peer())
			}
			time.Sleep(time.Second)
			resumed := c.qc.ConnectionState().TLS.DidResume
			c.CloseWithError(CodeDone, "")
			time.Sleep(time.Second)
			if resumed {
				return -(w.net.Link("a", "b").Stats().Bytes - before)
			}
			return w.net.Link("a", "b").Stats().Bytes - before
		}
		full, resumed := bytesOf(), bytesOf()
		if full <= 0 || resumed >= 0 {
			t.Errorf("first %d, second %d bytes, want the second resumed", full, resumed)
		}
		t.Logf("%d bytes for a full handshake, %d resumed", full, -resumed)
		denied.Store(true)
		if _, err := a.Dial(t.Context(), Uplink, w.target("b")); !errors.Is(err, Revoked) {
			t.Errorf("resumed after being revoked: %v", err)
		}
	})
}

func TestRecheckClosesWhatIsNoLongerAllowed(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		var removed atomic.Value
		removed.Store("")
		b := w.start("b", func(c *Config) {
			c.Allowed = func(p PeerInfo) error {
				if p.Node == removed.Load() {
					return Removed
				}
				return nil
			}
		})
		b.Listen(Raft, echo)
		w.role("short", Grant{Life: time.Hour})
		stays, goes, ends := w.dial(w.start("a"), "b", Raft), w.dial(w.start("c"), "b", Raft), w.dial(w.start("short"), "b", Raft)
		time.Sleep(time.Second)
		if n := b.Recheck(); n != 0 {
			t.Errorf("closed %d of three that are in order", n)
		}
		removed.Store(w.ids["c"].Node())
		if n := b.Recheck(); n != 1 {
			t.Errorf("closed %d, want the removed one", n)
		}
		time.Sleep(2 * time.Hour)
		if n := b.Recheck(); n != 1 {
			t.Errorf("closed %d, want the expired one", n)
		}
		time.Sleep(time.Second)
		for c, want := range map[*Conn]Refusal{goes: Removed, ends: Expired} {
			if closed, ok := errors.AsType[*CloseError](c.Err()); !ok || closed.Code != CodeNotAllowed || closed.Reason != want.Error() {
				t.Errorf("ended with %v, want %q", c.Err(), want.Error())
			}
		}
		if stays.Err() != nil {
			t.Error(stays.Err())
		}
	})
}

func TestEarlyDialSavesARoundTripAndLearnsOfARefusalLater(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Link("a", "b").Delay(50 * time.Millisecond)
		var denied atomic.Bool
		b := w.start("b", func(c *Config) {
			c.Allowed = func(PeerInfo) error {
				if denied.Load() {
					return Removed
				}
				return nil
			}
		})
		b.Listen(Uplink, echo)
		a := w.start("a")
		target := w.target("b")
		target.Early = true
		start := time.Now()
		c, err := a.Dial(t.Context(), Uplink, target)
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(start); took > 110*time.Millisecond {
			t.Errorf("dial took %v, want one round trip of 100ms", took)
		}
		if got, err := ask(c, "early", time.Second); err != nil || got != "early" {
			t.Errorf("answer %q, %v", got, err)
		}
		if took := time.Since(start); took > 220*time.Millisecond {
			t.Errorf("first answer after %v, want two round trips", took)
		}
		denied.Store(true)
		c, err = a.Dial(t.Context(), Uplink, target)
		if err != nil {
			t.Fatal(err)
		}
		if err := c.Confirm(t.Context()); !errors.Is(err, Removed) || !errors.Is(c.Err(), Removed) {
			t.Errorf("confirm: %v, err: %v, want removed", err, c.Err())
		}
	})
}

func TestRenewedCertificateIsUsedFromTheNextConnectionOn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.role("a", Grant{Life: time.Hour})
		a, b := w.start("a"), w.start("b")
		b.Listen(Raft, echo)
		w.dial(a, "b", Raft)
		time.Sleep(2 * time.Hour)
		if _, err := a.Dial(t.Context(), Raft, w.target("b")); !errors.Is(err, Expired) {
			t.Errorf("got %v, want expired", err)
		}
		a.become(certify(t, a.id, w.ca, Grant{}))
		w.dial(a, "b", Raft)
	})
}

// TestRealSocketsLeaveNothingBehind runs outside a bubble, on loopback.
func TestRealSocketsLeaveNothingBehind(t *testing.T) {
	defer goleak.VerifyNone(t)
	ca := mustCA(t, "c1")
	type loopback struct {
		ep   *Endpoint
		stop func()
	}
	start := func() loopback {
		conn, err := net.ListenUDP("udp", &net.UDPAddr{IP: net.IPv4(127, 0, 0, 1)})
		if err != nil {
			t.Fatal(err)
		}
		id := newIdentity(t, ca, Grant{})
		ep, err := New(Config{Conn: conn, Identity: func() *Identity { return id }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- ep.Run(ctx) }()
		return loopback{ep, func() {
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			if err := conn.Close(); err != nil {
				t.Error(err)
			}
		}}
	}
	a, b := start(), start()
	b.ep.Listen(Raft, echo)
	c, err := a.ep.Dial(t.Context(), Raft, Target{Addrs: []string{b.ep.Addr().String()}, Node: b.ep.Node()})
	if err != nil {
		t.Fatal(err)
	}
	if got, err := ask(c, "hello", 5*time.Second); err != nil || got != "hello" {
		t.Errorf("answer %q, %v", got, err)
	}
	if h := a.ep.Health(); len(h) != 1 || h[0].Node != b.ep.Node() || h[0].RTTSmoothed == 0 || h[0].BytesReceived == 0 {
		t.Errorf("health %+v", h)
	}
	a.stop()
	b.stop()
}
