// Package ops is the door for whoever runs a node: health, readiness, version, metrics and profiles.
//
// Every answer but a profile comes from memory, by way of api.Reporter and a Gatherer: none of them waits for a disk, a
// leader or an uplink, so that a probe with a short timeout tells a slow cluster from a dead process.
package ops

import (
	"encoding/json"
	"fmt"
	"net/http"
	"net/http/pprof"
	"runtime"
	"strings"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"holdfast/api"
)

// Options is what a Handler needs. The zero value of a field is the default its comment names.
type Options struct {
	Reporter api.Reporter        // required
	Gatherer prometheus.Gatherer // nil: /metrics is 404
	Pprof    bool                // serve /debug/pprof; for the administration socket only
}

// metricsInFlight bounds scrapes at one time; one more is answered 503.
const metricsInFlight = 4

// Owns reports whether a path belongs to this package.
func Owns(path string) bool {
	switch path {
	case "/livez", "/readyz", "/health", "/version", "/metrics", "/debug/pprof":
		return true
	}
	return strings.HasPrefix(path, "/debug/pprof/")
}

// New returns a handler of the paths that are its own; any other is 404.
func New(o Options) http.Handler {
	if o.Reporter == nil {
		panic("ops: Options without Reporter")
	}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /livez", livez)
	mux.HandleFunc("GET /readyz", func(w http.ResponseWriter, r *http.Request) { readyz(w, r, o.Reporter.Report()) })
	mux.HandleFunc("GET /health", func(w http.ResponseWriter, r *http.Request) { health(w, r, o.Reporter.Report()) })
	mux.HandleFunc("GET /version", func(w http.ResponseWriter, _ *http.Request) { version(w, o.Reporter.Report()) })
	if o.Gatherer != nil {
		mux.Handle("GET /metrics", promhttp.HandlerFor(o.Gatherer, promhttp.HandlerOpts{MaxRequestsInFlight: metricsInFlight}))
	}
	if o.Pprof {
		mux.HandleFunc("/debug/pprof/", pprof.Index)
		mux.HandleFunc("/debug/pprof/cmdline", pprof.Cmdline)
		mux.HandleFunc("/debug/pprof/profile", pprof.Profile)
		mux.HandleFunc("/debug/pprof/symbol", pprof.Symbol)
		mux.HandleFunc("/debug/pprof/trace", pprof.Trace)
	}
	return mux
}

// livez says that the process serves. A node that waits for a leader, an uplink or a disk is alive: restarting it would
// help nobody.
func livez(w http.ResponseWriter, _ *http.Request) {
	plain(w, http.StatusOK)
	fmt.Fprintln(w, "ok")
}

// version answers as etcd does, with what is ours beside it.
func version(w http.ResponseWriter, s api.Status) {
	reply(w, http.StatusOK, struct {
		Server   string `json:"etcdserver"`
		Cluster  string `json:"etcdcluster"`
		Storage  string `json:"storage"`
		Holdfast string `json:"holdfast"`
		Go       string `json:"go"`
		Platform string `json:"platform"`
	}{api.EtcdVersion, api.EtcdClusterVersion, api.EtcdClusterVersion, s.Version, runtime.Version(), runtime.GOOS + "/" + runtime.GOARCH})
}

func plain(w http.ResponseWriter, status int) {
	head(w, "text/plain; charset=utf-8", status)
}

func reply(w http.ResponseWriter, status int, body any) {
	head(w, "application/json", status)
	_ = json.NewEncoder(w).Encode(body) // a client that has gone cannot be told
}

func head(w http.ResponseWriter, contentType string, status int) {
	h := w.Header()
	h.Set("Content-Type", contentType)
	h.Set("X-Content-Type-Options", "nosniff")
	h.Set("Cache-Control", "no-store")
	w.WriteHeader(status)
}
