package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
)

// The names of values that more than one table uses.
const (
	vRate    = "rate_per_s"
	vP50     = "p50_ms"
	vP99     = "p99_ms"
	vCPU     = "server_cpu_us_per_op"
	vDisk    = "device_bytes_per_op"  // what a disk of its own was told to write
	vCharged = "charged_bytes_per_op" // what the kernel charges the process with: see disk
	vSelfCPU = "generator_cpu_us_per_op"
	vSyncs   = "fsyncs_per_op"
	vOthers  = "cpu_of_others"

	vCPUWindow = "server_cpu_us_per_op_in_window"
)

// runPut measures writes. Each cell has a server of its own on an empty data directory, so that no round inherits the
// history of another. CPU is counted from the first operation to the end of the process, over all operations, so that
// whatever a server puts off (a lazy flush, a batched commit) is on its bill.
func runPut(ctx context.Context, b *bench) error {
	list, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	err = b.rounds(ctx, list, func(round, clients int, c contender) error {
		return b.putCell(ctx, cell{"put", "put", c.name, clients}, round, c)
	})
	if err != nil {
		return err
	}
	b.loadTable("PUT", "put", "put", list)
	if err := b.wear(ctx, list); err != nil {
		return err
	}
	b.report.claims("PUT: ratios", b.putClaims())
	return b.syncs(ctx, list)
}

// putCell is one cell of it.
func (b *bench) putCell(ctx context.Context, x cell, round int, c contender) error {
	dir, err := b.tempDir()
	if err != nil {
		return err
	}
	defer b.discard(dir)
	v, err := c.system.start(ctx, dir, watched{})
	if err != nil {
		return err
	}
	defer v.kill()
	out, err := drive(ctx, b.options, v, c, load{clients: x.clients, warmup: b.warmup, duration: b.duration, do: put})
	if err != nil {
		return err
	}
	life, err := v.stop()
	if err != nil {
		return err
	}
	b.report.add(x, round, out.whole(life))
	return nil
}

// runGet measures reads, of a store that was filled, stopped and started again, so that no answer comes from what a
// server has not written out yet.
func runGet(ctx context.Context, b *bench) error {
	list, err := b.contenders(ctx)
	if err != nil {
		return err
	}
	dirs, clean, err := b.filled(ctx, list, b.options)
	defer clean()
	if err != nil {
		return err
	}
	for _, level := range []struct {
		what         string
		linearizable bool
	}{{linear, true}, {local, false}} {
		err := b.rounds(ctx, list, func(round, clients int, c contender) error {
			if c.name == redisRESP && !level.linearizable {
				return nil // it knows one level only
			}
			v, err := c.system.start(ctx, dirs[c.system], watched{})
			if err != nil {
				return err
			}
			defer v.kill()
			out, err := drive(ctx, b.options, v, c, load{clients: clients, warmup: b.warmup, duration: b.duration, do: get(level.linearizable)})
			if err != nil {
				return err
			}
			b.report.add(cell{"get", level.what, c.name, clients}, round, out.values())
			_, err = v.stop()
			return err
		})
		if err != nil {
			return err
		}
		b.loadTable("GET, "+level.what, "get", level.what, list)
	}
	b.report.claims("GET: ratios", b.getClaims())
	return nil
}

const (
	linear = "linearizable"
	local  = "local / serializable"
)

// rounds takes each cell, the contenders alternating within it.
func (b *bench) rounds(ctx context.Context, list []contender, do func(round, clients int, c contender) error) error {
	for _, n := range b.clients {
		for round := range b.options.rounds {
			for _, c := range list {
				b.progress("%s, round %d of %d: %s", clients(n), round+1, b.options.rounds, c.name)
				if err := do(round, n, c); err != nil {
					return fmt.Errorf("%s, %s: %w", c.name, clients(n), because(ctx, err))
				}
			}
		}
	}
	return nil
}

// values are the figures of the window.
func (out *outcome) values() map[string]float64 {
	n := float64(out.done)
	return map[string]float64{
		vRate:    n / out.end.Sub(out.begin).Seconds(),
		vP50:     ms(quantile(out.took, 0.50)),
		vP99:     ms(quantile(out.took, 0.99)),
		"max_ms": ms(quantile(out.took, 1)),
		vCPU:     us(out.window.cpu) / n,
		vCharged: float64(out.window.wrote) / n,
		vSelfCPU: us(out.self) / n,
		vOthers:  out.others(),
	}
}

// whole are the figures with CPU and bytes from the first operation to the end of the server, which used life in all.
func (out *outcome) whole(life counters) map[string]float64 {
	values, used, n := out.values(), life.minus(out.before), float64(out.all)
	values[vCPUWindow], values[vCPU] = values[vCPU], us(used.cpu)/n
	values[vCharged] = float64(used.wrote) / n
	return values
}

func (b *bench) loadTable(title, suite, what string, list []contender) {
	var rows [][]string
	for _, clients := range b.clients {
		for _, c := range list {
			x := cell{suite, what, c.name, clients}
			rate := figureOf(b.report.series(x, vRate))
			if rate.n == 0 {
				continue
			}
			show := func(name string, format func(float64) string) string { return b.report.figure(x, name, format) }
			rows = append(rows, []string{
				strconv.Itoa(clients), c.name, whole(rate.median), percent(rate.spread()),
				show(vP50, hundredth), show(vP99, hundredth), show(vCPU, whole), show(vSelfCPU, whole), show(vOthers, share),
			})
		}
	}
	b.report.table(title, []string{
		"clients", "contender", "rate/s", "spread", "p50 ms", "p99 ms", "server CPU us/op", "generator CPU us/op", "CPU of others",
	}, rows)
}

func (b *bench) putClaims() []claim {
	at := func(name string, clients int) cell { return cell{"put", "put", name, clients} }
	var list []claim
	for _, n := range b.clients {
		with := ", " + clients(n)
		add := func(c claim) { c.what += with; list = append(list, c) }
		target, must := 3.0, 2.0
		if n >= 256 {
			target, must = 1.6, 1.3
		}
		if n == 1 {
			target, must = 0, 0
		}
		add(claim{what: "rate, gRPC over etcd gRPC", num: at(hfGRPC, n), den: at(etcdGRPC, n), value: vRate, target: target, must: must})
		add(claim{what: "p99, gRPC over etcd gRPC", num: at(hfGRPC, n), den: at(etcdGRPC, n), value: vP99, target: 1, must: 1, less: true})
		add(claim{what: "rate, REST over etcd JSON gateway", num: at(hfREST, n), den: at(etcdJSON, n), value: vRate, target: 4, must: 2.5})
		add(claim{what: "rate, REST over etcd gRPC", num: at(hfREST, n), den: at(etcdGRPC, n), value: vRate})
		add(claim{what: "p99, REST over etcd gRPC", num: at(hfREST, n), den: at(etcdGRPC, n), value: vP99, target: 1, must: 1, less: true})
		add(claim{what: "server CPU, REST over etcd gRPC", num: at(hfREST, n), den: at(etcdGRPC, n), value: vCPU, target: 0.4, must: 0.6, less: true})
		if n == 1 {
			add(claim{what: "p50, REST over etcd gRPC", num: at(hfREST, n), den: at(etcdGRPC, n), value: vP50, target: 0.8, must: 1, less: true})
			add(claim{what: "disk bytes, REST over etcd gRPC", num: worn(hfREST, n), den: worn(etcdGRPC, n), value: vDisk})
		} else {
			add(claim{what: "disk bytes, REST over etcd gRPC", num: worn(hfREST, n), den: worn(etcdGRPC, n), value: vDisk, target: 0.5, must: 2.0 / 3, less: true})
		}
		add(claim{what: "rate, REST over Redis", num: at(hfREST, n), den: at(redisRESP, n), value: vRate, target: 0.5, must: 0.3})
	}
	return list
}

func (b *bench) getClaims() []claim {
	var list []claim
	for _, what := range []string{linear, local} {
		for _, n := range b.clients {
			at := func(name string) cell { return cell{"get", what, name, n} }
			with := fmt.Sprintf(", %s, %s", what, clients(n))
			target, must := 1.4, 1.15
			if what == local {
				target, must = 0, 0
			}
			list = append(list,
				claim{what: "rate, gRPC over etcd gRPC" + with, num: at(hfGRPC), den: at(etcdGRPC), value: vRate, target: target, must: must},
				claim{what: "rate, REST over etcd gRPC" + with, num: at(hfREST), den: at(etcdGRPC), value: vRate, target: target, must: must},
				claim{what: "rate, REST over etcd JSON gateway" + with, num: at(hfREST), den: at(etcdJSON), value: vRate},
				claim{what: "server CPU, REST over etcd gRPC" + with, num: at(hfREST), den: at(etcdGRPC), value: vCPU},
			)
		}
	}
	return list
}

// filled makes a data directory with all keys for each system of list, over its first contender. clean removes them.
func (b *bench) filled(ctx context.Context, list []contender, o options) (dirs map[*system]string, clean func(), err error) {
	dirs = map[*system]string{}
	clean = func() {
		for _, d := range dirs {
			b.discard(d)
		}
	}
	for _, c := range list {
		if dirs[c.system] != "" {
			continue
		}
		b.progress("filling %s with %d keys", c.system.name, o.keys)
		dir, err := b.tempDir()
		if err != nil {
			return dirs, clean, err
		}
		dirs[c.system] = dir
		if err := fillDir(ctx, dir, c, o); err != nil {
			return dirs, clean, fmt.Errorf("fill %s: %w", c.system.name, err)
		}
	}
	return dirs, clean, nil
}

func fillDir(ctx context.Context, dir string, c contender, o options) error {
	v, err := c.system.start(ctx, dir, watched{})
	if err != nil {
		return err
	}
	defer v.kill()
	if err := fill(ctx, o, v, c); err != nil {
		return err
	}
	_, err = v.stop()
	return err
}

func (b *bench) tempDir() (string, error) { return os.MkdirTemp(b.scratch, "data-") }

// discard removes a data directory at once, so that the disk does not fill up; what remains goes with the scratch
// directory, whose removal reports errors.
func (b *bench) discard(dir string) { _ = os.RemoveAll(filepath.Clean(dir)) }

func clients(n int) string {
	if n == 1 {
		return "1 client"
	}
	return strconv.Itoa(n) + " clients"
}
