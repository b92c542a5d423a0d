package agent

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"go.uber.org/goleak"

	"holdfast/api"
	"holdfast/internal/service"
)

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
