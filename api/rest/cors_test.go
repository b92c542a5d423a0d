package rest

import (
	"strings"
	"testing"
)

func TestForeignPagesAreTurnedAway(t *testing.T) {
	n := serve(t)
	n.put("k", "v")
	host := strings.TrimPrefix(n.URL, "http://")
	for _, origin := range []string{"https://evil.example", "null", "http://localhost", "http://" + host + ".evil.example", "", "http://" + host + "@evil.example"} {
		for _, method := range []string{"GET", "PUT", "DELETE", "OPTIONS"} {
			r := n.call(method, "/v1/kv/k", "", "Origin", origin)
			r.refused(t, 403, "foreign-origin")
			r.wantHeaders(t, map[string]string{"Access-Control-Allow-Origin": ""})
		}
		n.call("OPTIONS", "/v1/kv/k", "", "Origin", origin, "Access-Control-Request-Method", "PUT").refused(t, 403, "foreign-origin")
		n.call("GET", "/v1/status", "", "Origin", origin).refused(t, 403, "foreign-origin")
		n.call("GET", "/v1/kv/k?watch", "", "Origin", origin).refused(t, 403, "foreign-origin")
	}
	n.wantStored("k", "v")
	n.call("GET", "/v1/kv/k", "", "Origin", n.URL).want(t, 200) // a page of the node's own
	n.call("GET", "/v1/kv/k", "", "Origin", "https://"+host).want(t, 200)
	n.call("GET", "/v1/kv/k", "").want(t, 200).wantHeaders(t, map[string]string{"Vary": ""})
}

func TestListedPagesMayCall(t *testing.T) {
	n := serve(t, func(o *Options) { o.Origins = []string{"https://panel.example"} })
	n.put("k", "v")
	r := n.call("GET", "/v1/kv/k", "", "Origin", "https://panel.example").want(t, 200)
	r.wantHeaders(t, map[string]string{"Access-Control-Allow-Origin": "https://panel.example", "Vary": "Origin"})
	if exposed := r.header.Get("Access-Control-Expose-Headers"); !strings.Contains(exposed, "ETag") || !strings.Contains(exposed, "Holdfast-Revision") {
		t.Errorf("exposed: %q", exposed)
	}
	// Errors can be read, too.
	r = n.call("GET", "/v1/kv/none", "", "Origin", "https://panel.example")
	r.refused(t, 404, "key-not-found")
	r.wantHeaders(t, map[string]string{"Access-Control-Allow-Origin": "https://panel.example"})
	// A reply without Origin varies all the same.
	n.call("GET", "/v1/kv/k", "").want(t, 200).wantHeaders(t, map[string]string{"Vary": "Origin", "Access-Control-Allow-Origin": ""})
	for _, other := range []string{"http://panel.example", "https://panel.example:8443", "https://panel.example.evil.example", "null"} {
		n.call("GET", "/v1/kv/k", "", "Origin", other).refused(t, 403, "foreign-origin")
	}
}

func TestPreflightIsAnswered(t *testing.T) {
	n := serve(t, func(o *Options) { o.Origins = []string{"https://panel.example"} })
	r := n.call("OPTIONS", "/v1/kv/k", "", "Origin", "https://panel.example", "Access-Control-Request-Method", "PUT", "Access-Control-Request-Headers", "if-match").want(t, 204)
	r.wantHeaders(t, map[string]string{
		"Access-Control-Allow-Origin": "https://panel.example", "Access-Control-Allow-Methods": corsMethods,
		"Access-Control-Allow-Headers": corsHeaders, "Access-Control-Max-Age": "600",
	})
	for _, name := range []string{"If-Match", "If-None-Match", "Last-Event-ID", "Prefer", "Holdfast-Min-Revision"} {
		if !strings.Contains(corsHeaders, name) {
			t.Errorf("%s may not be sent", name)
		}
	}
	// OPTIONS without the question is not a preflight.
	n.call("OPTIONS", "/v1/kv/k", "", "Origin", "https://panel.example").want(t, 204).wantHeaders(t, map[string]string{"Allow": allowKey, "Access-Control-Allow-Methods": ""})
}

func TestAStarLetsEveryPageCall(t *testing.T) {
	n := serve(t, func(o *Options) { o.Origins = []string{"*"} })
	n.put("k", "v")
	n.call("GET", "/v1/kv/k", "", "Origin", "null").want(t, 200).wantHeaders(t, map[string]string{"Access-Control-Allow-Origin": "null"})
	n.call("OPTIONS", "/v1/kv/k", "", "Origin", "https://any.example", "Access-Control-Request-Method", "DELETE").want(t, 204)
	n.call("GET", "/v1/kv/k", "", "Origin", "https://a.example", "Origin", "https://b.example").refused(t, 403, "foreign-origin")
}
