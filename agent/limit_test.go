package agent

import (
	"errors"
	"log/slog"
	"net"
	"net/http"
	"strings"
	"syscall"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
)

func TestConnectionsBeyondTheLimitAreToldSo(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Connections = 2
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	base := a.Addrs()[0]
	var held []*http.Client
	for range cfg.Limits.Connections {
		c := httpClient(t, nil)
		expect(t, c, "GET", base+"/livez", "", http.StatusOK)
		held = append(held, c) // keeps its connection
	}
	beyond := httpClient(t, nil)
	got := expect(t, beyond, "PUT", base+"/v1/kv/a", "b", http.StatusServiceUnavailable)
	if !strings.Contains(got.body, "limits.connections") || got.header.Get("Retry-After") == "" || !got.last {
		t.Errorf("refused with %+v", got)
	}
	expect(t, beyond, "GET", base+"/livez", "", http.StatusOK) // health is answered all the same
	expect(t, held[0], "PUT", base+"/v1/kv/a", "b", http.StatusCreated)
	expect(t, overSocket(t, a), "PUT", "http://agent/v1/kv/a", "b", http.StatusOK)
	metrics := expect(t, held[0], "GET", base+"/metrics", "", http.StatusOK).body
	if !strings.Contains(metrics, `holdfast_agent_connections_refused_total{for="clients",how="answered"} 2`) {
		t.Errorf("the refusals are not counted:\n%s", grep(metrics, "connections"))
	}
	held[1].CloseIdleConnections()
	deadline := time.Now().Add(patience)
	for {
		got, err := send(t.Context(), beyond, "PUT", base+"/v1/kv/a", "b")
		if err == nil && got.status == http.StatusOK {
			break
		}
		if time.Now().After(deadline) {
			t.Fatalf("a place is free and still %+v, %v", got, err)
		}
	}
}

// A limit that a reload raises lets more in, and one that it lowers fewer, of one client too.
func TestAReloadMovesTheLimitOfConnections(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Connections, cfg.Limits.ClientShare = 4, 50
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	for _, limit := range []int{4, 40, 8} {
		cfg.Limits.Connections = limit
		if _, _, err := a.Reload(cfg); err != nil {
			t.Fatal(err)
		}
		for addr, want := range map[string]int{"192.0.2.1": limit / 2, "127.0.0.1": limit} {
			var open []*limitedConn
			for range 50 {
				if c := a.clients.admit(farConn{addr: addr}); c != nil {
					open = append(open, c)
				}
			}
			served := 0
			for _, c := range open {
				if c.beyond == nil {
					served++
				}
				_ = c.Close()
			}
			if served != want {
				t.Errorf("limits.connections %d: %d of %s are served, want %d", limit, served, addr, want)
			}
		}
	}
}

// What is not for clients has limits that do not go by theirs.
func TestTheListenersForPeopleHaveLimitsOfTheirOwn(t *testing.T) {
	cfg := settings(t)
	cfg.MetricsListen = "http://127.0.0.1:0"
	a := serving(t, cfg)
	fill := func(network, address string, n int) {
		t.Helper()
		for range n {
			c, err := net.Dial(network, address)
			if err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() { c.Close() })
		}
	}
	if got := expect(t, httpClient(t, nil), "GET", a.MetricsAddr()+"/livez", "", http.StatusOK); got.last {
		t.Error("the first connection for metrics is not kept")
	}
	fill("tcp", strings.TrimPrefix(a.MetricsAddr(), "http://"), metricsConnections)
	if got := expect(t, httpClient(t, nil), "GET", a.MetricsAddr()+"/livez", "", http.StatusOK); !got.last {
		t.Error("a connection for metrics beyond the limit is kept")
	}
	expect(t, overSocket(t, a), "PUT", "http://agent/v1/kv/a", "b", http.StatusCreated)
	fill("unix", a.SocketPath(), adminConnections)
	got := expect(t, overSocket(t, a), "PUT", "http://agent/v1/kv/a", "b", http.StatusServiceUnavailable)
	if !got.last || !strings.Contains(got.body, "administration") || strings.Contains(got.body, "limits.connections") {
		t.Errorf("refused with %+v", got)
	}
}

// A client that has gone without a word is noticed, though listeners leave that to what is accepted.
func TestConnectionsThatStayAreKeptAlive(t *testing.T) {
	s := &locksmith{log: slog.New(slog.DiscardHandler)}
	d, err := s.openURL(t.Context(), forClients, "http://127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer d.listener.Close()
	client, err := net.Dial("tcp", d.listener.Addr().String())
	if err != nil {
		t.Fatal(err)
	}
	defer client.Close()
	c, err := newLimiter(forClients, 1, nil, prometheus.NewRegistry()).listener(d.listener).Accept()
	if err != nil {
		t.Fatal(err)
	}
	defer c.Close()
	raw, err := c.(*limitedConn).Conn.(*net.TCPConn).SyscallConn()
	if err != nil {
		t.Fatal(err)
	}
	var on int
	if cerr := raw.Control(func(fd uintptr) { on, err = syscall.GetsockoptInt(int(fd), syscall.SOL_SOCKET, syscall.SO_KEEPALIVE) }); cerr != nil || err != nil || on == 0 {
		t.Errorf("SO_KEEPALIVE is %d, %v, %v", on, err, cerr)
	}
}

func TestConnectionsBeyondTheReserveAreDropped(t *testing.T) {
	cfg := settings(t)
	cfg.Limits.Connections = 1
	a := launch(t, cfg, Options{})
	address := strings.TrimPrefix(a.Addrs()[0], "http://")
	var open []net.Conn
	defer func() {
		for _, c := range open {
			c.Close()
		}
	}()
	for range 1 + reserve {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	last, err := net.Dial("tcp", address)
	if err == nil { // else it was reset before Dial had looked at it
		open = append(open, last)
		if err := last.SetReadDeadline(time.Now().Add(patience)); err != nil {
			t.Fatal(err)
		}
		_, err = last.Read(make([]byte, 1))
	}
	if !errors.Is(err, syscall.ECONNRESET) {
		t.Errorf("the connection beyond the reserve was not ended by a reset: %v", err)
	}
	metrics := expect(t, overSocket(t, a), "GET", "http://agent/metrics", "", http.StatusOK).body
	if !strings.Contains(metrics, `holdfast_agent_connections_refused_total{for="clients",how="dropped"} 1`) {
		t.Errorf("the drop is not counted:\n%s", grep(metrics, "connections"))
	}
}
