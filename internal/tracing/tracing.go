// Package tracing records where a request spends its time, for those who ask for it: one trace from a device's PUT through
// queue, proxy, uplink and raft. It is the one home of OpenTelemetry. The packages on the way know nothing of it: a node
// is put together from Backends, and a Tracer puts itself between them; what crosses the uplink is a kv.Trace.
//
// A request that carries W3C's traceparent header, or a gRPC call with such metadata, follows it; of the others one in so many begins a trace of its own. Spans
// are sent in the background, from a bounded buffer: when the collector is away or too slow, spans are lost and requests
// are not held up.
package tracing

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"net/http"
	"strings"
	"sync"
	"time"

	"github.com/go-logr/logr"
	"go.opentelemetry.io/otel"
	"go.opentelemetry.io/otel/attribute"
	"go.opentelemetry.io/otel/codes"
	"go.opentelemetry.io/otel/exporters/otlp/otlptrace/otlptracehttp"
	"go.opentelemetry.io/otel/sdk/resource"
	sdktrace "go.opentelemetry.io/otel/sdk/trace"
	"go.opentelemetry.io/otel/trace"

	"holdfast/internal/liblog"
	"holdfast/internal/relay"
	"holdfast/kv"
)

// Limits. A span takes about a kilobyte.
const (
	bufferMax = 2048            // spans that wait to be sent; further ones are dropped
	sendMax   = 5 * time.Second // for one attempt to send
)

// Options of a Tracer.
type Options struct {
	Endpoint string // URL of a collector that takes OTLP over HTTP, as http://127.0.0.1:4318
	OneIn    int    // of the requests without a trace of their own one in so many begins one; 0: none
	Node     string // this node's id
	Name     string // and label
	Version  string
	Log      *slog.Logger // told at most once a minute that spans are lost; required
}

// Tracer records spans. A nil Tracer records nothing and costs nothing.
type Tracer struct {
	provider *sdktrace.TracerProvider
	tracer   trace.Tracer
}

// New returns a Tracer that sends to a collector. It does not wait for the collector.
func New(ctx context.Context, o Options) (*Tracer, error) {
	otel.SetErrorHandler(&complaint{log: o.Log, to: o.Endpoint})                                         // the library has one for the process: the newest Tracer's
	otel.SetLogger(logr.New(&mumble{liblog.New(func() *slog.Logger { return o.Log }, "opentelemetry")})) // and one log
	exporter, err := otlptracehttp.New(ctx, otlptracehttp.WithEndpointURL(o.Endpoint), otlptracehttp.WithTimeout(sendMax))
	if err != nil {
		return nil, fmt.Errorf("send traces to %s: %w", o.Endpoint, err)
	}
	return newTracer(o, sdktrace.NewBatchSpanProcessor(exporter, sdktrace.WithMaxQueueSize(bufferMax))), nil
}

// mumble is what the library logs of itself: its errors are worth a look, the rest is for its authors.
type mumble struct{ voice *liblog.Voice }

func (*mumble) Init(logr.RuntimeInfo)            {}
func (*mumble) Enabled(int) bool                 { return false } // errors come anyway
func (*mumble) Info(int, string, ...any)         {}
func (m *mumble) WithValues(...any) logr.LogSink { return m }
func (m *mumble) WithName(string) logr.LogSink   { return m }
func (m *mumble) Error(err error, text string, more ...any) {
	m.voice.Say(slog.LevelWarn, text, func() string { return strings.TrimSpace(fmt.Sprint(text, ": ", err, " ", more)) })
}

// complaint is told of each batch that could not be sent.
type complaint struct {
	log  *slog.Logger
	to   string
	mu   sync.Mutex
	last time.Time
	lost int
}

// complainEvery is how often that is worth a line.
const complainEvery = time.Minute

// Handle implements otel.ErrorHandler.
func (c *complaint) Handle(err error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.lost++
	if now := time.Now(); now.Sub(c.last) >= complainEvery {
		c.log.Warn("spans were not sent; requests are not affected", "to", c.to, "times", c.lost, "err", err)
		c.last, c.lost = now, 0
	}
}

func newTracer(o Options, to sdktrace.SpanProcessor) *Tracer {
	begin := sdktrace.NeverSample()
	if o.OneIn > 0 {
		begin = sdktrace.TraceIDRatioBased(1 / float64(o.OneIn))
	}
	provider := sdktrace.NewTracerProvider(
		sdktrace.WithSpanProcessor(to),
		sdktrace.WithSampler(sdktrace.ParentBased(begin)),
		sdktrace.WithResource(resource.NewSchemaless(
			attribute.String("service.name", "holdfast"), attribute.String("service.version", o.Version),
			attribute.String("service.instance.id", o.Node), attribute.String("host.name", o.Name))),
	)
	return &Tracer{provider: provider, tracer: provider.Tracer("holdfast")}
}

// Close sends what is buffered, as far as ctx allows.
func (t *Tracer) Close(ctx context.Context) error {
	if t == nil {
		return nil
	}
	return t.provider.Shutdown(ctx)
}

// Backend is api.Backend, which this package need not know.
type Backend interface {
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Backend returns b with a span of that name around each command and read. Watches pass as they are: they live for days.
func (t *Tracer) Backend(name string, b Backend) Backend {
	if t == nil {
		return b
	}
	return &traced{Backend: b, t: t, name: name}
}

type traced struct {
	Backend
	t    *Tracer
	name string
}

// Push is as of what is behind.
func (b *traced) Push(ctx context.Context, w kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error) {
	return relay.Push(ctx, b.Backend, w, to)
}

func (b *traced) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	ctx, span := b.t.begin(ctx, b.name, trace.SpanKindInternal)
	defer span.End()
	res, err := b.Backend.Do(ctx, c)
	if span.IsRecording() {
		span.SetAttributes(attribute.Int("holdfast.ops", len(c.Ops)), attribute.Int64("holdfast.revision", res.Revision),
			attribute.Bool("holdfast.queued", res.Queued != nil))
		ended(span, err)
	}
	return res, err
}

func (b *traced) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	ctx, span := b.t.begin(ctx, b.name, trace.SpanKindInternal)
	defer span.End()
	page, err := b.Backend.Read(ctx, q)
	if span.IsRecording() {
		span.SetAttributes(attribute.Int("holdfast.ops", len(q.Ops)), attribute.Int64("holdfast.revision", page.Revision),
			attribute.String("holdfast.source", page.Source.String()))
		ended(span, err)
	}
	return page, err
}

// ended marks a span whose request failed. A refusal that is part of the work, as a precondition that does not hold, has
// its code as well.
func ended(span trace.Span, err error) {
	if err == nil {
		return
	}
	span.SetAttributes(attribute.String("holdfast.code", kv.CodeOf(err).String()))
	span.SetStatus(codes.Error, err.Error())
}

// begin starts a span below what ctx has, and gives ctx its place to hand on.
func (t *Tracer) begin(ctx context.Context, name string, kind trace.SpanKind) (context.Context, trace.Span) {
	above := kv.TraceOf(ctx)
	if parent := spanContext(above); parent.IsValid() {
		ctx = trace.ContextWithRemoteSpanContext(ctx, parent)
	}
	ctx, span := t.tracer.Start(ctx, name, trace.WithSpanKind(kind))
	if here := place(span.SpanContext()); here != above {
		ctx = kv.WithTrace(ctx, here)
	}
	return ctx, span
}

func place(c trace.SpanContext) (t kv.Trace) {
	if !c.IsValid() {
		return t
	}
	id, span := c.TraceID(), c.SpanID()
	copy(t[:16], id[:])
	copy(t[16:24], span[:])
	t[24] = byte(c.TraceFlags())
	return t
}

func spanContext(t kv.Trace) trace.SpanContext {
	return trace.NewSpanContext(trace.SpanContextConfig{
		TraceID: trace.TraceID(t[:16]), SpanID: trace.SpanID(t[16:24]), TraceFlags: trace.TraceFlags(t[24]),
	})
}

// Door returns h with a span around each request at /v1/kv, /v1/txn and /v1/batch that does not stay open. It belongs to the trace
// of the request's traceparent header if there is one.
func (t *Tracer) Door(h http.Handler) http.Handler {
	if t == nil {
		return h
	}
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		route := routeOf(r)
		if route == "" {
			h.ServeHTTP(w, r)
			return
		}
		ctx := r.Context()
		if above, err := parse(r.Header.Get("traceparent")); err == nil {
			ctx = kv.WithTrace(ctx, above)
		}
		ctx, span := t.begin(ctx, r.Method+" "+route, trace.SpanKindServer)
		defer span.End()
		if !span.IsRecording() {
			h.ServeHTTP(w, r.WithContext(ctx))
			return
		}
		answer := &statusWriter{ResponseWriter: w}
		h.ServeHTTP(answer, r.WithContext(ctx))
		span.SetAttributes(attribute.String("url.path", r.URL.Path), attribute.Int("http.response.status_code", answer.status))
	})
}

// Call returns what begins, and then ends, a span around a call of another protocol, below the place in a trace that traceparent
// names, if it does. A nil Tracer returns nil.
func (t *Tracer) Call() func(ctx context.Context, name, traceparent string) (context.Context, func(code string, err error)) {
	if t == nil {
		return nil
	}
	return func(ctx context.Context, name, traceparent string) (context.Context, func(string, error)) {
		if above, err := parse(traceparent); err == nil {
			ctx = kv.WithTrace(ctx, above)
		}
		ctx, span := t.begin(ctx, name, trace.SpanKindServer)
		return ctx, func(code string, err error) {
			defer span.End()
			if !span.IsRecording() {
				return
			}
			span.SetAttributes(attribute.String("rpc.system", "grpc"), attribute.String("rpc.grpc.status", code))
			if err != nil {
				span.SetStatus(codes.Error, err.Error())
			}
		}
	}
}

// routeOf is the path of a request without what varies, "" for what has no span.
func routeOf(r *http.Request) string {
	switch path := r.URL.Path; {
	case strings.Contains(r.URL.RawQuery, "watch"), strings.Contains(r.URL.RawQuery, "wait="):
		return ""
	case strings.HasPrefix(path, "/v1/kv/"):
		return "/v1/kv"
	case path == "/v1/txn", path == "/v1/batch":
		return path
	}
	return ""
}

// statusWriter keeps the status of an answer.
type statusWriter struct {
	http.ResponseWriter
	status int
}

func (w *statusWriter) WriteHeader(status int) {
	if w.status == 0 && status >= 200 {
		w.status = status
	}
	w.ResponseWriter.WriteHeader(status)
}

func (w *statusWriter) Write(b []byte) (int, error) {
	if w.status == 0 {
		w.status = http.StatusOK
	}
	return w.ResponseWriter.Write(b)
}

// Unwrap is for http.ResponseController.
func (w *statusWriter) Unwrap() http.ResponseWriter { return w.ResponseWriter }

var errNoTrace = errors.New("no traceparent")

// parse reads W3C's traceparent header, version 00: 00-<trace id>-<span id>-<flags>. Of later versions the same parts
// are read, as the recommendation asks (https://www.w3.org/TR/trace-context/, section 4.3).
func parse(header string) (t kv.Trace, err error) {
	parts := strings.Split(header, "-")
	if len(parts) < 4 || len(parts[0]) != 2 || parts[0] == "ff" || parts[0] == "00" && len(parts) > 4 || len(parts[3]) != 2 {
		return t, errNoTrace
	}
	id, err := trace.TraceIDFromHex(parts[1])
	if err != nil {
		return t, err
	}
	span, err := trace.SpanIDFromHex(parts[2])
	if err != nil {
		return t, err
	}
	var flags byte
	if _, err := fmt.Sscanf(parts[3], "%02x", &flags); err != nil {
		return t, errNoTrace
	}
	return place(trace.NewSpanContext(trace.SpanContextConfig{TraceID: id, SpanID: span, TraceFlags: trace.TraceFlags(flags)})), nil
}
