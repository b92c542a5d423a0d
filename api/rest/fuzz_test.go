package rest

import (
	"bufio"
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"net/http"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// replica is a council that gives backups.
type replica struct {
	*council
	copies *copier
}

func (r replica) Snapshot(ctx context.Context) (io.ReadSeekCloser, int64, error) {
	return r.copies.Snapshot(ctx)
}

// FuzzRequest sends any request that net/http can read, to the handler for devices and to that for administration. What reaches the
// backend can be sent on, what is refused is refused as every fault of a request is, and nothing panics.
func FuzzRequest(f *testing.F) {
	for _, e := range examples {
		if e.halts {
			continue
		}
		method, _, _ := strings.Cut(e.op, " ")
		var headers strings.Builder
		for i := 0; i+1 < len(e.headers); i += 2 {
			fmt.Fprintf(&headers, "%s: %s\r\n", e.headers[i], e.headers[i+1])
		}
		f.Add(fmt.Appendf(nil, "%s %s HTTP/1.1\r\nHost: x\r\n%sContent-Length: %d\r\n\r\n%s", method, e.path, &headers, len(e.body), e.body), true)
	}
	f.Add([]byte("PUT /v1/kv/a?ttl=30s&write=queue HTTP/1.1\r\nHost: x\r\nIf-Match: \"7\"\r\nIdempotency-Key: k\r\nPrefer: wait=2, return=minimal\r\nTransfer-Encoding: chunked\r\n\r\n1\r\nx\r\n0\r\n\r\n"), false)
	f.Add([]byte("GET /v1/snapshot HTTP/1.1\r\nHost: x\r\nRange: bytes=7-\r\nIf-Range: \"a\"\r\n\r\n"), false)
	store := apitest.NewMemory()
	for _, key := range []string{"a", "b", "p/1", "p/2"} {
		if _, err := store.Do(f.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte("v")}}}); err != nil {
			f.Fatal(err)
		}
	}
	var unsent error
	note := func(err error) {
		if err != nil {
			unsent = err
		}
	}
	node := &between{Backend: store}
	node.do = func(_ context.Context, c kv.Command) (kv.Result, error) {
		note(wire.CheckCommand(c))
		return kv.Result{}, kv.Errorf(kv.NoLeader, "nothing is kept here")
	}
	node.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
		note(wire.CheckQuery(q))
		return store.Read(ctx, q)
	}
	tokens, devices := &office{}, &shed{}
	o := Options{Backend: node, Reporter: reporter{}, Tokens: tokens, Nodes: &registry{}, Certificates: &registry{}, Switch: &lever{}, Devices: devices,
		Admin: func() api.Admin { return replica{newCouncil(), &copier{content: "state"}} }}
	linedUp(&o)
	h := New(o)
	admin := h.Admin()
	f.Fuzz(func(t *testing.T, said []byte, administers bool) {
		r, err := http.ReadRequest(bufio.NewReader(bytes.NewReader(said)))
		if err != nil || r.RequestURI == "*" {
			return // net/http answers that by itself
		}
		r.RemoteAddr = "192.0.2.1:1"
		ctx, cancel := context.WithTimeout(t.Context(), 5*time.Millisecond) // for what waits, or watches
		defer cancel()
		w, handler := httptest.NewRecorder(), http.Handler(h)
		if administers {
			handler = admin
		}
		unsent, *tokens, *devices = nil, office{}, shed{}
		handler.ServeHTTP(w, r.WithContext(ctx))
		if unsent != nil {
			t.Fatalf("%q passed, and cannot be sent: %v", said, unsent)
		}
		if ctx.Err() != nil || w.Code < http.StatusBadRequest {
			return
		}
		if kind := w.Header().Get("Content-Type"); kind != "application/problem+json" || w.Code == http.StatusInternalServerError {
			t.Fatalf("%q: %d as %q: %s", said, w.Code, kind, w.Body)
		}
		if r.Method != http.MethodHead && !json.Valid(w.Body.Bytes()) {
			t.Fatalf("%q: %d with %s", said, w.Code, w.Body)
		}
	})
}

// FuzzSmallBodies reads bodies of administration. What passes is within its bounds.
func FuzzSmallBodies(f *testing.F) {
	f.Add([]byte(`{"name":"pump-7","allow":["put","get"],"prefixes":["site/42/"],"ttl":"2160h","rate":10,"share_kib":1024}`))
	f.Add([]byte(`{"role":"any","ttl":"24h","uses":0,"scope":["site/42/"]}`))
	f.Add([]byte(strings.Repeat(`{"a":`, 2000)))
	f.Fuzz(func(t *testing.T, b []byte) {
		if len(b) > deviceBodyMax {
			return
		}
		if d, err := parseDevice(b); err == nil {
			if d.Name == "" || len(d.Name) > deviceNameMax || len(d.Allow) == 0 || len(d.Allow) > 4 || len(d.Prefixes) == 0 || len(d.Prefixes) > devicePrefixMax || d.TTL < 0 || d.TTL > deviceTTLMax || d.Rate > deviceRateMax {
				t.Fatalf("%s passed as %+v", b, d)
			}
		}
		if r, err := parseTokenRequest(b); err == nil {
			if r.Role == "" || r.TTL <= 0 || r.TTL > tokenTTLMax || r.Uses < 0 || r.Uses > tokenUsesMax {
				t.Fatalf("%s passed as %+v", b, r)
			}
		}
	})
}
