package rest

import (
	"context"
	"net/http"
	"net/http/httptest"
	"testing"
	"time"

	"holdfast/kv"
)

// aged answers as a proxy's cache does.
type aged struct{ instant }

var agedPage = kv.Page{Header: kv.Header{Revision: 123456}, Source: kv.SourceCache, Age: 1234 * time.Millisecond,
	Ops: []kv.OpResult{{KVs: []kv.KeyValue{{Value: []byte("v"), ModRevision: 12345}}, Count: 1}}}

// What one request costs the collector is counted, because nobody sees it in a review: raise a bound only for something
// that is worth it.
func TestRequestsForOneKeyMakeFewObjects(t *testing.T) {
	h := New(Options{Backend: &aged{}, Reporter: reporter{}})
	r := httptest.NewRequest(http.MethodGet, "/v1/kv/site/42/temp", nil)
	w := &sink{header: http.Header{}}
	h.ServeHTTP(w, r)
	if got := w.header.Get("Holdfast-Age") + w.header.Get("Etag"); got != `1.234"12345"` {
		t.Fatalf("age and tag: %s", got)
	}
	const most = 5 // the key, the query and its operation, the header values and their text
	if n := testing.AllocsPerRun(1000, func() { h.ServeHTTP(w, r) }); n > most {
		t.Errorf("a cached GET makes %v objects, want %d at most", n, most)
	}
}

// Read answers.
func (a *aged) Read(context.Context, kv.Query) (kv.Page, error) { return agedPage, nil }
