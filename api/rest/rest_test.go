package rest

import (
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"

	"holdfast/api"
	"holdfast/api/apitest"
)

// reporter is a node that says what it is told to.
type reporter api.Status

func (r reporter) Report() api.Status { return api.Status(r) }

// node is a Handler over a store in memory, behind a real listener.
type node struct {
	*httptest.Server
	t       *testing.T
	store   *apitest.Memory
	handler *Handler
}

// serve starts a node; change may alter its options.
func serve(t *testing.T, change ...func(*Options)) *node {
	t.Helper()
	store := apitest.NewMemory()
	o := Options{Backend: store, Reporter: reporter{Name: "n1", Mode: "member"}}
	for _, f := range change {
		f(&o)
	}
	h := New(o)
	s := httptest.NewServer(h)
	t.Cleanup(func() {
		h.EndWatches()
		s.Close()
	})
	return &node{s, t, store, h}
}

// reply is an answer read to its end.
type reply struct {
	status int
	header http.Header
	body   string
}

// call sends a request; headers are pairs of name and value.
func (n *node) call(method, path, body string, headers ...string) reply {
	n.t.Helper()
	r, err := http.NewRequest(method, n.URL+path, strings.NewReader(body))
	if err != nil {
		n.t.Fatal(err)
	}
	if method == "GET" || method == "HEAD" {
		r.Body, r.ContentLength = nil, 0
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	resp, err := n.Client().Do(r)
	if err != nil {
		n.t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatalf("%s %s: body: %v", method, path, err)
	}
	return reply{resp.StatusCode, resp.Header, string(b)}
}

// want fails the test unless the reply has this status, and returns it.
func (r reply) want(t *testing.T, status int) reply {
	t.Helper()
	if r.status != status {
		t.Fatalf("status %d, want %d; body %s", r.status, status, r.body)
	}
	return r
}

func TestPutThenGetBringsTheBytesBack(t *testing.T) {
	n := serve(t)
	r := n.call("PUT", "/v1/kv/site/42/temp", "21.5").want(t, 201)
	if r.body != "{\"revision\":2}\n" {
		t.Errorf("body %q, want revision 2", r.body)
	}
	n.call("PUT", "/v1/kv/site/42/temp", "\x00\xff").want(t, 200)
	r = n.call("GET", "/v1/kv/site/42/temp", "").want(t, 200)
	if r.body != "\x00\xff" {
		t.Errorf("value %q, want the bytes put", r.body)
	}
	for name, want := range map[string]string{
		"ETag": `"3"`, "Holdfast-Revision": "3", "Holdfast-Source": "member", "Holdfast-Consistency": "linearizable",
		"Holdfast-Age": "0", "Age": "0", "Cache-Status": "holdfast; fwd=bypass", "Content-Type": "application/octet-stream",
		"X-Content-Type-Options": "nosniff", "Content-Length": "2",
	} {
		if got := r.header.Get(name); got != want {
			t.Errorf("%s: %q, want %q", name, got, want)
		}
	}
}
