package transport

import (
	"context"
	"io"
	"log/slog"
	"net"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/simnet"
)

// world is a cluster's CA and a network, in a bubble of virtual time.
type world struct {
	t   *testing.T
	net *simnet.Net
	ca  *CA
	ids map[string]*Identity // by node name: a node that starts again is who it was
}

// bubble runs f in virtual time. It fails if a goroutine of the world outlives f.
func bubble(t *testing.T, seed uint64, f func(t *testing.T, w *world)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		f(t, newWorld(t, seed))
	})
}

func newWorld(t *testing.T, seed uint64) *world {
	return &world{t: t, net: simnet.New(t, seed), ca: mustCA(t, "c1"), ids: make(map[string]*Identity)}
}

func mustCA(t testing.TB, cluster string) *CA {
	t.Helper()
	ca, err := NewCA(cluster)
	if err != nil {
		t.Fatal(err)
	}
	return ca
}

// newIdentity is an identity with a certificate of ca.
func newIdentity(t testing.TB, ca *CA, g Grant) *Identity {
	t.Helper()
	id, err := NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	return certify(t, id, ca, g)
}

func certify(t testing.TB, id *Identity, ca *CA, g Grant) *Identity {
	t.Helper()
	if g.Node == "" {
		g.Node = id.Node()
	}
	if g.Role == None {
		g.Role = Member
	}
	if g.Life == 0 {
		g.Life = 24 * time.Hour
	}
	csr, err := id.Request()
	if err != nil {
		t.Fatal(err)
	}
	cert, err := ca.IssueCSR(csr, g, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	id, err = id.WithCertificate(cert, ca.Certificate())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

// node is an endpoint that runs.
type node struct {
	*Endpoint
	id   *Identity
	now  atomic.Pointer[Identity] // id, as the endpoint asks for it
	conn net.PacketConn
	stop func() // stops the endpoint, closes its socket, and waits
	kill func() // closes the socket first, so that nobody hears of the end
}

// become gives a node another identity while it runs.
func (n *node) become(id *Identity) {
	n.id = id
	n.now.Store(id)
}

// start runs a node; opts change its configuration. It is stopped with the test at the latest.
func (w *world) start(name string, opts ...func(*Config)) *node {
	w.t.Helper()
	id := w.ids[name]
	if id == nil {
		id = newIdentity(w.t, w.ca, Grant{})
		w.ids[name] = id
	}
	n := &node{conn: w.net.Node(name)}
	n.become(id)
	cfg := Config{Conn: n.conn, Identity: n.now.Load, Resolve: w.net.Resolve, Log: testLog(w.t, name)}
	for _, o := range opts {
		o(&cfg)
	}
	ep, err := New(cfg)
	if err != nil {
		w.t.Fatal(err)
	}
	n.Endpoint = ep
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ep.Run(ctx) }()
	var once sync.Once
	end := func(killed bool) {
		once.Do(func() {
			if killed {
				_ = n.conn.Close()
			}
			cancel()
			if err := <-done; err != nil && !killed {
				w.t.Errorf("node %s: run: %v", name, err)
			}
			_ = n.conn.Close()
		})
	}
	n.stop, n.kill = func() { end(false) }, func() { end(true) }
	w.t.Cleanup(n.stop)
	return n
}

// role makes a node start with a certificate of another kind.
func (w *world) role(name string, g Grant) { w.ids[name] = newIdentity(w.t, w.ca, g) }

// target is the node of that name.
func (w *world) target(name string) Target {
	return Target{Addrs: []string{w.net.Addr(name)}, Node: w.ids[name].Node()}
}

// dial opens a connection that is closed with the test.
func (w *world) dial(from *node, to string, p Protocol) *Conn {
	w.t.Helper()
	c, err := from.Dial(context.Background(), p, w.target(to))
	if err != nil {
		w.t.Fatalf("dial %s: %v", to, err)
	}
	return c
}

// echo answers each stream with what came, and each datagram with itself.
func echo(ctx context.Context, c *Conn) {
	var wg sync.WaitGroup
	defer wg.Wait()
	wg.Go(func() {
		for {
			p, err := c.ReceiveDatagram(ctx)
			if err != nil {
				return
			}
			_ = c.SendDatagram(p)
		}
	})
	for {
		s, err := c.AcceptStream(ctx)
		if err != nil {
			return
		}
		wg.Go(func() {
			_, _ = io.Copy(s, s)
			_ = s.Close()
		})
	}
}

// ask sends a message on a stream of its own and returns the answer of echo.
func ask(c *Conn, msg string, timeout time.Duration) (string, error) {
	ctx, cancel := context.WithTimeout(context.Background(), timeout)
	defer cancel()
	s, err := c.OpenStream(ctx)
	if err != nil {
		return "", err
	}
	defer s.Abort(0)
	_ = s.SetDeadline(time.Now().Add(timeout))
	if _, err := io.WriteString(s, msg); err != nil {
		return "", err
	}
	if err := s.Close(); err != nil {
		return "", err
	}
	answer, err := io.ReadAll(s)
	return string(answer), err
}

// eventually waits in virtual time.
func eventually(t *testing.T, within time.Duration, what string, ok func() bool) time.Duration {
	t.Helper()
	start := time.Now()
	for !ok() {
		if time.Since(start) > within {
			t.Fatalf("not within %v: %s", within, what)
		}
		time.Sleep(5 * time.Millisecond)
	}
	return time.Since(start)
}

// testLog writes to the test's log.
func testLog(t *testing.T, name string) *slog.Logger {
	return slog.New(slog.NewTextHandler(testWriter{t}, &slog.HandlerOptions{Level: slog.LevelInfo})).With("node", name)
}

type testWriter struct{ t *testing.T }

func (w testWriter) Write(p []byte) (int, error) {
	w.t.Log(string(p[:len(p)-1]))
	return len(p), nil
}
