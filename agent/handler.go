package agent

import (
	"context"
	"net/http"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/api/ops"
	"holdfast/api/rest"
	"holdfast/config"
)

// buildDoors puts the handlers of its purpose behind each open listener:
//
//	clients         /v1, health, version; metrics unless they have a listener of their own
//	administration  the same, join tokens, metrics always, profiles
//	metrics         health, version, metrics
func (a *Agent) buildDoors(force context.Context) *doors {
	reg := a.opts.Metrics
	options := rest.Options{
		Backend:     a.gate,
		Reporter:    a,
		Log:         a.opts.Log,
		Metrics:     reg,
		ValueMax:    int(a.cfg.Limits.Value),
		KeyMax:      int(a.cfg.Limits.Key),
		RequestMax:  int(a.cfg.Limits.Request),
		OpsMax:      a.cfg.Limits.TxnOps,
		WatchesMax:  a.cfg.Limits.Watches,
		BodyTimeout: a.cfg.Limits.BodyTimeout,
		Origins:     a.cfg.CORS.Origins,
	}
	if a.plan.record.Mode == config.ModeProxy {
		options.MaxAge, options.StaleIfError = a.cfg.Proxy.MaxAge, a.cfg.Proxy.StaleIfError
	}
	options.Tokens = tokens{a}
	options.Queue = func() api.Queue {
		if v := a.queue.Load(); v != nil {
			return v
		}
		return nil
	}
	devices := rest.New(options)
	clientMetrics := prometheus.Gatherer(reg)
	if a.cfg.MetricsListen != "" {
		clientMetrics = nil
	}
	var (
		operators = map[purpose]http.Handler{
			forClients: ops.New(ops.Options{Reporter: a, Gatherer: clientMetrics}),
			forAdmin:   ops.New(ops.Options{Reporter: a, Gatherer: reg, Pprof: true}),
			forMetrics: ops.New(ops.Options{Reporter: a, Gatherer: reg}),
		}
		limiters = map[purpose]*limiter{
			forClients: newLimiter(forClients, a.cfg.Limits.Connections, reg),
			forAdmin:   newLimiter(forAdmin, adminConnections, reg),
			forMetrics: newLimiter(forMetrics, metricsConnections, reg),
		}
	)
	a.clients = limiters[forClients]
	ds := &doors{log: a.opts.Log, gate: a.gate, force: force}
	for _, d := range a.open {
		h := operators[d.purpose]
		switch d.purpose {
		case forClients:
			h = split(h, devices)
		case forAdmin:
			h = split(h, devices.Admin())
		}
		ds.add(d, limiters[d.purpose], h, a.cfg.Limits, devices.EndWatches)
	}
	return ds
}

// split sends the paths that ops owns to it, and all others on as they are: a mux would clean them, and "//" is part of
// a key.
func split(operators, devices http.Handler) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		if ops.Owns(r.URL.Path) {
			operators.ServeHTTP(w, r)
			return
		}
		devices.ServeHTTP(w, r)
	})
}
