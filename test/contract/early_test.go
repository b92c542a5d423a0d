package contract

import (
	"context"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api/apitest"
	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/internal/bridge"
	"holdfast/internal/simnet"
	"holdfast/kv"
	"holdfast/transport"
)

// place is a network with a cluster's CA.
type place struct {
	t   *testing.T
	net *simnet.Net
	ca  *transport.CA
}

// endpoint runs one until the test ends, or until it is stopped.
func (p place) endpoint(name string, id *transport.Identity, dir string) (ep *transport.Endpoint, stop func()) {
	p.t.Helper()
	conn := p.net.Node(name)
	ep, err := transport.New(transport.Config{Conn: conn, Identity: func() *transport.Identity { return id }, EarlyData: true, SessionDir: dir})
	if err != nil {
		p.t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	done := make(chan error, 1)
	go func() { done <- ep.Run(ctx) }()
	stop = func() {
		cancel()
		if err := <-done; err != nil {
			p.t.Error(err)
		}
		_ = conn.Close()
	}
	return ep, stop
}

func (p place) identity(role transport.Role) *transport.Identity {
	p.t.Helper()
	id, err := transport.NewIdentity()
	if err != nil {
		p.t.Fatal(err)
	}
	csr, err := id.Request()
	if err != nil {
		p.t.Fatal(err)
	}
	cert, err := p.ca.IssueCSR(csr, transport.Grant{Node: id.Node(), Role: role, Scope: scopeOf(role), Life: time.Hour}, time.Now())
	if err != nil {
		p.t.Fatal(err)
	}
	if id, err = id.WithCertificate(cert, p.ca.Certificate()); err != nil {
		p.t.Fatal(err)
	}
	return id
}

func scopeOf(role transport.Role) []string {
	if role == transport.Proxy {
		return []string{""}
	}
	return nil
}

// TestAProxyThatStartsAgainHasItsFirstReplyInOneRoundTrip is the row "reconnect to first reply" of the targets, from the
// read to its answer, over a link with an RTT of 100 ms.
func TestAProxyThatStartsAgainHasItsFirstReplyInOneRoundTrip(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		ca, err := transport.NewCA("c1")
		if err != nil {
			t.Fatal(err)
		}
		p := place{t, simnet.New(t, 1), ca}
		p.net.Link("m", "p").Delay(50 * time.Millisecond)
		server, stopServer := p.endpoint("m", p.identity(transport.Member), "")
		defer stopServer()
		bridge.Serve(server, uplink.New(apitest.NewMemory(), nil))
		proxy := p.identity(transport.Proxy)
		var took [2]time.Duration
		for i := range took {
			ep, stop := p.endpoint("p", proxy, dir)
			up, err := client.New(client.Options{Dial: bridge.Dial(ep), Endpoints: []string{p.net.Addr("m")}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- up.Run(ctx) }()
			start := time.Now()
			if _, err := up.Read(t.Context(), kv.Query{}); err != nil {
				t.Errorf("start %d: %v", i, err)
			}
			took[i] = time.Since(start)
			if _, err := up.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: []byte("v")}}}); err != nil {
				t.Errorf("start %d: write: %v", i, err)
			}
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
			stop()
		}
		t.Logf("first reply after %v, then %v", took[0], took[1])
		if took[0] > 310*time.Millisecond || took[1] > 120*time.Millisecond {
			t.Errorf("first reply after %v, and after a restart %v; want at most three round trips and 1.2", took[0], took[1])
		}
	})
}

// TestAProxyTurnsToAnotherMemberInOneRoundTrip lets the member that a proxy uses say that it is about to go. The proxy has looked at
// the other one as it does daily, and has a session with it since then: no ticket key has to be shared between members.
func TestAProxyTurnsToAnotherMemberInOneRoundTrip(t *testing.T) {
	const rtt = 100 * time.Millisecond
	turn := func(t *testing.T, after time.Duration) (took time.Duration) {
		synctest.Test(t, func(t *testing.T) {
			ca, err := transport.NewCA("c1")
			if err != nil {
				t.Fatal(err)
			}
			p := place{t, simnet.New(t, 1), ca}
			for _, m := range []string{"m1", "m2"} {
				p.net.Link(m, "p").Delay(rtt / 2)
				server, stop := p.endpoint(m, p.identity(transport.Member), "")
				defer stop() //nolint:gocritic // two members
				bridge.Serve(server, uplink.New(apitest.NewMemory(), nil))
			}
			ep, stop := p.endpoint("p", p.identity(transport.Proxy), "")
			defer stop()
			var first client.Conn
			up, err := client.New(client.Options{Endpoints: []string{p.net.Addr("m1"), p.net.Addr("m2")},
				Dial: func(ctx context.Context, at string, early func(client.Conn)) (client.Conn, error) {
					c, err := bridge.Dial(ep)(ctx, at, early)
					if first == nil {
						first = c
					}
					return c, err
				}})
			if err != nil {
				t.Fatal(err)
			}
			ctx, cancel := context.WithCancel(context.Background())
			done := make(chan error, 1)
			go func() { done <- up.Run(ctx) }()
			time.Sleep(after)
			if at := up.State().Endpoint; at != p.net.Addr("m1") {
				t.Fatalf("connected to %q", at)
			}
			began := time.Now()
			up.Leave(first)
			for up.State().Endpoint != p.net.Addr("m2") {
				if time.Since(began) > time.Minute {
					t.Fatal("it did not turn within a minute")
				}
				time.Sleep(time.Millisecond)
			}
			took = time.Since(began)
			cancel()
			if err := <-done; err != nil {
				t.Error(err)
			}
		})
		return took
	}
	before, after := turn(t, 10*time.Second), turn(t, 10*time.Minute)
	t.Logf("%v as a stranger, %v after a look", before, after)
	if before < 2*rtt || after > rtt*12/10 {
		t.Errorf("it turned within %v as a stranger, and within %v after a look; want two round trips and 1.2", before, after)
	}
}
