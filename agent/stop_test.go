package agent

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.uber.org/goleak"

	"holdfast/api"
	"holdfast/config"
	"holdfast/kv"
)

func TestEveryAcknowledgedWriteIsThereAfterAStop(t *testing.T) {
	cfg := settings(t)
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	const writers = 8
	var wg sync.WaitGroup
	var begun atomic.Int64
	enough := make(chan struct{})
	acked, strange := make([][]string, writers), make([]error, writers)
	for w := range writers {
		c := httpClient(t, nil)
		wg.Go(func() {
			for n := 0; ; n++ {
				key := fmt.Sprintf("w%d/%d", w, n)
				got, err := send(t.Context(), c, "PUT", a.Addrs()[0]+"/v1/kv/"+key, key)
				switch {
				case err != nil: // the doors are closed
					return
				case got.status == http.StatusCreated:
					acked[w] = append(acked[w], key)
				case got.status != http.StatusServiceUnavailable || !strings.Contains(got.body, `"stopping"`) || !strings.Contains(got.body, `"none"`):
					strange[w] = fmt.Errorf("%s: %d %s", key, got.status, got.body)
					return
				}
				if begun.Add(1) == 20*writers {
					close(enough)
				}
			}
		})
	}
	within(t, "some writes", enough)
	halt(t, a)
	wg.Wait()
	if err := errors.Join(strange...); err != nil {
		t.Error(err)
	}

	a = launch(t, cfg, Options{})
	within(t, "ready again", a.Ready())
	c := httpClient(t, nil)
	for _, keys := range acked {
		for _, key := range keys {
			if got := expect(t, c, "GET", a.Addrs()[0]+"/v1/kv/"+key, "", http.StatusOK); got.body != key {
				t.Errorf("%s is %q", key, got.body)
			}
		}
	}
}

func TestStopEndsWatches(t *testing.T) {
	a := launch(t, settings(t), Options{})
	within(t, "ready", a.Ready())
	r, err := http.NewRequestWithContext(t.Context(), http.MethodGet, a.Addrs()[0]+"/v1/kv/?watch&prefix", nil)
	if err != nil {
		t.Fatal(err)
	}
	r.Header.Set("Accept", "application/x-ndjson")
	resp, err := httpClient(t, nil).Do(r)
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	if resp.StatusCode != http.StatusOK {
		t.Fatalf("watch: %s", resp.Status)
	}
	begin := time.Now()
	halt(t, a)
	rest, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Errorf("the stream was cut off: %v", err)
	}
	if !strings.Contains(string(rest), `"type":"end"`) {
		t.Errorf("the stream ended with %q, want a last event", rest)
	}
	if took := time.Since(begin); took > requestsMax {
		t.Errorf("a watch held up the stop for %v", took)
	}
}

func TestStopBeforeTheStoreIsOpen(t *testing.T) {
	halt(t, launch(t, settings(t), Options{})) // libraries start what lives as long as the process
	running := goleak.IgnoreCurrent()
	a := launch(t, settings(t), Options{beforeOpen: func(ctx context.Context) { <-ctx.Done() }})
	halt(t, a)
	if isClosed(a.Ready()) {
		t.Error("an agent that never served says it was ready")
	}
	goleak.VerifyNone(t, running)
}

func TestForcedStopDoesNotWaitForRequests(t *testing.T) {
	a := launch(t, settings(t), Options{})
	within(t, "ready", a.Ready())
	half, err := net.Dial("tcp", strings.TrimPrefix(a.Addrs()[0], "http://"))
	if err != nil {
		t.Fatal(err)
	}
	defer half.Close()
	const head = "PUT /v1/kv/a HTTP/1.1\r\nHost: a\r\nContent-Length: 10\r\nExpect: 100-continue\r\n\r\n"
	if _, err := half.Write([]byte(head)); err != nil {
		t.Fatal(err)
	}
	if _, err := half.Read(make([]byte, 1)); err != nil { // 100: the handler waits for the body
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	begin := time.Now()
	if err := a.Stop(ctx); err != nil && !errors.Is(err, context.Canceled) {
		t.Errorf("a forced stop returned %v", err)
	}
	within(t, "done", a.Done())
	if took := time.Since(begin); took > drainMax/2 {
		t.Errorf("a forced stop took %v, as long as one that waits", took)
	}
}

func TestForcedStopReturnsAtOnceAndEndsAllTheSame(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	opening, hold := make(chan struct{}), make(chan struct{})
	a := launch(t, settings(t), Options{beforeOpen: func(context.Context) { close(opening); <-hold }})
	within(t, "the store is being opened", opening)
	if err := a.Stop(ctx); !errors.Is(err, context.Canceled) {
		t.Errorf("a forced stop returned %v", err)
	}
	if isClosed(a.Done()) || a.Err() != nil {
		t.Errorf("done although the store has not ended, Err %v", a.Err())
	}
	close(hold)
	within(t, "done", a.Done())
	if err := a.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
}

func TestEndOfTheContextIsAStop(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	a, err := Start(ctx, settings(t), Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "ready", a.Ready())
	cancel()
	within(t, "done", a.Done())
	if err := a.Err(); err != nil {
		t.Errorf("Err is %v", err)
	}
}

// Nobody who asks waits for the agent's end: with the race detector this fails if a part is asked while it is taken away. Who
// is answered at all is answered as always, or told that the node stops.
func TestAnAgentMayBeAskedAnythingWhileItStops(t *testing.T) {
	for _, forced := range []bool{false, true} {
		shown := prometheus.NewRegistry()
		a := launch(t, settings(t), Options{Metrics: shown})
		within(t, "ready", a.Ready())
		askedWhileItStops(t, a, shown, forced)
	}
}

func TestAProxyMayBeAskedAnythingWhileItStops(t *testing.T) {
	above := launch(t, settings(t), Options{})
	within(t, "ready", above.Ready())
	for _, forced := range []bool{false, true} {
		made := expect(t, overSocket(t, above), "POST", "http://a/v1/tokens", `{"role":"proxy"}`, http.StatusCreated)
		var token api.CreatedToken
		if err := json.Unmarshal([]byte(made.body), &token); err != nil {
			t.Fatal(err)
		}
		cfg := settings(t)
		cfg.TokenFile = filepath.Join(shortDir(t), "token")
		if err := os.WriteFile(cfg.TokenFile, []byte(token.Token), 0o600); err != nil {
			t.Fatal(err)
		}
		cfg.Mode, cfg.Join, cfg.Proxy.Prefixes, cfg.Queue.Prefixes = config.ModeProxy, []string{above.net.ep.Addr().String()}, []string{"a"}, []config.QueuePrefix{{Prefix: "q/"}}
		shown := prometheus.NewRegistry()
		a := launch(t, cfg, Options{Metrics: shown})
		within(t, "ready", a.Ready())
		for deadline := time.Now().Add(patience); a.Report().Proxy.UplinkLost; time.Sleep(time.Millisecond) {
			if time.Now().After(deadline) {
				t.Fatalf("no uplink within %v: %+v", patience, a.Report().Proxy)
			}
		}
		askedWhileItStops(t, a, shown, forced)
	}
}

// askedWhileItStops asks an agent everything from all sides, and meanwhile stops it.
func askedWhileItStops(t *testing.T, a *Agent, shown *prometheus.Registry, forced bool) {
	t.Helper()
	ctx, over := context.WithCancel(t.Context())
	var asking, asked sync.WaitGroup
	ask := func(what func()) {
		asking.Add(1)
		asked.Go(func() {
			what()
			for asking.Done(); ctx.Err() == nil; {
				what()
			}
		})
	}
	doors, socket := httpClient(t, nil), overSocket(t, a)
	for _, request := range []string{
		"GET /v1/kv/a", "PUT /v1/kv/a", "PUT /v1/kv/q/a", "GET /v1/kv/?prefix", "POST /v3/kv/range", "POST /v3/kv/put", "POST /v3/maintenance/status",
		"POST /v3/cluster/member/list", "GET /readyz", "GET /health", "GET /version", "GET /metrics", "GET /v1/status", "GET /v1/members",
		"GET /v1/queue", "GET /v1/snapshot", "GET /v1/kv/?watch&prefix&from_revision=1",
	} {
		method, path, _ := strings.Cut(request, " ")
		body := ""
		if method == http.MethodPost {
			body = `{"key":"YQ==","value":"MQ=="}`
		}
		for _, c := range []*http.Client{doors, socket} {
			ask(func() {
				asking, done := context.WithTimeout(ctx, 100*time.Millisecond) // a watch goes on
				defer done()
				if got, err := send(asking, c, method, a.Addrs()[0]+path, body); err == nil && got.status == http.StatusInternalServerError {
					t.Errorf("%s: %d %s", request, got.status, got.body)
				}
			})
		}
	}
	calls := pb.NewKVClient(etcdClient(t, a.Addrs()[0]))
	ask(func() { _, _ = calls.Put(ctx, &pb.PutRequest{Key: []byte("a")}) })
	ask(func() { _, _ = a.Backend().Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("a")}}}) })
	ask(func() { _, _ = shown.Gather() })
	ask(func() { a.Report() })
	ask(func() { _ = a.Err() })
	asking.Wait()
	if forced {
		at, cut := context.WithCancel(t.Context())
		cut()
		if err := a.Stop(at); err != nil && !errors.Is(err, context.Canceled) {
			t.Errorf("a forced stop returned %v", err)
		}
		within(t, "done", a.Done())
	} else {
		halt(t, a)
	}
	over()
	asked.Wait()
}
