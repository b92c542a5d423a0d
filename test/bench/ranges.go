package main

import (
	"context"
	"strconv"
)

// hotKeys is a working set that etcd's grpc-proxy has room for: it keeps 2048 answers.
const hotKeys = 1000

// The working sets of the suite's ranges.
const (
	rangeAll = "range"
	rangeHot = "range of few keys"
)

// cachedRanges measures serializable ranges of one key over gRPC that a proxy has, beside etcd's grpc-proxy in front of
// etcd.
func (b *bench) cachedRanges(ctx context.Context) error {
	peer := b.system("etcd")
	if peer == nil {
		b.report.print("\nRanges over gRPC were not measured: leave etcd in -systems.\n")
		return nil
	}
	dirs, clean, err := b.filled(ctx, []contender{
		{name: hfREST, system: b.system("holdfast"), dial: dialREST}, {name: etcdGRPC, system: peer, dial: dialGRPC},
	}, b.options)
	defer clean()
	if err != nil {
		return err
	}
	p, err := b.startPair(ctx, dirs[b.system("holdfast")], "--proxy-prefixes", queued)
	if err != nil {
		return err
	}
	defer p.end(b)
	behind, err := peer.start(ctx, dirs[peer], watched{})
	if err != nil {
		return err
	}
	defer behind.kill()
	dir, err := b.tempDir()
	defer b.discard(dir)
	if err != nil {
		return err
	}
	x := &system{name: grpcProxy, bin: peer.bin, ready: askOpen, args: func(_ string, port, _ int) []string {
		return []string{"grpc-proxy", "start", "--endpoints", behind.addr, "--listen-addr", loopback(port), "--max-concurrent-streams", strconv.Itoa(maxClients)}
	}}
	above, err := x.start(ctx, dir, watched{})
	if err != nil {
		return err
	}
	defer above.kill()
	list := []contender{{name: cachedGRPC, dial: dialGRPC}, {name: grpcProxy, dial: dialGRPC}}
	for _, set := range []string{rangeAll, rangeHot} {
		o := b.options
		if set == rangeHot {
			o.keys = min(o.keys, hotKeys)
		}
		err := b.rounds(ctx, list, func(round, clients int, c contender) error {
			v := p.proxy
			if c.name == grpcProxy {
				v = above
			}
			out, err := drive(ctx, o, v, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: get(false)})
			if err != nil {
				return err
			}
			b.report.add(cell{"proxy", set, c.name, clients}, round, out.values())
			return nil
		})
		if err != nil {
			return err
		}
		b.loadTable("Serializable "+set+" over gRPC, from "+strconv.Itoa(o.keys)+" keys", "proxy", set, list)
	}
	var claims []claim
	for _, n := range b.clients {
		for _, set := range []string{rangeAll, rangeHot} {
			num, den := cell{"proxy", set, cachedGRPC, n}, cell{"proxy", set, grpcProxy, n}
			claims = append(claims,
				claim{what: set + ": rate over etcd's grpc-proxy, " + clients(n), num: num, den: den, value: vRate, target: 3, must: 2},
				claim{what: set + ": server CPU over it, " + clients(n), num: num, den: den, value: vCPU})
		}
	}
	b.report.claims("Serializable range over gRPC: ratios", claims)
	return nil
}
