package agent

import (
	"bytes"
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
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"go.uber.org/goleak"

	"holdfast/api"
	"holdfast/config"
	"holdfast/internal/service"
)

// patience bounds every wait of these tests; none of them takes nearly as long.
const patience = 30 * time.Second

// launch starts an agent that is stopped after the test.
func launch(t *testing.T, cfg config.Config, o Options) *Agent {
	t.Helper()
	if o.Log == nil {
		o.Log = slog.New(slog.NewTextHandler(testWriter{t}, nil))
	}
	a, err := Start(t.Context(), cfg, o)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { halt(t, a) })
	return a
}

// testWriter writes to the log of a test.
type testWriter struct{ t *testing.T }

func (w testWriter) Write(b []byte) (int, error) {
	w.t.Log(strings.TrimRight(string(b), "\n"))
	return len(b), nil
}

// halt stops an agent and wants that to be clean.
func halt(t *testing.T, a *Agent) {
	t.Helper()
	ctx, cancel := context.WithTimeout(context.WithoutCancel(t.Context()), patience)
	defer cancel()
	if err := a.Stop(ctx); err != nil {
		t.Errorf("stop: %v", err)
	}
}

// within waits for c.
func within(t *testing.T, what string, c <-chan struct{}) {
	t.Helper()
	select {
	case <-c:
	case <-time.After(patience):
		t.Fatalf("%s: not within %v", what, patience)
	}
}

// httpClient is an HTTP client that keeps no connection of another test.
func httpClient(t *testing.T, dial func(ctx context.Context) (net.Conn, error)) *http.Client {
	t.Helper()
	tr := &http.Transport{}
	if dial != nil {
		tr.DialContext = func(ctx context.Context, _, _ string) (net.Conn, error) { return dial(ctx) }
	}
	t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr, Timeout: patience}
}

// overSocket is a client of the socket for administration.
func overSocket(t *testing.T, a *Agent) *http.Client {
	return httpClient(t, func(ctx context.Context) (net.Conn, error) {
		return new(net.Dialer).DialContext(ctx, "unix", a.SocketPath())
	})
}

type reply struct {
	status int
	header http.Header
	body   string
	last   bool // the server said that it will close the connection
}

// send makes one request.
func send(ctx context.Context, c *http.Client, method, url, body string) (reply, error) {
	r, err := http.NewRequestWithContext(ctx, method, url, strings.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	resp, err := c.Do(r)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, string(b), resp.Close}, err
}

// expect makes one request and wants a status.
func expect(t *testing.T, c *http.Client, method, url, body string, status int) reply {
	t.Helper()
	got, err := send(t.Context(), c, method, url, body)
	if err != nil {
		t.Fatalf("%s %s: %v", method, url, err)
	}
	if got.status != status {
		t.Fatalf("%s %s: %d %s, want %d", method, url, got.status, got.body, status)
	}
	return got
}

func TestPutIsServedAndSurvivesARestart(t *testing.T) {
	cfg := settings(t)
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	c := httpClient(t, nil)
	put := expect(t, c, "PUT", a.Addrs()[0]+"/v1/kv/site/42/temp", "21.5", http.StatusCreated)
	if !strings.Contains(put.body, `"revision":2`) {
		t.Errorf("PUT answered %s, want revision 2", put.body)
	}
	before := a.Report()
	halt(t, a)
	if err := a.Err(); err != nil {
		t.Errorf("after a clean stop Err is %v", err)
	}

	a = launch(t, cfg, Options{})
	within(t, "ready again", a.Ready())
	got := expect(t, c, "GET", a.Addrs()[0]+"/v1/kv/site/42/temp", "", http.StatusOK)
	if got.body != "21.5" {
		t.Errorf("after a restart: %q", got.body)
	}
	after := a.Report()
	if after.NodeID != before.NodeID || after.Epoch != before.Epoch || after.Epoch == "" || after.Member.ClusterID != before.Member.ClusterID {
		t.Errorf("another node came back: %+v, was %+v", after, before)
	}
}

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

func TestHealthAnswersBeforeTheStoreIsOpen(t *testing.T) {
	hold := make(chan struct{})
	a := launch(t, settings(t), Options{beforeOpen: func(ctx context.Context) {
		select {
		case <-hold:
		case <-ctx.Done():
		}
	}})
	c, base := httpClient(t, nil), a.Addrs()[0]
	expect(t, c, "GET", base+"/livez", "", http.StatusOK)
	if got := expect(t, c, "GET", base+"/readyz", "", http.StatusServiceUnavailable); !strings.Contains(got.body, stateReplaying) {
		t.Errorf("/readyz says %q", got.body)
	}
	var s api.Status
	if err := json.Unmarshal([]byte(expect(t, overSocket(t, a), "GET", "http://agent/v1/status", "", http.StatusOK).body), &s); err != nil {
		t.Fatal(err)
	}
	if s.Ready || s.State != stateReplaying || s.NodeID == "" || s.Mode != "member" {
		t.Errorf("status %+v", s)
	}
	if got := expect(t, c, "PUT", base+"/v1/kv/a", "b", http.StatusServiceUnavailable); !strings.Contains(got.body, `"none"`) || got.header.Get("Retry-After") == "" {
		t.Errorf("a write meanwhile: %+v", got)
	}
	close(hold)
	within(t, "ready", a.Ready())
	expect(t, c, "GET", base+"/readyz", "", http.StatusOK)
	expect(t, c, "PUT", base+"/v1/kv/a", "b", http.StatusCreated)
}

func TestStopBeforeTheStoreIsOpen(t *testing.T) {
	a := launch(t, settings(t), Options{beforeOpen: func(ctx context.Context) { <-ctx.Done() }})
	halt(t, a)
	if isClosed(a.Ready()) {
		t.Error("an agent that never served says it was ready")
	}
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

func TestTwoAgentsNeedTwoDataDirs(t *testing.T) {
	cfg := settings(t)
	a := launch(t, cfg, Options{})
	if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), cfg.DataDir) {
		t.Errorf("second agent on the dir: %v, exit %d, want %d", err, ExitCode(err), ExitTemporary)
	}
	b := launch(t, settings(t), Options{})
	within(t, "the first is ready", a.Ready())
	within(t, "the second is ready", b.Ready())
	if a.Report().NodeID == b.Report().NodeID {
		t.Error("two nodes have one id")
	}
}

func TestTakenPortMakesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := settings(t)
	cfg.Listen = []string{"http://" + taken.Addr().String()}
	if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("%v, exit %d", err, ExitCode(err))
	}
	names, err := os.ReadDir(cfg.DataDir)
	if err != nil || len(names) != 1 {
		t.Errorf("the dir has %v, %v; want the lock alone", names, err)
	}
	cfg.Listen = []string{"http://127.0.0.1:0"}
	launch(t, cfg, Options{}) // nothing is left locked
}

func TestRefusalsAreForAPerson(t *testing.T) {
	made := settings(t)
	a := launch(t, made, Options{})
	within(t, "ready", a.Ready())
	halt(t, a)
	file := func(name string) string { return filepath.Join(made.DataDir, name) }
	good, err := os.ReadFile(file(modeFile))
	if err != nil {
		t.Fatal(err)
	}
	proxyDir := func(t *testing.T) {
		t.Helper()
		if err := os.Mkdir(file(proxyName), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(file(proxyName)); err != nil {
				t.Error(err)
			}
		})
	}
	for name, tc := range map[string]struct {
		cfg    config.Config
		change func(*config.Config)
		dir    func(*testing.T)
		says   []string
	}{
		"a proxy of nothing":          {settings(t), func(c *config.Config) { c.Mode = asProxy }, nil, []string{"--join"}},
		"a join without a token":      {settings(t), func(c *config.Config) { c.Join = []string{"10.0.0.1:2380"} }, nil, []string{"token"}},
		"a token that is not there":   {settings(t), func(c *config.Config) { c.Join, c.TokenFile = []string{"10.0.0.1:2380"}, "t" }, nil, []string{"token-file"}},
		"https":                       {settings(t), func(c *config.Config) { c.Listen = []string{"https://127.0.0.1:0"} }, nil, []string{"no certificate: set tls.cert-file"}},
		"a member told to be a proxy": {made, func(c *config.Config) { c.Mode = asProxy }, nil, []string{"recorded as a member", "agent demote", "agent leave --force"}},
		"both dirs":                   {made, func(*config.Config) {}, proxyDir, []string{"member/ is there", "proxy/ is empty"}},
		"a truncated mode.json": {made, func(*config.Config) {}, func(t *testing.T) {
			t.Helper()
			if err := os.WriteFile(file(modeFile), good[:len(good)/2], 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.WriteFile(file(modeFile), good, 0o600); err != nil {
					t.Error(err)
				}
			})
		}, []string{modeFile, "damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.dir != nil {
				tc.dir(t)
			}
			tc.change(&tc.cfg)
			_, err := Start(t.Context(), tc.cfg, Options{})
			if ExitCode(err) != ExitConfig {
				t.Fatalf("%v, exit %d, want %d", err, ExitCode(err), ExitConfig)
			}
			for _, part := range tc.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the refusal does not say %q: %v", part, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the refusal is more than a line: %v", err)
			}
		})
	}
	within(t, "ready after all that", launch(t, made, Options{}).Ready())
}

func TestFailureNamesItsPart(t *testing.T) {
	cfg := settings(t)
	a, err := Start(t.Context(), cfg, Options{Log: slog.New(slog.DiscardHandler)})
	if err != nil {
		t.Fatal(err)
	}
	within(t, "ready", a.Ready())
	if err := a.Err(); err != nil {
		t.Errorf("a running agent has failed: %v", err)
	}
	if err := a.open[0].listener.Close(); err != nil {
		t.Fatal(err)
	}
	within(t, "done", a.Done())
	if e, ok := errors.AsType[*service.Error](a.Err()); !ok || e.Part != "doors" || ExitCode(a.Err()) != ExitInternal {
		t.Errorf("Err is %v, want a failure of the doors", a.Err())
	}
	halted, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	if err := a.Stop(halted); !errors.Is(err, a.Err()) {
		t.Errorf("Stop of a failed agent returned %v", err)
	}
	within(t, "ready again", launch(t, cfg, Options{}).Ready())
}

func TestStoppedAgentLeavesNothingBehind(t *testing.T) {
	cfg := settings(t)
	warm := launch(t, cfg, Options{}) // libraries start what lives as long as the process
	within(t, "ready", warm.Ready())
	halt(t, warm)
	running := goleak.IgnoreCurrent()
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	c := httpClient(t, nil)
	expect(t, c, "PUT", a.Addrs()[0]+"/v1/kv/a", "b", http.StatusCreated)
	c.CloseIdleConnections()
	halt(t, a)
	goleak.VerifyNone(t, running)
	if _, err := os.Stat(cfg.Socket); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the socket is still there: %v", err)
	}
	d := openDir(t, cfg.DataDir) // and the lock is free
	if err := d.Close(); err != nil {
		t.Error(err)
	}
}

func TestHTTP2ByPriorKnowledgeOnTheSamePort(t *testing.T) {
	a := launch(t, settings(t), Options{})
	within(t, "ready", a.Ready())
	for _, c := range []*http.Client{httpClient(t, nil), overSocket(t, a)} {
		var only http.Protocols
		only.SetUnencryptedHTTP2(true)
		tr, ok := c.Transport.(*http.Transport)
		if !ok {
			t.Fatal("another transport")
		}
		tr.Protocols = &only
		r, err := http.NewRequestWithContext(t.Context(), http.MethodPut, a.Addrs()[0]+"/v1/kv/h2", strings.NewReader("x"))
		if err != nil {
			t.Fatal(err)
		}
		resp, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if err := resp.Body.Close(); err != nil {
			t.Error(err)
		}
		if resp.ProtoMajor != 2 || resp.StatusCode/100 != 2 {
			t.Errorf("%s %s", resp.Proto, resp.Status)
		}
	}
}

func TestClientSocketServesTheAPI(t *testing.T) {
	cfg := settings(t)
	path := filepath.Join(filepath.Dir(cfg.DataDir), "clients.sock")
	cfg.Listen = []string{"unix://" + path}
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	if !slices.Equal(a.Addrs(), cfg.Listen) {
		t.Errorf("serves on %q, want %q", a.Addrs(), cfg.Listen)
	}
	c := httpClient(t, func(ctx context.Context) (net.Conn, error) { return new(net.Dialer).DialContext(ctx, "unix", path) })
	expect(t, c, "PUT", "http://agent/v1/kv/a", "b", http.StatusCreated)
}

func TestProfilesAreForAdministratorsAndMetricsForTheirListener(t *testing.T) {
	cfg := settings(t)
	cfg.MetricsListen = "http://127.0.0.1:0"
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	c, admin := httpClient(t, nil), overSocket(t, a)
	for _, tc := range []struct {
		c      *http.Client
		url    string
		status int
	}{
		{c, a.Addrs()[0] + "/metrics", http.StatusNotFound},
		{c, a.Addrs()[0] + "/debug/pprof/", http.StatusNotFound},
		{c, a.Addrs()[0] + "/health", http.StatusOK},
		{c, a.MetricsAddr() + "/metrics", http.StatusOK},
		{c, a.MetricsAddr() + "/readyz", http.StatusOK},
		{c, a.MetricsAddr() + "/v1/kv/a", http.StatusNotFound},
		{c, a.MetricsAddr() + "/debug/pprof/", http.StatusNotFound},
		{admin, "http://agent/metrics", http.StatusOK},
		{admin, "http://agent/debug/pprof/", http.StatusOK},
		{admin, "http://agent/v1/status", http.StatusOK},
	} {
		expect(t, tc.c, "GET", tc.url, "", tc.status)
	}
	got := expect(t, admin, "GET", "http://agent/metrics", "", http.StatusOK).body
	for _, name := range []string{"holdfast_agent_connections{", "holdfast_agent_connections_max{", "holdfast_agent_connections_refused_total{", "holdfast_http_requests_total", "go_goroutines"} {
		if !strings.Contains(got, name) {
			t.Errorf("/metrics has no %s", name)
		}
	}
}

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
	for range 1 + reserve + 1 {
		c, err := net.Dial("tcp", address)
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, c)
	}
	last := open[len(open)-1]
	if err := last.SetReadDeadline(time.Now().Add(patience)); err != nil {
		t.Fatal(err)
	}
	if n, err := last.Read(make([]byte, 1)); n != 0 || errors.Is(err, os.ErrDeadlineExceeded) {
		t.Errorf("the connection beyond the reserve is still open: %d, %v", n, err)
	}
	metrics := expect(t, overSocket(t, a), "GET", "http://agent/metrics", "", http.StatusOK).body
	if !strings.Contains(metrics, `holdfast_agent_connections_refused_total{for="clients",how="dropped"} 1`) {
		t.Errorf("the drop is not counted:\n%s", grep(metrics, "connections"))
	}
}

func grep(text, part string) string {
	var found []string
	for line := range strings.Lines(text) {
		if strings.Contains(line, part) {
			found = append(found, line)
		}
	}
	return strings.Join(found, "")
}

func TestReloadTakesOverWhatItCanAndNamesTheRest(t *testing.T) {
	cfg := settings(t)
	level := new(slog.LevelVar)
	a := launch(t, cfg, Options{LogLevel: level})
	changed := cfg
	changed.LogLevel, changed.Limits.Connections, changed.Store.Flush = "debug", 7, time.Minute
	changed.Link.BulkRate, changed.Link.BulkHours = 4096, []string{"00:00-24:00"}
	<-a.Ready()
	applied, restart, err := a.Reload(changed)
	if err != nil || !slices.Equal(applied, []string{"log-level", "link.bulk-rate", "link.bulk-hours", "limits.connections"}) || !slices.Equal(restart, []string{"store.flush"}) {
		t.Errorf("applied %q, restart %q, %v", applied, restart, err)
	}
	if level.Level() != slog.LevelDebug || a.clients.max.Load() != 7 {
		t.Errorf("level %v, %d connections", level.Level(), a.clients.max.Load())
	}
	if applied, restart, err := a.Reload(changed); err != nil || len(applied) != 0 || !slices.Equal(restart, []string{"store.flush"}) {
		t.Errorf("the same again: applied %q, restart %q, %v", applied, restart, err)
	}
	broken := changed
	broken.LogLevel = "loud"
	if applied, _, err := a.Reload(broken); ExitCode(err) != ExitConfig || len(applied) != 0 || level.Level() != slog.LevelDebug {
		t.Errorf("a broken configuration: applied %q, %v", applied, err)
	}
}

func TestServiceManagerIsToldTheTruth(t *testing.T) {
	m := newManager(t, filepath.Join(shortDir(t), "n"))
	hold := make(chan struct{})
	a := launch(t, settings(t), Options{
		Getenv: environ("NOTIFY_SOCKET="+m.conn.LocalAddr().String(), "WATCHDOG_USEC=300000"),
		beforeOpen: func(ctx context.Context) {
			select {
			case <-hold:
			case <-ctx.Done():
			}
		},
	})
	m.await(t, "READY=1")
	if got := m.await(t, "STATUS="); got != "STATUS=Replaying the log" {
		t.Errorf("while replaying: %q", got)
	}
	m.await(t, "WATCHDOG=1") // a replay is no hang
	close(hold)
	within(t, "ready", a.Ready())
	m.await(t, "STATUS=Serving as leader")
	m.await(t, "WATCHDOG=1")
	m.await(t, "WATCHDOG=1")
	if _, _, err := a.Reload(a.cfg); err != nil {
		t.Fatal(err)
	}
	m.await(t, "RELOADING=1")
	if got := m.await(t, "MONOTONIC_USEC="); got == "MONOTONIC_USEC=0" {
		t.Error("the reload has no date")
	}
	m.await(t, "READY=1")
	halt(t, a)
	m.await(t, "STOPPING=1")
	m.await(t, "STATUS=Stopping")
}

func TestWatchdogStarvesWhenTheNodeHangs(t *testing.T) {
	m := newManager(t, filepath.Join(shortDir(t), "n"))
	n, err := newNotifier(environ("NOTIFY_SOCKET="+m.conn.LocalAddr().String(), "WATCHDOG_USEC=60000000"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := &Agent{notifier: n, started: time.Now(), opts: withDefaults([]Options{{Log: slog.New(slog.NewTextHandler(&log, nil))}})}
	first := func() string { a.tell("MARK=1"); return m.await(t, "") }
	hangs := errors.New("hangs")
	answer := error(nil)
	a.node.Store(&node{alive: func(context.Context) error { return answer }})
	a.ping(t.Context())
	if got := first(); got != "WATCHDOG=1" {
		t.Errorf("a node that answers: %q", got)
	}
	m.await(t, "MARK=1")
	answer = hangs
	a.ping(t.Context())
	if got := first(); got != "MARK=1" {
		t.Errorf("a node that hangs: %q", got)
	}
	if !strings.Contains(log.String(), "no sign of life") {
		t.Errorf("nobody is told why:\n%s", log.String())
	}
	a.node.Store(nil)
	a.started = time.Now().Add(-replayMax - time.Minute)
	a.ping(t.Context())
	if got := first(); got != "MARK=1" {
		t.Errorf("a store that does not open: %q", got)
	}
}
