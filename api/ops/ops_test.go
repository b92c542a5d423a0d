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
	held := func(s *api.Status) { s.Member.LogHeldSeconds = 4.2 }
	full := func(s *api.Status) { s.Member.WritesRefused = "disk reserve reached" }
	proxy := func(p api.ProxyStatus) func(*api.Status) {
		return func(s *api.Status) { s.Mode, s.Member, s.Proxy = "proxy", nil, &p }
	}
	connected := api.ProxyStatus{Joined: true, Upstream: "a:2380"}
	silent := api.ProxyStatus{Joined: true, Upstream: "a:2380", UplinkLost: true}
	alone := api.ProxyStatus{Joined: true, UplinkLost: true, UplinkError: "no answer"}
	waiting := api.ProxyStatus{UplinkLost: true, UplinkError: "dial a:2380: no answer"}
	unopened := func(s *api.Status) { s.Mode, s.Member = "proxy", nil }
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
		{"ready while the disk holds back", held, "/readyz", 200, "ok\n"},
		{"strict while the disk holds back", held, "/readyz?require=quorum", 503, "quorum: the disk has held back a write of the raft log for 4.2 s\n"},
		{"unhealthy while the disk holds back", held, "/health", 503, "RAFT NO LEADER"},
		{"strict and fine", nil, "/readyz?require=quorum,uplink", 200, "ok\n"},
		{"no quorum is no uplink either", noLeader, "/readyz?require=uplink", 503, "uplink: there is no leader at present\n"},
		{"a proxy is ready", proxy(connected), "/readyz", 200, "ok\n"},
		{"a proxy is ready while offline", proxy(alone), "/readyz", 200, "ok\n"},
		{"a proxy is ready before it has joined", proxy(waiting), "/readyz", 200, "ok\n"},
		{"a proxy with its uplink, strictly", proxy(connected), "/readyz?require=uplink", 200, "ok\n"},
		{"a proxy whose uplink is silent", proxy(silent), "/readyz?require=uplink", 503, "uplink: nothing comes back from a:2380\n"},
		{"a proxy without uplink, strictly", proxy(alone), "/readyz?require=uplink", 503, "uplink: not connected: no answer\n"},
		{"a proxy that has not joined, strictly", proxy(waiting), "/readyz?require=uplink", 503, "uplink: this node has not joined its cluster yet: dial a:2380: no answer\n"},
		{"a proxy not open yet, strictly", unopened, "/readyz?require=uplink", 503, "uplink: no uplink is reported\n"},
		{"a proxy with its uplink has a quorum", proxy(connected), "/readyz?require=uplink,quorum", 200, "ok\n"},
		{"a proxy that is offline has no quorum", proxy(alone), "/readyz?require=quorum", 503, "quorum: not connected: no answer\n"},
		{"verbose on a proxy", proxy(connected), "/readyz?verbose", 200, "[+]uplink connected to a:2380 (not required)\n"},
		{"a proxy is healthy while offline", proxy(alone), "/health", 200, `{"health":"true","reason":""}`},
		{"unknown requirement", nil, "/readyz?require=luck", 400, `require="luck" is not known`},
		{"verbose", noLeader, "/readyz?verbose=1", 200, "[+]ready serving\n[-]quorum there is no leader at present (not required)\n[-]uplink there is no leader at present (not required)\n"},
		{"verbose and strict", noLeader, "/readyz?verbose&require=quorum", 503, "[-]quorum there is no leader at present\n"},
		{"healthy", nil, "/health", 200, `{"health":"true","reason":""}` + "\n"},
		{"unhealthy without leader", noLeader, "/health", 503, `{"health":"false","reason":"RAFT NO LEADER"}`},
		{"healthy for local reads", noLeader, "/health?serializable=true", 200, `{"health":"true","reason":""}`},
		{"unhealthy when full", full, "/health", 503, `"reason":"ALARM NOSPACE"`},
		{"healthy when full if not minded", full, "/health?exclude=NOSPACE", 200, `{"health":"true","reason":""}`},
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
	if v["etcdserver"] != api.EtcdVersion || v["etcdcluster"] != api.EtcdClusterVersion || v["holdfast"] != "1.2.3" {
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
