package kv

import "context"

// Trace is where a request stands in a trace that somebody keeps: 16 bytes of the trace's id, 8 of the step that asked, and
// one of flags, as W3C's Trace Context has them. It travels in a context within a process and in a request's frame over
// an uplink; nothing is decided by it, and it is never stored. All zero is none.
type Trace [25]byte

// IsZero reports whether there is no trace.
func (t Trace) IsZero() bool { return t == Trace{} }

type traceKey struct{}

// WithTrace returns a context whose requests belong to a trace.
func WithTrace(ctx context.Context, t Trace) context.Context {
	return context.WithValue(ctx, traceKey{}, t)
}

// TraceOf is the trace of a context, zero for none.
func TraceOf(ctx context.Context) Trace {
	t, _ := ctx.Value(traceKey{}).(Trace)
	return t
}
