package transport

import (
	"errors"
	"testing"
	"time"
)

func TestASecondSocketIsServedAndTheFirstGoesOn(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		a, b := w.startTCP("a"), w.start("b", func(c *Config) { c.Relay = w.net.Relay("b") })
		b.Listen(Raft, echo)
		first := w.dial(a, "b", Raft)
		at2 := w.net.Addr("b2")
		if err := b.Extend(t.Context(), w.net.Node("b2"), w.net.Listen("b2")); err != nil {
			t.Fatal(err)
		}
		second, err := a.Dial(t.Context(), Raft, Target{Addrs: []string{at2}, Node: b.id.Node()})
		if err != nil {
			t.Fatal(err)
		}
		wantEcho(t, second, "at the second")
		wantEcho(t, first, "at the first")
		if got := second.RemoteAddr().String(); got != at2 || second.Way() != OverUDP {
			t.Errorf("connected to %s over %s, want %s", got, second.Way(), at2)
		}
		w.net.Cut("a", "b2")
		over, err := a.Dial(t.Context(), Raft, Target{Addrs: []string{at2}, Node: b.id.Node()})
		if err != nil || over.Way() != OverTCP {
			t.Fatalf("%v; want a connection over TCP", err)
		}
		wantEcho(t, over, "over TCP")
		w.net.Heal("a", "b2")
		b.stop() // tells all of them
		for _, c := range []*Conn{first, second, over} {
			select {
			case <-c.Context().Done():
			case <-time.After(time.Second):
				t.Fatal("a connection outlives the endpoint")
			}
			if closed, ok := errors.AsType[*CloseError](c.Err()); c != over && (!ok || closed.Code != CodeShutdown) { // TCP may end first
				t.Errorf("ended with %v", c.Err())
			}
		}
		conn := w.net.Node("b2") // it was closed
		if err := b.Extend(t.Context(), conn, nil); !errors.Is(err, ErrClosed) {
			t.Errorf("extended an endpoint that has stopped: %v", err)
		}
	})
}
