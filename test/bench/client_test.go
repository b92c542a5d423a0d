package main

import (
	"bufio"
	"bytes"
	"encoding/json"
	"fmt"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync"
	"testing"
)

var mu sync.Mutex

// store is a map with as much of the REST API and of etcd's gateway as the clients use.
func store() http.Handler {
	kvs := map[string][]byte{}
	mux := http.NewServeMux()
	mux.HandleFunc("GET /readyz", func(http.ResponseWriter, *http.Request) {})
	mux.HandleFunc("PUT /v1/kv/{key...}", func(w http.ResponseWriter, r *http.Request) {
		b, err := io.ReadAll(r.Body)
		if err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		kvs[r.PathValue("key")] = b
		w.WriteHeader(http.StatusCreated)
	})
	mux.HandleFunc("GET /v1/kv/{key...}", func(w http.ResponseWriter, r *http.Request) {
		mu.Lock()
		defer mu.Unlock()
		v, ok := kvs[r.PathValue("key")]
		if c := r.URL.Query().Get("consistency"); !ok || c != "linearizable" && c != "local" {
			http.NotFound(w, r)
			return
		}
		_, _ = w.Write(v)
	})
	type pair struct {
		Key   []byte `json:"key,omitempty"`
		Value []byte `json:"value,omitempty"`
	}
	mux.HandleFunc("POST /v3/kv/put", func(w http.ResponseWriter, r *http.Request) {
		var p pair
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		kvs[string(p.Key)] = p.Value
		fmt.Fprint(w, "{}")
	})
	mux.HandleFunc("POST /v3/kv/range", func(w http.ResponseWriter, r *http.Request) {
		var p pair
		if err := json.NewDecoder(r.Body).Decode(&p); err != nil {
			http.Error(w, err.Error(), http.StatusBadRequest)
			return
		}
		mu.Lock()
		defer mu.Unlock()
		var found []pair
		if v, ok := kvs[string(p.Key)]; ok {
			found = append(found, pair{p.Key, v})
		}
		_ = json.NewEncoder(w).Encode(map[string]any{"kvs": found})
	})
	return mux
}

func TestHTTPClientsReadWhatTheyPut(t *testing.T) {
	s := httptest.NewServer(store())
	defer s.Close()
	addr := strings.TrimPrefix(s.URL, "http://")
	for name, dial := range map[string]func() (dialer, error){
		"rest":    func() (dialer, error) { return dialREST(t.Context(), addr, 1) },
		"gateway": func() (dialer, error) { return dialGateway(t.Context(), addr, 1) },
	} {
		d, err := dial()
		if err != nil {
			t.Fatal(err)
		}
		c, err := d.Dial(t.Context(), 0)
		if err != nil {
			t.Fatal(err)
		}
		for n := range 200 {
			key := []byte(name + "/a")
			if err := c.Put(key, bytes.Repeat([]byte{byte(n)}, n)); err != nil {
				t.Fatalf("%s: %v", name, err)
			}
			if name == "gateway" && n == 0 {
				continue // JSON leaves an empty value out
			}
			for _, linearizable := range []bool{true, false} {
				if got, err := c.Get(key, linearizable); err != nil || got != n {
					t.Fatalf("%s: %d bytes, %v, want %d", name, got, err, n)
				}
			}
		}
		if _, err := c.Get([]byte("nobody/put/this"), true); err == nil {
			t.Errorf("%s: no error for a key that is not there", name)
		}
		if err := c.Close(); err != nil {
			t.Error(err)
		}
	}
}

// answered gives a connection whose requests get one answer, byte for byte.
func answered(t *testing.T, answer string) *httpConn {
	t.Helper()
	ours, theirs := net.Pipe()
	t.Cleanup(func() { ours.Close(); theirs.Close() })
	go func() {
		if _, err := http.ReadRequest(bufio.NewReader(theirs)); err == nil {
			_, _ = io.WriteString(theirs, answer)
			theirs.Close()
		}
	}()
	return &httpConn{conn: ours, in: bufio.NewReader(ours), out: []byte("GET / HTTP/1.1\r\nHost: a\r\n\r\n")}
}

func TestHTTPAnswersAreReadToTheirEnd(t *testing.T) {
	for _, c := range []struct {
		name, answer, body string
		status             int
	}{
		{"length", "HTTP/1.1 200 OK\r\ncontent-length: 5\r\n\r\nhello", "hello", 200},
		{"empty", "HTTP/1.1 201 Created\r\nContent-Length: 0\r\n\r\n", "", 201},
		{"chunks", "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhel\r\n2\r\nlo\r\n0\r\n\r\n", "hello", 200},
		{"no content", "HTTP/1.1 204 No Content\r\n\r\n", "", 204},
	} {
		status, body, err := answered(t, c.answer).do()
		if err != nil || status != c.status || string(body) != c.body {
			t.Errorf("%s: %d %q %v, want %d %q", c.name, status, body, err, c.status, c.body)
		}
	}
}

func TestHTTPAnswersThatCannotBeMeasuredAreRefused(t *testing.T) {
	for name, answer := range map[string]string{
		"cut short":        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhel",
		"cut in header":    "HTTP/1.1 200 OK\r\nContent-Le",
		"no length":        "HTTP/1.1 200 OK\r\n\r\nhello",
		"closing":          "HTTP/1.1 200 OK\r\nContent-Length: 0\r\nConnection: close\r\n\r\n",
		"bad length":       "HTTP/1.1 200 OK\r\nContent-Length: -1\r\n\r\n",
		"huge":             "HTTP/1.1 200 OK\r\nContent-Length: 99999999999\r\n\r\n",
		"bad chunk":        "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\nxx\r\n",
		"chunk cut short":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhel",
		"chunk runs over":  "HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\n\r\n3\r\nhello\r\n0\r\n\r\n",
		"not HTTP":         "-ERR unknown command\r\n",
		"bad status":       "HTTP/1.1 abc OK\r\n\r\n",
		"nothing":          "",
		"an older version": "HTTP/1.0 200 OK\r\nContent-Length: 0\r\n\r\n",
	} {
		if status, body, err := answered(t, answer).do(); err == nil {
			t.Errorf("%s: %d %q, want an error", name, status, body)
		}
	}
}

func TestRefusedWriteIsAnError(t *testing.T) {
	for _, status := range []string{"503 Service Unavailable", "202 Accepted", "507 Insufficient Storage", "412 Precondition Failed"} {
		answer := "HTTP/1.1 " + status + "\r\nContent-Length: 0\r\n\r\n"
		if err := (restClient{answered(t, answer)}).Put([]byte("k"), []byte("v")); err == nil {
			t.Errorf("REST, %s: no error", status)
		}
		if err := (&gatewayClient{httpConn: answered(t, answer)}).Put([]byte("k"), []byte("v")); err == nil {
			t.Errorf("gateway, %s: no error", status)
		}
	}
}

func TestRESPClientSaysWhatRedisExpects(t *testing.T) {
	ours, theirs := net.Pipe()
	defer ours.Close()
	defer theirs.Close()
	script := []struct{ want, answer string }{
		{"*1\r\n$4\r\nPING\r\n", "+PONG\r\n"},
		{"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$5\r\nv\r\nal\r\n", "+OK\r\n"},
		{"*2\r\n$3\r\nGET\r\n$1\r\nk\r\n", "$5\r\nv\r\nal\r\n"},
		{"*2\r\n$3\r\nGET\r\n$1\r\nx\r\n", "$-1\r\n"},
		{"*3\r\n$3\r\nSET\r\n$1\r\nk\r\n$1\r\nv\r\n", "-MISCONF no space\r\n"},
	}
	said := make(chan error, 1)
	go func() {
		for _, s := range script {
			got := make([]byte, len(s.want))
			if _, err := io.ReadFull(theirs, got); err != nil {
				said <- err
				return
			}
			if string(got) != s.want {
				said <- fmt.Errorf("got %q, want %q", got, s.want)
				theirs.Close()
				return
			}
			if _, err := io.WriteString(theirs, s.answer); err != nil {
				said <- err
				return
			}
		}
		said <- nil
	}()
	c := &respClient{conn: ours, in: bufio.NewReader(ours)}
	if err := c.ping(); err != nil {
		t.Error(err)
	}
	if err := c.Put([]byte("k"), []byte("v\r\nal")); err != nil {
		t.Error(err)
	}
	if n, err := c.Get([]byte("k"), true); err != nil || n != 5 {
		t.Errorf("got %d, %v, want 5", n, err)
	}
	if _, err := c.Get([]byte("x"), true); err == nil {
		t.Error("no error for a key that is not there")
	}
	if err := c.Put([]byte("k"), []byte("v")); err == nil || !strings.Contains(err.Error(), "MISCONF") {
		t.Errorf("got %v, want what the server said", err)
	}
	if err := <-said; err != nil {
		t.Error(err)
	}
}

func TestContendersGetTheSameWork(t *testing.T) {
	o := options{seed: 7, keys: 100, value: 32}
	a, b, other := newGenerator(o, 3), newGenerator(o, 3), newGenerator(o, 4)
	same := 0
	seen := map[string]bool{}
	for range 500 {
		ka, kb := string(a.key()), string(b.key())
		if ka != kb {
			t.Fatalf("%s and %s", ka, kb)
		}
		if ka == string(other.key()) {
			same++
		}
		va, vb := string(a.next()), string(b.next())
		if va != vb || len(va) != o.value {
			t.Fatalf("values %q and %q, want equal ones of %d bytes", va, vb, o.value)
		}
		if seen[va] {
			t.Fatalf("the value %q came twice", va)
		}
		seen[va] = true
		if ka < "bench/00000000" || ka > "bench/00000099" {
			t.Fatalf("key %s is not among %d", ka, o.keys)
		}
	}
	if same > 100 {
		t.Errorf("two clients chose the same key %d times of 500", same)
	}
}
