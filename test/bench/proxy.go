package main

import (
	"context"
	"errors"
	"fmt"
	"time"
)

// The contenders of the suite, as its tables name them.
const (
	onMember     = "member"
	throughProxy = "through a proxy"
	onMirror     = "through a proxy that mirrors"
	cached       = "proxy, cached"
	bareHTTP     = "bare net/http"
	labelledHTTP = "net/http with the headers of a reply"
	throughNginx = "nginx, proxy_cache"
	cachedGRPC   = "proxy, cached, gRPC"
	grpcProxy    = "etcd grpc-proxy"
)

// runProxy measures what a proxy adds to a write, how near its cached reads come to a handler that does nothing, what a
// queued write costs, and what an idle proxy uses.
func runProxy(ctx context.Context, b *bench) error {
	if b.system("holdfast") == nil {
		return errors.New("the suite measures the product: leave holdfast in -systems")
	}
	for _, part := range []func(context.Context) error{b.proxyPuts, b.cachedGets, b.cachedRanges, b.queuedPuts, b.queuedWear, b.idleProxy} {
		if err := part(ctx); err != nil {
			return err
		}
	}
	return nil
}

// proxyPuts measures PUTs, each cell on an empty pair.
func (b *bench) proxyPuts(ctx context.Context) error {
	list := []contender{{name: onMember}, {name: throughProxy}, {name: onMirror}}
	err := b.rounds(ctx, list, func(round, clients int, c contender) error {
		var more []string
		if c.name == onMirror {
			more = []string{"--proxy-prefixes", queued}
		}
		p, err := b.startPair(ctx, "", more...)
		if err != nil {
			return err
		}
		defer p.end(b)
		v := p.proxy
		if c.name == onMember {
			v = p.member
		}
		c.dial = dialREST
		out, err := drive(ctx, b.options, v, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: put})
		if err != nil {
			return err
		}
		b.report.add(cell{"proxy", "put", c.name, clients}, round, out.values())
		return nil
	})
	if err != nil {
		return err
	}
	b.loadTable("PUT (server CPU is that of the process asked)", "proxy", "put", list)
	var claims []claim
	for _, n := range b.clients {
		for _, name := range []string{throughProxy, onMirror} {
			num, den := cell{"proxy", "put", name, n}, cell{"proxy", "put", onMember, n}
			claims = append(claims,
				claim{what: "rate, " + name + " over the member, " + clients(n), num: num, den: den, value: vRate},
				claim{what: "p99, " + name + " over the member, " + clients(n), num: num, den: den, value: vP99})
		}
	}
	b.report.claims("PUT: ratios", claims)
	return nil
}

// cachedGets measures reads of what the proxy mirrors beside a bare handler, alternating.
func (b *bench) cachedGets(ctx context.Context) error {
	dirs, clean, err := b.filled(ctx, []contender{{name: hfREST, system: b.system("holdfast"), dial: dialREST}}, b.options)
	defer clean()
	if err != nil {
		return err
	}
	p, err := b.startPair(ctx, dirs[b.system("holdfast")], "--proxy-prefixes", queued)
	if err != nil {
		return err
	}
	defer p.end(b)
	yards := map[string]*server{}
	for _, name := range []string{bareHTTP, labelledHTTP} {
		v, end, err := b.startBare(ctx, name == labelledHTTP)
		if err != nil {
			return err
		}
		defer end()
		yards[name] = v
	}
	list := []contender{{name: cached, dial: dialREST}, {name: bareHTTP, dial: dialREST}, {name: labelledHTTP, dial: dialREST}}
	if v, end, err := b.startNginx(ctx, p.member.addr); err != nil {
		return err
	} else if v != nil {
		defer end()
		yards[throughNginx] = v
		list = append(list, contender{name: throughNginx, dial: dialREST})
		if err := readAll(ctx, b.options, v, contender{name: throughNginx, dial: dialREST}); err != nil { // so that it has them
			return err
		}
	}
	err = b.rounds(ctx, list, func(round, clients int, c contender) error {
		v := p.proxy
		if yard := yards[c.name]; yard != nil {
			v = yard
		}
		out, err := drive(ctx, b.options, v, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: get(false)})
		if err != nil {
			return err
		}
		b.report.add(cell{"proxy", "get", c.name, clients}, round, out.values())
		return nil
	})
	if err != nil {
		return err
	}
	b.loadTable("GET of what the cache has", "proxy", "get", list)
	var claims []claim
	for _, n := range b.clients {
		num, den := cell{"proxy", "get", cached, n}, cell{"proxy", "get", bareHTTP, n}
		claims = append(claims,
			claim{what: "rate over bare net/http, " + clients(n), num: num, den: den, value: vRate},
			claim{what: "server CPU over bare net/http, " + clients(n), num: num, den: den, value: vCPU})
		den.contender = labelledHTTP
		claims = append(claims,
			claim{what: "rate over net/http with the headers of a reply, " + clients(n), num: num, den: den, value: vRate, target: 0.9, must: 0.8},
			claim{what: "server CPU over it, " + clients(n), num: num, den: den, value: vCPU},
			claim{what: "rate over nginx's proxy cache, " + clients(n), num: num, den: cell{"proxy", "get", throughNginx, n}, value: vRate})
	}
	b.report.claims("GET of what the cache has: ratios", claims)
	return nil
}

// startBare starts a yardstick, which end kills.
func (b *bench) startBare(ctx context.Context, labels bool) (v *server, end func(), err error) {
	yard, err := bare(b.value, labels)
	if err != nil {
		return nil, nil, err
	}
	return b.startAlone(ctx, yard)
}

// idleProxy leaves a proxy alone that mirrors all keys and is synced.
func (b *bench) idleProxy(ctx context.Context) error {
	dirs, clean, err := b.filled(ctx, []contender{{name: hfREST, system: b.system("holdfast"), dial: dialREST}}, b.options)
	defer clean()
	if err != nil {
		return err
	}
	p, err := b.startPair(ctx, dirs[b.system("holdfast")], "--proxy-prefixes", queued, "--queue-prefixes", queued)
	if err != nil {
		return err
	}
	defer p.end(b)
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	x := cell{"proxy", "idle", "proxy", 0}
	for round := range b.options.rounds {
		b.progress("idle proxy for %v, round %d of %d", b.idle, round+1, b.options.rounds)
		before, err := p.proxy.counters()
		if err != nil {
			return err
		}
		wire, err := statusOf(ctx, p.proxy.addr)
		if err != nil {
			return err
		}
		if err := sleep(ctx, b.idle); err != nil {
			return err
		}
		values, err := p.proxy.atRest(ctx, before, b.idle)
		if err != nil {
			return err
		}
		now, err := statusOf(ctx, p.proxy.addr)
		if err != nil {
			return err
		}
		values["wire_bytes_per_day"] = float64(now.carried()-wire.carried()) * float64(24*time.Hour) / float64(b.idle)
		b.report.add(x, round, values)
	}
	var rows [][]string
	for _, l := range []restLine{
		{"RSS", "", "rss_bytes", sized, "15 / 20 MB"},
		{"RssAnon", "", "anon_bytes", sized, "-"},
		{"goroutines", "", "goroutines", whole, "-"},
		{"CPU", "", "cpu", percent, "0.05 / 0.1 %"},
		{fmt.Sprintf("written to disk in %v", b.idle), "", "disk_bytes", sized, "0"},
		{"bytes a day on the uplink, both ways, without UDP and IP", "", "wire_bytes_per_day", sized, "420 / 500 kB"},
		{"data directory", "", "dir_bytes", sized, "-"},
	} {
		rows = append(rows, []string{l.title, b.ranged(x, l.value, l.format), l.wanted})
	}
	b.report.table(fmt.Sprintf("An idle proxy that mirrors %d keys", b.keys), []string{"what", "proxy", "target / must"}, rows)
	return nil
}
