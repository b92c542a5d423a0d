package agent

import (
	"context"
	"errors"
	"slices"
	"strings"
	"sync"

	"holdfast/api"
	"holdfast/auth"
	"holdfast/client"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/internal/pivot"
	"holdfast/kv"
	"holdfast/proxy"
	"holdfast/transport"
)

// A proxy is a Backend, and so is what it forwards to.
var (
	_ api.Backend = (*proxy.Proxy)(nil)
	_ api.Backend = (*client.Client)(nil)
)

const cacheFile = "cache.db"

// proxyAct is what a proxy consists of.
type proxyAct struct {
	up    *client.Client // to the cluster
	above *pivot.Pivot   // what the cache is fed from: up, or a member of this node that is about to go
	cache *proxy.Proxy
	rules *auth.Mirror // who may do what
}

// openProxy opens the cache and the uplink. A proxy needs neither an uplink nor a cluster to serve: it opens also before it
// has joined. From, if it is not nil, feeds the cache at first.
func (a *Agent) openProxy(from proxy.Upstream) (*act, error) {
	ends, err := a.endpoints()
	if err != nil {
		return nil, err
	}
	if err := a.loadRevoked(); err != nil {
		return nil, err
	}
	options := client.Options{Dial: a.dialUplink, Endpoints: ends, OnGood: a.keepEndpoints, Rerouted: a.net.ep.RouteChange, Log: a.opts.Log}
	if !a.net.identity.Load().Joined() {
		options.Connecting = -1 // nobody answers a node that has not joined: nothing waits for that
	}
	up, err := client.New(options)
	if err != nil {
		return nil, err
	}
	rules, err := a.openMirror(up, from)
	if err != nil {
		return nil, err
	}
	x := &proxyAct{up: up, rules: rules}
	upstream := proxy.Upstream(a.tracer.Backend("uplink", up))
	if from != nil {
		x.above = pivot.New()
		if _, err := x.above.Turn(context.Background(), pivot.Node{Backend: from}); err != nil {
			return nil, err
		}
		upstream = x.above
	}
	x.cache, err = proxy.New(proxy.Options{
		Upstream:    upstream,
		Reconnected: up.Changed,
		Paused:      a.pausedByBudget,
		Path:        a.dir.join(proxyName, cacheFile),
		Prefixes:    prefixes(a.cfg.Proxy.Prefixes),
		MaxBytes:    int64(a.cfg.Proxy.MaxBytes),
		ReadOnly:    a.cfg.Proxy.ReadOnly,
		Self:        rules.Self(),
		Clock:       bootTime,
		Boot:        bootID(),
		Log:         a.opts.Log,
		Metrics:     a.opts.Metrics,
	})
	if err != nil {
		return nil, openError(err)
	}
	return &act{
		mode:    config.ModeProxy,
		node:    a.proxyNode(x),
		proxy:   x,
		reach:   x.cache.Reach,
		admit:   func() { a.letBelow(up) },
		run:     func(ctx context.Context) error { return errors.Join(a.forward(ctx, x), x.cache.Close()) },
		discard: x.cache.Close,
	}, nil
}

// forward runs the uplink and the cache on it, after joining if that is still to be done. The first failure ends both.
func (a *Agent) forward(ctx context.Context, x *proxyAct) error {
	up := x.up
	ctx, stop := context.WithCancel(ctx)
	defer stop()
	defer a.turnBelow(up)
	if !a.net.identity.Load().Joined() {
		t, err := a.token()
		if err != nil {
			return err
		}
		got, err := a.join(ctx, t, enroll.Wish{Role: transport.Proxy}, "the local API serves and queues meanwhile", func(error) {})
		if ctx.Err() != nil {
			return nil
		}
		if err != nil {
			return err
		}
		a.learn(up, got.Endpoints)
		if err := a.dir.step(failpoint.ProxyEndpoints); err != nil {
			return err
		}
	}
	var wg sync.WaitGroup
	var errs [2]error
	cached := func(ctx context.Context) error {
		x.rules.FirstWithin(ctx, policyWait)
		return x.cache.Run(ctx)
	}
	for i, part := range []func(context.Context) error{up.Run, cached} {
		wg.Go(func() {
			errs[i] = part(ctx)
			stop()
		})
	}
	wg.Go(func() { x.rules.Run(ctx) })
	wg.Go(func() { a.settle(ctx, true) })
	wg.Go(func() { a.standBy(ctx, up) })
	wg.Go(func() { a.keepCertificate(ctx, up.Endpoints) })
	wg.Wait()
	a.net.following.Wait()
	return errors.Join(errs[:]...)
}

// learn adds the addresses that the cluster named to those that the proxy tries.
func (a *Agent) learn(up *client.Client, members []string) {
	if news := up.Learn(members); news != nil {
		a.keepEndpoints(news)
	}
}

func prefixes(texts []string) (all [][]byte) {
	for _, p := range texts {
		all = append(all, []byte(p))
	}
	return all
}

// proxyNode shows a proxy to the rest of the agent.
func (a *Agent) proxyNode(x *proxyAct) *node {
	up, p := x.up, x.cache
	caughtUp := make(chan struct{})
	close(caughtUp)
	return &node{
		backend:  a.tracer.Backend("proxy", p),
		caughtUp: caughtUp,
		alive: vital{func(ctx context.Context) error {
			key, end := kv.PrefixRange(nil)
			_, err := p.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key, End: end, Limit: 1}}, MaxAge: kv.Unlimited, LocalOnly: true})
			if kv.CodeOf(err) == kv.NotCached {
				return nil
			}
			return err
		}, &loop{name: "the loop that feeds the cache", work: p.Feeding}, nil}.check,
		describe: func(s *api.Status) { a.describeProxy(s, up.State(), p.State()) },
		policy:   x.rules.Source(),
	}
}

func (a *Agent) describeProxy(s *api.Status, link client.State, p proxy.State) {
	if !p.Epoch.IsZero() {
		s.Epoch = p.Epoch.String()
	}
	s.Revision = p.Revision
	s.Proxy = &api.ProxyStatus{
		Joined:        a.net.identity.Load().Joined(),
		Upstream:      link.Endpoint,
		UplinkLost:    link.Endpoint == "" || link.Lost,
		Synced:        p.Synced,
		CacheBytes:    p.Bytes,
		CacheMaxBytes: p.MaxBytes,
		CacheHeldKeys: p.Held,
	}
	if link.Err != nil {
		s.Proxy.UplinkError = link.Err.Error()
	}
	if p.Age != kv.AgeUnknown {
		age := p.Age.Seconds()
		s.Proxy.AgeSeconds = &age
	}
	for _, m := range p.Mirrors {
		s.Proxy.Mirrors = append(s.Proxy.Mirrors, api.MirrorStatus{Prefix: m.Prefix, Covered: m.Covered, Revision: m.Revision, Reason: m.Reason})
	}
	slices.SortFunc(s.Proxy.Mirrors, func(x, y api.MirrorStatus) int { return strings.Compare(x.Prefix, y.Prefix) })
}
