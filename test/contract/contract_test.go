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
	m, _ := openMemberIn(t, filepath.Join(t.TempDir(), "member"))
	return m
}

func openMemberIn(t *testing.T, dir string) (m *member.Member, stop func()) {
	t.Helper()
	began := time.Now()
	m, err := member.Open(member.Config{Dir: dir, DiskReserve: -1, Clock: func() time.Duration { return time.Since(began) * speed }})
	if err != nil {
		t.Fatal(err)
	}
	stop = run(t, m.Run)
	select {
	case <-m.Ready():
	case <-time.After(30 * time.Second):
		t.Fatal("the member was not ready within 30 s")
	}
	return m, stop
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

func (c cluster) endpoint(t *testing.T, role transport.Role, conn net.PacketConn) *transport.Endpoint {
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
	return upstreamBy(t, b, socket(t))
}

// upstreamBy is upstreamOf by a socket of the asker's.
func upstreamBy(t *testing.T, b api.Backend, conn net.PacketConn) (*client.Client, [16]byte) {
	t.Helper()
	c := newCluster(t)
	server, asker := c.endpoint(t, transport.Member, socket(t)), c.endpoint(t, transport.Proxy, conn)
	bridge.Serve(server, uplink.New(b, nil))
	up, err := client.New(client.Options{Dial: bridge.Dial(asker), Endpoints: []string{server.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, up.Run)
	return up, origin(t, asker)
}

// origin is the number under which the node of an endpoint queues.
func origin(t *testing.T, ep *transport.Endpoint) [16]byte {
	t.Helper()
	id, err := kv.ParseNodeID(ep.Node())
	if err != nil {
		t.Fatal(err)
	}
	return id
}

func openProxy(t *testing.T, up proxy.Upstream, prefixes ...string) *proxy.Proxy {
	t.Helper()
	p, _ := openProxyIn(t, t.TempDir(), up, prefixes...)
	return p
}

func openProxyIn(t *testing.T, dir string, up proxy.Upstream, prefixes ...string) (p *proxy.Proxy, stop func()) {
	t.Helper()
	began := time.Now()
	o := proxy.Options{Upstream: up, Path: filepath.Join(dir, "cache.db"), Clock: func() time.Duration { return time.Since(began) }}
	for _, p := range prefixes {
		o.Prefixes = append(o.Prefixes, []byte(p))
	}
	p, err := proxy.New(o)
	if err != nil {
		t.Fatal(err)
	}
	return p, ends(t, p.Run, p.Close)
}

// ends runs a part until the test ends or it is stopped, and then closes it.
func ends(t *testing.T, part func(context.Context) error, finish func() error) (stop func()) {
	t.Helper()
	end := run(t, part)
	stop = sync.OnceFunc(func() {
		end()
		if err := finish(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(stop)
	return stop
}

func openQueue(t *testing.T, next queue.Next, origin [16]byte) *queue.Queue {
	t.Helper()
	q, _ := openQueueIn(t, t.TempDir(), next, origin)
	return q
}

func openQueueIn(t *testing.T, dir string, next queue.Next, origin [16]byte) (q *queue.Queue, stop func()) {
	t.Helper()
	q, err := queue.Open(next, queue.Options{Dir: filepath.Join(dir, "queue"), Origin: origin, Rules: []queue.Rule{{Guard: queue.GuardNone}}})
	if err != nil {
		t.Fatal(err)
	}
	return q, ends(t, q.Run, q.Close)
}

// keeps runs the contract suite on a kind of node.
func keeps(t *testing.T, open func(t *testing.T) api.Backend) {
	t.Helper()
	apitest.Harness{Open: open, Second: second, IDs: true}.Run(t)
}

func TestAMemberKeepsTheContract(t *testing.T) {
	handled(t, memberHandle)
}

func TestAClientOfAnUplinkKeepsTheContract(t *testing.T) {
	handled(t, func(t *testing.T) handle { return clientHandle(t, openMember(t)) })
}

func TestAProxyKeepsTheContract(t *testing.T) {
	for name, prefixes := range map[string][]string{"mirroring everything": {""}, "on demand": nil} {
		t.Run(name, func(t *testing.T) {
			handled(t, func(t *testing.T) handle { return proxyHandle(t, openMember(t), prefixes...) })
		})
	}
}

// A site's one box may talk to the cluster for all. It is all the same which of the two links is lost.
func TestAProxyBehindAProxyKeepsTheContract(t *testing.T) {
	for name, prefixes := range map[string][]string{"mirroring everything": {""}, "on demand": nil} {
		for _, lost := range []string{"the upper link", "the lower link"} {
			t.Run(name+", "+lost, func(t *testing.T) {
				handled(t, func(t *testing.T) handle {
					upper := proxyHandle(t, openMember(t), prefixes...)
					lower := proxyHandle(t, upper.node, prefixes...)
					if lost == "the upper link" {
						lower.isolate = upper.isolate
					}
					return lower
				})
			})
		}
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
	h := handles{Harness: apitest.Harness{Queue: true}}
	h.run(t, func(t *testing.T) handle { return queueHandle(t, proxyHandle(t, openMember(t), "")) })
}
