package rest

import (
	"fmt"
	"maps"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
)

// gathered returns every sample, named as in the text format.
func gathered(t *testing.T, reg *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := reg.Gather()
	if err != nil {
		t.Fatal(err)
	}
	out := map[string]float64{}
	for _, f := range families {
		for _, m := range f.GetMetric() {
			name := f.GetName()
			for _, l := range m.GetLabel() {
				name += fmt.Sprintf(" %s=%s", l.GetName(), l.GetValue())
			}
			out[name] = m.GetCounter().GetValue() + m.GetGauge().GetValue()
		}
	}
	return out
}

func TestRequestsAreCounted(t *testing.T) {
	reg := prometheus.NewRegistry()
	n := serve(t, func(o *Options) { o.Metrics = reg })
	n.call("PUT", "/v1/kv/a", "v").want(t, 201)
	n.call("PUT", "/v1/kv/a", "v").want(t, 200)
	n.call("PUT", "/v1/kv/a", "v").want(t, 200)
	n.call("GET", "/v1/kv/b", "").want(t, 404)
	n.call("BREW", "/v1/kv/b", "").want(t, 405)
	n.call("GET", "/nowhere", "").want(t, 404)
	n.call("HEAD", "/v1/status", "").want(t, 200)
	f := n.follow("/v1/kv/a?watch")
	f.want("created")
	waitFor(t, func() bool { return n.handler.metrics.inFlight.Load() == 1 })
	want := map[string]float64{
		"holdfast_http_batches":                              0,
		"holdfast_http_requests_in_flight":                   1,
		"holdfast_http_requests_total code=200 method=HEAD":  1,
		"holdfast_http_requests_total code=200 method=PUT":   2,
		"holdfast_http_requests_total code=201 method=PUT":   1,
		"holdfast_http_requests_total code=404 method=GET":   2,
		"holdfast_http_requests_total code=405 method=other": 1,
		"holdfast_http_slow_consumers_total":                 0,
		"holdfast_http_watches":                              1,
	}
	if got := gathered(t, reg); !maps.Equal(got, want) {
		for _, name := range slices.Sorted(maps.Keys(got)) {
			t.Logf("%s %v", name, got[name])
		}
		t.Errorf("want:\n%s", strings.ReplaceAll(fmt.Sprint(want), "holdfast", "\nholdfast"))
	}
	f.cancel()
	waitFor(t, func() bool { return gathered(t, reg)["holdfast_http_watches"] == 0 })
}
