package main

import (
	"context"
	"time"

	"golang.org/x/sync/errgroup"
)

// runTrickle measures the wear of flash: one PUT a second, the servers side by side, each on a disk of its own. What a
// server writes when it stops is counted too, because it is what it had put off.
func runTrickle(ctx context.Context, b *bench) error {
	list, err := b.oneEach(ctx)
	if err != nil {
		return err
	}
	if err := b.disks(ctx); err != nil {
		b.withoutDisks(err)
		return ctx.Err()
	}
	for round := range b.options.rounds {
		b.progress("one PUT a second for %v, round %d of %d", b.trickle, round+1, b.options.rounds)
		if err := b.trickleRound(ctx, list, round); err != nil {
			return err
		}
	}
	var rows [][]string
	for _, c := range list {
		x := trickling(c.name)
		rows = append(rows, []string{
			c.name, b.report.figure(x, "puts", whole), b.ranged(x, vDisk, sized), b.ranged(x, vDiskRunning, sized), b.ranged(x, vCharged, sized),
		})
	}
	b.report.table("Trickle: one PUT a second", []string{"contender", "PUTs", "bytes/PUT, with the stop", "while running", "charged to the process"}, rows)
	b.report.claims("Trickle: ratio", []claim{{
		what: "disk bytes per PUT, REST over etcd gRPC", num: trickling(hfREST), den: trickling(etcdGRPC),
		value: vDisk, target: 0.2, must: 1.0 / 3, less: true,
	}})
	return nil
}

func trickling(contender string) cell { return cell{"trickle", "trickle", contender, 1} }

func (b *bench) trickleRound(ctx context.Context, list []contender, round int) error {
	servers, end, err := b.startAll(ctx, list, true)
	defer end()
	if err != nil {
		return err
	}
	if err := sleep(ctx, settle); err != nil { // what a server writes about its own start is not a PUT's
		return err
	}
	figures := make([]map[string]float64, len(list))
	group, gctx := errgroup.WithContext(ctx)
	for i, c := range list {
		group.Go(func() (err error) {
			figures[i], err = wearOf(gctx, b.options, servers[i], c, load{clients: 1, duration: b.trickle, every: time.Second, do: put})
			return err
		})
	}
	if err := group.Wait(); err != nil {
		return err
	}
	for i, c := range list {
		b.report.add(trickling(c.name), round, figures[i])
	}
	return nil
}
