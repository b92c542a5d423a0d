package agent

import (
	"context"
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/api/etcd"
	"holdfast/api/ops"
	"holdfast/api/rest"
	"holdfast/config"
	"holdfast/internal/namespace"
	"holdfast/kv"
	"holdfast/member"
)

// buildDoors puts the handlers of its purpose behind each open listener:
//
//	clients         /v1, etcd's API, health, version; metrics unless they have a listener of their own
//	administration  the same, join tokens, metrics always, profiles
//	metrics         health, version, metrics
func (a *Agent) buildDoors(force context.Context) *doors {
	reg := a.opts.Metrics
	shown := a.shown()
	options := rest.Options{
		Backend:     shown,
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
		Names:       a.ownNames(),
	}
	options.Auto = func() (maxAge, staleIfError time.Duration) {
		if a.planned().record.Mode == config.ModeProxy {
			return a.cfg.Proxy.MaxAge, a.cfg.Proxy.StaleIfError
		}
		return 0, rest.StaleIfError
	}
	options.Tokens, options.Switch, options.Devices = tokens{a}, switcher{a}, devices{a}
	options.Admin = a.admin
	options.Nodes, options.Certificates = nodes{a}, certificates{a}
	options.Queue = func() api.Queue {
		switch v := a.queue.Load(); {
		case v == nil:
			return nil
		case a.cfg.Proxy.Namespace != "":
			return namespace.Queue(v, a.cfg.Proxy.Namespace)
		default:
			return v
		}
	}
	devices := rest.New(options)
	traced := a.tracer.Door(devices)
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
		shares   = a.openLedger()
		limiters = map[purpose]*limiter{
			forClients: newLimiter(forClients, a.cfg.Limits.Connections, shares, reg),
			forAdmin:   newLimiter(forAdmin, adminConnections, nil, reg),
			forMetrics: newLimiter(forMetrics, metricsConnections, nil, reg),
		}
	)
	reg.MustRegister(figures{a}) // unchecked, so that one agent after the other may use a registry
	a.clients = limiters[forClients]
	a.registerHTTPS()
	ds := &doors{log: a.opts.Log, gate: a.gate, force: force, etcd: a.buildEtcd(shown), secure: a.secure, bounds: a.bounds(), charge: a.ledger.bodies}
	for _, d := range a.open {
		h, l := operators[d.purpose], limiters[d.purpose]
		switch d.purpose {
		case forClients:
			ds.addEtcd(d, l, a.audit.watchAdmin(split(h, traced, devices.Guard(ds.etcd), ds.etcd), d), a.cfg.Limits, devices.EndWatches)
		case forAdmin:
			ds.addEtcd(d, l, a.audit.watchAdmin(split(h, devices.Admin(), devices.Guard(ds.etcd), ds.etcd), d), a.cfg.Limits, devices.EndWatches)
		default:
			ds.add(d, l, h, a.cfg.Limits, devices.EndWatches)
		}
	}
	return ds
}

// openLedger bounds what clients take, by the configuration.
func (a *Agent) openLedger() *ledger {
	limits := a.cfg.Limits
	a.ledger = newLedger(limits.ClientShare, limits.Rate, [uses]int64{
		useHandshake: int64(limits.Handshakes), useRequest: int64(limits.Requests), useWatch: int64(limits.Watches), useBody: int64(limits.Bodies),
	}, a.opts.Metrics)
	a.ledger.opens.Store(int64(limits.ConnectionRate))
	a.gate.ledger = a.ledger
	return a.ledger
}

// shown is the node as clients and the administration socket see it: all of it, or the keys of a namespace.
func (a *Agent) shown() api.Backend {
	if a.cfg.Proxy.Namespace == "" {
		return a.gate
	}
	return namespace.New(a.gate, a.cfg.Proxy.Namespace)
}

// buildEtcd is the server of etcd's API, for all listeners that have it.
func (a *Agent) buildEtcd(shown api.Backend) *etcd.Server {
	return etcd.New(etcd.Options{
		Backend:     shown,
		Reporter:    a,
		Admin:       a.admin,
		Members:     a.listMembers,
		Name:        a.cfg.Name,
		ClientURLs:  a.Addrs(),
		Log:         a.opts.Log,
		Metrics:     a.opts.Metrics,
		RequestMax:  int(a.cfg.Limits.Request),
		TxnOpsMax:   a.cfg.Limits.TxnOps,
		Hash:        a.passwords.Hash,
		BodyTimeout: a.cfg.Limits.BodyTimeout,
		IdleTimeout: a.cfg.Limits.IdleTimeout,
		Audit:       a.audit.call,
		Trace:       a.tracer.Call(),
	})
}

// admin is what this node can do for an operator, nil if it is no full replica, not open yet, or shows a part of the keys.
func (a *Agent) admin() api.Admin {
	if n := a.node.Load(); n != nil && a.cfg.Proxy.Namespace == "" {
		return n.admin
	}
	return nil
}

// listMembers asks the cluster who its members are, for a node that is none.
func (a *Agent) listMembers(ctx context.Context, local bool) (kv.Header, []kv.Replica, error) {
	q := member.RosterQuery()
	if local {
		q.MaxAge = kv.Unlimited
	}
	page, err := a.gate.Read(ctx, q)
	if err != nil {
		return kv.Header{}, nil, err
	}
	replicas, err := member.ReplicasIn(page)
	return page.Header, replicas, err
}

// split sends the paths that ops and etcd's gateway own to them, gRPC to etcd, and all others on as they are: a mux would
// clean them, and "//" is part of a key.
func split(operators, devices, gateway http.Handler, calls *etcd.Server) http.Handler {
	return http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		switch {
		case ops.Owns(r.URL.Path):
			operators.ServeHTTP(w, r)
		case etcd.Owns(r.URL.Path):
			gateway.ServeHTTP(w, r)
		case etcd.IsCall(r):
			calls.ServeHTTP(w, r)
		default:
			devices.ServeHTTP(w, r)
		}
	})
}
