package rest

import (
	"net/http"
	"net/http/httptest"
	"net/url"
	"strings"
	"testing"
)

func TestAPathIsAKeyByteByByte(t *testing.T) {
	n := serve(t)
	for path, key := range map[string]string{
		"a":             "a",
		"site/42/temp":  "site/42/temp",
		"/a":            "/a",
		"//a//b//":      "//a//b//",
		"a/":            "a/",
		".":             ".",
		"..":            "..",
		"a/./b/../c":    "a/./b/../c",
		"../../etc":     "../../etc",
		"a%2Fb":         "a/b",
		"a%2fb":         "a/b",
		"%2F":           "/",
		"%2e%2e":        "..",
		"a+b":           "a+b",
		"a%20b":         "a b",
		"a%2Bb":         "a+b",
		"%00":           "\x00",
		"%ff%FE":        "\xff\xfe",
		"%25":           "%",
		"%2525":         "%25",
		"%3Fprefix":     "?prefix",
		"a%23b":         "a#b",
		"a#b":           "a#b",
		"a;b=c,d":       "a;b=c,d",
		"@:!$&'()*~-_":  "@:!$&'()*~-_",
		"caf%C3%A9":     "café",
		"cafe%CC%81":    "cafe\u0301",
		"caf\xc3\xa9":   "café", // raw bytes, as some clients send them
		"\xff":          "\xff",
		"[1]{2}|^`\"<>": "[1]{2}|^`\"<>",
		"v1/kv/a":       "v1/kv/a",
		"http://x/y":    "http://x/y",
	} {
		t.Run(path, func(t *testing.T) {
			_, br := n.raw("PUT /v1/kv/%s HTTP/1.1\r\nHost: x\r\nContent-Length: 1\r\n\r\n1", path)
			if r := n.answer(br); r.status != 201 && r.status != 200 {
				t.Fatalf("PUT: %d %s", r.status, r.body)
			}
			n.wantStored(key, "1")
			_, br = n.raw("GET /v1/kv/%s HTTP/1.1\r\nHost: x\r\n\r\n", path)
			n.answer(br).want(t, 200)
		})
	}
}

func TestKeysThatDifferInAnyByteAreTwo(t *testing.T) {
	n := serve(t)
	keys := []string{"a", "/a", "a/", "//a", "a//", "./a", "a/.", "A", "caf%C3%A9", "cafe%CC%81", "%20a", "a%20", "a%00"}
	for _, key := range keys {
		n.call("PUT", "/v1/kv/"+key, key).want(t, 201)
	}
	for _, key := range keys {
		if r := n.call("GET", "/v1/kv/"+key, "").want(t, 200); r.body != key {
			t.Errorf("%q holds %q", key, r.body)
		}
	}
}

func TestPathsThatAreNoKey(t *testing.T) {
	n := serve(t)
	for request, status := range map[string]int{
		"PUT /v1/kv/":          400,
		"GET /v1/kv/":          400,
		"HEAD /v1/kv/":         400,
		"DELETE /v1/kv/":       400,
		"PUT /v1/kv/?prefix":   400,
		"PUT /v1/kv/%zz":       400, // net/http's own answer
		"GET /v1/kv/%":         400,
		"GET /v1/kv/a%2":       400,
		"GET /v1/kv":           404,
		"GET /v1/KV/a":         404,
		"GET /v1%2Fkv/a":       404,
		"GET /v1/kv%2Fa":       404,
		"GET //v1/kv/a":        404,
		"GET /v1//kv/a":        404,
		"GET /./v1/kv/a":       404,
		"GET /v1/../v1/kv/a":   404,
		"GET /":                404,
		"GET /v1/status/":      404,
		"GET /v1/queue":        404,
		"POST /v1/txn/":        404,
		"POST /v1%2Ftxn":       404,
		"PUT http://h/v1/kv/a": 201, // the absolute form
		"GET /v1/kv/a/":        404, // a key, but another
	} {
		_, br := n.raw("%s HTTP/1.1\r\nHost: x\r\nContent-Length: 0\r\n\r\n", request)
		resp, err := http.ReadResponse(br, httptest.NewRequest(strings.Fields(request)[0], "/", nil))
		if err != nil {
			t.Fatalf("%s: %v", request, err)
		}
		resp.Body.Close()
		if resp.StatusCode != status {
			t.Errorf("%s: %d, want %d", request, resp.StatusCode, status)
		}
	}
}

func TestNoSuchResourceIsAProblem(t *testing.T) {
	n := serve(t)
	n.call("GET", "/v1/nothing", "").refused(t, 404, "no-such-resource")
	n.call("PUT", "/v2/kv/a", "v").refused(t, 404, "no-such-resource")
}

func TestOtherMethodsAreToldWhatIsAllowed(t *testing.T) {
	n := serve(t)
	for _, method := range []string{"POST", "PATCH", "TRACE", "QUERY", "put"} {
		r := n.call(method, "/v1/kv/a", "")
		r.refused(t, 405, "method-not-allowed")
		r.wantHeaders(t, map[string]string{"Allow": allowKey})
	}
	r := n.call("DELETE", "/v1/status", "")
	r.refused(t, 405, "method-not-allowed")
	r.wantHeaders(t, map[string]string{"Allow": allowStatus})
	for path, allow := range map[string]string{"/v1/kv/a": allowKey, "/v1/kv/": allowKey, "/v1/status": allowStatus,
		"/v1/txn": "POST, OPTIONS", "/v1/batch": "POST, OPTIONS", "/v1/openapi.yaml": "GET, HEAD, OPTIONS",
		"/v1/leases": "GET, HEAD, POST, OPTIONS", "/v1/leases/1": "GET, HEAD, PUT, DELETE, OPTIONS", "/v1/leases/1/keepalive": "POST, OPTIONS"} {
		n.call("PATCH", path, "").refused(t, 405, "method-not-allowed")
		n.call("PATCH", path, "").wantHeaders(t, map[string]string{"Allow": allow})
		r := n.call("OPTIONS", path, "").want(t, 204)
		r.wantHeaders(t, map[string]string{"Allow": allow})
	}
	n.wantEmpty()
}

func TestStatusIsTheReportOfTheNode(t *testing.T) {
	n := serve(t)
	r := n.call("GET", "/v1/status", "").want(t, 200)
	if !strings.Contains(r.body, `"name":"n1"`) || !strings.Contains(r.body, `"ready":true`) {
		t.Errorf("status %s", r.body)
	}
	r.wantHeaders(t, map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"})
	n.call("GET", "/v1/status?verbose", "").refused(t, 400, "invalid")
	if r := n.call("HEAD", "/v1/status", "").want(t, 200); r.body != "" {
		t.Errorf("HEAD has a body: %q", r.body)
	}
}

// A client escapes a key in any way that RFC 3986 allows; what arrives is the key.
func FuzzKeyRoundTrip(f *testing.F) {
	for _, key := range []string{"a", "//", "..", "%", "a b+c", "\x00\xff", "é", "a?b#c", "v1/kv/"} {
		f.Add(key, uint8(0))
		f.Add(key, uint8(1))
		f.Add(key, uint8(2))
	}
	f.Fuzz(func(t *testing.T, key string, how uint8) {
		if key == "" {
			return
		}
		var path string
		switch how % 3 {
		case 0:
			path = url.PathEscape(key) // slashes too
		case 1:
			path = (&url.URL{Path: "/" + key}).EscapedPath()[1:] // as few as possible
		case 2:
			var b strings.Builder // everything
			for i := range len(key) {
				b.WriteString("%" + string("0123456789abcdef"[key[i]>>4]) + string("0123456789ABCDEF"[key[i]&15]))
			}
			path = b.String()
		}
		u, err := url.ParseRequestURI(keyRoot + path)
		if err != nil {
			t.Fatalf("%q: %v", path, err)
		}
		if to, got := route(u); to != toKey || got != key {
			t.Errorf("%q leads to %d, key %q; want %q", path, to, got, key)
		}
	})
}

// Whatever is sent behind the root, the key is what net/url makes of it, or the request is refused by net/url too.
func FuzzRouteAgreesWithNetURL(f *testing.F) {
	for _, path := range []string{"a", "a%2Fb", "%zz", "a#b", "a?b", "\xff", "//", "%", "a%00", "../x?prefix", ";a"} {
		f.Add(path)
	}
	f.Fuzz(func(t *testing.T, rest string) {
		u, err := url.ParseRequestURI(keyRoot + rest)
		if err != nil {
			return // net/http answers 400
		}
		to, got := route(u)
		path, _, _ := strings.Cut(rest, "?")
		want, err := url.PathUnescape(path)
		if err != nil {
			t.Fatalf("%q is taken by ParseRequestURI and not by PathUnescape: %v", rest, err)
		}
		if to != toKey || got != want {
			t.Errorf("%q leads to %d, key %q; want %q", rest, to, got, want)
		}
	})
}
