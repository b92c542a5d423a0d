package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"time"

	clientv3 "go.etcd.io/etcd/client/v3"
	"golang.org/x/sync/errgroup"
)

// lossyCell is one thing that the suite measures.
type lossyCell struct {
	name     string
	loss     string // in badlink's words
	rate     int    // writes a second, whether or not those before are answered; 0: clients write one after the other
	clients  int    // with rate 0; 0 of both: nobody writes
	follower bool   // the member asked is not the leader
	p99      [2]float64
	p999     [2]float64 // target and must, in round trips; zero: none
}

var lossyCells = []lossyCell{
	{name: "20 PUT/s, no loss", rate: 20},
	{name: "20 PUT/s, 2 %", loss: "loss 2%", rate: 20, p99: [2]float64{1.05, 1.2}, p999: [2]float64{1.2, 2.4}},
	{name: "20 PUT/s, 5 %", loss: "loss 5%", rate: 20, p99: [2]float64{1.05, 1.2}, p999: [2]float64{1.2, 2.4}},
	{name: "20 PUT/s, 10 %", loss: "loss 10%", rate: 20, p99: [2]float64{1.2, 1.5}, p999: [2]float64{2.4, 3}},
	{name: "20 PUT/s, 5 % in runs of 4", loss: "burst 5%/4", rate: 20, p99: [2]float64{1.05, 1.2}, p999: [2]float64{1.2, 2.4}},
	{name: "200 PUT/s, 5 %", loss: "loss 5%", rate: 200, p99: [2]float64{1.05, 1.2}, p999: [2]float64{1.2, 2.4}},
	{name: "20 PUT/s, 5 %, through a follower", loss: "loss 5%", rate: 20, follower: true, p99: [2]float64{2.2, 2.5}},
	{name: "1 client, no loss", clients: 1},
	{name: "64 clients, no loss", clients: 64},
	{name: "1 client, 5 %", loss: "loss 5%", clients: 1},
	{name: "64 clients, 5 %", loss: "loss 5%", clients: 64},
	{name: "idle, no loss"},
}

// Values of the suite.
const (
	vP90    = "p90_ms"
	vP999   = "p999_ms"
	vWire   = "wire_bytes_per_put"
	vSecond = "wire_bytes_per_second"
	vLate   = "emulator_late_p99_us"
	vClient = "client_late_p99_ms"
)

// lossyWarmup is long enough for either side to know its link.
const lossyWarmup = 10 * time.Second

// runLossy measures writes of three members over links of 50 ms that lose packets, beside as many of etcd's over the
// same links. Each cell has a cluster of its own, the systems take turns. The client sits beside the member it asks.
func runLossy(ctx context.Context, b *bench) (err error) {
	build, err := newBuilder(b.cache, b.product)
	if err != nil {
		return err
	}
	net, err := b.badNet(ctx, build)
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, net.close()) }()
	var more []string
	if b.noTCP {
		more = []string{"--link-tcp", "off"}
	}
	for round := range b.options.rounds {
		for _, x := range lossyCells {
			if !strings.Contains(x.name, b.only) {
				continue
			}
			for _, s := range b.set {
				if s.name != "holdfast" && s.name != "etcd" {
					continue
				}
				b.progress("%s, round %d of %d: %s", x.name, round+1, b.options.rounds, s.name)
				values, err := b.lossyCell(ctx, net, s, more, x)
				if err != nil {
					return fmt.Errorf("%s, %s: %w", s.name, x.name, because(ctx, err))
				}
				b.report.add(cell{"lossy", x.name, s.name, x.clients}, round, values)
			}
		}
	}
	b.lossyTables()
	return nil
}

func (b *bench) lossyCell(ctx context.Context, n *badNet, s *system, more []string, x lossyCell) (_ map[string]float64, err error) {
	dir, err := b.tempDir()
	if err != nil {
		return nil, err
	}
	defer b.discard(dir)
	if err := n.set(ctx, ""); err != nil {
		return nil, err
	}
	l, err := n.start(ctx, s, dir, more)
	defer func() { err = errors.Join(err, l.end()) }()
	if err != nil {
		return nil, err
	}
	leader, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	asked := leader
	if x.follower {
		asked = (leader + 1) % voters
	}
	if err := n.set(ctx, x.loss); err != nil {
		return nil, err
	}
	if _, err := b.write(ctx, l.clients[asked], x, lossyWarmup); err != nil {
		return nil, err
	}
	if _, err := n.stats(ctx); err != nil {
		return nil, err
	}
	begin := time.Now()
	w, err := b.write(ctx, l.clients[asked], x, b.duration)
	if err != nil {
		return nil, err
	}
	elapsed := time.Since(begin)
	c, err := n.stats(ctx)
	if err != nil {
		return nil, err
	}
	if err := n.set(ctx, ""); err != nil {
		return nil, err
	}
	now, err := l.leader(ctx)
	if err != nil {
		return nil, err
	}
	packets, bytes, lost := c.sum()
	v := map[string]float64{vLate: c.LateP99US, vSecond: bytes / elapsed.Seconds(), "leader_lost": 0, "failed": float64(w.failed), "lost_share": lost / max(packets, 1)}
	if now != leader {
		v["leader_lost"] = 1
	}
	if puts := float64(len(w.took)); puts > 0 {
		slices.Sort(w.took)
		slices.Sort(w.late)
		v[vClient] = ms(quantile(w.late, .99))
		took := w.took
		v["puts"], v[vRate] = puts, puts/elapsed.Seconds()
		v[vP50], v[vP90] = ms(quantile(took, .5)), ms(quantile(took, .9))
		v[vP99], v[vP999] = ms(quantile(took, .99)), ms(quantile(took, .999))
		v[vWire], v["wire_packets_per_put"] = bytes/puts, packets/puts
	}
	return v, nil
}

// written is what became of the writes of a cell.
type written struct {
	took   []time.Duration // from when it was due to its answer
	late   []time.Duration // from when it was due to when this program got to it, which is the machine's doing
	failed int
}

// write does what the cell says for a while. A write that fails is counted, and among the times as long as it took to fail: on such
// a link a server may time out.
func (b *bench) write(ctx context.Context, c *clientv3.Client, x lossyCell, d time.Duration) (w written, _ error) {
	ctx, cancel := context.WithTimeoutCause(ctx, d+grace, fmt.Errorf("not answered within %v after the window", grace))
	defer cancel()
	var mu sync.Mutex
	one := func(ctx context.Context, g *generator, due time.Time) error {
		late := time.Since(due)
		_, err := c.Put(ctx, string(g.key()), string(g.next()))
		if ctx.Err() != nil {
			return context.Cause(ctx)
		}
		mu.Lock()
		defer mu.Unlock()
		w.took, w.late = append(w.took, time.Since(due)), append(w.late, late)
		if err != nil {
			w.failed++
			b.progress("%s: a write failed: %v", x.name, err)
		}
		return nil
	}
	group, ctx := errgroup.WithContext(ctx)
	begin := time.Now()
	end := begin.Add(d)
	switch {
	case x.rate > 0:
		gap := time.Second / time.Duration(x.rate)
		for i := 0; ; i++ {
			due := begin.Add(time.Duration(i) * gap)
			if !due.Before(end) || sleepUntil(ctx, due) != nil {
				break
			}
			group.Go(func() error { return one(ctx, newGenerator(b.options, i), due) })
		}
	case x.clients > 0:
		for i := range x.clients {
			group.Go(func() error {
				g := newGenerator(b.options, i)
				for t := time.Now(); t.Before(end); t = time.Now() {
					if err := one(ctx, g, t); err != nil {
						return err
					}
				}
				return nil
			})
		}
	default:
		return w, sleepUntil(ctx, end)
	}
	err := group.Wait()
	return w, because(ctx, err)
}

func (b *bench) lossyTables() {
	both := []string{"holdfast", "etcd"}
	var rows, wire [][]string
	var claims []claim
	for _, x := range lossyCells {
		for _, name := range both {
			c := cell{"lossy", x.name, name, x.clients}
			if len(b.report.series(c, vSecond)) == 0 {
				continue
			}
			tail := []string{b.report.figure(c, "failed", whole), b.report.figure(c, "leader_lost", whole), b.report.figure(c, vClient, hundredth), b.report.figure(c, vLate, whole)}
			if x.rate > 0 {
				row := []string{x.name, name}
				for _, v := range []string{vP50, vP90, vP99, vP999} {
					row = append(row, b.report.figure(c, v, whole))
				}
				rows = append(rows, append(row, tail...))
			}
			perDay := func(v float64) string { return sized(v * 86400 / voters) }
			wire = append(wire, []string{
				x.name, name, b.report.figure(c, vWire, whole), b.report.figure(c, "wire_packets_per_put", hundredth),
				b.report.figure(c, vRate, whole), b.report.figure(c, vSecond, sized), b.report.figure(c, vSecond, perDay),
			})
		}
		ours, his := cell{"lossy", x.name, both[0], x.clients}, cell{"lossy", x.name, both[1], x.clients}
		value := vP99
		if x.rate == 0 {
			value = vWire
		}
		if x.rate+x.clients == 0 {
			value = vSecond
		}
		claims = append(claims, claim{what: value + ", " + x.name, num: ours, den: his, value: value})
		if len(b.report.series(ours, vP99)) > 0 {
			b.report.roundTrips(x, ours)
		}
	}
	b.report.table("PUT over links of 50 ms, ms from when it was due; 25 ms each way", []string{
		"cell", "system", "p50", "p90", "p99", "p99.9", "failed", "another leader", "client late p99", "emulator late p99, us",
	}, rows)
	b.report.table("Bytes on the wire, IP headers included, all three links together", []string{
		"cell", "system", "bytes/PUT", "packets/PUT", "PUT/s", "a second", "a day and link",
	}, wire)
	b.report.claims("Lossy links: Holdfast over etcd", claims)
}

// roundTrips says whether a cell is within its bounds, which are in round trips and not ratios of two systems.
func (r *report) roundTrips(x lossyCell, c cell) {
	for _, bound := range []struct {
		what, value string
		want        [2]float64
	}{{"p99", vP99, x.p99}, {"p99.9", vP999, x.p999}} {
		if bound.want[0] == 0 {
			continue
		}
		got := figureOf(r.series(c, bound.value)).median / ms(2*oneWay)
		k := claim{target: bound.want[0], must: bound.want[1], less: true}
		r.print("\n%s, %s: %.2f RTT, wanted %s: %s\n", x.name, bound.what, got, k.wanted(), k.verdict(got))
	}
}
