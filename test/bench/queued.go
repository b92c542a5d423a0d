package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"time"
)

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

// The contenders of queued writes, as the tables name them, and the two loads.
const (
	whenCut     = "proxy, uplink cut"
	bareJournal = "net/http and a journal"

	queuedFast = "queue"
	queuedPace = "queue, paced"
)

// Devices that write now and then: connections, and writes a second of all of them.
const (
	paceClients = 32
	paceRate    = 200
)

// queuedPuts measures 202s with the member gone, beside a handler that does nothing but make a body durable, and the disk
// alone, in the same round: as fast as the clients go, which measures the CPU that they share with the server, and as
// devices come.
func (b *bench) queuedPuts(ctx context.Context) error {
	list := []contender{{name: whenCut, dial: dialQueued}, {name: bareJournal, dial: dialQueued}}
	fast := load{warmup: b.warmup, duration: b.duration, do: put}
	err := b.rounds(ctx, list, func(round, clients int, c contender) error {
		fast.clients = clients
		return b.queuedCell(ctx, cell{"proxy", queuedFast, c.name, clients}, round, c, fast)
	})
	if err != nil {
		return err
	}
	pace := load{clients: paceClients, warmup: b.warmup, duration: b.duration, do: put, every: time.Second * paceClients / paceRate, due: true}
	for round := range b.options.rounds {
		for _, c := range list {
			b.progress("%d writes a second, round %d of %d: %s", paceRate, round+1, b.options.rounds, c.name)
			if err := b.queuedCell(ctx, cell{"proxy", queuedPace, c.name, paceClients}, round, c, pace); err != nil {
				return err
			}
		}
	}
	b.loadTable("PUT answered with 202", "proxy", queuedFast, list)
	var rows [][]string
	var claims []claim
	row := func(title, what string, clients int) {
		for _, c := range list {
			x := cell{"proxy", what, c.name, clients}
			rows = append(rows, []string{title, c.name, b.ranged(x, vP50, hundredth), b.ranged(x, vP99, hundredth), b.ranged(x, vDiskP50, hundredth),
				b.ranged(x, vDiskP99, hundredth), b.ranged(x, vOverDisk, hundredth), b.report.figure(x, vCPU, whole)})
		}
		num, den := cell{"proxy", what, whenCut, clients}, cell{"proxy", what, bareJournal, clients}
		claims = append(claims,
			claim{what: "p99 over the floor's, " + title, num: num, den: den, value: vP99, less: true, target: 1.5, must: 3},
			claim{what: "server CPU over the floor's, " + title, num: num, den: den, value: vCPU})
	}
	row(fmt.Sprintf("%d PUT/s from %d", paceRate, paceClients), queuedPace, paceClients)
	for _, n := range b.clients {
		row(clients(n), queuedFast, n)
	}
	b.report.table("202 beside 4 KiB append and fdatasync", []string{"load", "contender", "p50 ms", "p99 ms", "disk p50 ms", "disk p99 ms", "p99 over disk p99 (must 3)", "CPU us"}, rows)
	b.report.claims("202: ratios", claims)
	return nil
}

// What a round says of the disk alone.
const (
	vDiskP50  = "disk_p50_ms"
	vDiskP99  = "disk_p99_ms"
	vOverDisk = "p99_over_disk"
)

// queuedCell is one cell of it. The disk alone is asked as often as the load asks.
func (b *bench) queuedCell(ctx context.Context, x cell, round int, c contender, l load) error {
	var pace time.Duration // of the load as a whole
	if l.due {
		pace = l.every / time.Duration(l.clients)
	}
	p50, p99, err := probePaced(ctx, b.scratch, pace)
	if err != nil {
		return err
	}
	v, end, err := b.startQueued(ctx, c, "", watched{})
	if err != nil {
		return err
	}
	defer end()
	out, err := drive(ctx, b.options, v, c, l)
	if err != nil {
		return err
	}
	values := out.values()
	values[vDiskP50], values[vDiskP99] = p50, p99
	values[vOverDisk] = values[vP99] / p99
	b.report.add(x, round, values)
	return nil
}

// startQueued starts what answers with 202: the floor, or a proxy on a directory, or an empty one if that is "", whose member
// is gone.
func (b *bench) startQueued(ctx context.Context, c contender, dir string, w watched) (v *server, end func(), err error) {
	if c.name == bareJournal {
		s, err := journalFloor()
		if err != nil {
			return nil, nil, err
		}
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
	p, err := b.startPairOn(ctx, "", dir, w, "--queue-prefixes", queued)
	if err != nil {
		return nil, nil, err
	}
	p.member.kill()
	if err := findOut(ctx, b.options, p.proxy, c); err != nil {
		p.end(b)
		return nil, nil, err
	}
	return p.proxy, func() { p.end(b) }, nil
}

// queuedWear measures what a queued write costs a disk, on a disk of its own, beside one block for each sync. The syncs
// are counted by strace, which slows the server down, in the same run.
func (b *bench) queuedWear(ctx context.Context) error {
	if err := b.disks(ctx); err != nil {
		b.withoutDisks(err)
		return ctx.Err()
	}
	if !installed("strace") {
		b.report.print("\nThe disk under queued writes was not measured: strace is not installed.\n")
		return nil
	}
	c := contender{name: whenCut, dial: dialQueued}
	var rows [][]string
	for _, n := range []int{1, 64} {
		x := cell{"proxy", "queue, wear", c.name, n}
		for round := range b.options.rounds {
			b.progress("what 202s write, %s, round %d of %d", clients(n), round+1, b.options.rounds)
			values, err := b.queuedWears(ctx, c, n)
			if err != nil {
				return fmt.Errorf("what 202s write, %s: %w", clients(n), err)
			}
			b.report.add(x, round, values)
		}
		rows = append(rows, []string{strconv.Itoa(n), b.ranged(x, vDiskRunning, sized), b.ranged(x, vSyncs, hundredth), b.ranged(x, "blocks_per_sync", hundredth)})
	}
	b.report.table("202: written to a disk of its own, under strace", []string{"clients", "bytes/PUT", "fsyncs/PUT", "4 KiB blocks for each fsync"}, rows)
	return nil
}

func (b *bench) queuedWears(ctx context.Context, c contender, clients int) (map[string]float64, error) {
	image, dir, err := b.image(ctx)
	defer b.discard(dir)
	if err != nil {
		return nil, err
	}
	trace := filepath.Join(b.scratch, "trace")
	defer os.Remove(trace)
	v, end, err := b.startQueued(ctx, c, filepath.Join(dir, "mnt"), watched{image: image, trace: trace})
	if err != nil {
		return nil, err
	}
	defer end()
	before, err := v.disk.wrote()
	if err != nil {
		return nil, err
	}
	begin := time.Now()
	out, err := drive(ctx, b.options, v, c, load{clients: clients, duration: b.duration, do: put})
	if err != nil {
		return nil, err
	}
	done := time.Now()
	after, err := v.disk.wrote()
	if err != nil {
		return nil, err
	}
	if _, err := v.stop(); err != nil {
		return nil, err
	}
	text, err := os.ReadFile(trace)
	if err != nil {
		return nil, err
	}
	calls, n := float64(countCalls(string(text), begin, done)), float64(out.all)
	return map[string]float64{vDiskRunning: float64(after-before) / n, vSyncs: calls / n, "blocks_per_sync": float64(after-before) / calls / 4096}, nil
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
