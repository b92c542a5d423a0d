package rest

import (
	"bufio"
	"context"
	"encoding/json"
	"fmt"
	"io"
	"iter"
	"net/http"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

// event is one message of a watch as its client reads it.
type event struct {
	SSE            string // the event field, SSE only
	LastID         string // the id field, SSE only
	Type           string
	ID             string
	Revision       int64
	Key            string
	KeyBase64      []byte `json:"key_base64"`
	Value          []byte
	CreateRevision int64 `json:"create_revision"`
	ModRevision    int64 `json:"mod_revision"`
	Version        int64
	Lease          string
	Oldest         int64 `json:"oldest_revision"`
	Problem        struct {
		Code string
	} // of an error
}

func (e event) String() string {
	return strings.TrimSpace(fmt.Sprintf("%s %s %s", e.Type, e.KeyBase64, e.Value))
}

// following is an open watch and what it has brought.
type following struct {
	t      *testing.T
	resp   *http.Response
	lines  *bufio.Scanner
	sse    bool
	beats  int // comments seen
	cancel context.CancelFunc
}

// follow opens a watch; the reply must be 200.
func (n *node) follow(path string, headers ...string) *following {
	n.t.Helper()
	ctx, cancel := context.WithTimeout(n.t.Context(), 20*time.Second)
	n.t.Cleanup(cancel)
	resp, err := n.Client().Do(n.request("GET", path, "", headers...).WithContext(ctx))
	if err != nil {
		n.t.Fatal(err)
	}
	n.t.Cleanup(func() { resp.Body.Close() })
	if resp.StatusCode != http.StatusOK {
		b, _ := io.ReadAll(resp.Body)
		n.t.Fatalf("GET %s: %d %s", path, resp.StatusCode, b)
	}
	f := &following{t: n.t, resp: resp, lines: bufio.NewScanner(resp.Body), cancel: cancel}
	f.lines.Buffer(nil, 8<<20)
	f.sse = resp.Header.Get("Content-Type") == "text/event-stream"
	return f
}

// next returns the next message, ok false at the end of the stream.
func (f *following) next() (e event, ok bool) {
	f.t.Helper()
	if !f.sse {
		if !f.lines.Scan() {
			return e, false
		}
		f.decode(f.lines.Text(), &e)
		return e, true
	}
	var sse, id string
	for f.lines.Scan() {
		name, value, _ := strings.Cut(f.lines.Text(), ": ")
		switch name {
		case ":":
			f.beats++
		case "id":
			id = value
		case "event":
			sse = value
		case "data":
			f.decode(value, &e)
		case "":
			if e.Type != "" {
				e.SSE, e.LastID = sse, id
				if sse != e.Type || id != e.ID {
					f.t.Errorf("the event says %q, %q and its data %q, %q", sse, id, e.Type, e.ID)
				}
				return e, true
			}
		default:
			f.t.Fatalf("line %q", f.lines.Text())
		}
	}
	return e, false
}

func (f *following) decode(s string, e *event) {
	f.t.Helper()
	if err := json.Unmarshal([]byte(s), e); err != nil {
		f.t.Fatalf("%q: %v", s, err)
	}
	if e.Key != "" && e.Key != string(e.KeyBase64) {
		f.t.Errorf("key %q is %q in base64", e.Key, e.KeyBase64)
	}
}

// want reads messages and compares what they say with "type key value" each.
func (f *following) want(want ...string) (events []event) {
	f.t.Helper()
	for i, w := range want {
		e, ok := f.next()
		if !ok {
			f.t.Fatalf("the stream ended where %q was to come: %v", w, f.lines.Err())
		}
		if e.String() != w {
			f.t.Fatalf("message %d is %q, want %q", i, e, w)
		}
		events = append(events, e)
	}
	return events
}

// wantEnd reads to the end of a stream that is ended in order.
func (f *following) wantEnd() {
	f.t.Helper()
	if e, ok := f.next(); ok {
		f.t.Errorf("%q where the stream was to end", e)
	}
	if err := f.lines.Err(); err != nil {
		f.t.Errorf("the stream ended with %v", err)
	}
}

func (n *node) delete(key string) int64 {
	n.t.Helper()
	return n.do(kv.Delete{Key: []byte(key)})
}

func (n *node) do(ops ...kv.Op) int64 {
	n.t.Helper()
	r, err := n.store.Do(n.t.Context(), kv.Command{Ops: ops})
	if err != nil {
		n.t.Fatal(err)
	}
	return r.Revision
}

func (n *node) epoch() string {
	n.t.Helper()
	return n.call("GET", "/v1/kv/?prefix", "").header.Get("Holdfast-Epoch")
}

var forms = map[string]string{"SSE": "text/event-stream", "NDJSON": "application/x-ndjson"}

func TestAWatchShowsChanges(t *testing.T) {
	for name, accept := range forms {
		t.Run(name, func(t *testing.T) {
			n := serve(t)
			n.put("k", "before")
			f := n.follow("/v1/kv/k?watch", "Accept", accept)
			if got := f.resp.Header.Get("Content-Type"); got != accept {
				t.Errorf("Content-Type %q, want %q", got, accept)
			}
			reply{header: f.resp.Header}.wantHeaders(t, map[string]string{"Cache-Control": "no-store", "X-Content-Type-Options": "nosniff", "Holdfast-Revision": "2", "Holdfast-Epoch": n.epoch()})
			n.put("k", "1")
			n.put("other", "x")
			n.delete("k")
			n.put("k", "\x00\xff\n")
			e := f.want("created", "put k 1", "delete k", "put k \x00\xff")
			at := n.epoch()
			for i, revision := range []int64{2, 3, 5, 6} {
				if want := fmt.Sprintf("%s:%d:0", at, revision); e[i].ID != want || e[i].Revision != revision {
					t.Errorf("message %d: id %q, revision %d; want %q", i, e[i].ID, e[i].Revision, want)
				}
			}
			if e[1].CreateRevision != 2 || e[1].ModRevision != 3 || e[1].Version != 2 || e[2].ModRevision != 5 || e[2].Version != 0 {
				t.Errorf("%+v", e)
			}
		})
	}
}

func TestAWatchOfAPrefixOrOfAllKeys(t *testing.T) {
	n := serve(t)
	prefix, all, one := n.follow("/v1/kv/p/?watch&prefix"), n.follow("/v1/kv/?watch&prefix"), n.follow("/v1/kv/p/?watch")
	for _, key := range []string{"p", "p/", "p/1", "p0", "\xff"} {
		n.put(key, "v")
	}
	prefix.want("created", "put p/ v", "put p/1 v")
	all.want("created", "put p v", "put p/ v", "put p/1 v", "put p0 v", "put \xff v")
	one.want("created", "put p/ v")
	n.call("GET", "/v1/kv/?watch", "").refused(t, 400, "invalid")
}

func TestAWatchFromARevisionShowsThePastFirst(t *testing.T) {
	n := serve(t)
	for i := range 5 {
		n.put("k", fmt.Sprint(i))
	}
	f := n.follow("/v1/kv/k?watch&from_revision=4")
	n.put("k", "5")
	if e := f.want("created", "put k 2", "put k 3", "put k 4", "put k 5"); e[0].Revision != 3 {
		t.Errorf("created at %d, want 3: what came before is behind the client", e[0].Revision)
	}
	// Nothing has happened since, and nothing will soon: the client is answered all the same.
	n.follow("/v1/kv/k?watch&from_revision=7").want("created")
	n.follow("/v1/kv/other?watch&from_revision=2").want("created")
	n.follow("/v1/kv/k?watch&from_revision=1000").want("created")
	for _, bad := range []string{"0", "-1", "x", ""} {
		n.call("GET", "/v1/kv/k?watch&from_revision="+bad, "").refused(t, 400, "invalid")
	}
}

// From every id that a client may have seen last, it gets exactly the rest.
func TestAWatchGoesOnFromAnyEvent(t *testing.T) {
	n := serve(t)
	for i := range 6 {
		var ops []kv.Op
		for j := range 1 + i%4 {
			ops = append(ops, kv.Put{Key: fmt.Appendf(nil, "p/%d", j), Value: fmt.Appendf(nil, "%d.%d", i, j)})
		}
		n.do(ops...)
		if i%2 == 0 {
			n.put("elsewhere", "x")
		}
	}
	n.do(kv.Delete{Key: []byte("p/"), End: []byte("p0")})
	var whole []event
	f := n.follow("/v1/kv/p/?watch&prefix&from_revision=1")
	for range 1 + (1 + 2 + 3 + 4 + 1 + 2) + 4 {
		e, ok := f.next()
		if !ok {
			t.Fatal("the stream ended")
		}
		whole = append(whole, e)
	}
	for i, seen := range whole {
		f := n.follow("/v1/kv/p/?watch&prefix&from_revision=1", "Last-Event-ID", seen.ID)
		if e := f.want("created")[0]; e.ID != seen.ID {
			t.Errorf("going on from %s: created with id %s", seen.ID, e.ID)
		}
		for _, want := range whole[i+1:] {
			e, ok := f.next()
			if !ok || e.String() != want.String() || e.ID != want.ID {
				t.Fatalf("going on from %s: %s (%s), want %s (%s)", seen.ID, e, e.ID, want, want.ID)
			}
		}
		f.cancel()
	}
}

// Nothing has happened since, and nothing will: the client is answered all the same, and soon.
func TestAWatchFromThePastIsAnsweredWithoutAnEvent(t *testing.T) {
	n := serve(t)
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			_ = yield(kv.Batch{Created: true, Header: kv.Header{Revision: 9}}, nil)
			<-ctx.Done()
		}
	}
	if e := n.follow("/v1/kv/k?watch&from_revision=5").want("created")[0]; e.Revision != 4 {
		t.Errorf("created at %d, want 4", e.Revision)
	}
}

func TestWhatIsNoEventIDIsRefused(t *testing.T) {
	n := serve(t)
	for _, id := range []string{"x", "1", "a:b", "a:1:x", "a:x:1", ":1:1", "a:-1:0", "a:1:-1", "a:99999999999999999999:0", "a:1:"} {
		n.call("GET", "/v1/kv/k?watch", "", "Last-Event-ID", id).refused(t, 400, "invalid")
	}
	n.follow("/v1/kv/k?watch", "Last-Event-ID", "").want("created")
}

func TestTheFormOfAWatchIsChosenByAccept(t *testing.T) {
	n := serve(t)
	const sse, ndjson = "text/event-stream", "application/x-ndjson"
	for accept, want := range map[string]string{
		"":                                    sse,
		"*/*":                                 sse,
		"text/event-stream":                   sse,
		"application/x-ndjson":                ndjson,
		"application/ndjson":                  ndjson,
		"application/jsonl":                   ndjson,
		"application/*":                       ndjson,
		"text/*":                              sse,
		"application/x-ndjson, */*":           ndjson,
		"text/event-stream, application/json": sse,
		"text/event-stream;q=0.5, application/x-ndjson;q=0.9": ndjson,
		"text/event-stream;q=0.9, application/x-ndjson;q=0.5": sse,
		"application/json":                       "",
		"text/event-stream;q=0":                  "",
		"text/html, application/xhtml+xml;q=0.9": "",
	} {
		if want == "" {
			n.call("GET", "/v1/kv/k?watch", "", "Accept", accept).refused(t, 406, "not-acceptable")
			continue
		}
		f := n.follow("/v1/kv/k?watch", "Accept", accept)
		if got := f.resp.Header.Get("Content-Type"); got != want {
			t.Errorf("Accept %q: %q, want %q", accept, got, want)
		}
		f.cancel()
	}
	n.call("HEAD", "/v1/kv/k?watch", "").want(t, 400)
	n.call("GET", "/v1/kv/k?watch&on_gap=skip", "").refused(t, 400, "invalid")
}

// compacted fills a store, compacts it, and returns an id from before.
func (n *node) compacted() (id string) {
	n.t.Helper()
	n.put("p/a", "old")
	n.put("p/gone", "x")
	id = fmt.Sprintf("%s:%d:0", n.epoch(), n.put("p/b", "old"))
	n.delete("p/gone")
	n.put("p/a", "new")
	n.put("q", "other")
	n.do(kv.Compact{Revision: n.put("p/c", "new")})
	return id
}

func TestAWatchOfLostHistoryStartsOver(t *testing.T) {
	for name, accept := range forms {
		t.Run(name, func(t *testing.T) {
			n := serve(t)
			id := n.compacted() // revision 8 is the oldest now
			for _, f := range []*following{
				n.follow("/v1/kv/p/?watch&prefix", "Last-Event-ID", id, "Accept", accept),
				n.follow("/v1/kv/p/?watch&prefix&from_revision=3", "Accept", accept),
			} {
				e := f.want("resync", "put p/a new", "put p/b old", "put p/c new", "synced")
				for _, item := range e[:4] {
					if item.ID != "" {
						t.Errorf("%s has id %s: a client that is cut off here must begin again", item, item.ID)
					}
				}
				if want := n.epoch() + ":8:0"; e[4].ID != want {
					t.Errorf("synced at %s, want %s", e[4].ID, want)
				}
				if f.resp.Header.Get("Holdfast-Revision") != "8" {
					t.Errorf("Holdfast-Revision %q", f.resp.Header.Get("Holdfast-Revision"))
				}
				f.cancel()
			}
			f := n.follow("/v1/kv/p/a?watch", "Last-Event-ID", id, "Accept", accept) // one key
			f.want("resync", "put p/a new", "synced")
			n.put("p/a", "next")
			n.put("p/b", "next")
			n.delete("p/a")
			f.want("put p/a next", "delete p/a")
			n.follow("/v1/kv/nothing?watch", "Last-Event-ID", id, "Accept", accept).want("resync", "synced")
		})
	}
}

func TestAWatchThatCannotStartOverIs410(t *testing.T) {
	for name, watch := range map[string]func(n *node, ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]{
		"refused at once": func(n *node, ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
			return n.store.Watch(ctx, w)
		},
		"refused behind the confirmation": func(n *node, ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
			return func(yield func(kv.Batch, error) bool) {
				for b, err := range n.store.Watch(ctx, w) {
					refused := b
					b.Canceled, b.Err, refused.Created = false, nil, false
					if !yield(b, err) || !yield(refused, err) {
						return
					}
				}
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			n := serve(t)
			id := n.compacted()
			n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] { return watch(n, ctx, w) }
			for _, r := range []reply{
				n.call("GET", "/v1/kv/p/?watch&prefix&on_gap=error&from_revision=3", ""),
				n.call("GET", "/v1/kv/p/?watch&prefix&on_gap=error", "", "Last-Event-ID", id),
			} {
				if p := r.refused(t, 410, "compacted"); p["oldest_revision"] != float64(8) {
					t.Errorf("%v, want oldest revision 8", p)
				}
			}
			if got := n.handler.watches.Load(); got != 0 {
				t.Errorf("%d watches are open", got)
			}
		})
	}
}

// A watch that is confirmed, and loses its history while it is behind.
func TestAWatchThatFallsOutOfHistory(t *testing.T) {
	n := serve(t)
	n.put("k", "1")
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			first := true
			for b, err := range n.store.Watch(ctx, w) {
				if !b.Created && first && w.Watches[0].From < 4 {
					b = kv.Batch{Header: b.Header, Canceled: true, Err: &kv.Error{Code: kv.Compacted, Revision: 2}}
				}
				first = b.Created
				if !yield(b, err) || b.Canceled {
					return
				}
			}
		}
	}
	f, strict := n.follow("/v1/kv/k?watch"), n.follow("/v1/kv/k?watch&on_gap=error")
	f.want("created")
	strict.want("created")
	n.put("k", "2")
	f.want("resync", "put k 2", "synced")
	if e := strict.want("compacted")[0]; e.Oldest != 2 {
		t.Errorf("%+v, want oldest revision 2", e)
	}
	strict.wantEnd()
}

func TestAnIDOfAnotherHistoryStartsOver(t *testing.T) {
	n := serve(t)
	n.put("k", "v")
	const id = "0000000000000001-00000000000000000000000000000000:1:0"
	f := n.follow("/v1/kv/k?watch", "Last-Event-ID", id)
	f.want("resync", "put k v", "synced")
	n.put("k", "w")
	f.want("put k w")
	n.call("GET", "/v1/kv/k?watch&on_gap=error", "", "Last-Event-ID", id).refused(t, 410, "compacted")
}

func TestANewEpochEndsAWatch(t *testing.T) {
	n := serve(t)
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			for b, err := range n.store.Watch(ctx, w) {
				if !b.Created {
					b.Epoch.Nonce[0]++
				}
				if !yield(b, err) {
					return
				}
			}
		}
	}
	f := n.follow("/v1/kv/k?watch")
	f.want("created")
	n.put("k", "v")
	if e := f.want("error")[0]; e.Problem.Code != "compacted" {
		t.Errorf("%+v", e)
	}
	f.wantEnd()
}

func TestAListingOfManyKeysComesWhole(t *testing.T) {
	n := serve(t)
	const count = 3000
	for i := range count {
		n.put(fmt.Sprintf("p/%04d", i), "v")
	}
	n.put("p/big", large(1<<20))
	n.do(kv.Compact{Revision: n.put("q", "v")})
	f := n.follow("/v1/kv/p/?watch&prefix&from_revision=2", "Accept", "application/x-ndjson")
	f.want("resync")
	for i := range count {
		f.want(fmt.Sprintf("put p/%04d v", i))
	}
	if e, _ := f.next(); len(e.Value) != 1<<20 {
		t.Errorf("%d bytes", len(e.Value))
	}
	f.want("synced")
	n.put("p/new", "v")
	f.want("put p/new v")
}
