package agent

import (
	"context"
	"time"

	"holdfast/internal/tracing"
)

// openTracer returns what records spans, nil if nobody asked for that.
func (a *Agent) openTracer(ctx context.Context) (*tracing.Tracer, error) {
	if a.cfg.Trace.Endpoint == "" {
		return nil, nil
	}
	return tracing.New(ctx, tracing.Options{
		Endpoint: a.cfg.Trace.Endpoint,
		OneIn:    a.cfg.Trace.OneIn,
		Node:     a.planned().node.String(),
		Name:     a.cfg.Name,
		Version:  a.opts.Version,
		Log:      a.opts.Log,
	})
}

// tracerCloseMax is how long a stop waits for the last spans to be sent.
const tracerCloseMax = 2 * time.Second

func (a *Agent) closeTracer() {
	ctx, cancel := context.WithTimeout(context.Background(), tracerCloseMax)
	defer cancel()
	if err := a.tracer.Close(ctx); err != nil {
		a.opts.Log.Warn("the last spans were not sent", "to", a.cfg.Trace.Endpoint, "err", err)
	}
}
