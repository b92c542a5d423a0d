package rest

import (
	"io"
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

// A page whose name has been made to point to this machine is at home there, as far as its browser knows, and may read what it
// gets. Its Host is all there is to know it by.
func TestAPageWhoseNamePointsHereIsTurnedAway(t *testing.T) {
	n := serve(t, func(o *Options) {
		o.Origins = []string{"https://panel.example", "http://shop.example:8080"}
		o.Names = []string{"Box.example"}
	})
	n.put("k", "v")
	_, port, _ := strings.Cut(strings.TrimPrefix(n.URL, "http://"), ":")
	ask := func(method, host string, headers ...string) reply {
		t.Helper()
		r := n.request(method, "/v1/kv/k", "", headers...)
		r.Host = host
		resp, err := n.Client().Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer resp.Body.Close()
		body, err := io.ReadAll(resp.Body)
		if err != nil {
			t.Fatal(err)
		}
		return reply{resp.StatusCode, resp.Header, string(body)}
	}
	for _, host := range []string{"evil.example:" + port, "127.0.0.1.evil.example:" + port, "localhost.evil.example:" + port, "box.example.evil.example:" + port, "evil.example.:" + port} {
		ask("GET", host).refused(t, 403, "foreign-origin")
		ask("PUT", host, "Origin", "http://"+host).refused(t, 403, "foreign-origin")
	}
	n.wantStored("k", "v")
	for _, host := range []string{"127.0.0.1:" + port, "[::1]:" + port, "localhost:" + port, "LOCALHOST:" + port, "a.localhost:" + port, "box:" + port, "box.example:" + port,
		"panel.example:" + port,        // listed, whatever its port
		"api.example", "api.example:1", // a server in front, with another port, passes its own name on
	} {
		if r := ask("GET", host); r.status != 200 {
			t.Errorf("as %s: %d %s", host, r.status, r.body)
		}
	}
}
