package transport

import (
	"context"
	"crypto/x509"
	"errors"
	"strings"
	"testing"
	"time"
)

func TestPeersProveWhoTheyAre(t *testing.T) {
	bubble(t, 1, func(t *testing.T, w *world) {
		w.role("p", Grant{Role: Proxy, Scope: []string{"site/7/", "ü&="}})
		member, proxy := w.start("m"), w.start("p")
		seen := make(chan PeerInfo, 1)
		member.Listen(Uplink, func(ctx context.Context, c *Conn) {
			seen <- c.Peer()
			echo(ctx, c)
		})
		start := time.Now()
		c := w.dial(proxy, "m", Uplink)
		if took := time.Since(start); took > 25*time.Millisecond {
			t.Errorf("handshake and confirmation took %v, want two round trips of 10ms", took)
		}
		if p := c.Peer(); p.Node != member.id.Node() || p.Role != Member || p.Cluster != "c1" || !c.Dialed() {
			t.Errorf("proxy sees %+v", p)
		}
		if p := <-seen; p.Node != proxy.id.Node() || p.Role != Proxy || len(p.Scope) != 2 || p.Scope[1] != "ü&=" {
			t.Errorf("member sees %+v", p)
		}
		if got, err := ask(c, "hello", time.Second); err != nil || got != "hello" {
			t.Errorf("answer %q, %v", got, err)
		}
	})
}

// refusalCase is a pair of nodes of which one is not as the other wants it.
type refusalCase struct {
	name   string
	setup  func(t *testing.T, w *world)    // makes identities a (dials) and b
	dialer func(*Config)                   // changes a
	server func(*Config)                   // changes b
	target func(w *world, t Target) Target // whom a dials
	proto  Protocol                        // default Raft
	by     string                          // who refuses: "a" or "b"
	why    Refusal
	text   string // in the error of the dialing side
}

func refusalCases() []refusalCase {
	grantTo := func(name string, g Grant) func(*testing.T, *world) {
		return func(_ *testing.T, w *world) { w.role(name, g) }
	}
	foreign := func(name, cluster string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) { w.ids[name] = newIdentity(t, mustCA(t, cluster), Grant{}) }
	}
	// forged trusts the right CA and shows a certificate of another.
	forged := func(name, cluster string) func(*testing.T, *world) {
		return func(t *testing.T, w *world) {
			id := *newIdentity(t, mustCA(t, cluster), Grant{})
			id.roots, id.info.Cluster = []*x509.Certificate{w.ca.cert}, w.ca.Cluster()
			w.ids[name] = &id
		}
	}
	deny := func(err error) func(*Config) {
		return func(c *Config) { c.Allowed = func(PeerInfo) error { return err } }
	}
	later := func(d time.Duration) func(*Config) {
		return func(c *Config) { c.Now = func() time.Time { return time.Now().Add(d) } }
	}
	return []refusalCase{
		{name: "dialer of another CA of the same name", setup: foreign("a", "c1"), by: "a", why: UnknownCA, text: "not signed by the cluster's CA"},
		{name: "dialer of another CA, seen by the server", setup: forged("a", "c1"), by: "b", why: UnknownCA,
			text: "refused by the peer: the certificate is not signed by the cluster's CA"},
		{name: "dialer of another cluster, seen by the server", setup: forged("a", "c2"), by: "b", why: OtherCluster,
			text: "refused by the peer: the certificate is of another cluster"},
		{name: "server of another cluster", setup: foreign("b", "c2"), by: "a", why: OtherCluster, text: "it says cluster c2, this is c1"},
		{name: "expired dialer", setup: grantTo("a", Grant{Life: time.Hour}), server: later(2 * time.Hour), by: "b", why: Expired,
			text: "refused by the peer: the certificate has expired"},
		{name: "expired server", setup: grantTo("b", Grant{Life: time.Hour}), dialer: later(2 * time.Hour), by: "a", why: Expired,
			text: "judged at 2000-01-01T02:00:00Z"},
		{name: "server of the time before", dialer: later(-31 * 365 * 24 * time.Hour), by: "a", why: NotYetValid, text: "not valid yet"},
		{name: "proxy dials as a member", setup: grantTo("a", Grant{Role: Proxy}), by: "b", why: WrongRole,
			text: "refused by the peer: the certificate's role does not allow this protocol"},
		{name: "proxy answers as a member", setup: grantTo("b", Grant{Role: Proxy}), by: "a", why: WrongRole, text: "proxy"},
		{name: "proxy answers an uplink", setup: grantTo("b", Grant{Role: Proxy}), proto: Uplink, by: "a", why: WrongRole, text: "over holdfast-uplink/1"},
		{name: "dialer not allowed", server: deny(errNotToday), by: "b", why: NotAllowed, text: "refused by the peer: the node is not allowed in"},
		{name: "dialer removed", server: deny(Removed), by: "b", why: Removed, text: "refused by the peer: the node has been removed from the cluster"},
		{name: "server revoked", dialer: deny(Revoked), by: "a", why: Revoked, text: "revoked"},
		{name: "another node answers", target: func(_ *world, t Target) Target { t.Node = NewNodeID(); return t }, by: "a", why: WrongNode, text: "another node answers"},
		{name: "copied identity", setup: func(t *testing.T, w *world) { w.role("b", Grant{}); w.ids["a"] = w.ids["b"] }, by: "a", why: Self, text: "same node id"},
	}
}

var errNotToday = errors.New("not today")

func TestPeerThatIsNotAsItShouldBeIsRefusedAndToldWhy(t *testing.T) {
	for _, tc := range refusalCases() {
		t.Run(tc.name, func(t *testing.T) {
			bubble(t, 1, func(t *testing.T, w *world) {
				if tc.setup != nil {
					tc.setup(t, w)
				}
				proto := tc.proto
				if proto == "" {
					proto = Raft
				}
				a, b := w.start("a", orNothing(tc.dialer)), w.start("b", orNothing(tc.server))
				served := make(chan struct{}, 1)
				b.Listen(proto, func(context.Context, *Conn) { served <- struct{}{} })
				target := w.target("b")
				if tc.target != nil {
					target = tc.target(w, target)
				}
				start := time.Now()
				c, err := a.Dial(t.Context(), proto, target)
				if err == nil {
					t.Fatalf("dialed %v", c.Peer())
				}
				refused, ok := errors.AsType[*RefusedError](err)
				if !ok || refused.Why != tc.why || refused.Remote != (tc.by == "b") || !errors.Is(err, tc.why) || !strings.Contains(err.Error(), tc.text) {
					t.Errorf("got %v\nwant by %s, %q, with %q", err, tc.by, tc.why, tc.text)
				}
				if took := time.Since(start); took > 100*time.Millisecond {
					t.Errorf("it took %v to learn", took)
				}
				time.Sleep(time.Minute)
				for _, n := range []*node{a, b} {
					k := n.Counters()
					if k.Refused[tc.why.label()] != 1 || k.Open != 0 || k.Incoming != 0 || k.Handshaking != 0 {
						t.Errorf("counters %+v, want one refusal and no connection", k)
					}
				}
				select {
				case <-served:
					t.Error("the handler saw the refused connection")
				default:
				}
			})
		})
	}
}

func orNothing(f func(*Config)) func(*Config) {
	if f == nil {
		return func(*Config) {}
	}
	return f
}
