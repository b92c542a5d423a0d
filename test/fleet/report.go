package main

import (
	"errors"
	"fmt"
)

// What must hold; docs/testing.md has the targets of size and CPU, which want a machine at rest and many proxies.
const (
	putMost    = 1.0 // s: the 99th percentile of the PUTs of the member's client in a storm
	spreadMost = 0.8 // of the fleet may come back within a tenth of the time
	spreadFrom = 500 // proxies: of fewer it says nothing
)

func (f *fleet) print() {
	ms := func(l latency) string {
		return fmt.Sprintf("%.1f / %.1f / %.1f", 1000*l.P50, 1000*l.P99, 1000*l.Max)
	}
	fmt.Printf("\n## %d proxies on one member, %d of them light\n\n| what | | target / must |\n|---|---|---|\n", f.Boxes, f.Light)
	for _, row := range [][3]string{
		{"joined and in step after, s", fmt.Sprintf("%.1f", f.JoinSeconds), "-"},
		{"memory each at the member, at rest, kB (RssAnon; with a cache fed, a control stream and the record of the node)", fmt.Sprintf("%.1f", float64(f.AnonEach)/1000), "65 / 90"},
		{"the same when all are back after the outage / when that is over, kB", fmt.Sprintf("%.1f / %.1f", float64(f.AnonPeak)/1000, float64(f.AnonAfter)/1000), "-"},
		{fmt.Sprintf("CPU of the member at rest, %% of a core, keep-alives each %s; must for 10,000", f.silence), fmt.Sprintf("%.2f", 100*f.IdleCPU), "2 / 10"},
		{fmt.Sprintf("back after an outage of %v: first / median / last, s", f.outage), fmt.Sprintf("%.1f / %.1f / %.1f", f.BackFirst, f.BackMedian, f.BackLast), fmt.Sprintf("- / %.0f", f.within.Seconds())},
		{"of them in the busiest tenth of that time", fmt.Sprintf("%.0f %%", 100*f.BusiestTen), "-"},
		{"CPU of the member meanwhile, % of a core", fmt.Sprintf("%.0f", 100*f.StormCPU), "-"},
		{"PUT of a client of the member, p50 / p99 / longest, ms: at rest", ms(f.PutIdle), "-"},
		{"during the outage", ms(f.PutOutage), "-"},
		{"while all come back", ms(f.PutStorm), fmt.Sprintf("- / p99 %.0f", 1000*putMost)},
		{fmt.Sprintf("queued writes, of %d: lost / applied twice", f.Boxes*f.writes), fmt.Sprintf("%d / %d", f.Lost, f.Doubled), "0 / 0"},
	} {
		fmt.Printf("| %s | %s | %s |\n", row[0], row[1], row[2])
	}
}

// judge says what does not hold.
func (f *fleet) judge() error {
	var errs []error
	if f.Lost+f.Doubled > 0 {
		errs = append(errs, fmt.Errorf("%d queued writes are lost, %d were applied twice", f.Lost, f.Doubled))
	}
	if f.PutStorm.P99 > putMost {
		errs = append(errs, fmt.Errorf("of a client's PUTs at the member 1 %% took %.1f s and more while the fleet came back, %.0f s is allowed", f.PutStorm.P99, putMost))
	}
	if f.Boxes >= spreadFrom && f.BusiestTen > spreadMost {
		errs = append(errs, fmt.Errorf("%.0f %% of the fleet came back in a tenth of the time: it is not spread", 100*f.BusiestTen))
	}
	return errors.Join(errs...)
}
