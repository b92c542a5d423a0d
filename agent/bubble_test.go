package agent

import (
	"context"
	"encoding/json"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/internal/simnet"
)

// piped is a listener in memory: a real one would hold up virtual time.
type piped struct {
	conns chan net.Conn
	done  chan struct{}
	once  sync.Once
	addr  net.Addr
}

func newPiped(network, address string) *piped {
	return &piped{conns: make(chan net.Conn), done: make(chan struct{}), addr: pipedAddr{network, address}}
}

type pipedAddr struct{ network, address string }

func (a pipedAddr) Network() string { return a.network }
func (a pipedAddr) String() string  { return a.address }

func (p *piped) Accept() (net.Conn, error) {
	select {
	case c := <-p.conns:
		return c, nil
	case <-p.done:
		return nil, net.ErrClosed
	}
}

func (p *piped) Close() error   { p.once.Do(func() { close(p.done) }); return nil }
func (p *piped) Addr() net.Addr { return p.addr }

func (p *piped) dial(ctx context.Context) (net.Conn, error) {
	mine, theirs := net.Pipe()
	select {
	case p.conns <- theirs:
		return mine, nil
	case <-p.done:
		return nil, net.ErrClosed
	case <-ctx.Done():
		return nil, ctx.Err()
	}
}

// startSimulated starts a whole agent of which only the sockets are not real, with a client of its administration socket. It is
// stopped with the test.
func startSimulated(t *testing.T, n *simnet.Net, dir, name string, edit func(*config.Config)) (*Agent, *http.Client) {
	t.Helper()
	return startSimulatedLogging(t, n, dir, name, slog.DiscardHandler, edit)
}

func startSimulatedLogging(t *testing.T, n *simnet.Net, dir, name string, log slog.Handler, edit func(*config.Config)) (*Agent, *http.Client) {
	t.Helper()
	cfg := config.Default()
	cfg.Name, cfg.DataDir = name, filepath.Join(dir, name)
	cfg.Socket = filepath.Join(dir, name+".sock")
	cfg.PeerAdvertise = []string{n.Addr(name)}
	edit(&cfg)
	var socket *piped
	a, err := Start(context.Background(), cfg, Options{
		Log: slog.New(log),
		Listen: func(_ context.Context, network, address string) (net.Listener, error) {
			l := newPiped(network, address)
			if network == "unix" {
				socket = l
			}
			return l, nil
		},
		ListenPacket: func(context.Context, string, string) (net.PacketConn, error) { return n.Node(name), nil },
	})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { halt(t, a) })
	return a, &http.Client{Timeout: time.Minute, Transport: &http.Transport{
		DisableKeepAlives: true, DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) { return socket.dial(ctx) },
	}}
}

// makeToken writes a join token of the member that client leads to into a file.
func makeToken(t *testing.T, client *http.Client, path string) {
	t.Helper()
	res, err := client.Post("http://a/v1/tokens", "application/json", strings.NewReader("{}"))
	if err != nil {
		t.Fatal(err)
	}
	defer res.Body.Close()
	var made api.CreatedToken
	body, err := io.ReadAll(res.Body)
	if err != nil || json.Unmarshal(body, &made) != nil || made.Token == "" {
		t.Fatalf("%d %s %v", res.StatusCode, body, err)
	}
	if err := os.WriteFile(path, []byte(made.Token), 0o600); err != nil {
		t.Fatal(err)
	}
}

// TestOneTokenMakesThreeBoxesAClusterInVirtualTime is test/e2e's of that name on links of 20 ms that lose packets: whole
// agents, of which only the sockets are not real. The fourth finds the cluster full and becomes a proxy by itself.
func TestOneTokenMakesThreeBoxesAClusterInVirtualTime(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		n := simnet.New(t, 7)
		names := []string{"a", "b", "c", "d"}
		for i, x := range names {
			for _, y := range names[i+1:] {
				n.Link(x, y).Delay(10 * time.Millisecond).Loss(0.01)
			}
		}
		token := filepath.Join(dir, "token")
		start := func(name string) (*Agent, *http.Client) {
			return startSimulated(t, n, dir, name, func(c *config.Config) {
				if name != "a" {
					c.Join, c.TokenFile = []string{n.Addr("a")}, token
				}
			})
		}
		ready := func(a *Agent) {
			t.Helper()
			select {
			case <-a.Ready():
			case <-time.After(time.Minute):
				t.Fatal("not ready within a minute")
			}
		}
		first, client := start("a")
		ready(first)
		makeToken(t, client, token)
		began := time.Now()
		second, _ := start("b")
		third, _ := start("c")
		ready(second)
		ready(third)
		voters := func() (n int) {
			res, err := client.Get("http://a/v1/members")
			if err != nil {
				t.Fatal(err)
			}
			defer res.Body.Close()
			var list struct{ Members []struct{ Role string } }
			if err := json.NewDecoder(res.Body).Decode(&list); err != nil {
				t.Fatal(err)
			}
			for _, m := range list.Members {
				if m.Role == "voter" {
					n++
				}
			}
			return n
		}
		for voters() < 3 {
			if time.Since(began) > time.Minute {
				t.Fatalf("%d voters after a minute", voters())
			}
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(began)
		t.Logf("three voters and all ready after %v of virtual time", took)
		if took > 10*time.Second {
			t.Errorf("it took %v, want less than 10 s", took)
		}
		fourth, _ := start("d")
		ready(fourth)
		for began := time.Now(); ; time.Sleep(50 * time.Millisecond) {
			if s := fourth.Report(); s.Mode == "proxy" && s.Proxy != nil && !s.Proxy.UplinkLost {
				break
			} else if time.Since(began) > time.Minute {
				t.Fatalf("the fourth is a %s: %+v", s.Mode, s.Proxy)
			}
		}
	})
}
