package ops

import (
	"encoding/json"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
)

type reporter api.Status

func (r reporter) Report() api.Status { return api.Status(r) }

func serving(change func(*api.Status)) api.Status {
	s := api.Status{Version: "1.2.3", Mode: "member", State: "serving", Ready: true, Member: &api.MemberStatus{Leader: "1"}}
	if change != nil {
		change(&s)
	}
	return s
}

func get(t *testing.T, o Options, path string) (int, string, http.Header) {
	t.Helper()
	w := httptest.NewRecorder()
	New(o).ServeHTTP(w, httptest.NewRequest(http.MethodGet, path, nil))
	body, err := io.ReadAll(w.Result().Body)
	if err != nil {
		t.Fatal(err)
	}
	return w.Code, string(body), w.Header()
}

func TestHealthOfANode(t *testing.T) {
	noLeader := func(s *api.Status) { s.Member.Leader = "" }
	starting := func(s *api.Status) { s.Ready, s.State, s.Reason = false, "replaying", "3 of 9 segments" }
	full := func(s *api.Status) { s.Member.WritesRefused = "disk reserve reached" }
	proxy := func(s *api.Status) { s.Mode, s.Member = "proxy", nil }
	link := func(p api.ProxyStatus) func(*api.Status) {
		return func(s *api.Status) { s.Mode, s.Member, s.Proxy = "proxy", nil, &p }
	}
	for _, c := range []struct {
		name   string
		change func(*api.Status)
		path   string
		status int
		body   string // that must be in it
	}{
		{"alive", nil, "/livez", 200, "ok\n"},
		{"alive while starting", starting, "/livez", 200, "ok\n"},
		{"ready", nil, "/readyz", 200, "ok\n"},
		{"not ready says why", starting, "/readyz", 503, "ready: replaying: 3 of 9 segments\n"},
		{"ready while offline", noLeader, "/readyz", 200, "ok\n"},
		{"strict about quorum", noLeader, "/readyz?require=quorum", 503, "quorum: there is no leader at present\n"},
		{"strict and fine", nil, "/readyz?require=quorum,uplink", 200, "ok\n"},
		{"a proxy is ready", proxy, "/readyz", 200, "ok\n"},
		{"a proxy without uplink, strictly", proxy, "/readyz?require=uplink", 503, "uplink: "},
		{"a proxy that is offline", link(api.ProxyStatus{Joined: true, UplinkLost: true}), "/readyz", 200, "ok\n"},
		{"a proxy that is offline, strictly", link(api.ProxyStatus{Joined: true, UplinkLost: true, UplinkError: "no route"}), "/readyz?require=uplink", 503, "uplink: lost: no route\n"},
		{"a proxy that is offline has no quorum", link(api.ProxyStatus{Joined: true, UplinkLost: true}), "/readyz?require=quorum", 503, "quorum: lost\n"},
		{"a proxy that has not joined", link(api.ProxyStatus{}), "/readyz?require=uplink", 503, "uplink: not joined"},
		{"a proxy that is connected", link(api.ProxyStatus{Joined: true, Upstream: "192.0.2.1:2380"}), "/readyz?require=uplink,quorum", 200, "ok\n"},
		{"a proxy that is offline is healthy", link(api.ProxyStatus{Joined: true, UplinkLost: true}), "/health", 200, `{"health":"true"}`},
		{"unknown requirement", nil, "/readyz?require=luck", 400, `require="luck" is not known`},
		{"verbose", noLeader, "/readyz?verbose=1", 200, "[+]ready serving\n[-]quorum there is no leader at present (not required)\n[+]uplink a member needs none (not required)\n"},
		{"verbose and strict", noLeader, "/readyz?verbose&require=quorum", 503, "[-]quorum there is no leader at present\n"},
		{"healthy", nil, "/health", 200, `{"health":"true"}` + "\n"},
		{"unhealthy without leader", noLeader, "/health", 503, `{"health":"false","reason":"RAFT NO LEADER"}`},
		{"healthy for local reads", noLeader, "/health?serializable=true", 200, `{"health":"true"}`},
		{"unhealthy when full", full, "/health", 503, `"reason":"ALARM NOSPACE"`},
		{"healthy when full if not minded", full, "/health?exclude=NOSPACE", 200, `{"health":"true"}`},
		{"unhealthy while starting", starting, "/health", 503, `"health":"false"`},
	} {
		t.Run(c.name, func(t *testing.T) {
			status, body, _ := get(t, Options{Reporter: reporter(serving(c.change))}, c.path)
			if status != c.status || !strings.Contains(body, c.body) {
				t.Errorf("%s: %d %q, want %d with %q", c.path, status, body, c.status, c.body)
			}
		})
	}
}

func TestVersionIsReadableByEtcdClients(t *testing.T) {
	status, body, h := get(t, Options{Reporter: reporter(serving(nil))}, "/version")
	var v map[string]string
	if err := json.Unmarshal([]byte(body), &v); err != nil || status != 200 {
		t.Fatalf("%d %q: %v", status, body, err)
	}
	if v["etcdserver"] != etcdVersion || v["etcdcluster"] != etcdVersion || v["holdfast"] != "1.2.3" {
		t.Errorf("version %v", v)
	}
	if h.Get("Content-Type") != "application/json" {
		t.Errorf("Content-Type %q", h.Get("Content-Type"))
	}
}

func TestMetricsOnlyWithAGatherer(t *testing.T) {
	if status, _, _ := get(t, Options{Reporter: reporter{}}, "/metrics"); status != 404 {
		t.Errorf("without a gatherer: %d, want 404", status)
	}
	reg := prometheus.NewRegistry()
	c := prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_test_total", Help: "x"})
	c.Inc()
	reg.MustRegister(c)
	if status, body, _ := get(t, Options{Reporter: reporter{}, Gatherer: reg}, "/metrics"); status != 200 || !strings.Contains(body, "holdfast_test_total 1") {
		t.Errorf("metrics: %d %q", status, body)
	}
}

func TestPprofOnlyWhereItIsAsked(t *testing.T) {
	for path, want := range map[string]int{"/debug/pprof/": 200, "/debug/pprof/cmdline": 200, "/debug/pprof/heap": 200, "/debug/pprof/symbol": 200} {
		if status, _, _ := get(t, Options{Reporter: reporter{}}, path); status != 404 {
			t.Errorf("%s without Pprof: %d, want 404", path, status)
		}
		if status, _, _ := get(t, Options{Reporter: reporter{}, Pprof: true}, path); status != want {
			t.Errorf("%s with Pprof: %d, want %d", path, status, want)
		}
	}
}

func TestOwnsWhatItServes(t *testing.T) {
	o := Options{Reporter: reporter(serving(nil)), Gatherer: prometheus.NewRegistry(), Pprof: true}
	for _, path := range []string{"/livez", "/readyz", "/health", "/version", "/metrics", "/debug/pprof/", "/debug/pprof/goroutine"} {
		if status, _, _ := get(t, o, path); !Owns(path) || status != 200 {
			t.Errorf("%s: owned %v, status %d", path, Owns(path), status)
		}
	}
	for _, path := range []string{"/", "/v1/kv/livez", "/livez/", "/debug"} {
		if Owns(path) {
			t.Errorf("%s is not of this package", path)
		}
	}
}

func TestOtherMethodsAreToldWhatIsAllowed(t *testing.T) {
	w := httptest.NewRecorder()
	New(Options{Reporter: reporter{}}).ServeHTTP(w, httptest.NewRequest(http.MethodPost, "/readyz", nil))
	if w.Code != 405 || w.Header().Get("Allow") != "GET, HEAD" {
		t.Errorf("POST /readyz: %d, Allow %q", w.Code, w.Header().Get("Allow"))
	}
}
