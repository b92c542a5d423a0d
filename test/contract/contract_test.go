package contract

import (
	"context"
	"net"
	"path/filepath"
	"sync"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/internal/bridge"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/proxy"
	"holdfast/queue"
	"holdfast/transport"
)

// run runs a part until the test ends, and waits for it.
func run(t *testing.T, part func(context.Context) error) (stop func()) {
	t.Helper()
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := part(ctx); err != nil {
			t.Errorf("a part failed: %v", err)
		}
	})
	stop = sync.OnceFunc(func() { cancel(); wg.Wait() })
	t.Cleanup(stop)
	return stop
}

// The clock of the members here runs so fast that a second of a lease is over sooner.
const (
	speed  = 10
	second = time.Second / speed
)

func openMember(t *testing.T) api.Backend {
	t.Helper()
	began := time.Now()
	m, err := member.Open(member.Config{Dir: filepath.Join(t.TempDir(), "member"), DiskReserve: -1,
		Clock: func() time.Duration { return time.Since(began) * speed }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, m.Run)
	select {
	case <-m.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the member was not ready within 30 s")
	}
	return m
}

// cluster is a CA that issues identities to two endpoints on loopback.
type cluster struct{ ca *transport.CA }

func newCluster(t *testing.T) cluster {
	t.Helper()
	ca, err := transport.NewCA("test")
	if err != nil {
		t.Fatal(err)
	}
	return cluster{ca}
}

func (c cluster) endpoint(t *testing.T, role transport.Role) *transport.Endpoint {
	t.Helper()
	id, err := transport.NewIdentity()
	if err != nil {
		t.Fatal(err)
	}
	g := transport.Grant{Node: id.Node(), Role: role, Life: time.Hour}
	if role == transport.Proxy {
		g.Scope = []string{""}
	}
	cert, err := c.ca.Issue(id.PublicKey(), g, time.Now())
	if err != nil {
		t.Fatal(err)
	}
	if id, err = id.WithCertificate(cert, c.ca.Certificate()); err != nil {
		t.Fatal(err)
	}
	conn, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = conn.Close() })
	ep, err := transport.New(transport.Config{Conn: conn, Identity: func() *transport.Identity { return id }})
	if err != nil {
		t.Fatal(err)
	}
	run(t, ep.Run)
	return ep
}

// upstream is client(uplink(b)) over QUIC on loopback.
func upstream(t *testing.T, b api.Backend) *client.Client {
	up, _ := upstreamOf(t, b)
	return up
}

// upstreamOf is upstream, and the number under which its node queues.
func upstreamOf(t *testing.T, b api.Backend) (*client.Client, [16]byte) {
	t.Helper()
	c := newCluster(t)
	server, asker := c.endpoint(t, transport.Member), c.endpoint(t, transport.Proxy)
	bridge.Serve(server, uplink.New(b, nil))
	up, err := client.New(client.Options{Dial: bridge.Dial(asker), Endpoints: []string{server.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, up.Run)
	origin, err := kv.ParseNodeID(asker.Node())
	if err != nil {
		t.Fatal(err)
	}
	return up, origin
}

func openProxy(t *testing.T, up proxy.Upstream, prefixes ...string) *proxy.Proxy {
	t.Helper()
	began := time.Now()
	o := proxy.Options{Upstream: up, Path: filepath.Join(t.TempDir(), "cache.db"), Clock: func() time.Duration { return time.Since(began) }}
	for _, p := range prefixes {
		o.Prefixes = append(o.Prefixes, []byte(p))
	}
	p, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	run(t, p.Run)
	return p
}

func openQueue(t *testing.T, next queue.Next, origin [16]byte) *queue.Queue {
	t.Helper()
	q, err := queue.Open(next, queue.Options{Dir: filepath.Join(t.TempDir(), "queue"), Origin: origin, Rules: []queue.Rule{{Guard: queue.GuardNone}}})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := q.Close(); err != nil {
			t.Error(err)
		}
	})
	run(t, q.Run)
	return q
}

// keeps runs the contract suite on a kind of node.
func keeps(t *testing.T, open func(t *testing.T) api.Backend) {
	t.Helper()
	apitest.Harness{Open: open, Second: second, IDs: true}.Run(t)
}

func TestAMemberKeepsTheContract(t *testing.T) { keeps(t, openMember) }

func TestAClientOfAnUplinkKeepsTheContract(t *testing.T) {
	keeps(t, func(t *testing.T) api.Backend { return upstream(t, openMember(t)) })
}

func TestAProxyKeepsTheContract(t *testing.T) {
	for name, prefixes := range map[string][]string{"mirroring everything": {""}, "on demand": nil} {
		t.Run(name, func(t *testing.T) {
			keeps(t, func(t *testing.T) api.Backend {
				p := openProxy(t, upstream(t, openMember(t)), prefixes...)
				if len(prefixes) > 0 {
					synced(t, p)
				}
				return p
			})
		})
	}
}

// A site's one box may talk to the cluster for all.
func TestAProxyBehindAProxyKeepsTheContract(t *testing.T) {
	for name, prefixes := range map[string][]string{"mirroring everything": {""}, "on demand": nil} {
		t.Run(name, func(t *testing.T) {
			keeps(t, func(t *testing.T) api.Backend {
				b := openMember(t)
				for range 2 {
					p := openProxy(t, upstream(t, b), prefixes...)
					if len(prefixes) > 0 {
						synced(t, p)
					}
					b = p
				}
				return b
			})
		})
	}
}

func synced(t *testing.T, p *proxy.Proxy) {
	t.Helper()
	for deadline := time.Now().Add(20 * time.Second); !p.State().Synced; time.Sleep(time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not synced within 20 s: %+v", p.State())
		}
	}
}

func TestAQueueInFrontOfAMemberKeepsTheContract(t *testing.T) {
	apitest.Harness{Queue: true, IDs: true, Second: second, Open: func(t *testing.T) api.Backend { return openQueue(t, openMember(t), [16]byte{7}) }}.Run(t)
}

func TestAQueueInFrontOfAProxyKeepsTheContract(t *testing.T) {
	apitest.Harness{Queue: true, IDs: true, Second: second, Open: func(t *testing.T) api.Backend {
		up, origin := upstreamOf(t, openMember(t))
		p := openProxy(t, up, "")
		synced(t, p)
		return openQueue(t, p, origin)
	}}.Run(t)
}
