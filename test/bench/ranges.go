package main

import (
	"context"
	"strconv"
)

// hotKeys is a working set that etcd's grpc-proxy has room for: it keeps 2048 answers.
const hotKeys = 1000

// listKeys is how many keys a list has.
const listKeys = 1000

// rangeSet is what ranges are asked for.
type rangeSet struct {
	name         string
	keys         int // that they are spread over
	do           operation
	target, must float64 // of the rate over grpc-proxy's
}

// cachedRanges measures serializable ranges over gRPC that a proxy has, beside etcd's grpc-proxy in front of etcd, and beside a
// server that only answers: where grpc-proxy has the answer too, not much lies between those two.
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
	yard, end, err := b.startYard(ctx)
	if err != nil {
		return err
	}
	defer end()
	sets := []rangeSet{
		{"range of one of all keys", b.keys, get(false), 3, 2},
		{"range of one of few keys", min(b.keys, hotKeys), get(false), 0, 0},
		{"range of many keys", b.keys, listOf(min(b.keys, listKeys)), 0, 0},
	}
	list := []contender{{name: cachedGRPC, dial: dialGRPC}, {name: grpcProxy, dial: dialGRPC}, {name: floorGRPC, dial: dialGRPC}}
	servers := map[string]*server{cachedGRPC: p.proxy, grpcProxy: above, floorGRPC: yard}
	for _, set := range sets {
		o := b.options
		o.keys = set.keys
		err := b.rounds(ctx, list, func(round, clients int, c contender) error {
			out, err := drive(ctx, o, servers[c.name], c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: set.do})
			if err != nil {
				return err
			}
			b.report.add(cell{"proxy", set.name, c.name, clients}, round, out.values())
			return nil
		})
		if err != nil {
			return err
		}
		b.loadTable("Serializable "+set.name+" over gRPC, from "+strconv.Itoa(o.keys)+" keys", "proxy", set.name, list)
	}
	b.report.claims("Serializable range over gRPC: ratios", b.rangeClaims(sets))
	return nil
}

func (b *bench) rangeClaims(sets []rangeSet) (claims []claim) {
	for _, n := range b.clients {
		for _, set := range sets {
			at := func(name string) cell { return cell{"proxy", set.name, name, n} }
			for _, c := range []claim{
				{what: "rate over etcd's grpc-proxy", num: at(cachedGRPC), den: at(grpcProxy), value: vRate, target: set.target, must: set.must},
				{what: "server CPU over it", num: at(cachedGRPC), den: at(grpcProxy), value: vCPU},
				{what: "rate of a server that only answers over it: the most that can be had", num: at(floorGRPC), den: at(grpcProxy), value: vRate},
				{what: "rate over a server that only answers", num: at(cachedGRPC), den: at(floorGRPC), value: vRate},
				{what: "server CPU over that", num: at(cachedGRPC), den: at(floorGRPC), value: vCPU},
			} {
				c.what = set.name + ": " + c.what + ", " + clients(n)
				claims = append(claims, c)
			}
		}
	}
	return claims
}

// startYard starts the floor of calls over gRPC, which end kills.
func (b *bench) startYard(ctx context.Context) (v *server, end func(), err error) {
	s, err := floor(b.value)
	if err != nil {
		return nil, nil, err
	}
	return b.startAlone(ctx, s)
}

// startAlone starts a server in an empty directory; end kills it.
func (b *bench) startAlone(ctx context.Context, s *system) (v *server, end func(), err error) {
	dir, err := b.tempDir()
	if err != nil {
		return nil, nil, err
	}
	if v, err = s.start(ctx, dir, watched{}); err != nil {
		b.discard(dir)
		return nil, nil, err
	}
	return v, func() { v.kill(); b.discard(dir) }, nil
}
