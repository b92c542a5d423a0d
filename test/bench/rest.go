package main

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"time"
)

// settle is how long a fresh server is left alone before its idleness is measured.
const settle = 5 * time.Second

// runRest measures what a server costs that nobody uses: binary, starts, memory, CPU, disk.
func runRest(ctx context.Context, b *bench) error {
	list, err := b.oneEach(ctx)
	if err != nil {
		return err
	}
	for _, c := range list {
		info, err := os.Stat(c.system.bin)
		if err != nil {
			return err
		}
		b.report.add(resting("binary", c.system.name), 0, map[string]float64{"bytes": float64(info.Size())})
	}
	if err := b.startsEmpty(ctx, list); err != nil {
		return err
	}
	dirs, clean, err := b.filled(ctx, list, b.options)
	defer clean()
	if err != nil {
		return err
	}
	if err := b.startsFilled(ctx, list, dirs, "start with data"); err != nil {
		return err
	}
	if err := b.idleness(ctx, list); err != nil {
		return err
	}
	b.restTable("At rest", list, []restLine{
		{"binary, stripped", "binary", "bytes", sized, "28 / 32 MB"},
		{"start to ready, empty, ms", "start empty", "ms", hundredth, "50 / 300"},
		{fmt.Sprintf("start to ready, %d keys, ms", b.keys), "start with data", "ms", hundredth, "-"},
		{"RSS", "idle", "rss_bytes", sized, "25 / 32 MB"},
		{"RssAnon", "idle", "anon_bytes", sized, "-"},
		{"threads", "idle", "threads", whole, "-"},
		{"goroutines", "idle", "goroutines", whole, "-"},
		{"CPU", "idle", "cpu", percent, "0.3 / 0.7 %"},
		{fmt.Sprintf("written to disk in %v", b.idle), "idle", "disk_bytes", sized, "0"},
		{"empty data directory", "idle", "dir_bytes", sized, "5 / 80 MB"},
	})
	return nil
}

// oneEach is one way to reach each system that says over HTTP how it is.
func (b *bench) oneEach(ctx context.Context) ([]contender, error) {
	all, err := b.contenders(ctx)
	if err != nil {
		return nil, err
	}
	return slices.DeleteFunc(onePerSystem(all), func(c contender) bool { return c.name == redisRESP }), nil
}

func (b *bench) startsEmpty(ctx context.Context, list []contender) error {
	for round := range b.starts {
		for _, c := range list {
			b.progress("start %d of %d, empty: %s", round+1, b.starts, c.system.name)
			dir, err := b.tempDir()
			if err != nil {
				return err
			}
			err = b.measureStart(ctx, c, dir, "start empty", round)
			b.discard(dir)
			if err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) startsFilled(ctx context.Context, list []contender, dirs map[*system]string, what string) error {
	for round := range b.starts {
		for _, c := range list {
			b.progress("%s, %d of %d: %s", what, round+1, b.starts, c.system.name)
			if err := b.measureStart(ctx, c, dirs[c.system], what, round); err != nil {
				return err
			}
		}
	}
	return nil
}

func (b *bench) measureStart(ctx context.Context, c contender, dir, what string, round int) error {
	v, err := c.system.start(ctx, dir, watched{})
	if err != nil {
		return err
	}
	defer v.kill()
	b.report.add(resting(what, c.system.name), round, map[string]float64{"ms": ms(v.started)})
	_, err = v.stop()
	return err
}

// idleness leaves all servers alone, side by side: they do next to nothing, so they do not disturb each other.
func (b *bench) idleness(ctx context.Context, list []contender) error {
	servers, end, err := b.startAll(ctx, list, false)
	defer end()
	if err != nil {
		return err
	}
	if err := sleep(ctx, settle); err != nil {
		return err
	}
	for round := range b.options.rounds {
		b.progress("idle for %v, round %d of %d", b.idle, round+1, b.options.rounds)
		var before []counters
		for _, v := range servers {
			c, err := v.counters()
			if err != nil {
				return err
			}
			before = append(before, c)
		}
		if err := sleep(ctx, b.idle); err != nil {
			return err
		}
		for i, v := range servers {
			values, err := v.atRest(ctx, before[i], b.idle)
			if err != nil {
				return err
			}
			b.report.add(resting("idle", v.name), round, values)
		}
	}
	return nil
}

// atRest is what a server holds, and has used since.
func (v *server) atRest(ctx context.Context, since counters, window time.Duration) (map[string]float64, error) {
	now, err := v.counters()
	if err != nil {
		return nil, err
	}
	used := now.minus(since)
	mem, err := readMemory(v.pid)
	if err != nil {
		return nil, err
	}
	disk, err := allocated(v.dir)
	if err != nil {
		return nil, err
	}
	page, err := fetch(ctx, v.addr, "/metrics")
	if err != nil {
		return nil, err
	}
	goroutines, ok := metric(page, "go_goroutines")
	if !ok {
		return nil, fmt.Errorf("%s: no go_goroutines in /metrics", v.name)
	}
	return map[string]float64{
		"cpu": used.cpu.Seconds() / window.Seconds(), "disk_bytes": float64(used.wrote),
		"rss_bytes": float64(mem.rss), "anon_bytes": float64(mem.anon), "threads": float64(mem.threads),
		"goroutines": goroutines, "dir_bytes": float64(disk),
	}, nil
}

// startAll starts a server of each on an empty directory, or an empty disk of its own. end kills them and removes what
// they wrote.
func (b *bench) startAll(ctx context.Context, list []contender, ownDisk bool) (servers []*server, end func(), err error) {
	var dirs []string
	end = func() {
		for _, v := range servers {
			v.kill()
		}
		for _, d := range dirs {
			b.discard(d)
		}
	}
	for _, c := range list {
		v, dir, err := b.startEmpty(ctx, c.system, ownDisk)
		dirs = append(dirs, dir)
		if err != nil {
			return servers, end, err
		}
		servers = append(servers, v)
	}
	return servers, end, nil
}

// startEmpty starts a server on an empty directory. dir is what to discard afterwards, whatever err is.
func (b *bench) startEmpty(ctx context.Context, s *system, ownDisk bool) (v *server, dir string, err error) {
	if !ownDisk {
		if dir, err = b.tempDir(); err != nil {
			return nil, dir, err
		}
		v, err = s.start(ctx, dir, watched{})
		return v, dir, err
	}
	image, dir, err := b.image(ctx)
	if err != nil {
		return nil, dir, err
	}
	v, err = s.start(ctx, filepath.Join(dir, "mnt"), watched{image: image})
	return v, dir, err
}

// restLine is a line of a table with a column for each system.
type restLine struct {
	title, what, value string
	format             func(float64) string
	wanted             string
}

func (b *bench) restTable(title string, list []contender, lines []restLine) {
	head := []string{"what"}
	for _, c := range list {
		head = append(head, c.system.name)
	}
	var rows [][]string
	for _, l := range lines {
		row := []string{l.title}
		for _, c := range list {
			row = append(row, b.ranged(resting(l.what, c.system.name), l.value, l.format))
		}
		rows = append(rows, append(row, l.wanted))
	}
	b.report.table(title, append(head, "target / must"), rows)
}

func resting(what, system string) cell { return cell{"rest", what, system, 0} }

// ranged shows a median, and lowest and highest where they differ from it.
func (b *bench) ranged(c cell, value string, format func(float64) string) string {
	f := figureOf(b.report.series(c, value))
	if f.n == 0 {
		return "-"
	}
	if format(f.low) == format(f.high) {
		return format(f.median)
	}
	return fmt.Sprintf("%s (%s to %s)", format(f.median), format(f.low), format(f.high))
}
