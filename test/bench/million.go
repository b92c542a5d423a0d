package main

import (
	"context"
	"fmt"
)

// millionValue is the length of the values in the suite.
const millionValue = 100

// runMillion measures what a large store costs: the start, and memory once every key has been read. It is not part of
// all, because filling takes minutes.
func runMillion(ctx context.Context, b *bench) error {
	list, err := b.oneEach(ctx)
	if err != nil {
		return err
	}
	o := b.options
	o.keys, o.value = b.million, millionValue
	dirs, clean, err := b.filled(ctx, list, o)
	defer clean()
	if err != nil {
		return err
	}
	if err := b.startsFilled(ctx, list, dirs, "start million"); err != nil {
		return err
	}
	for round := range b.options.rounds {
		for _, c := range list {
			b.progress("reading %d keys, round %d of %d: %s", o.keys, round+1, b.options.rounds, c.system.name)
			if err := b.readWhole(ctx, c, dirs[c.system], o, round); err != nil {
				return fmt.Errorf("%s: %w", c.name, err)
			}
		}
	}
	b.restTable(fmt.Sprintf("%d keys of %d B", o.keys, o.value), list, []restLine{
		{"start to ready, ms", "start million", "ms", hundredth, "200 / 1000"},
		{"RSS after a full read", "read million", "rss_bytes", sized, "-"},
		{"RssAnon after a full read", "read million", "anon_bytes", sized, "40 / 60 MB"},
		{"RssAnon before it", "read million", "anon_before_bytes", sized, "-"},
	})
	return nil
}

// readWhole starts a server, reads every key once, and looks at its memory.
func (b *bench) readWhole(ctx context.Context, c contender, dir string, o options, round int) error {
	v, err := c.system.start(ctx, dir, watched{})
	if err != nil {
		return err
	}
	defer v.kill()
	before, err := readMemory(v.pid)
	if err != nil {
		return err
	}
	if err := readAll(ctx, o, v, c); err != nil {
		return err
	}
	after, err := readMemory(v.pid)
	if err != nil {
		return err
	}
	b.report.add(resting("read million", c.system.name), round, map[string]float64{
		"rss_bytes": float64(after.rss), "anon_bytes": float64(after.anon), "anon_before_bytes": float64(before.anon),
	})
	_, err = v.stop()
	return err
}
