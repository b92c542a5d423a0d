package rest

import (
	"context"
	"encoding/base64"
	"encoding/json"
	"errors"
	"slices"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// line is a queue in memory: items in order, and those that may be sent.
type line struct {
	mu     sync.Mutex
	items  []api.QueueItem
	sent   map[string]bool
	ended  chan struct{} // closed: every item is committed
	wedged error         // of every call that can fail

	paused  bool
	flushed int
}

func newLine(items ...api.QueueItem) *line {
	l := &line{items: items, sent: map[string]bool{}, ended: make(chan struct{})}
	for i := range l.items {
		l.items[i].KeyBase64 = base64.StdEncoding.EncodeToString([]byte(l.items[i].Key))
	}
	return l
}

func (l *line) Status() api.QueueStatus {
	return api.QueueStatus{Depth: len(l.items), Bytes: 7, MaxBytes: 100, OldestSeconds: 1.5, Down: "the uplink is lost"}
}

func (l *line) List(f api.QueueFilter) ([]api.QueueItem, error) {
	if l.wedged != nil {
		return nil, l.wedged
	}
	if f.State != "" && f.State != "queued" && f.State != "conflict" {
		return nil, kv.Errorf(kv.Invalid, "state %q is none of a queued write", f.State)
	}
	var found []api.QueueItem
	for _, i := range l.items {
		if (f.State == "" || i.State == f.State) && (f.Author == "" || i.Author == f.Author) && strings.HasPrefix(i.Key, f.Prefix) {
			found = append(found, i)
		}
	}
	return found, nil
}

func (l *line) Get(ctx context.Context, id string, wait bool) (api.QueueItem, bool, error) {
	if l.wedged != nil {
		return api.QueueItem{}, false, l.wedged
	}
	i := slices.IndexFunc(l.items, func(i api.QueueItem) bool { return i.ID == id })
	if i < 0 {
		return api.QueueItem{}, false, nil
	}
	item := l.items[i]
	item.Op, item.Value = "put", []byte("v")
	if wait {
		select {
		case <-l.ended:
			item.State, item.Revision = "committed", 9
		case <-ctx.Done():
			return item, true, ctx.Err()
		}
	}
	return item, true, nil
}

func (l *line) Discard(id string) (done, found bool, err error) {
	if l.wedged != nil {
		return false, false, l.wedged
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	i := slices.IndexFunc(l.items, func(i api.QueueItem) bool { return i.ID == id })
	if i < 0 || l.sent[id] {
		return false, i >= 0, nil
	}
	l.items = slices.Delete(l.items, i, i+1)
	return true, true, nil
}

func (l *line) Pause(on bool) error {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.paused = on
	return l.wedged
}

func (l *line) Flush() {
	l.mu.Lock()
	defer l.mu.Unlock()
	l.flushed++
}

func (l *line) Retry(_ context.Context, id string) (string, bool, error) {
	if id != "normal-2" {
		return "", false, l.wedged
	}
	return "normal-9", true, l.wedged
}

func (l *line) Last(key []byte) (api.QueueItem, bool, error) {
	for _, i := range slices.Backward(l.items) {
		if i.Key == string(key) {
			if i.Op = "put"; i.State == "queued" {
				i.Value = []byte("waits")
			} else {
				i.Op = "delete"
			}
			return i, true, l.wedged
		}
	}
	return api.QueueItem{}, false, l.wedged
}

func TestTheQueueIsPausedResumedAndFlushed(t *testing.T) {
	l := newLine(api.QueueItem{ID: "normal-1"})
	n := serveLine(t, l)
	for _, step := range []struct {
		call    string
		paused  bool
		flushed int
	}{{"pause", true, 0}, {"flush", true, 1}, {"resume", false, 1}} {
		n.call("POST", "/v1/queue/"+step.call, "").want(t, 200)
		if l.paused != step.paused || l.flushed != step.flushed {
			t.Errorf("after %s: paused %v, flushed %d times", step.call, l.paused, l.flushed)
		}
	}
	n.call("GET", "/v1/queue/pause", "").refused(t, 405, "method-not-allowed")
	n.call("POST", "/v1/queue/flush?now", "").refused(t, 400, "invalid")
	serve(t).call("POST", "/v1/queue/pause", "").refused(t, 404, "no-queue")
}

func TestAQueuedWriteIsRetried(t *testing.T) {
	n := serveLine(t, newLine())
	r := n.call("POST", "/v1/queue/normal-2/retry", "").want(t, 202)
	r.wantHeaders(t, map[string]string{"Location": "/v1/queue/normal-9", "Holdfast-Op": "normal-9"})
	if r.body != `{"op":"normal-9","state":"queued"}`+"\n" {
		t.Errorf("got %s", r.body)
	}
	n.call("POST", "/v1/queue/normal-3/retry", "").refused(t, 404, "not-queued")
	n.call("GET", "/v1/queue/normal-2/retry", "").refused(t, 405, "method-not-allowed")
}

func TestViewPendingShowsWhatWaitsAndSaysSo(t *testing.T) {
	n := serveLine(t, newLine(api.QueueItem{ID: "normal-1", Key: "a", State: "queued"}, api.QueueItem{ID: "normal-2", Key: "b", State: "sending"}))
	n.call("PUT", "/v1/kv/a", "committed").want(t, 201)
	n.call("PUT", "/v1/kv/c", "committed").want(t, 201)
	r := n.call("GET", "/v1/kv/a?view=pending", "").want(t, 200)
	r.wantHeaders(t, map[string]string{"Holdfast-State": "pending", "Holdfast-Op": "normal-1", "Cache-Control": "no-store"})
	if r.body != "waits" || r.header.Get("ETag") != "" || r.header.Get("Holdfast-Revision") != "" {
		t.Errorf("got %q %v: what is not committed has no revision", r.body, r.header)
	}
	n.call("GET", "/v1/kv/b?view=pending", "").refused(t, 404, "key-not-found")
	for _, path := range []string{"/v1/kv/a", "/v1/kv/a?view=committed", "/v1/kv/c?view=pending"} {
		if r := n.call("GET", path, "").want(t, 200); r.body != "committed" || r.header.Get("Holdfast-State") != "" {
			t.Errorf("%s: got %q %v", path, r.body, r.header)
		}
	}
	n.call("GET", "/v1/kv/a?view=other", "").refused(t, 400, "invalid")
	n.call("GET", "/v1/kv/a?view=pending&index=1&wait=1s", "").refused(t, 400, "invalid")
}

func serveLine(t *testing.T, l *line) *node {
	t.Helper()
	return serve(t, func(o *Options) { o.Queue = func() api.Queue { return l } })
}

func TestTheQueueSaysHowItIsDoing(t *testing.T) {
	n := serveLine(t, newLine(api.QueueItem{ID: "normal-1"}))
	r := n.call("GET", "/v1/queue", "").want(t, 200)
	r.wantHeaders(t, map[string]string{"Content-Type": "application/json", "X-Content-Type-Options": "nosniff", "Cache-Control": "no-store"})
	var got api.QueueStatus
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || got.Depth != 1 || got.Down != "the uplink is lost" || got.OldestSeconds != 1.5 {
		t.Errorf("%s: %+v, %v", r.body, got, err)
	}
	if h := n.call("HEAD", "/v1/queue", "").want(t, 200); h.body != "" || h.header.Get("Content-Type") != "application/json" {
		t.Errorf("HEAD: %q %v", h.body, h.header)
	}
}

func TestTheQueueListsItsWrites(t *testing.T) {
	expires := time.Date(2030, 1, 2, 3, 4, 5, 0, time.UTC)
	n := serveLine(t, newLine(
		api.QueueItem{ID: "normal-1", Key: "site/1", State: "queued", Lane: "normal", Expires: &expires},
		api.QueueItem{ID: "high-2", Key: "site/2", State: "conflict", Lane: "high", Code: "precondition-failed", Revision: 7},
		api.QueueItem{ID: "bulk-3", Key: "\xff", State: "queued", Lane: "bulk"},
	))
	for query, want := range map[string]string{
		"state=":                     "normal-1 high-2 bulk-3",
		"prefix=":                    "normal-1 high-2 bulk-3",
		"prefix":                     "normal-1 high-2 bulk-3",
		"state=queued":               "normal-1 bulk-3",
		"prefix=site/":               "normal-1 high-2",
		"state=conflict&prefix=site": "high-2",
		"prefix=nothing":             "",
		"prefix=%FF":                 "bulk-3",
	} {
		r := n.call("GET", "/v1/queue?"+query, "").want(t, 200)
		var got struct{ Items []map[string]any }
		if err := json.Unmarshal([]byte(r.body), &got); err != nil || got.Items == nil {
			t.Fatalf("%s: %s, %v", query, r.body, err)
		}
		var ids []string
		for _, i := range got.Items {
			ids = append(ids, i["id"].(string))
			if _, has := i["key"]; has != (i["id"] != "bulk-3") {
				t.Errorf("%s: a key that is not UTF-8 must be in key_base64 only: %v", query, i)
			}
		}
		if strings.Join(ids, " ") != want {
			t.Errorf("%s: got %v, want %s", query, ids, want)
		}
	}
	r := n.call("GET", "/v1/queue?prefix=site/1", "")
	if want := `{"items":[{"key":"site/1","id":"normal-1","key_base64":"c2l0ZS8x","state":"queued","lane":"normal","queued":"0001-01-01T00:00:00Z","expires":"2030-01-02T03:04:05Z"}]}` + "\n"; r.body != want {
		t.Errorf("got %s\nwant %s", r.body, want)
	}
}

// Who does not have every right sees what they have written themselves, and of the rest not even that it is there.
func TestAnAuthorSeesItsOwnWrites(t *testing.T) {
	n := serveLine(t, newLine(
		api.QueueItem{ID: "normal-1", Key: "a", State: "conflict", Author: "device:7"},
		api.QueueItem{ID: "normal-2", Key: "b", State: "queued", Author: "root"},
		api.QueueItem{ID: "normal-3", Key: "c", State: "queued"},
	))
	denied := kv.Errorf(kv.PermissionDenied, "it may not")
	n.between.read = func(_ context.Context, q kv.Query) (kv.Page, error) { // as a Guard answers
		who := strings.TrimPrefix(q.By.Token, "Bearer ")
		switch op := q.Ops[0].(type) {
		case kv.ReadAuth:
			switch {
			case who == "":
				return kv.Page{}, kv.Errorf(kv.UserEmpty, "who is it?")
			case op.What == kv.AuthRoot && who != "root":
				return kv.Page{}, denied
			}
			return kv.Page{Ops: []kv.OpResult{{Succeeded: who == "root", KVs: []kv.KeyValue{{Key: []byte(who)}}}}}, nil
		case kv.Range:
			if who != "root" && string(op.Key) != "a" {
				return kv.Page{}, denied
			}
			return kv.Page{}, kv.Errorf(kv.NotCached, "not here")
		}
		return kv.Page{}, kv.Errorf(kv.Unsupported, "%T", q.Ops[0])
	}
	as := func(who, method, path string) reply {
		t.Helper()
		if who == "" {
			return n.call(method, path, "")
		}
		return n.call(method, path, "", "Authorization", "Bearer "+who)
	}
	for _, c := range []struct{ who, query, want string }{
		{"root", "state=", "normal-1 normal-2 normal-3"},
		{"root", "author=device:7", "normal-1"},
		{"device:7", "state=", "normal-1"},
		{"device:7", "author=device:7", "normal-1"},
		{"device:7", "state=queued", ""},
		{"device:8", "prefix=", ""},
	} {
		var got struct{ Items []api.QueueItem }
		if r := as(c.who, "GET", "/v1/queue?"+c.query).want(t, 200); json.Unmarshal([]byte(r.body), &got) != nil {
			t.Fatal(r.body)
		}
		var ids []string
		for _, i := range got.Items {
			ids = append(ids, i.ID)
		}
		if strings.Join(ids, " ") != c.want {
			t.Errorf("%s, %s: listed %v, want %s", c.who, c.query, ids, c.want)
		}
	}
	as("device:7", "GET", "/v1/queue?author=root").refused(t, 403, "permission-denied")
	as("device:7", "GET", "/v1/queue").want(t, 200)
	if r := as("device:7", "GET", "/v1/queue/normal-1").want(t, 200); !strings.Contains(r.body, `"author":"device:7"`) {
		t.Errorf("got %s", r.body)
	}
	for _, path := range []string{"/v1/queue/normal-2", "/v1/queue/normal-3", "/v1/queue/normal-3?wait=5m", "/v1/queue/normal-4?wait=5m"} {
		as("device:7", "GET", path).refused(t, 404, "not-queued")
	}
	for _, call := range []string{"DELETE /v1/queue/normal-1", "POST /v1/queue/normal-1/retry", "POST /v1/queue/pause", "POST /v1/queue/flush"} {
		method, path, _ := strings.Cut(call, " ")
		as("device:7", method, path).refused(t, 403, "permission-denied")
	}
	for _, path := range []string{"/v1/queue", "/v1/queue?state=", "/v1/queue/normal-1", "/v1/queue/normal-2?wait=5m"} {
		as("", "GET", path).refused(t, 401, "user-empty")
	}

	t.Log("what waits is shown to those who may read the key")
	if r := as("root", "GET", "/v1/kv/b?view=pending").want(t, 200); r.body != "waits" {
		t.Errorf("got %s", r.body)
	}
	as("device:7", "GET", "/v1/kv/b?view=pending").refused(t, 403, "permission-denied")
	as("", "GET", "/v1/kv/b?view=pending").refused(t, 403, "permission-denied")
}

func TestAQueuedWriteIsShownWithItsValue(t *testing.T) {
	n := serveLine(t, newLine(api.QueueItem{ID: "normal-1", Key: "k", State: "sending"}))
	r := n.call("GET", "/v1/queue/normal-1", "").want(t, 200)
	r.wantHeaders(t, map[string]string{"Content-Type": "application/json", "Cache-Control": "no-store"})
	var got api.QueueItem
	if err := json.Unmarshal([]byte(r.body), &got); err != nil || got.Op != "put" || string(got.Value) != "v" || got.State != "sending" || got.Key != "k" {
		t.Errorf("%s: %+v, %v", r.body, got, err)
	}
	n.call("HEAD", "/v1/queue/normal-1", "").want(t, 200)
	n.call("GET", "/v1/queue/normal-2", "").refused(t, 404, "not-queued")
	n.call("GET", "/v1/queue/normal-2?wait=1s", "").refused(t, 404, "not-queued")
}

func TestAQueuedWriteIsWaitedFor(t *testing.T) {
	l := newLine(api.QueueItem{ID: "normal-1", Key: "k", State: "queued"})
	n := serveLine(t, l)
	for _, wait := range []string{"0", "0s", "1ms"} { // over at once: as it stands, and no error
		if r := n.call("GET", "/v1/queue/normal-1?wait="+wait, "").want(t, 200); !strings.Contains(r.body, `"state":"queued"`) {
			t.Errorf("wait=%s: %s", wait, r.body)
		}
	}
	done := make(chan reply, 1)
	go func() { done <- n.call("GET", "/v1/queue/normal-1?wait=30s", "") }()
	close(l.ended)
	if r := (<-done).want(t, 200); !strings.Contains(r.body, `"state":"committed"`) || !strings.Contains(r.body, `"revision":9`) {
		t.Errorf("got %s", r.body)
	}
}

// A node that stops must not be held up by those who wait, nor tell them anything but how things stand.
func TestAWaitForAQueuedWriteEndsWithTheNode(t *testing.T) {
	n := serveLine(t, newLine(api.QueueItem{ID: "normal-1", Key: "k", State: "queued"}))
	began := time.Now()
	done := make(chan reply, 1)
	go func() { done <- n.call("GET", "/v1/queue/normal-1?wait=5m", "") }()
	n.handler.EndWatches()
	if r := (<-done).want(t, 200); !strings.Contains(r.body, `"state":"queued"`) {
		t.Errorf("got %s", r.body)
	}
	if took := time.Since(began); took > time.Minute {
		t.Errorf("took %v", took)
	}
}

func TestAQueuedWriteIsGivenUpUnlessItMayBeSent(t *testing.T) {
	l := newLine(api.QueueItem{ID: "normal-1", State: "queued"}, api.QueueItem{ID: "normal-2", State: "sending"})
	l.sent["normal-2"] = true
	n := serveLine(t, l)
	if r := n.call("DELETE", "/v1/queue/normal-1", "").want(t, 200); r.body != "{\"op\":\"normal-1\"}\n" {
		t.Errorf("got %s", r.body)
	}
	n.call("DELETE", "/v1/queue/normal-1", "").refused(t, 404, "not-queued")
	r := n.call("DELETE", "/v1/queue/normal-2", "").want(t, 202)
	if r.body != "{\"op\":\"normal-2\",\"state\":\"sending\"}\n" || r.header.Get("Location") != "/v1/queue/normal-2" {
		t.Errorf("got %s, Location %q", r.body, r.header.Get("Location"))
	}
}

func TestANodeWithoutAQueueSaysSo(t *testing.T) {
	for name, queue := range map[string]func() api.Queue{"none": nil, "not yet": func() api.Queue { return nil }} {
		n := serve(t, func(o *Options) { o.Queue = queue })
		for _, call := range []string{"GET /v1/queue", "HEAD /v1/queue", "GET /v1/queue?state=", "GET /v1/queue/normal-1", "DELETE /v1/queue/normal-1"} {
			method, path, _ := strings.Cut(call, " ")
			r := n.call(method, path, "").want(t, 404)
			if method == "HEAD" {
				continue
			}
			if p := r.refused(t, 404, "no-queue"); !strings.Contains(p["detail"].(string), "queue.prefixes is empty") {
				t.Errorf("%s: %s: %v", name, call, p)
			}
		}
	}
}

func TestRequestsToTheQueueAreChecked(t *testing.T) {
	n := serveLine(t, newLine(api.QueueItem{ID: "normal-1"}))
	for _, call := range []string{
		"GET /v1/queue?x", "GET /v1/queue?wait=1s", "GET /v1/queue?state=lost", "GET /v1/queue?state=queued&state=conflict",
		"GET /v1/queue/normal-1?x", "GET /v1/queue/normal-1?state=queued", "GET /v1/queue/normal-1?wait=soon", "GET /v1/queue/normal-1?wait=-1s",
		"GET /v1/queue/normal-1?wait=5m1ms", "DELETE /v1/queue/normal-1?wait=1s", "DELETE /v1/queue/normal-1?force",
	} {
		method, path, _ := strings.Cut(call, " ")
		n.call(method, path, "").refused(t, 400, "invalid")
	}
	for call, allow := range map[string]string{
		"PUT /v1/queue": allowStatus, "DELETE /v1/queue": allowStatus, "POST /v1/queue": allowStatus,
		"PUT /v1/queue/normal-1": allowQueued, "POST /v1/queue/normal-1": allowQueued,
	} {
		method, path, _ := strings.Cut(call, " ")
		r := n.call(method, path, "")
		r.refused(t, 405, "method-not-allowed")
		r.wantHeaders(t, map[string]string{"Allow": allow})
		n.call("OPTIONS", path, "").want(t, 204).wantHeaders(t, map[string]string{"Allow": allow})
	}
	for _, path := range []string{"/v1/queue/", "/v1/queue/a/b", "/v1/queue/a%2Fb", "/v1/queue/normal%2D1", "/v1/queue//", "/v1//queue"} {
		n.call("GET", path, "").refused(t, 404, "no-such-resource")
	}
	n.call("GET", "/v1/queue?prefix=", "", "Origin", "http://evil.example").refused(t, 403, "foreign-origin")
}

func TestAFaultOfTheQueueIsNotAnAnswer(t *testing.T) {
	l := newLine(api.QueueItem{ID: "normal-1"})
	l.wedged = errors.New("read segment 7: input/output error")
	n := serveLine(t, l)
	for _, call := range []string{"GET /v1/queue?state=", "GET /v1/queue/normal-1", "GET /v1/queue/normal-1?wait=1m", "DELETE /v1/queue/normal-1"} {
		method, path, _ := strings.Cut(call, " ")
		if p := n.call(method, path, "").refused(t, 500, "internal"); strings.Contains(p["detail"].(string), "segment") {
			t.Errorf("%s tells a fault of ours: %v", call, p)
		}
	}
	l.wedged = kv.Errorf(kv.Corrupt, "segment 7 failed its checksum")
	n.call("GET", "/v1/queue/normal-1", "").refused(t, 500, "corrupt")
}
