package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"syscall"
)

// fleetOutage is long enough for connections to end: they do after 75 s without a packet.
const fleetOutage = "2m"

// runFleet has many proxies on one member lose the network and come back; see test/fleet, which prints its own table.
func runFleet(ctx context.Context, b *bench) error {
	s := b.system("holdfast")
	if s == nil {
		return errors.New("the suite measures the product: leave holdfast in -systems")
	}
	build, err := newBuilder(b.cache, b.product)
	if err != nil {
		return err
	}
	bin, err := build.build(ctx, build.product, "./test/fleet", "fleet")
	if err != nil {
		return err
	}
	for round := range b.options.rounds {
		b.progress("fleet of %d, round %d of %d", b.fleet, round+1, b.options.rounds)
		figures := filepath.Join(b.scratch, "fleet.json")
		cmd := exec.CommandContext(ctx, bin, "-agent", s.bin, "-boxes", strconv.Itoa(b.fleet), "-outage", fleetOutage, "-idle", b.idle.String(),
			"-within", "5m", "-dir", b.scratch, "-json", figures)
		cmd.Stdout, cmd.Stderr = b.report.out, os.Stderr
		cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
		if err := cmd.Run(); err != nil {
			return fmt.Errorf("fleet of %d: %w", b.fleet, err)
		}
		values, err := flat(figures)
		if err != nil {
			return err
		}
		b.report.add(cell{"fleet", "outage", "holdfast", b.fleet}, round, values)
	}
	return nil
}

// flat reads a document of figures; those in a part of it are named part.figure.
func flat(path string) (map[string]float64, error) {
	b, err := os.ReadFile(path)
	if err != nil {
		return nil, err
	}
	var doc map[string]any
	if err := json.Unmarshal(b, &doc); err != nil {
		return nil, fmt.Errorf("%s: %w", path, err)
	}
	values := map[string]float64{}
	var walk func(prefix string, part map[string]any)
	walk = func(prefix string, part map[string]any) {
		for name, v := range part {
			switch v := v.(type) {
			case float64:
				values[prefix+name] = v
			case map[string]any:
				walk(prefix+name+".", v)
			}
		}
	}
	walk("", doc)
	return values, nil
}
