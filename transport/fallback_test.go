package transport

import (
	"context"
	"errors"
	"io"
	"net"
	"net/netip"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"testing"
	"time"
)

// startTCP runs a node that has TCP too.
func (w *world) startTCP(name string, opts ...func(*Config)) *node {
	w.t.Helper()
	return w.start(name, append([]func(*Config){func(c *Config) {
		c.DialTCP, c.ListenTCP, c.Relay = w.net.Dialer(name), w.net.Listen(name), w.net.Relay(name)
	}}, opts...)...)
}

// pair starts a and b, which serves Uplink with echo, and sets the RTT between them.
func (w *world) pair(rtt time.Duration, opts ...func(*Config)) (a, b *node) {
	w.net.Link("a", "b").Delay(rtt / 2)
	a, b = w.startTCP("a", opts...), w.startTCP("b", opts...)
	b.Listen(Uplink, echo)
	return a, b
}

func wantEcho(t *testing.T, c *Conn, msg string) {
	t.Helper()
	if got, err := ask(c, msg, 5*time.Second); err != nil || got != msg {
		t.Fatalf("answer of %d bytes, %v", len(got), err)
	}
}

func TestTCPIsFoundWithinASecondWhereUDPIsBlocked(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pair(50 * time.Millisecond)
		w.net.Cut("a", "b")
		start := time.Now()
		c := w.dial(a, "b", Uplink)
		if took := time.Since(start); took > time.Second || c.Way() != OverTCP {
			t.Errorf("connected over %s after %v, want tcp within 1s", c.Way(), took)
		}
		wantEcho(t, c, "hello")
		wantEcho(t, c, strings.Repeat("x", 48<<10))
		h := b.Health()[0]
		if h.Way != OverTCP || !strings.HasPrefix(h.Addr, strings.Split(w.net.Addr("a"), ":")[0]+":") {
			t.Errorf("the server sees %s over %s, want the address of a over tcp", h.Addr, h.Way)
		}
		if err := c.SendDatagram([]byte("one")); err != nil {
			t.Fatal(err)
		}
		if p, err := c.ReceiveDatagram(t.Context()); err != nil || string(p) != "one" {
			t.Errorf("datagram %q, %v", p, err)
		}
		start = time.Now()
		if again := w.dial(a, "b", Uplink); again.Way() != OverTCP || time.Since(start) > 300*time.Millisecond {
			t.Errorf("the next one came over %s after %v, want tcp at once", again.Way(), time.Since(start))
		}
	})
}

func TestUDPIsPreferredWhereItAnswers(t *testing.T) {
	for _, rtt := range []time.Duration{10 * time.Millisecond, 600 * time.Millisecond} {
		bubble(t, 1, func(t *testing.T, w *world) {
			a, b := w.pair(rtt)
			c := w.dial(a, "b", Uplink)
			wantEcho(t, c, "hello")
			if c.Way() != OverUDP {
				t.Errorf("at %v: connected over %s", rtt, c.Way())
			}
			time.Sleep(20 * time.Second)
			if open, _ := b.relays.counts(); open != 0 {
				t.Errorf("at %v: %d TCP connections are left", rtt, open)
			}
		})
	}
}

func TestConnectionLeavesTCPWhenUDPReturns(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pair(50 * time.Millisecond)
		w.net.Cut("a", "b")
		c := w.dial(a, "b", Uplink)
		s, err := c.OpenStream(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		defer s.Abort(0)
		time.Sleep(time.Minute)
		w.net.Heal("a", "b")
		n, left := 0, time.Duration(0)
		for start := time.Now(); time.Since(start) < 5*time.Minute; n++ { // a stream goes on through the move
			if _, err := io.WriteString(s, "x"); err != nil {
				t.Fatal(err)
			}
			if _, err := io.ReadFull(s, make([]byte, 1)); err != nil {
				t.Fatalf("after %d: %v", n, err)
			}
			if left == 0 && c.Way() == OverUDP {
				left = time.Since(start)
			}
			time.Sleep(20 * time.Millisecond)
		}
		if left == 0 || left > 2*time.Minute || c.Lost() {
			t.Errorf("left TCP after %v, lost %v; want within the time that UDP was away, and nothing lost", left, c.Lost())
		}
		if open, _ := b.relays.counts(); open != 0 || b.Health()[0].Way != OverUDP {
			t.Errorf("%d TCP connections are left, the server sees %s", open, b.Health()[0].Way)
		}
		if a.Counters().Moves[OverUDP] != 1 {
			t.Errorf("moves %v", a.Counters().Moves)
		}
	})
}

func TestConnectionMovesToTCPWhenUDPEnds(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, _ := w.pair(50 * time.Millisecond)
		c := w.dial(a, "b", Uplink)
		wantEcho(t, c, "hello")
		w.net.Cut("a", "b")
		start := time.Now()
		wantEcho(t, c, "still here?")
		if took := time.Since(start); took > 3*time.Second || c.Way() != OverTCP {
			t.Errorf("answered over %s after %v, want tcp within 3s", c.Way(), took)
		}
		w.net.Heal("a", "b")
		eventually(t, time.Minute, "back to UDP", func() bool { return c.Way() == OverUDP })
		wantEcho(t, c, "hello again")
		w.net.Cut("a", "b")
		wantEcho(t, c, "and once more")
	})
}

func TestRefusalOverTCPIsAsOverUDP(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Cut("a", "b")
		a := w.startTCP("a")
		var revoked atomic.Bool
		b := w.startTCP("b", func(c *Config) {
			c.Allowed = func(PeerInfo) error {
				if revoked.Load() {
					return Revoked
				}
				return nil
			}
		})
		b.Listen(Uplink, echo)
		c := w.dial(a, "b", Uplink)
		revoked.Store(true)
		if b.Recheck() != 1 {
			t.Error("the open connection was not closed")
		}
		<-c.Context().Done()
		_, err := a.Dial(t.Context(), Uplink, w.target("b"))
		if refused, ok := errors.AsType[*RefusedError](err); !ok || refused.Why != Revoked || !refused.Remote {
			t.Errorf("dialed again: %v, want revoked", err)
		}
		_, err = a.Dial(t.Context(), Raft, w.target("b"))
		if !errors.Is(err, ErrProtocol) && !errors.Is(err, Revoked) {
			t.Errorf("a protocol that nobody serves: %v", err)
		}
	})
}

func TestPeerThatIsReachedNeitherWaySaysBoth(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, _ := w.pair(10 * time.Millisecond)
		w.net.Cut("a", "b")
		w.net.CutStreams("a", "b")
		start := time.Now()
		_, err := a.Dial(t.Context(), Uplink, w.target("b"))
		if !errors.Is(err, ErrUnreachable) || !strings.Contains(err.Error(), "over TCP") {
			t.Errorf("got %v", err)
		}
		if took := time.Since(start); took > handshakeMax+time.Second {
			t.Errorf("it took %v", took)
		}
	})
}

func TestBrokenTCPConnectionEndsWhatItCarried(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.pair(10 * time.Millisecond)
		w.net.Cut("a", "b")
		c := w.dial(a, "b", Uplink)
		wantEcho(t, c, "hello")
		w.net.CutStreams("a", "b")
		eventually(t, time.Second, "both ends notice", func() bool { return c.Err() != nil && b.Counters().Open == 0 })
		if !errors.Is(c.Err(), ErrUnreachable) {
			t.Errorf("ended with %v", c.Err())
		}
	})
}

func TestStrangersOnTCPAreHeldToLimits(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		_, b := w.pair(10 * time.Millisecond)
		dial := w.net.Dialer("x")
		at := b.Addr().(*net.UDPAddr).AddrPort()
		for _, say := range []string{"", "GET / HTTP/1.1\r\n\r\n", "\x16\x03\x01\x02\x00"} {
			conn, err := dial(t.Context(), at)
			if err != nil {
				t.Fatal(err)
			}
			go func() { _, _ = io.WriteString(conn, say) }()
			start := time.Now()
			_, _ = io.Copy(io.Discard, conn)
			if took := time.Since(start); took > relayFirst+time.Second {
				t.Errorf("%q was kept for %v", say, took)
			}
			_ = conn.Close()
		}
		b.relays.mu.Lock()
		b.relays.open += maxRelays
		b.relays.mu.Unlock()
		conn, err := dial(t.Context(), at)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := conn.Read(make([]byte, 1)); err == nil || b.Counters().TCPFull != 1 {
			t.Errorf("beyond the limit: %v, counted %d", err, b.Counters().TCPFull)
		}
		b.relays.mu.Lock()
		b.relays.open -= maxRelays
		b.relays.mu.Unlock()
	})
}

func TestPoolWorksOverTCP(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.net.Cut("a", "b")
		a, b := w.startTCP("a"), w.startTCP("b")
		pool := func(n *node, peer string) *Pool {
			p, err := NewPool(n.Endpoint, PoolOptions{Protocol: Raft, Serve: echo})
			if err != nil {
				t.Fatal(err)
			}
			p.Set(map[string][]string{w.ids[peer].Node(): {w.net.Addr(peer)}})
			ctx, cancel := context.WithCancel(t.Context())
			done := make(chan struct{})
			go func() { _ = p.Run(ctx); close(done) }()
			t.Cleanup(func() { cancel(); <-done })
			return p
		}
		pa, pb := pool(a, "b"), pool(b, "a")
		eventually(t, 2*time.Second, "both have a connection", func() bool {
			return pa.Conn(b.id.Node()) != nil && pb.Conn(a.id.Node()) != nil
		})
		time.Sleep(30 * time.Second)
		wantEcho(t, pa.Conn(b.id.Node()), "hello")
		wantEcho(t, pb.Conn(a.id.Node()), "hello")
	})
}

// listenBoth listens on a port that is free for UDP and TCP: of one that is for the former, somebody may have the latter.
func listenBoth(t *testing.T, listen string) (net.PacketConn, net.Listener) {
	t.Helper()
	for try := 1; ; try++ {
		conn, err := new(net.ListenConfig).ListenPacket(t.Context(), "udp", listen)
		if err != nil {
			t.Skipf("no such address here: %v", err)
		}
		ln, err := new(net.ListenConfig).Listen(t.Context(), "tcp", conn.LocalAddr().String())
		if err == nil {
			return conn, ln
		}
		_ = conn.Close()
		if !errors.Is(err, syscall.EADDRINUSE) || try == 100 {
			t.Fatal(err)
		}
	}
}

// TestRelayOnTheMachinesOwnSockets carries packets through real sockets, for each kind of address a node may listen on.
func TestRelayOnTheMachinesOwnSockets(t *testing.T) {
	for _, listen := range []string{"127.0.0.1:0", "0.0.0.0:0", "[::]:0"} {
		t.Run(listen, func(t *testing.T) {
			ca := mustCA(t, "c1")
			start := func(listen string) (*Endpoint, *net.UDPConn) {
				conn, ln := listenBoth(t, listen)
				id := newIdentity(t, ca, Grant{})
				ep, err := New(Config{Conn: conn, ListenTCP: ln, Identity: func() *Identity { return id }, Log: testLog(t, listen),
					DialTCP: func(ctx context.Context, addr netip.AddrPort) (net.Conn, error) {
						return new(net.Dialer).DialContext(ctx, "tcp", addr.String())
					}})
				if err != nil {
					t.Fatal(err)
				}
				ctx, cancel := context.WithCancel(context.Background())
				done := make(chan error, 1)
				go func() { done <- ep.Run(ctx) }()
				t.Cleanup(func() {
					cancel()
					if err := <-done; err != nil {
						t.Error(err)
					}
					_ = conn.Close()
				})
				ep.Listen(Uplink, echo)
				return ep, conn.(*net.UDPConn)
			}
			server, socket := start(listen)
			client, _ := start("127.0.0.1:0")
			<-server.started
			<-client.started
			port := socket.LocalAddr().(*net.UDPAddr).Port
			addr := netip.AddrPortFrom(netip.AddrFrom4([4]byte{127, 0, 0, 1}), uint16(port))
			c, err := client.dialTCP(t.Context(), Uplink, Target{}, addr)
			if err != nil {
				t.Fatal(err)
			}
			if got, err := ask(c, strings.Repeat("x", 48<<10), 10*time.Second); err != nil || len(got) != 48<<10 {
				t.Fatalf("%d bytes, %v", len(got), err)
			}
			if h := server.Health(); len(h) != 1 || h[0].Way != OverTCP {
				t.Errorf("the server sees %+v", h)
			}
			if !client.moveToUDP(c, addr) || c.Way() != OverUDP {
				t.Error("it did not move to UDP")
			}
			if got, err := ask(c, "x", 10*time.Second); err != nil || got != "x" {
				t.Errorf("after the move: %q, %v", got, err)
			}
		})
	}
}

// quic-go ends the process when a connection with marked packets moves to TCP: nothing here marks any. simnet cannot show
// that, because its packets have no marks.
func TestNoPacketIsMarked(t *testing.T) {
	t.Setenv("QUIC_GO_DISABLE_ECN", "")
	bubble(t, 1, func(t *testing.T, w *world) {
		w.start("a")
		if got := os.Getenv("QUIC_GO_DISABLE_ECN"); got != "true" {
			t.Errorf("quic-go is told %q", got)
		}
	})
}
