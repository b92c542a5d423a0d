package main

import (
	"context"
	"errors"
	"fmt"
	"runtime"
	"slices"
	"time"

	"golang.org/x/sync/errgroup"
	"golang.org/x/sys/unix"
)

// operation is one thing a client does.
type operation func(client, *generator) error

// load is a number of clients that each do one operation after the other, first to warm up, then timed.
type load struct {
	clients  int
	warmup   time.Duration
	duration time.Duration
	every    time.Duration // start of one operation to the start of the next; 0: as fast as they go
	due      bool          // with every: a client begins at a moment of its own, and time counts from when an operation was due
	do       operation
}

// grace is how long operations may go on after the window, before a server that hangs is an error.
const grace = 20 * time.Second

// outcome is what a load did and cost.
type outcome struct {
	begin, end time.Time       // the timed window
	took       []time.Duration // of the operations that began in the window, sorted
	done       int64           // operations that ended in the window
	all        int64           // operations done, those outside the window too
	before     counters        // of the server, before the first operation
	window     counters        // used in the window
	self       time.Duration   // CPU of the load generator in the window
	machine    time.Duration   // CPU of everything on the machine in the window
}

// drive puts a load on a server. An operation that fails ends it: a rate with errors in it is not a rate.
func drive(ctx context.Context, o options, v *server, c contender, l load) (out outcome, err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, l.warmup+l.duration+grace,
		fmt.Errorf("%s did not answer within %v after the window", c.name, grace))
	defer cancel()
	d, err := c.dial(ctx, v.addr, l.clients)
	if err != nil {
		return out, err
	}
	defer func() { err = errors.Join(err, d.Close()) }()
	conns, err := dialAll(ctx, d, l.clients)
	defer closeAll(conns)
	if err != nil {
		return out, err
	}
	if out.before, err = v.counters(); err != nil {
		return out, err
	}

	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { closeAll(conns) })() // frees those that wait for an answer
	begin := time.Now().Add(l.warmup)
	end := begin.Add(l.duration)
	parts := make([]tally, l.clients)
	for i, conn := range conns {
		group.Go(func() (err error) {
			parts[i], err = l.repeat(ctx, conn, newGenerator(o, i), begin, end)
			return err
		})
	}
	group.Go(func() error { return out.watch(ctx, v, begin, end) })
	if err := group.Wait(); err != nil {
		return out, because(ctx, err)
	}
	for _, p := range parts {
		out.took = append(out.took, p.took...)
		out.done += p.done
		out.all += p.all
	}
	slices.Sort(out.took)
	if out.done == 0 {
		return out, fmt.Errorf("%s: not one operation in the window", c.name)
	}
	return out, nil
}

// tally is one client's part of an outcome.
type tally struct {
	took      []time.Duration
	done, all int64
}

// repeat does operations until end. The last one counts among the times however long it takes, so that a stall at the
// end of the window is not forgotten.
func (l load) repeat(ctx context.Context, c client, g *generator, begin, end time.Time) (sum tally, err error) {
	next := time.Now()
	if l.due {
		next = next.Add(time.Duration(g.rand.Float64() * float64(l.every)))
		if err := l.sleepUntil(ctx, next); err != nil {
			return sum, err
		}
	}
	for t := next; t.Before(end); {
		if err := l.do(c, g); err != nil {
			return sum, err
		}
		now := time.Now()
		sum.all++
		if !t.Before(begin) {
			sum.took = append(sum.took, now.Sub(t))
		}
		if !now.Before(begin) && now.Before(end) {
			sum.done++
		}
		t = now
		if l.every > 0 {
			next = next.Add(l.every)
			if err := l.sleepUntil(ctx, next); err != nil {
				return sum, err
			}
			if t = time.Now(); l.due {
				t = next // what is late because the one before was, is late
			}
		}
	}
	return sum, nil
}

// watch takes the counters at both ends of the window.
func (out *outcome) watch(ctx context.Context, v *server, begin, end time.Time) error {
	if err := sleepUntil(ctx, begin); err != nil {
		return err
	}
	a, err := v.counters()
	if err != nil {
		return err
	}
	self := ownCPU()
	machine, err := machineCPU()
	if err != nil {
		return err
	}
	out.begin = time.Now()
	if err := sleepUntil(ctx, end); err != nil {
		return err
	}
	out.end = time.Now()
	out.self = ownCPU() - self
	b, err := v.counters()
	if err != nil {
		return err
	}
	out.window = b.minus(a)
	now, err := machineCPU()
	out.machine = now - machine
	return err
}

// others is the share of the machine's CPU that went to neither the server nor the load generator. What the kernel does
// for the disk is in it; the rest is somebody else, and makes the figures worth less.
func (out *outcome) others() float64 {
	all := out.end.Sub(out.begin) * time.Duration(runtime.NumCPU())
	return max(0, float64(out.machine-out.window.cpu-out.self)/float64(all))
}

func dialAll(ctx context.Context, d dialer, n int) ([]client, error) {
	var conns []client
	for i := range n {
		c, err := d.Dial(ctx, i)
		if err != nil {
			return conns, fmt.Errorf("connection %d of %d: %w", i+1, n, err)
		}
		conns = append(conns, c)
	}
	return conns, nil
}

func closeAll(conns []client) {
	for _, c := range conns {
		_ = c.Close() // nothing is lost with it: every answer has been read
	}
}

// fill puts each key once.
func fill(ctx context.Context, o options, v *server, c contender) error {
	const clients = 64
	return each(ctx, o, v, c, clients, func(k client, g *generator, n int) error { return k.Put(g.nth(n), g.next()) })
}

// readAll gets each key once.
func readAll(ctx context.Context, o options, v *server, c contender) error {
	const clients = 32
	return each(ctx, o, v, c, clients, func(k client, g *generator, n int) error {
		_, err := k.Get(g.nth(n), false)
		return err
	})
}

func each(ctx context.Context, o options, v *server, c contender, clients int, do func(client, *generator, int) error) error {
	d, err := c.dial(ctx, v.addr, clients)
	if err != nil {
		return err
	}
	defer d.Close()
	conns, err := dialAll(ctx, d, clients)
	defer closeAll(conns)
	if err != nil {
		return err
	}
	group, ctx := errgroup.WithContext(ctx)
	defer context.AfterFunc(ctx, func() { closeAll(conns) })()
	for i, conn := range conns {
		group.Go(func() error {
			g := newGenerator(o, i)
			for n := i; n < o.keys; n += clients {
				if err := do(conn, g, n); err != nil {
					return err
				}
			}
			return nil
		})
	}
	return because(ctx, group.Wait())
}

// sleepUntil is exact where time counts from when an operation was due.
func (l load) sleepUntil(ctx context.Context, t time.Time) error {
	if l.due {
		return wakeAt(ctx, t)
	}
	return sleepUntil(ctx, t)
}

// wakeAt sleeps in the kernel, which is late by some 50 us. A timer of the runtime is late by up to a millisecond when
// nothing else happens, since epoll_wait counts in those: several times what a disk takes. An end of ctx is noticed only then.
func wakeAt(ctx context.Context, t time.Time) error {
	for {
		d := time.Until(t)
		if d <= 0 {
			return context.Cause(ctx)
		}
		ts := unix.NsecToTimespec(int64(d))
		if err := unix.ClockNanosleep(unix.CLOCK_MONOTONIC, 0, &ts, nil); err != nil && !errors.Is(err, unix.EINTR) {
			return fmt.Errorf("clock_nanosleep: %w", err)
		}
	}
}

func sleepUntil(ctx context.Context, t time.Time) error { return sleep(ctx, time.Until(t)) }

func sleep(ctx context.Context, d time.Duration) error {
	timer := time.NewTimer(d)
	defer timer.Stop()
	select {
	case <-timer.C:
		return nil
	case <-ctx.Done():
		return context.Cause(ctx)
	}
}

// ownCPU is what the load generator has used, on the cores it shares with the server.
func ownCPU() time.Duration {
	var u unix.Rusage
	if err := unix.Getrusage(unix.RUSAGE_SELF, &u); err != nil {
		panic(err) // the arguments are constant and right
	}
	return time.Duration(u.Utime.Nano() + u.Stime.Nano())
}
