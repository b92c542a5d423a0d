package transport

import (
	"context"
	"net/netip"
	"strings"
	"testing"
	"testing/synctest"
	"time"
)

// sourced tells a node's endpoint from which address its packets leave, as a kernel would.
func (w *world) sourced(name string) func(*Config) {
	return func(c *Config) {
		c.Source = func(netip.Addr) netip.Addr { return netip.MustParseAddrPort(w.net.Addr(name)).Addr() }
	}
}

func TestAConnectionAtRestFollowsAChangeOfAddressInARoundTrip(t *testing.T) {
	const rtt = 80 * time.Millisecond
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Link("a", "b").Delay(rtt / 2)
		a, b := w.start("a", w.sourced("a")), w.start("b")
		conns := make(chan *Conn, 1)
		b.Listen(Uplink, func(ctx context.Context, c *Conn) {
			conns <- c
			echo(ctx, c)
		})
		c := w.dial(a, "b", Uplink)
		server := <-conns
		time.Sleep(time.Minute + 3*time.Second) // between two keep-alives
		synctest.Wait()
		before := w.net.Link("a", "b").Stats().Packets
		if a.Rerouted() {
			t.Error("a change was found where there was none")
		}
		time.Sleep(rtt)
		if n := w.net.Link("a", "b").Stats().Packets - before; n != 0 {
			t.Errorf("%d packets were sent for no change", n)
		}
		woken := a.RouteChange()
		addr := w.net.Move("a")
		if !a.Rerouted() {
			t.Fatal("the change was not found")
		}
		select {
		case <-woken:
		default:
			t.Error("who waits for a change was not woken")
		}
		took := eventually(t, time.Minute, "the server follows", func() bool { return server.RemoteAddr().String() == addr })
		if took > 2*rtt {
			t.Errorf("the server sends to the new address after %v, want at most a round trip and a half, %v", took, 3*rtt/2)
		}
		if err := server.SendDatagram([]byte("news")); err != nil {
			t.Fatal(err)
		}
		if p, err := c.ReceiveDatagram(t.Context()); err != nil || string(p) != "news" {
			t.Errorf("got %q, %v", p, err)
		}
		if n := a.Counters().Reroutes; n != 1 {
			t.Errorf("%d changes counted", n)
		}
	})
}

func TestALinkThatIsDownIsDialedWhenTheNetworkComesBack(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		gone := false
		a := w.start("a", func(c *Config) {
			c.Source = func(netip.Addr) netip.Addr {
				if gone {
					return netip.Addr{}
				}
				return netip.MustParseAddrPort(w.net.Addr("a")).Addr()
			}
		})
		b := w.pool("b")
		pool := w.poolOn(a, func(o *PoolOptions) { o.MinBackoff, o.MaxBackoff = time.Minute, time.Hour })
		w.net.Cut("a", "b")
		gone = true
		a.Rerouted()
		pool.Set(map[string][]string{b.node.Node(): {w.net.Addr("b")}})
		time.Sleep(10 * time.Hour)
		if s := pool.Links()[0]; s.State != Down || time.Until(s.Next) < time.Minute {
			t.Fatalf("the link is %s, its next dial at %v; the test wants it to wait", s.State, s.Next)
		}
		w.net.Heal("a", "b")
		gone = false // the same address as before
		if !a.Rerouted() {
			t.Fatal("that the network is back was not found")
		}
		eventually(t, time.Second, "the link is up", func() bool { return pool.Links()[0].State == Up })
	})
}

func TestAConnectionOverTCPGetsAnotherTCPConnection(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pair(50*time.Millisecond, func(c *Config) { w.sourced("a")(c) })
		w.net.Cut("a", "b")
		c := w.dial(a, "b", Uplink)
		if c.Way() != OverTCP {
			t.Fatalf("connected over %s", c.Way())
		}
		wantEcho(t, c, "before")
		addr, _, _ := strings.Cut(w.net.Move("a"), ":")
		if !a.Rerouted() {
			t.Fatal("the change was not found")
		}
		seen := func() bool { h := b.Health(); return len(h) == 1 && strings.HasPrefix(h[0].Addr, addr+":") }
		eventually(t, 4*time.Second, "the server hears the connection from the new address", seen)
		wantEcho(t, c, "after")
		if c.Way() != OverTCP || c.Err() != nil {
			t.Errorf("over %s, %v", c.Way(), c.Err())
		}
		w.net.Heal("a", "b")
		w.net.Move("a")
		a.Rerouted() // and UDP works there
		eventually(t, time.Second, "UDP is used", func() bool { return c.Way() == OverUDP })
		wantEcho(t, c, "over UDP")
	})
}

func TestAliveTellsWithinARoundTripWhetherAPeerIsThere(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		const rtt = 60 * time.Millisecond
		a, _ := w.pair(rtt)
		c := w.dial(a, "b", Uplink)
		time.Sleep(time.Second)
		start := time.Now()
		if err := c.Alive(t.Context()); err != nil || time.Since(start) > rtt+30*time.Millisecond {
			t.Errorf("%v after %v", err, time.Since(start))
		}
		w.net.Cut("a", "b")
		ctx, cancel := context.WithTimeout(t.Context(), 500*time.Millisecond)
		defer cancel()
		if err := c.Alive(ctx); err == nil {
			t.Error("a peer that is cut off is alive")
		}
	})
}
