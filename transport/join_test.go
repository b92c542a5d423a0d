package transport

import (
	"context"
	"crypto/tls"
	"errors"
	"io"
	"strings"
	"sync/atomic"
	"testing"
	"time"
)

// stranger makes the identity of a node that has not joined.
func (w *world) stranger(name string) {
	w.t.Helper()
	id, err := NewIdentity()
	if err != nil {
		w.t.Fatal(err)
	}
	w.ids[name] = id
}

func TestJoiningNodeWithThePinnedHashGetsACertificate(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.stranger("new")
		member, joiner := w.start("m"), w.start("new")
		member.Listen(Join, func(ctx context.Context, c *Conn) {
			if !c.Peer().Anonymous() {
				t.Errorf("joining node is %v", c.Peer())
			}
			s, err := c.AcceptStream(ctx)
			if err != nil {
				t.Error(err)
				return
			}
			csr, err := io.ReadAll(s)
			if err != nil {
				t.Error(err)
			}
			cert, err := w.ca.IssueCSR(csr, Grant{Node: joiner.id.Node(), Role: Proxy, Life: time.Hour}, time.Now())
			if err != nil {
				t.Error(err)
			}
			_, _ = s.Write(cert)
			_ = s.Close()
			<-ctx.Done()
		})
		member.Listen(Uplink, echo)
		c, err := joiner.Dial(t.Context(), Join, Target{Addrs: []string{"m:2380"}, CAHash: w.ca.Hash()})
		if err != nil {
			t.Fatal(err)
		}
		csr, err := joiner.id.Request()
		if err != nil {
			t.Fatal(err)
		}
		cert, err := ask(c, string(csr), time.Second)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := joiner.Dial(t.Context(), Uplink, w.target("m")); !errors.Is(err, ErrNotJoined) {
			t.Errorf("dialed an uplink without a certificate: %v", err)
		}
		joined, err := joiner.id.WithCertificate([]byte(cert), c.CACertificate())
		if err != nil {
			t.Fatal(err)
		}
		joiner.become(joined)
		if got, err := ask(w.dial(joiner, "m", Uplink), "as a proxy", time.Second); err != nil || got != "as a proxy" {
			t.Errorf("over the uplink: %q, %v", got, err)
		}
	})
}

func TestPinnedHashThatDoesNotMatchSendsNothing(t *testing.T) {
	for _, name := range []string{"another CA", "the right CA is shown, but did not sign"} {
		t.Run(name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world) {
				w.stranger("new")
				pin := w.ca.Hash()
				if name == "another CA" {
					pin = mustCA(t, "c1").Hash()
				} else { // an impostor who has seen the CA's public certificate
					id := *newIdentity(t, mustCA(t, "c1"), Grant{})
					id.ca = w.ca.cert
					w.ids["m"] = &id
				}
				member, joiner := w.start("m"), w.start("new")
				var seen atomic.Int64
				member.Listen(Join, func(ctx context.Context, c *Conn) {
					seen.Add(1)
					if s, err := c.AcceptStream(ctx); err == nil {
						data, _ := io.ReadAll(s)
						seen.Add(1000 + int64(len(data)))
					}
				})
				for _, early := range []bool{false, true} {
					c, err := joiner.Dial(t.Context(), Join, Target{Addrs: []string{"m:2380"}, CAHash: pin, Early: early})
					if err == nil {
						_, _ = ask(c, "the secret", time.Second)
						t.Error("dialed")
					}
					if !errors.Is(err, UnknownCA) || name == "another CA" && !strings.Contains(err.Error(), "pinned hash "+pin) {
						t.Errorf("got %v", err)
					}
				}
				time.Sleep(time.Minute)
				if n := seen.Load(); n != 0 {
					t.Errorf("the join handler saw something: %d", n)
				}
			})
		})
	}
}

func TestDialToJoinWithoutAHashIsRefusedHere(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.stranger("new")
		joiner := w.start("new")
		before := w.net.Link("new", "m").Stats().Packets
		if _, err := joiner.Dial(t.Context(), Join, Target{Addrs: []string{w.net.Addr("m")}}); err == nil || !strings.Contains(err.Error(), "join token") {
			t.Errorf("got %v", err)
		}
		if after := w.net.Link("new", "m").Stats().Packets; after != before {
			t.Errorf("%d packets were sent", after-before)
		}
	})
}

func TestNodeWithoutACertificateGetsNowhereElse(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.stranger("new")
		member, joiner := w.start("m"), w.start("new")
		member.Listen(Raft, func(context.Context, *Conn) { t.Error("served") })
		// By hand: Dial would not even try.
		conf, err := joiner.clientTLS(Join, Target{CAHash: w.ca.Hash()})
		if err != nil {
			t.Fatal(err)
		}
		conf.NextProtos, conf.VerifyConnection = []string{string(Raft)}, func(tls.ConnectionState) error { return nil }
		qc, err := joiner.tr.Dial(t.Context(), member.Addr(), conf, joiner.quicConfig())
		if err == nil {
			<-qc.Context().Done()
			err = context.Cause(qc.Context())
		}
		if got := explain(err); !errors.Is(got, NoCertificate) {
			t.Errorf("got %v, want %v", got, NoCertificate)
		}
	})
}

func TestJoiningIsBoundedInNumberAndTime(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.stranger("new")
		member, joiner := w.start("m"), w.start("new")
		member.Listen(Join, func(ctx context.Context, _ *Conn) { <-ctx.Done() })
		var conns []*Conn
		target := Target{Addrs: []string{"m:2380"}, CAHash: w.ca.Hash()}
		for range maxJoins {
			c, err := joiner.Dial(t.Context(), Join, target)
			if err != nil {
				t.Fatal(err)
			}
			conns = append(conns, c)
		}
		if err := w.dialTooMany(joiner, Join, target); !isFull(err) {
			t.Errorf("one too many: %v, want closed as full", err)
		}
		time.Sleep(time.Second)
		if k := member.Counters(); k.Full != 1 || k.Open != maxJoins {
			t.Errorf("counters %+v", k)
		}
		time.Sleep(joinLife)
		closed, ok := errors.AsType[*CloseError](conns[0].Err())
		if !ok || closed.Code != CodeTooSlow {
			t.Errorf("after a minute: %v, want closed as too slow", conns[0].Err())
		}
	})
}
