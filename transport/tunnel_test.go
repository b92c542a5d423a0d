package transport

import (
	"bytes"
	"context"
	"errors"
	"io"
	"net"
	"sync"
	"testing"
	"time"
)

// wire is a stream in memory between two ends, which keeps all that goes through it and knows why it was aborted.
type wire struct {
	net.Conn
	mu   *sync.Mutex
	seen *bytes.Buffer
	code *uint64 // that either end has aborted with
}

func (w wire) Write(p []byte) (int, error) {
	w.mu.Lock()
	w.seen.Write(p)
	w.mu.Unlock()
	return w.Conn.Write(p)
}

func (w wire) Read(p []byte) (int, error) {
	n, err := w.Conn.Read(p)
	w.mu.Lock()
	defer w.mu.Unlock()
	if err != nil && *w.code != 0 {
		err = &StreamError{Remote: true, Code: *w.code}
	}
	return n, err
}

func (w wire) CancelRead(uint64) {}

func (w wire) Abort(code uint64) {
	w.mu.Lock()
	if *w.code == 0 {
		*w.code = code
	}
	w.mu.Unlock()
	_ = w.Close()
}

func newWire() (low, high wire) {
	a, b := net.Pipe()
	low = wire{a, new(sync.Mutex), new(bytes.Buffer), new(uint64)}
	high = low
	high.Conn = b
	return low, high
}

// dug is a tunnel, the stream that it is on, and what became of either end.
type dug struct {
	low, high       *Tunnel
	lowErr, highErr error
	under           wire
}

// dig opens a tunnel from one node to another, and returns what became of both ends.
func dig(t *testing.T, from, to *node, p Protocol, target Target) (d dug) {
	t.Helper()
	a, b := newWire()
	done := make(chan struct{})
	ctx, cancel := context.WithTimeout(t.Context(), 10*time.Second)
	defer cancel()
	go func() {
		defer close(done)
		if d.high, d.highErr = to.AcceptTunnel(ctx, b); d.highErr == nil {
			_, _ = d.high.Write([]byte("!"))
		}
	}()
	d.low, d.lowErr = from.OpenTunnel(ctx, a, p, target)
	if d.lowErr == nil { // a refusal of the other end comes behind the handshake
		_, d.lowErr = io.ReadFull(d.low, make([]byte, 1))
	}
	if d.lowErr != nil {
		a.Abort(0)
	}
	<-done
	d.under = a
	return d
}

func TestATunnelHidesWhatIsSaidFromWhoCarriesIt(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.ids["p"] = newIdentity(t, w.ca, Grant{Role: Proxy, Scope: []string{"a/"}})
		member, proxy := w.start("m"), w.start("p")
		member.Listen(Uplink, echo)
		d := dig(t, proxy, member, Uplink, Target{})
		if d.lowErr != nil || d.highErr != nil {
			t.Fatal(d.lowErr, d.highErr)
		}
		low, high, wire := d.low, d.high, d.under
		if p := high.Peer(); p.Node != proxy.id.Node() || p.Role != Proxy || low.Peer().Node != member.id.Node() {
			t.Errorf("the ends take each other for %v and %v", low.Peer(), p)
		}
		if !bytes.Equal(low.Binding(), high.Binding()) || len(low.Binding()) != 32 {
			t.Error("the ends have different bindings")
		}
		go func() { _, _ = low.Write([]byte("swordfish")) }()
		got := make([]byte, 9)
		if _, err := io.ReadFull(high, got); err != nil || string(got) != "swordfish" {
			t.Fatalf("%q %v", got, err)
		}
		wire.mu.Lock()
		defer wire.mu.Unlock()
		if bytes.Contains(wire.seen.Bytes(), got) {
			t.Error("what was said went through in the clear")
		}
	})
}

func TestWhoIsNotLetInThroughATunnelIsToldWhy(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.ids["p"] = newIdentity(t, w.ca, Grant{Role: Proxy, Scope: []string{"a/"}})
		var heard Refusal
		proxy := w.start("p", func(c *Config) { c.Refused = func(_ Protocol, why Refusal) { heard = why } })
		refusing := w.start("m", func(c *Config) { c.Allowed = func(PeerInfo) error { return Revoked } })
		other := w.start("o")
		for _, n := range []*node{refusing, other} {
			n.Listen(Uplink, echo)
		}
		d := dig(t, proxy, refusing, Uplink, Target{})
		if !errors.Is(d.lowErr, Revoked) || !errors.Is(d.highErr, Revoked) || heard != Revoked || *d.under.code != RefusalCode(Revoked) {
			t.Errorf("revoked: %v, %v, heard %v, code %d", d.lowErr, d.highErr, heard, *d.under.code)
		}
		if d = dig(t, proxy, other, Uplink, Target{}); d.lowErr != nil || d.highErr != nil {
			t.Fatal(d.lowErr, d.highErr)
		}
		d.high.Refuse(Revoked) // later
		if _, err := d.low.Read(make([]byte, 1)); !errors.Is(err, Revoked) {
			t.Errorf("revoked later: %v", err)
		}
		if dig(t, proxy, other, Raft, Target{}).lowErr == nil {
			t.Error("a tunnel for what only members speak")
		}
		// Who carries it cannot pose as its end.
		w.ids["thief"] = newIdentity(t, w.ca, Grant{Role: Proxy, Scope: []string{""}})
		thief := w.start("thief")
		thief.Listen(Uplink, echo)
		if err := dig(t, proxy, thief, Uplink, Target{}).lowErr; !errors.Is(err, WrongRole) {
			t.Errorf("a proxy at the other end: %v", err)
		}
		// A box that joins goes by the hash in its token.
		w.stranger("new")
		box := w.start("new")
		other.Listen(Join, echo)
		if err := dig(t, box, other, Join, Target{CAHash: mustCA(t, "c2").Hash()}).lowErr; !errors.Is(err, UnknownCA) {
			t.Errorf("another CA: %v", err)
		}
		if d = dig(t, box, other, Join, Target{CAHash: w.ca.Hash()}); d.lowErr != nil || d.highErr != nil || !d.high.Peer().Anonymous() {
			t.Errorf("joining: %v %v", d.lowErr, d.highErr)
		}
	})
}

func TestAProxyAnswersOnlyWhoAsksForOne(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		for _, name := range []string{"box", "till"} {
			w.ids[name] = newIdentity(t, w.ca, Grant{Role: Proxy, Scope: []string{""}})
		}
		box, till := w.start("box"), w.start("till")
		box.Listen(Uplink, echo)
		if _, err := till.Dial(t.Context(), Uplink, TargetOf("box:2380")); !errors.Is(err, WrongRole) {
			t.Errorf("unmarked: %v", err)
		}
		c, err := till.Dial(t.Context(), Uplink, TargetOf(ViaPrefix+"box:2380"))
		if err != nil || c.Peer().Role != Proxy {
			t.Errorf("marked: %v", err)
		}
	})
}
