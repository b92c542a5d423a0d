package rest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"reflect"
	"strconv"
	"strings"
	"testing"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/kv"
)

// office is a cluster's tokens in memory.
type office struct {
	asked  api.TokenRequest
	tokens []api.TokenInfo
	err    error
}

var issued = time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)

func (o *office) Create(_ context.Context, r api.TokenRequest) (api.CreatedToken, error) {
	if o.err != nil {
		return api.CreatedToken{}, o.err
	}
	o.asked = r
	id := strconv.Itoa(len(o.tokens) + 1)
	o.tokens = append(o.tokens, api.TokenInfo{ID: id, Role: r.Role, Scope: r.Scope, Uses: r.Uses, Created: issued, Expires: issued.Add(r.TTL)})
	return api.CreatedToken{Token: "HF1ca::" + id + ".secret", ID: id, Expires: issued.Add(r.TTL)}, nil
}

func (o *office) List(context.Context) ([]api.TokenInfo, error) { return o.tokens, o.err }

func (o *office) Revoke(_ context.Context, id string) error {
	for i := range o.tokens {
		if o.tokens[i].ID == id {
			o.tokens = append(o.tokens[:i], o.tokens[i+1:]...)
			return nil
		}
	}
	return kv.Errorf(kv.KeyNotFound, "no token %q", id)
}

// serveAdmin is serve with the administration socket's handler.
func serveAdmin(t *testing.T, tokens api.Tokens, change ...func(*Options)) *node {
	t.Helper()
	n := serve(t, append(change, func(o *Options) {
		o.Tokens, o.Nodes, o.Certificates = tokens, &registry{}, &registry{}
		if o.Devices == nil {
			o.Devices = &shed{list: []api.DeviceInfo{{ID: "1", Name: "pump-7", Allow: []string{"put"}, Prefixes: []string{"site/"}, Expires: &issued, LastSeen: &issued}}}
		}
		if o.Switch == nil {
			o.Switch = &lever{}
		}
	})...)
	n.Server = httptest.NewServer(n.handler.Admin())
	t.Cleanup(n.Server.Close)
	return n
}

func TestATokenIsMadeListedAndRevoked(t *testing.T) {
	o := &office{}
	reg := prometheus.NewRegistry()
	n := serveAdmin(t, o, func(o *Options) { o.Metrics = reg })
	if r := n.call("GET", "/v1/tokens", "").want(t, 200); r.body != "{\"tokens\":[]}\n" {
		t.Errorf("none: %s", r.body)
	}
	r := n.call("POST", "/v1/tokens", `{"role":"proxy","ttl":"30m","uses":3,"scope":["site/42/"]}`).want(t, 201)
	if want := `{"token":"HF1ca::1.secret","id":"1","expires":"2030-01-02T03:34:05Z"}` + "\n"; r.body != want {
		t.Errorf("got %s, want %s", r.body, want)
	}
	r.wantHeaders(t, map[string]string{"Location": "/v1/tokens/1", "Cache-Control": "no-store", "Content-Type": "application/json"})
	r = n.call("GET", "/v1/tokens", "").want(t, 200)
	if want := `{"tokens":[{"id":"1","role":"proxy","scope":["site/42/"],"expires":"2030-01-02T03:34:05Z","uses":3,"used":0,"created":"2030-01-02T03:04:05Z"}]}` + "\n"; r.body != want {
		t.Errorf("got %s, want %s", r.body, want)
	}
	if strings.Contains(r.body, "secret") {
		t.Error("the list shows a secret")
	}
	if r := n.call("DELETE", "/v1/tokens/1", "").want(t, 200); r.body != "{\"id\":\"1\"}\n" {
		t.Errorf("revoked: %s", r.body)
	}
	n.call("DELETE", "/v1/tokens/1", "").refused(t, 404, "key-not-found")
	// All else is served there as everywhere, and counted once.
	n.call("PUT", "/v1/kv/a", "v").want(t, 201)
	n.call("GET", "/v1/status", "").want(t, 200)
	if got := gathered(t, reg)["holdfast_http_requests_total code=201 method=POST"]; got != 1 {
		t.Errorf("%v requests counted, want 1 of %v", got, gathered(t, reg))
	}
}

func TestWhatATokenIsNotAskedForHasADefault(t *testing.T) {
	all, day := []string{""}, 24*time.Hour
	for body, want := range map[string]api.TokenRequest{
		"":                                  {Role: "any", TTL: day, Scope: all},
		"{}":                                {Role: "any", TTL: day, Scope: all},
		`{"role":"proxy"}`:                  {Role: "proxy", TTL: day, Scope: all},
		`{"role":"member"}`:                 {Role: "member", TTL: day},
		`{"scope":[]}`:                      {Role: "any", TTL: day, Scope: all},
		`{"scope":["a/",""]}`:               {Role: "any", TTL: day, Scope: []string{"a/", ""}},
		`{"ttl":"8784h","uses":1000000}`:    {Role: "any", TTL: tokenTTLMax, Uses: tokenUsesMax, Scope: all},
		`{"scope":["` + large(1024) + `"]}`: {Role: "any", TTL: day, Scope: []string{large(1024)}},
	} {
		o := &office{}
		serveAdmin(t, o).call("POST", "/v1/tokens", body).want(t, 201)
		if !reflect.DeepEqual(o.asked, want) {
			t.Errorf("%.80s: asked for %+v, want %+v", body, o.asked, want)
		}
	}
}

func TestARequestForATokenIsChecked(t *testing.T) {
	many := `"` + strings.Join(strings.Split(strings.Repeat("a", 65), ""), `","`) + `"` // one prefix, 65 times
	var prefixes []string
	for i := range 65 {
		prefixes = append(prefixes, strconv.Quote(strconv.Itoa(i)))
	}
	o := &office{}
	n := serveAdmin(t, o)
	for body, part := range map[string]string{
		"x":                        "the body is not",
		"[]":                       "the body is not",
		`{"rol":"any"}`:            `unknown field \"rol\"`,
		`{} {}`:                    "more than one JSON document",
		`{"uses":"1"}`:             "the body is not",
		`{"role":"chief"}`:         "not one of any, member and proxy",
		`{"ttl":"soon"}`:           "is not a duration",
		`{"ttl":"0s"}`:             "above 0",
		`{"ttl":"-1h"}`:            "above 0",
		`{"ttl":"9000h"}`:          "up to 8784h",
		`{"uses":-1}`:              "is not from 0",
		`{"uses":1000001}`:         "is not from 0",
		`{"scope":["a","a"]}`:      `has \"a\" twice`,
		`{"scope":[` + many + `]}`: "twice",
		`{"scope":[` + strings.Join(prefixes, ",") + `]}`: "a certificate has room for 64",
		`{"scope":["` + large(1025) + `"]}`:               "of together 1024",
		`{"scope":["` + strings.Repeat("/", 342) + `"]}`:  "1026 bytes, once escaped",
		`{"role":"member","scope":["a"]}`:                 "a member holds every key",
	} {
		r := n.call("POST", "/v1/tokens", body)
		r.refused(t, 400, "invalid")
		if !strings.Contains(r.body, part) {
			t.Errorf("%.60s: %s, want %q in it", body, r.body, part)
		}
	}
	n.call("POST", "/v1/tokens", large(deviceBodyMax+1)).refused(t, 413, "too-large")
	n.call("POST", "/v1/tokens", "{}", "Content-Encoding", "gzip").refused(t, 415, "unsupported-encoding")
	n.call("POST", "/v1/tokens?x", "{}").refused(t, 400, "invalid")
	n.call("GET", "/v1/tokens?x", "").refused(t, 400, "invalid")
	n.call("DELETE", "/v1/tokens/1?x", "").refused(t, 400, "invalid")
	n.call("POST", "/v1/tokens", "{}", "Origin", "http://evil.example").refused(t, 403, "foreign-origin")
	if len(o.tokens) > 0 {
		t.Errorf("a refused request made %+v", o.tokens)
	}
	for call, allow := range map[string]string{"PUT /v1/tokens": allowTokens, "DELETE /v1/tokens": allowTokens, "GET /v1/tokens/1": allowToken, "PUT /v1/tokens/1": allowToken} {
		method, path, _ := strings.Cut(call, " ")
		r := n.call(method, path, "")
		r.refused(t, 405, "method-not-allowed")
		r.wantHeaders(t, map[string]string{"Allow": allow})
		n.call("OPTIONS", path, "").want(t, 204).wantHeaders(t, map[string]string{"Allow": allow})
	}
	n.call("DELETE", "/v1/tokens/", "").refused(t, 404, "no-such-resource")
}

func TestARefusalOfTheClusterIsPassedOn(t *testing.T) {
	n := serveAdmin(t, &office{err: &kv.Error{Code: kv.NoLeader, Detail: "there is no leader"}})
	n.call("POST", "/v1/tokens", "{}").refused(t, 503, "no-leader")
	n.call("GET", "/v1/tokens", "").refused(t, 503, "no-leader")
}

// A device must not be able to make itself a token: the listeners for clients have none, whatever Options has.
func TestTokensAreOnTheAdministrationSocketOnly(t *testing.T) {
	o := &office{}
	clients := serve(t, func(opts *Options) { opts.Tokens = o })
	without := serveAdmin(t, nil)
	for name, n := range map[string]*node{"clients": clients, "admin without tokens": without} {
		for _, call := range []string{"POST /v1/tokens", "GET /v1/tokens", "DELETE /v1/tokens/1"} {
			method, path, _ := strings.Cut(call, " ")
			r := n.call(method, path, "")
			if p := r.refused(t, http.StatusNotFound, "administration-only"); !strings.Contains(p["detail"].(string), "administration socket") {
				t.Errorf("%s: %s: %v", name, call, p)
			}
		}
	}
	if len(o.tokens) > 0 {
		t.Errorf("a client has made %+v", o.tokens)
	}
}
