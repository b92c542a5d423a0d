package rest

import (
	"context"
	"fmt"
	"io"
	"iter"
	"testing"
	"time"

	"holdfast/kv"
)

// later sends a request whose answer is waited for later.
func (n *node) later(method, path string, headers ...string) <-chan reply {
	n.t.Helper()
	out := make(chan reply, 1)
	request := n.request(method, path, "", headers...)
	go func() {
		defer close(out)
		r, err := n.Client().Do(request)
		if err != nil {
			n.t.Errorf("%s %s: %v", method, path, err)
			return
		}
		defer r.Body.Close()
		b, err := io.ReadAll(r.Body)
		if err != nil {
			n.t.Errorf("%s %s: %v", method, path, err)
		}
		out <- reply{r.StatusCode, r.Header, string(b)}
	}()
	return out
}

func TestALongPollAnswersWhenSomethingHasChanged(t *testing.T) {
	n := serve(t)
	at := n.put("k", "1")
	waiting := n.later("GET", fmt.Sprintf("/v1/kv/k?index=%d&wait=20s", at))
	list := n.later("GET", fmt.Sprintf("/v1/kv/p/?prefix&index=%d&wait=20s", at))
	waitFor(t, func() bool { return n.handler.watches.Load() == 2 })
	n.put("other", "x")
	n.put("k", "2")
	r := <-waiting
	if r.want(t, 200).body != "2" {
		t.Errorf("value %q", r.body)
	}
	r.wantHeaders(t, map[string]string{"Holdfast-Revision": "4", "ETag": `"4"`, "Holdfast-Source": "member"})
	waitFor(t, func() bool { return n.handler.watches.Load() == 1 })
	n.put("p/a", "3")
	wantKeys(t, (<-list).list(t).keys(), "p/a")
	// What has changed before the question is answered at once, a deletion included.
	n.call("GET", "/v1/kv/k?index=2&wait=20s", "").want(t, 200)
	n.call("HEAD", "/v1/kv/k?index=2&wait=20s", "").want(t, 200)
	n.delete("k")
	r = n.call("GET", "/v1/kv/k?index=5&wait=20s", "")
	r.refused(t, 404, "key-not-found")
	r.wantHeaders(t, map[string]string{"Holdfast-Revision": "6"})
	waitFor(t, func() bool { return n.handler.watches.Load() == 0 })
}

// Whoever goes on from the revision of each answer misses nothing: the last answer shows the last state.
func TestLongPollsOneAfterTheOtherMissNothing(t *testing.T) {
	n := serve(t)
	const writes = 200
	go func() {
		for i := range writes {
			_, _ = n.store.Do(context.WithoutCancel(t.Context()), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: fmt.Append(nil, i+1)}}})
		}
	}()
	index := "1"
	for {
		r := n.call("GET", "/v1/kv/k?wait=20s&index="+index, "").want(t, 200)
		next := r.header.Get("Holdfast-Revision")
		if next == index {
			t.Fatalf("answered at %s with %s, and nothing new", index, r.body)
		}
		if index = next; r.body == fmt.Sprint(writes) {
			return
		}
	}
}

func TestALongPollInWhichNothingHappensIs304(t *testing.T) {
	n := serve(t)
	at := n.put("k", "1")
	for _, path := range []string{"/v1/kv/k?", "/v1/kv/?prefix&", "/v1/kv/none?"} {
		r := n.call("GET", fmt.Sprintf("%sindex=%d&wait=5ms", path, at), "").want(t, 304)
		if r.body != "" {
			t.Errorf("body %q", r.body)
		}
		r.wantHeaders(t, map[string]string{"Holdfast-Revision": "2"})
	}
	// What the node has seen go by, the client need not ask for again.
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			if yield(kv.Batch{Created: true, Header: kv.Header{Revision: 9}}, nil) && yield(kv.Batch{Progress: true, Header: kv.Header{Revision: 8}}, nil) {
				<-ctx.Done()
			}
		}
	}
	n.call("GET", "/v1/kv/k?index=2&wait=50ms", "").want(t, 304).wantHeaders(t, map[string]string{"Holdfast-Revision": "8"})
}

func TestALongPollFromLostHistoryShowsWhatIsThere(t *testing.T) {
	n := serve(t)
	n.compacted()
	r := n.call("GET", "/v1/kv/p/?prefix&index=2&wait=20s", "").want(t, 200)
	wantKeys(t, r.list(t).keys(), "p/a", "p/b", "p/c")
	n.call("GET", "/v1/kv/none?index=2&wait=20s", "").refused(t, 404, "key-not-found")
}

func TestALongPollCountsAsAWatch(t *testing.T) {
	n := serve(t, func(o *Options) { o.WatchesMax = 1 })
	f := n.follow("/v1/kv/k?watch")
	f.want("created")
	n.call("GET", "/v1/kv/k?index=1", "").refused(t, 503, "busy")
	f.cancel()
	waitFor(t, func() bool { return n.handler.watches.Load() == 0 })
	waiting := n.later("GET", "/v1/kv/k?index=1&wait=20s")
	waitFor(t, func() bool { return n.handler.watches.Load() == 1 })
	n.call("GET", "/v1/kv/k?watch", "").refused(t, 503, "busy")
	n.handler.EndWatches()
	r := <-waiting
	r.refused(t, 503, "stopping")
	n.call("GET", "/v1/kv/k?index=1", "").refused(t, 503, "stopping")
}

func TestWhatALongPollMeets(t *testing.T) {
	n := serve(t)
	n.between.watch = func(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			_ = yield(kv.Batch{}, kv.Errorf(kv.UpstreamUnavailable, "the link is down"))
		}
	}
	n.call("GET", "/v1/kv/k?index=1", "").refused(t, 503, "upstream-unavailable")
	n.between.watch = func(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			_ = yield(kv.Batch{Canceled: true, Err: kv.Errorf(kv.PermissionDenied, "not yours")}, nil)
		}
	}
	n.call("GET", "/v1/kv/k?index=1", "").refused(t, 403, "permission-denied")
	n.between.watch = func(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(func(kv.Batch, error) bool) {}
	}
	n.call("GET", "/v1/kv/k?index=1", "").refused(t, 503, "stopping")
}

func TestWhatIsNoLongPollIsRefused(t *testing.T) {
	n := serve(t)
	for _, query := range []string{"index", "index=x", "index=-1", "index=1&wait=6m", "index=1&wait=x", "wait=5s", "index=1&watch",
		"index=1&prefix&after=x", "index=1&from_revision=1", "index=99999999999999999999"} {
		n.call("GET", "/v1/kv/k?"+query, "").refused(t, 400, "invalid")
	}
	n.call("GET", "/v1/kv/k?index=1", "", "Holdfast-Min-Revision", "1").refused(t, 400, "invalid")
	n.call("PUT", "/v1/kv/k?index=1", "v").refused(t, 400, "invalid")
	if pollMax < 5*time.Minute {
		t.Errorf("wait is bounded by %v", pollMax)
	}
}
