package main

import (
	"context"
	"fmt"
	"strconv"
)

// wear measures what PUTs write to the disk, in runs apart from the timed ones, each server on a disk of its own (a loop
// device is slower than the disk below it). Bytes are counted from the first PUT to the end of the server.
func (b *bench) wear(ctx context.Context, list []contender) error {
	if err := b.disks(ctx); err != nil {
		b.withoutDisks(err)
		return ctx.Err()
	}
	list = onePerSystem(list)
	run := load{warmup: b.warmup, duration: b.duration, do: put}
	err := b.rounds(ctx, list, func(round, clients int, c contender) error {
		v, dir, err := b.startEmpty(ctx, c.system, true)
		defer b.discard(dir)
		if err != nil {
			return err
		}
		defer v.kill()
		run.clients = clients
		values, err := wearOf(ctx, b.options, v, c, run)
		if err != nil {
			return err
		}
		b.report.add(worn(c.name, clients), round, values)
		return nil
	})
	if err != nil {
		return err
	}
	var rows [][]string
	for _, clients := range b.clients {
		for _, c := range list {
			x := worn(c.name, clients)
			rows = append(rows, []string{strconv.Itoa(clients), c.name, b.ranged(x, vDisk, sized), b.ranged(x, vCharged, sized), b.report.figure(x, vRate, whole)})
		}
	}
	b.report.table("PUT: written to a disk of its own", []string{"clients", "contender", "bytes/PUT", "charged to the process", "rate/s there"}, rows)
	return nil
}

func worn(contender string, clients int) cell { return cell{"put", "wear", contender, clients} }

// withoutDisks says in the report why bytes are not counted.
func (b *bench) withoutDisks(why error) {
	b.report.print("\nBytes written to disk were not counted, which takes root, loop devices, mkfs.ext4, mount, unshare and losetup: %v.\n", why)
}

// wearOf drives a server that has a disk of its own, stops it, and returns the figures with the bytes that its disk was
// told to write.
func wearOf(ctx context.Context, o options, v *server, c contender, l load) (map[string]float64, error) {
	before, err := v.disk.wrote()
	if err != nil {
		return nil, err
	}
	out, err := drive(ctx, o, v, c, l)
	if err != nil {
		return nil, err
	}
	running, err := v.disk.wrote()
	if err != nil {
		return nil, err
	}
	life, err := v.stop()
	if err != nil {
		return nil, err
	}
	after, err := v.disk.wrote()
	if err != nil {
		return nil, fmt.Errorf("%s has stopped: %w", v.name, err)
	}
	values := out.whole(life)
	n := float64(out.all)
	values["puts"] = n
	values[vDisk] = float64(after-before) / n
	values[vDiskRunning] = float64(running-before) / n
	return values, nil
}

// vDiskRunning leaves out what a server writes when it stops.
const vDiskRunning = "device_bytes_per_op_running"
