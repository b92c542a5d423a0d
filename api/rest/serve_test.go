package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

// reporter is a node that says what it is told to.
type reporter api.Status

func (r reporter) Report() api.Status { return api.Status(r) }

// between is a Backend whose calls can be changed on their way.
type between struct {
	api.Backend
	do    func(ctx context.Context, c kv.Command) (kv.Result, error)
	read  func(ctx context.Context, q kv.Query) (kv.Page, error)
	watch func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

func (b *between) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	if b.do != nil {
		return b.do(ctx, c)
	}
	return b.Backend.Do(ctx, c)
}

func (b *between) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if b.read != nil {
		return b.read(ctx, q)
	}
	return b.Backend.Read(ctx, q)
}

func (b *between) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if b.watch != nil {
		return b.watch(ctx, w)
	}
	return b.Backend.Watch(ctx, w)
}

// node is a Handler over a store in memory, behind a real listener that speaks HTTP/1.1, and h2c by prior knowledge.
type node struct {
	*httptest.Server
	t       *testing.T
	store   *apitest.Memory
	between *between
	handler *Handler
}

// serve starts a node; change may alter its options.
func serve(t *testing.T, change ...func(*Options)) *node {
	t.Helper()
	n := &node{t: t, store: apitest.NewMemory()}
	n.between = &between{Backend: n.store}
	o := Options{Backend: n.between, Reporter: reporter{Name: "n1", Mode: "member", State: "serving", Ready: true}}
	for _, f := range change {
		f(&o)
	}
	n.handler = New(o)
	n.Server = httptest.NewUnstartedServer(n.handler)
	n.Config.Protocols = new(http.Protocols)
	n.Config.Protocols.SetHTTP1(true)
	n.Config.Protocols.SetUnencryptedHTTP2(true)
	n.Start()
	t.Cleanup(func() {
		n.handler.EndWatches()
		n.Close()
	})
	return n
}

// h2c returns a client of HTTP/2 without TLS.
func (n *node) h2c() *http.Client {
	p := new(http.Protocols)
	p.SetUnencryptedHTTP2(true)
	tr := &http.Transport{Protocols: p}
	n.t.Cleanup(tr.CloseIdleConnections)
	return &http.Client{Transport: tr}
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
	return n.callBy(n.Client(), method, path, body, headers...)
}

func (n *node) callBy(client *http.Client, method, path, body string, headers ...string) reply {
	n.t.Helper()
	resp, err := client.Do(n.request(method, path, body, headers...))
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

func (n *node) request(method, path, body string, headers ...string) *http.Request {
	n.t.Helper()
	var content io.Reader
	if method == "PUT" || body != "" {
		content = strings.NewReader(body)
	}
	r, err := http.NewRequestWithContext(n.t.Context(), method, n.URL+path, content)
	if err != nil {
		n.t.Fatal(err)
	}
	for i := 0; i+1 < len(headers); i += 2 {
		r.Header.Add(headers[i], headers[i+1])
	}
	return r
}

// raw sends bytes as they are and returns a reader of what comes back. The connection is closed with the test.
func (n *node) raw(format string, args ...any) (net.Conn, *bufio.Reader) {
	n.t.Helper()
	conn, err := net.Dial("tcp", n.Listener.Addr().String())
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { conn.Close() })
	if err := conn.SetDeadline(time.Now().Add(20 * time.Second)); err != nil {
		n.t.Fatal(err)
	}
	if _, err := fmt.Fprintf(conn, format, args...); err != nil {
		n.t.Fatal(err)
	}
	return conn, bufio.NewReader(conn)
}

// answer reads one reply off a raw connection.
func (n *node) answer(r *bufio.Reader) reply {
	n.t.Helper()
	resp, err := http.ReadResponse(r, nil)
	if err != nil {
		n.t.Fatal(err)
	}
	defer resp.Body.Close()
	b, err := io.ReadAll(resp.Body)
	if err != nil {
		n.t.Fatal(err)
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

// wantHeaders compares headers, "" being none.
func (r reply) wantHeaders(t *testing.T, want map[string]string) {
	t.Helper()
	for name, value := range want {
		if got := r.header.Get(name); got != value {
			t.Errorf("%s: %q, want %q", name, got, value)
		}
	}
}

// problem reads the reply as RFC 9457 has it, and checks what holds for every one.
func (r reply) problem(t *testing.T) map[string]any {
	t.Helper()
	if got := r.header.Get("Content-Type"); got != "application/problem+json" {
		t.Errorf("Content-Type %q, want application/problem+json; body %s", got, r.body)
	}
	var p map[string]any
	if err := json.Unmarshal([]byte(r.body), &p); err != nil {
		t.Fatalf("%q: %v", r.body, err)
	}
	for _, name := range []string{"type", "title", "status", "detail", "code", "retryable", "outcome"} {
		if p[name] == nil || p[name] == "" {
			t.Errorf("the problem has no %s: %s", name, r.body)
		}
	}
	if p["status"] != float64(r.status) || p["type"] != api.ProblemType+fmt.Sprint(p["code"]) {
		t.Errorf("status %v in a reply of %d, type %v of code %v", p["status"], r.status, p["type"], p["code"])
	}
	return p
}

// refused fails the test unless the reply is a problem of this status and code.
func (r reply) refused(t *testing.T, status int, code string) map[string]any {
	t.Helper()
	r.want(t, status)
	p := r.problem(t)
	if p["code"] != code {
		t.Errorf("code %v, want %s; %v", p["code"], code, p["detail"])
	}
	return p
}

// put stores a value behind the door's back and returns its revision.
func (n *node) put(key, value string) int64 {
	n.t.Helper()
	r, err := n.store.Do(n.t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Revision
}

// stored returns what the store holds under a key.
func (n *node) stored(key string) (string, bool) {
	n.t.Helper()
	p, err := n.store.Read(n.t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: []byte(key)}}})
	if err != nil {
		n.t.Fatal(err)
	}
	if len(p.Ops[0].KVs) == 0 {
		return "", false
	}
	return string(p.Ops[0].KVs[0].Value), true
}

func (n *node) wantStored(key, value string) {
	n.t.Helper()
	if got, there := n.stored(key); !there || got != value {
		n.t.Errorf("%q holds %q (%v), want %q", key, got, there, value)
	}
}

func (n *node) wantEmpty() {
	n.t.Helper()
	p, err := n.store.Read(n.t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: kv.FromKey(), End: kv.FromKey()}}})
	if err != nil {
		n.t.Fatal(err)
	}
	if p.Ops[0].Count != 0 || p.Revision != 1 {
		n.t.Errorf("the store is at revision %d with keys %+v, want it untouched", p.Revision, p.Ops[0].KVs)
	}
}

// large is a value of n bytes.
func large(n int) string { return string(bytes.Repeat([]byte("x"), n)) }
