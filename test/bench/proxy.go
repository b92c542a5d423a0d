package main

import (
	"context"
	"errors"
	"fmt"
	"strconv"
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
	whenCut      = "proxy, uplink cut"
)

// runProxy measures what a proxy adds to a write, how near its cached reads come to a handler that does nothing, what a
// queued write costs, and what an idle proxy uses.
func runProxy(ctx context.Context, b *bench) error {
	if b.system("holdfast") == nil {
		return errors.New("the suite measures the product: leave holdfast in -systems")
	}
	for _, part := range []func(context.Context) error{b.proxyPuts, b.cachedGets, b.queuedPuts, b.idleProxy} {
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
			claim{what: "rate over bare net/http, " + clients(n), num: num, den: den, value: vRate, target: 0.9, must: 0.8},
			claim{what: "server CPU over bare net/http, " + clients(n), num: num, den: den, value: vCPU})
		den.contender = labelledHTTP
		claims = append(claims,
			claim{what: "rate over net/http with the headers of a reply, " + clients(n), num: num, den: den, value: vRate},
			claim{what: "server CPU over it, " + clients(n), num: num, den: den, value: vCPU})
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
	dir, err := b.tempDir()
	if err != nil {
		return nil, nil, err
	}
	if v, err = yard.start(ctx, dir, watched{}); err != nil {
		b.discard(dir)
		return nil, nil, err
	}
	return v, func() { v.kill(); b.discard(dir) }, nil
}

// queuedClient is a device whose writes are answered with 202.
type queuedClient struct{ restClient }

func dialQueued(_ context.Context, addr string, _ int) (dialer, error) {
	return dialEach(func(ctx context.Context) (client, error) {
		c, err := dialHTTP(ctx, addr)
		return queuedClient{restClient{c}}, err
	}), nil
}

func (c queuedClient) Put(key, value []byte) error {
	status, body, err := c.send(key, value)
	if err == nil && status != 202 {
		err = fmt.Errorf("PUT %s: %d instead of 202: %s", key, status, body)
	}
	return err
}

// queuedPuts measures 202s with the member gone, beside the disk alone in the same round.
func (b *bench) queuedPuts(ctx context.Context) error {
	list := []contender{{name: whenCut, dial: dialQueued}}
	err := b.rounds(ctx, list, func(round, clients int, c contender) error {
		p50, p99, err := probe(b.scratch)
		if err != nil {
			return err
		}
		p, err := b.startPair(ctx, "", "--queue-prefixes", queued)
		if err != nil {
			return err
		}
		defer p.end(b)
		p.member.kill()
		if err := findOut(ctx, b.options, p.proxy, c); err != nil {
			return err
		}
		out, err := drive(ctx, b.options, p.proxy, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: put})
		if err != nil {
			return err
		}
		values := out.values()
		values["disk_p50_ms"], values["disk_p99_ms"] = p50, p99
		values["p99_over_disk"] = values[vP99] / p99
		b.report.add(cell{"proxy", "queue", c.name, clients}, round, values)
		return nil
	})
	if err != nil {
		return err
	}
	b.loadTable("PUT answered with 202", "proxy", "queue", list)
	var rows [][]string
	for _, n := range b.clients {
		x := cell{"proxy", "queue", whenCut, n}
		rows = append(rows, []string{strconv.Itoa(n), b.ranged(x, vP99, hundredth), b.ranged(x, "disk_p50_ms", hundredth),
			b.ranged(x, "disk_p99_ms", hundredth), b.ranged(x, "p99_over_disk", hundredth)})
	}
	b.report.table("202 beside 4 KiB append and fdatasync", []string{"clients", "202 p99 ms", "disk p50 ms", "disk p99 ms", "202 p99 over disk p99"}, rows)
	return nil
}

// foundOut is how soon a 202 comes from a proxy that knows its uplink is lost, on a slow shared machine.
const foundOut = 100 * time.Millisecond

// findOut puts a key until the proxy has found out that the uplink is lost.
func findOut(ctx context.Context, o options, v *server, c contender) (err error) {
	d, err := c.dial(ctx, v.addr, 1)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	k, err := d.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, k.Close()) }()
	g := newGenerator(o, 0)
	for begin := time.Now(); time.Since(begin) < grace; {
		t := time.Now()
		if err := put(k, g); err != nil {
			return err
		}
		if time.Since(t) < foundOut {
			return nil
		}
	}
	return fmt.Errorf("no 202 within %v for %v", foundOut, grace)
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
		values["wire_bytes_per_hour"] = float64(now.carried()-wire.carried()) * float64(time.Hour) / float64(b.idle)
		b.report.add(x, round, values)
	}
	var rows [][]string
	for _, l := range []restLine{
		{"RSS", "", "rss_bytes", sized, "15 / 20 MB"},
		{"RssAnon", "", "anon_bytes", sized, "-"},
		{"goroutines", "", "goroutines", whole, "-"},
		{"CPU", "", "cpu", percent, "0.05 / 0.1 %"},
		{fmt.Sprintf("written to disk in %v", b.idle), "", "disk_bytes", sized, "0"},
		{"bytes an hour on the uplink, both ways, without UDP and IP", "", "wire_bytes_per_hour", sized, "17.5 / 20.8 kB"},
		{"data directory", "", "dir_bytes", sized, "-"},
	} {
		rows = append(rows, []string{l.title, b.ranged(x, l.value, l.format), l.wanted})
	}
	b.report.table(fmt.Sprintf("An idle proxy that mirrors %d keys", b.keys), []string{"what", "proxy", "target / must"}, rows)
	return nil
}
