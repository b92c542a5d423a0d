package rest

import (
	"bufio"
	"context"
	"errors"
	"io"
	"iter"
	"net/http"
	"net/http/httptest"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api/apitest"
	"holdfast/kv"
)

func TestTheStateOfTheLinkIsTold(t *testing.T) {
	n := serve(t)
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			for b, err := range n.store.Watch(ctx, w) {
				if !yield(b, err) {
					return
				}
				if b.Created {
					for _, s := range []kv.WatchState{kv.WatchStale, kv.WatchCatchingUp, kv.WatchSynced, kv.WatchResync} {
						if !yield(kv.Batch{Header: b.Header, State: s}, nil) {
							return
						}
					}
				}
			}
		}
	}
	n.follow("/v1/kv/k?watch").want("created", "stale", "catching-up", "synced", "resync")
}

func TestAnIdleWatchGivesSignsOfLife(t *testing.T) {
	n := serve(t, func(o *Options) { o.Heartbeat = 5 * time.Millisecond })
	sse, ndjson := n.follow("/v1/kv/k?watch"), n.follow("/v1/kv/k?watch", "Accept", forms["NDJSON"])
	ndjson.want("created", "progress", "progress", "progress")
	time.Sleep(20 * time.Millisecond)
	n.put("k", "v")
	sse.want("created", "put k v")
	if sse.beats < 2 {
		t.Errorf("%d heartbeats, want several", sse.beats)
	}
}

// Progress moves the place a client goes on from, so that compaction of what it was not interested in does not cost it
// a listing.
func TestProgressMovesTheID(t *testing.T) {
	n := serve(t)
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			for b, err := range n.store.Watch(ctx, w) {
				if !yield(b, err) || b.Created && !yield(kv.Batch{Header: b.Header, Progress: true}, nil) {
					return
				}
				for _, past := range []int64{5, 9, 9, 7} {
					b := kv.Batch{Header: b.Header, Progress: true}
					if b.Revision = past; !yield(b, nil) {
						return
					}
				}
			}
		}
	}
	e := n.follow("/v1/kv/k?watch").want("created", "progress", "progress")
	if e[0].Revision != 1 || e[1].Revision != 5 || e[2].Revision != 9 {
		t.Errorf("%+v", e)
	}
}

func TestOpenWatchesAreBounded(t *testing.T) {
	n := serve(t, func(o *Options) { o.WatchesMax = 2 })
	first := n.follow("/v1/kv/k?watch")
	n.follow("/v1/kv/k?watch")
	r := n.call("GET", "/v1/kv/k?watch", "")
	r.refused(t, 503, "busy")
	r.wantHeaders(t, map[string]string{"Retry-After": "1"})
	n.call("GET", "/v1/kv/k?watch&nonsense", "").want(t, 400) // costs no place
	first.cancel()
	waitFor(t, func() bool { return n.handler.watches.Load() == 1 })
	n.follow("/v1/kv/k?watch")
}

func TestWatchesEndInOrderWhenTheServerStops(t *testing.T) {
	n := serve(t)
	n.Config.RegisterOnShutdown(n.handler.EndWatches)
	open := []*following{n.follow("/v1/kv/k?watch"), n.follow("/v1/kv/k?watch", "Accept", forms["NDJSON"])}
	done := make(chan error, 1)
	go func() { done <- n.Config.Shutdown(t.Context()) }()
	for _, f := range open {
		f.want("created", "end")
		f.wantEnd()
	}
	if err := <-done; err != nil {
		t.Error(err)
	}
	m := serve(t)
	m.handler.EndWatches()
	m.call("GET", "/v1/kv/k?watch", "").refused(t, 503, "stopping")
	m.call("PUT", "/v1/kv/k", "v").want(t, 201) // the rest goes on
}

// A watch that is answered only when it is ended must not be told that its client left.
func TestAWatchThatWaitsIsRefusedWhenTheServerStops(t *testing.T) {
	n := serve(t)
	opened := make(chan struct{})
	n.between.watch = func(ctx context.Context, _ kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(func(kv.Batch, error) bool) {
			close(opened)
			<-ctx.Done()
		}
	}
	done := make(chan reply, 1)
	go func() { done <- n.call("GET", "/v1/kv/k?watch", "") }()
	<-opened
	n.handler.EndWatches()
	(<-done).refused(t, 503, "stopping")
}

func TestAWatchThatFailsSaysWhy(t *testing.T) {
	n := serve(t)
	var started atomic.Bool
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			if started.Load() && !yield(kv.Batch{Created: true}, nil) {
				return
			}
			yield(kv.Batch{}, &kv.Error{Code: kv.UpstreamUnavailable, Detail: "the uplink is lost"})
		}
	}
	n.call("GET", "/v1/kv/k?watch", "").refused(t, 503, "upstream-unavailable")
	started.Store(true)
	f := n.follow("/v1/kv/k?watch")
	if e := f.want("created", "error")[1]; e.Problem.Code != "upstream-unavailable" {
		t.Errorf("%+v", e)
	}
	f.wantEnd()
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			_ = yield(kv.Batch{Created: true}, nil) && yield(kv.Batch{Canceled: true, Err: &kv.Error{Code: kv.SlowConsumer}}, nil)
		}
	}
	f = n.follow("/v1/kv/k?watch")
	f.want("created", "slow-consumer")
	f.wantEnd()
	if got := n.handler.metrics.slow.Load(); got != 1 {
		t.Errorf("%d slow consumers counted, want 1", got)
	}
}

func TestAWatchEndsWithItsClient(t *testing.T) {
	n := serve(t)
	var running atomic.Int64
	n.between.watch = func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return func(yield func(kv.Batch, error) bool) {
			running.Add(1)
			defer running.Add(-1)
			n.store.Watch(ctx, w)(yield)
		}
	}
	var open []*following
	for range 10 {
		open = append(open, n.follow("/v1/kv/k?watch"))
	}
	if running.Load() != 10 || n.handler.watches.Load() != 10 {
		t.Errorf("%d and %d watches run, want 10", running.Load(), n.handler.watches.Load())
	}
	for _, f := range open {
		f.cancel()
	}
	waitFor(t, func() bool {
		return running.Load() == 0 && n.handler.watches.Load() == 0 && n.handler.metrics.inFlight.Load() == 0
	})
}

// A client that does not read at all is cut off, and meanwhile holds nobody up.
func TestAClientThatDoesNotReadIsCutOff(t *testing.T) {
	// Long enough that the client which reads is not taken for one that does not, on a machine that is busy.
	n := serve(t, func(o *Options) { o.WatchStall = time.Second })
	conn, br := n.raw("GET /v1/kv/k?watch HTTP/1.1\r\nHost: x\r\n\r\n")
	if _, err := br.Peek(1); err != nil {
		t.Fatal(err)
	}
	reads := n.follow("/v1/kv/k?watch")
	reads.want("created")
	value := large(1 << 20)
	for deadline := time.Now().Add(30 * time.Second); n.handler.metrics.slow.Load() == 0; {
		if time.Now().After(deadline) {
			t.Fatal("a client that does not read was held for 30 s")
		}
		n.put("k", value)
		if e, ok := reads.next(); !ok || len(e.Value) != len(value) {
			t.Fatalf("another client got %v, %d bytes", ok, len(e.Value))
		}
	}
	waitFor(t, func() bool { return n.handler.watches.Load() == 1 })
	// The connection is closed: it has an end, and not in order.
	if b, err := io.ReadAll(br); err == nil && strings.HasSuffix(string(b), "0\r\n\r\n") {
		t.Error("the reply ends as if it were whole")
	}
	conn.Close()
}

// slowWriter is a client that takes a while to read each write.
type slowWriter struct {
	header  http.Header
	takes   atomic.Int64 // nanoseconds
	limit   time.Time
	written strings.Builder
}

func (w *slowWriter) Header() http.Header { return w.header }
func (w *slowWriter) WriteHeader(int)     {}
func (w *slowWriter) Flush()              {}

func (w *slowWriter) SetWriteDeadline(t time.Time) error {
	w.limit = t
	return nil
}

func (w *slowWriter) Write(b []byte) (int, error) {
	time.Sleep(time.Duration(w.takes.Load()))
	if !w.limit.IsZero() && time.Now().After(w.limit) {
		return 0, context.DeadlineExceeded
	}
	return w.written.Write(b)
}

// A client that reads again in time is told why it is closed.
func TestASlowConsumerIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{header: http.Header{}}
		canceled := false
		s := &stream{w: w, rc: http.NewResponseController(w), sse: true, heartbeat: time.Minute, stall: 10 * time.Second, cancel: func() { canceled = true }}
		s.begin(w.header)
		w.takes.Store(int64(9 * time.Second))
		s.put(message{kind: "put"})
		s.flush()
		if s.err != nil || canceled {
			t.Fatalf("ended within its time: %v", s.err)
		}
		w.takes.Store(int64(15 * time.Second))
		s.put(message{kind: "put"})
		s.flush()
		if !errors.Is(s.err, errSlow) || !canceled {
			t.Fatalf("%v, cancelled %v; want a slow consumer", s.err, canceled)
		}
		w.takes.Store(0)
		if !s.end(message{kind: "slow-consumer"}) {
			t.Error("the reply had begun")
		}
		if got := w.written.String(); !strings.HasSuffix(got, "event: slow-consumer\ndata: {\"type\":\"slow-consumer\"}\n\n") {
			t.Errorf("written: %q", got)
		}
		if !w.limit.IsZero() {
			t.Error("a deadline is left on the connection")
		}
	})
}

// The same found out by a heartbeat, while the node has nothing to say.
func TestAnIdleSlowConsumerIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		store := apitest.NewMemory()
		quiet := &between{Backend: store, watch: func(ctx context.Context, _ kv.WatchSpec) iter.Seq2[kv.Batch, error] {
			return func(yield func(kv.Batch, error) bool) {
				if yield(kv.Batch{Created: true}, nil) {
					<-ctx.Done()
				}
			}
		}}
		h := New(Options{Backend: quiet, Reporter: reporter{}})
		w := &slowWriter{header: http.Header{}}
		time.AfterFunc(time.Second, func() { w.takes.Store(int64(15 * time.Second)) })
		h.ServeHTTP(w, httptest.NewRequestWithContext(t.Context(), http.MethodGet, "/v1/kv/k?watch", nil))
		if got := w.written.String(); !strings.HasSuffix(got, ":\n\nevent: slow-consumer\ndata: {\"type\":\"slow-consumer\"}\n\n") {
			t.Errorf("written: %q", got)
		}
		if h.metrics.slow.Load() != 1 {
			t.Error("not counted")
		}
	})
}

// Over HTTP/2 a write deadline that is left behind ends a stream on which nothing is written.
func TestAnIdleWatchOverHTTP2LivesOn(t *testing.T) {
	const stall = 200 * time.Millisecond // no write waits for so long for a turn on the processor
	n := serve(t, func(o *Options) { o.WatchStall = stall })
	resp, err := n.h2c().Do(n.request("GET", "/v1/kv/k?watch", "", "Accept", forms["NDJSON"]))
	if err != nil {
		t.Fatal(err)
	}
	defer resp.Body.Close()
	f := &following{t: t, resp: resp, lines: bufio.NewScanner(resp.Body)}
	f.want("created")
	time.Sleep(2 * stall)
	n.put("k", "v")
	f.want("put k v")
}

func TestHeartbeatsKeepTheirTime(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		w := &slowWriter{header: http.Header{}}
		s := &stream{w: w, rc: http.NewResponseController(w), sse: true, heartbeat: 25 * time.Second, stall: time.Second, cancel: func() {}}
		s.mu.Lock()
		s.begin(w.header)
		s.put(message{kind: "created"})
		s.flush()
		s.mu.Unlock()
		written := func() string {
			s.mu.Lock()
			defer s.mu.Unlock()
			defer w.written.Reset()
			return w.written.String()
		}
		written()
		time.Sleep(80 * time.Second)
		if got := written(); got != ":\n\n:\n\n:\n\n" {
			t.Errorf("in 80 s: %q, want three comments", got)
		}
		s.end(message{kind: "end"})
		written()
		time.Sleep(time.Minute)
		if got := written(); got != "" {
			t.Errorf("behind the end: %q", got)
		}
	})
}

func FuzzEventID(f *testing.F) {
	f.Add("0000000000000001-00000000000000000000000000000001:7:2")
	f.Add("a:b:c")
	f.Fuzz(func(t *testing.T, id string) {
		p, err := parsePosition(id)
		if err != nil {
			if kv.CodeOf(err) != kv.Invalid {
				t.Errorf("%q: %v", id, err)
			}
			return
		}
		if p.revision < 0 || p.left < 0 || p.from() < p.revision {
			t.Errorf("%q: %+v", id, p)
		}
		if again, err := parsePosition(string(p.append(nil))); err != nil || again != p {
			t.Errorf("%q: %+v becomes %+v, %v", id, p, again, err)
		}
	})
}
