package contract

import (
	"context"
	"io"
	"sync"
	"testing"
	"time"

	"holdfast/api/apitest"
	"holdfast/api/uplink"
	"holdfast/client"
	"holdfast/internal/bridge"
	"holdfast/internal/wire"
	"holdfast/transport"
)

// TestAQueueBehindAQueueKeepsTheContract has two proxies with queues, one behind the other, as at a site whose one box talks to the
// cluster for all. What the lower one has numbered passes the upper one's queue as it is.
func TestAQueueBehindAQueueKeepsTheContract(t *testing.T) {
	h := handles{Harness: apitest.Harness{Queue: true}}
	h.run(t, openSite)
}

func openSite(t *testing.T) handle {
	c := newCluster(t)
	m := openMember(t)
	member := c.endpoint(t, transport.Member, socket(t))
	bridge.Serve(member, uplink.New(m, nil, uplink.Hooks{Carry: func(ctx context.Context, _ uplink.Conn, _ uplink.Peer, st uplink.Stream, enter func(string) func()) error {
		tunnel, err := member.AcceptTunnel(ctx, st)
		if err != nil {
			return err
		}
		defer enter(tunnel.Peer().Node)()
		defer context.AfterFunc(ctx, func() { tunnel.Abort(0) })()
		if _, err := tunnel.Write([]byte{1}); err != nil { // from here on it is known who is behind whom
			return err
		}
		_, err = io.Copy(io.Discard, tunnel)
		return err
	}}))

	box := c.endpoint(t, transport.Proxy, socket(t))
	up, err := client.New(client.Options{Dial: bridge.Dial(box), Endpoints: []string{member.Addr().String()}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, up.Run)
	upper := openProxy(t, up, "")
	synced(t, upper)
	bridge.Serve(box, uplink.New(openQueue(t, upper, origin(t, box)), nil, uplink.Hooks{
		Carry: func(ctx context.Context, _ uplink.Conn, _ uplink.Peer, st uplink.Stream, _ func(string) func()) error {
			return up.Carry(ctx, st)
		}}))

	link := newPlug(t)
	till := c.endpoint(t, transport.Proxy, link)
	proven := make(chan struct{}, 1)
	ctx, end := context.WithCancel(context.Background())
	var proving sync.WaitGroup
	t.Cleanup(func() { end(); proving.Wait() }) // after the client has ended, which begins them
	low, err := client.New(client.Options{Endpoints: []string{transport.ViaPrefix + box.Addr().String()},
		Dial: func(dialing context.Context, at string, early func(client.Conn)) (client.Conn, error) {
			conn, err := bridge.Dial(till)(dialing, at, early)
			if err == nil {
				proving.Go(func() { prove(ctx, till, conn, proven) })
			}
			return conn, err
		}})
	if err != nil {
		t.Fatal(err)
	}
	run(t, low.Run)
	select {
	case <-proven:
	case <-time.After(20 * time.Second):
		t.Fatal("no tunnel within 20 s")
	}
	h := proxyOn(t, low, "")
	h.origin, h.isolate = origin(t, till), link.pull
	return queueHandle(t, h)
}

// prove keeps a tunnel to a member for as long as a connection to the proxy in between stands, as a node does behind one.
func prove(ctx context.Context, ep *transport.Endpoint, conn client.Conn, proven chan<- struct{}) {
	for {
		tunnel(ctx, ep, conn, proven)
		select {
		case <-conn.Done():
			return
		case <-ctx.Done():
			return
		case <-time.After(10 * time.Millisecond):
		}
	}
}

// tunnel stands until something ends it.
func tunnel(ctx context.Context, ep *transport.Endpoint, conn client.Conn, proven chan<- struct{}) {
	st, err := conn.OpenStream(ctx)
	if err != nil {
		return
	}
	defer st.Abort(0)
	defer context.AfterFunc(ctx, func() { st.Abort(0) })()
	if wire.WriteFrame(st, wire.UplinkRequest{Verb: wire.UplinkTunnel}.Append(nil)) != nil {
		return
	}
	shaking, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	u, err := ep.OpenTunnel(shaking, st, transport.Uplink, transport.Target{})
	if err != nil {
		return
	}
	if _, err := u.Read(make([]byte, 1)); err != nil {
		return
	}
	select {
	case proven <- struct{}{}:
	default:
	}
	_, _ = u.Read(make([]byte, 1))
}
