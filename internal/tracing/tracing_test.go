package tracing

import (
	"context"
	"errors"
	"iter"
	"net/http"
	"net/http/httptest"
	"testing"

	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/sdk/trace/tracetest"

	"holdfast/kv"
)

// node answers everything, and notes the place in the trace that a command came with.
type node struct{ at kv.Trace }

func (n *node) Do(ctx context.Context, _ kv.Command) (kv.Result, error) {
	n.at = kv.TraceOf(ctx)
	return kv.Result{}, kv.Errorf(kv.PreconditionFailed, "no")
}
func (n *node) Read(context.Context, kv.Query) (kv.Page, error)                { return kv.Page{}, nil }
func (n *node) Watch(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] { return nil }

const parent = "00-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01"

// serve sends one request through a door and a Backend of a Tracer, and returns the spans in the order of their ends.
func serve(t *testing.T, oneIn int, method, target, traceparent string) ([]sdktrace.ReadOnlySpan, *node) {
	t.Helper()
	spans := tracetest.NewSpanRecorder()
	tr := newTracer(Options{OneIn: oneIn, Node: "n"}, spans)
	n := &node{}
	b := tr.Backend("raft", n)
	h := tr.Door(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if _, err := b.Do(r.Context(), kv.Command{}); err != nil {
			w.WriteHeader(http.StatusPreconditionFailed)
		}
	}))
	r := httptest.NewRequest(method, target, http.NoBody)
	if traceparent != "" {
		r.Header.Set("traceparent", traceparent)
	}
	h.ServeHTTP(httptest.NewRecorder(), r)
	return spans.Ended(), n
}

func TestARequestsStepsHangTogether(t *testing.T) {
	spans, n := serve(t, 0, "PUT", "/v1/kv/a", parent)
	if len(spans) != 2 {
		t.Fatalf("%d spans, want 2", len(spans))
	}
	inner, door := spans[0], spans[1]
	if door.Name() != "PUT /v1/kv" || inner.Name() != "raft" {
		t.Errorf("spans %q and %q", door.Name(), inner.Name())
	}
	if got := door.SpanContext().TraceID().String(); got != parent[3:35] || door.Parent().SpanID().String() != parent[36:52] {
		t.Errorf("the door's span is in trace %s below %s, want those of %s", got, door.Parent().SpanID(), parent)
	}
	if inner.Parent().SpanID() != door.SpanContext().SpanID() {
		t.Error("the node's span is not below the door's")
	}
	if n.at != place(inner.SpanContext()) {
		t.Error("the command was not handed on with the place of the span around it")
	}
	if code := inner.Status().Description; code == "" {
		t.Error("a refusal left no mark")
	}
}

func TestWhoIsTraced(t *testing.T) {
	for name, tc := range map[string]struct {
		oneIn       int
		target      string
		traceparent string
		want        int
	}{
		"asked for":             {0, "/v1/kv/a", parent, 2},
		"asked not to":          {1, "/v1/kv/a", parent[:53] + "00", 0},
		"every one":             {1, "/v1/kv/a", "", 2},
		"none":                  {0, "/v1/kv/a", "", 0},
		"malformed":             {0, "/v1/kv/a", "00-zz-b7ad6b7169203331-01", 0},
		"zero":                  {0, "/v1/kv/a", "00-00000000000000000000000000000000-b7ad6b7169203331-01", 0},
		"more than version 00":  {0, "/v1/kv/a", parent + "-more", 0},
		"a later version":       {0, "/v1/kv/a", "01" + parent[2:] + "-more", 2},
		"a watch, at its door":  {0, "/v1/kv/a?watch", parent, 0},
		"another path":          {0, "/v1/status", parent, 0},
		"a transaction":         {0, "/v1/txn", parent, 2},
		"a long-poll, its door": {0, "/v1/kv/a?index=1&wait=1m", parent, 0},
	} {
		t.Run(name, func(t *testing.T) {
			if spans, _ := serve(t, tc.oneIn, "PUT", tc.target, tc.traceparent); len(spans) != tc.want {
				t.Errorf("%d spans, want %d", len(spans), tc.want)
			}
		})
	}
}

func TestACallIsTracedLikeARequest(t *testing.T) {
	spans := tracetest.NewSpanRecorder()
	call := newTracer(Options{}, spans).Call()
	for _, traceparent := range []string{"", parent} {
		ctx, end := call(t.Context(), "etcdserverpb.KV/Put", traceparent)
		if traced := kv.TraceOf(ctx)[24] != 0; traced != (traceparent != "") {
			t.Errorf("traceparent %q: handed on as traced: %t", traceparent, traced)
		}
		end("Unavailable", errors.New("no leader"))
	}
	got := spans.Ended()
	if len(got) != 1 || got[0].Name() != "etcdserverpb.KV/Put" || got[0].Parent().SpanID().String() != parent[36:52] {
		t.Fatalf("%d spans", len(got))
	}
	if got[0].Status().Description != "no leader" {
		t.Error("a failure left no mark")
	}
	if (*Tracer)(nil).Call() != nil {
		t.Error("calls are traced without a tracer")
	}
}

func TestWithoutATracerNothingStandsBetween(t *testing.T) {
	var tr *Tracer
	n := &node{}
	if tr.Backend("x", n) != Backend(n) {
		t.Error("a Backend was wrapped")
	}
	if err := tr.Close(t.Context()); err != nil {
		t.Error(err)
	}
}

func FuzzTraceparent(f *testing.F) {
	f.Add(parent)
	f.Add("cc-0af7651916cd43dd8448eb211c80319c-b7ad6b7169203331-01-what")
	f.Fuzz(func(t *testing.T, header string) {
		if got, err := parse(header); err == nil && !spanContext(got).IsValid() {
			t.Errorf("%q was taken for %x", header, got)
		}
	})
}
