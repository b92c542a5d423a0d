// Command fleet puts many proxies on one member, the built agent, and takes the network between them away and back.
//
//	go run ./test/fleet -agent bin/agent [-boxes 1000] [-outage 2m] [-idle 1m] [-within 2m] [-json FILE] [-profile DIR]
//
// The proxies are simulated in this process, each of its own identity and UDP socket and of the shipped parts: transport,
// uplink with its control stream, cache and queue. It prints what a proxy takes of the member's memory, what a fleet at
// rest takes of its CPU, how soon all are back after the outage, and how a client of the member fares meanwhile. It fails
// if they are not all back within -within, if a write that was queued during the outage is lost or applied twice, if
// they came back all at once, or if one in a hundred of the PUTs of the member's client then took a second.
package main

import (
	"context"
	"encoding/json"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"syscall"
	"time"
)

type options struct {
	agent   string
	boxes   int
	light   int
	writes  int
	outage  time.Duration
	idle    time.Duration
	within  time.Duration
	silence time.Duration
	dir     string
	json    string

	profile string
}

func main() {
	var o options
	flag.StringVar(&o.agent, "agent", filepath.Join("bin", "agent"), "the built agent")
	flag.IntVar(&o.boxes, "boxes", 1000, "how many proxies; each takes a file descriptor, and about 300 kB of this process's memory")
	flag.IntVar(&o.light, "light", 0, "how many of them have no disk: the shipped uplink and control stream, with a cache and a queue that only look so to the member; each takes one file descriptor")
	flag.IntVar(&o.writes, "writes", 2, "writes that each queues during the outage")
	flag.DurationVar(&o.outage, "outage", 2*time.Minute, "how long the network is lost; after 75 s without a packet connections end; 0: it is not, and the run ends with the fleet at rest")
	flag.DurationVar(&o.idle, "idle", time.Minute, "how long the CPU of a fleet at rest is measured")
	flag.DurationVar(&o.silence, "keep-alive", 25*time.Second, "how long a proxy is silent before it probes: 25s in a network of which nothing is known, 60s where the NAT has been found to allow it")
	flag.DurationVar(&o.within, "within", 2*time.Minute, "how soon all must be back")
	flag.StringVar(&o.dir, "dir", "", "where data directories are made (default: the temporary directory)")
	flag.StringVar(&o.json, "json", "", "write the figures to this file too")
	flag.StringVar(&o.profile, "profile", "", "write the member's profiles of the heap and of goroutines to this directory, taken with the fleet at rest")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	if err := os.Setenv("QUIC_GO_DISABLE_RECEIVE_BUFFER_WARNING", "true"); err != nil { // the sockets are no bare UDP sockets
		panic(err)
	}
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "fleet:", err)
		os.Exit(1) //nolint:gocritic // run has cleaned up, and stop only unregisters the signals
	}
}

func (o *options) check() (err error) {
	var files syscall.Rlimit
	if err := syscall.Getrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
		return err
	}
	const each, rest = 4, 200 // a socket, a cache, its journal and a segment of a queue
	need := uint64(max(o.boxes-o.light, 0)*each + o.light + rest)
	if more := (syscall.Rlimit{Cur: need, Max: need}); files.Max < need && syscall.Setrlimit(syscall.RLIMIT_NOFILE, &more) == nil { // with CAP_SYS_RESOURCE
		files = more
	}
	switch {
	case o.silence <= 0:
		return errors.New("-keep-alive is more than 0")
	case o.boxes < 1 || o.light < 0 || o.light > o.boxes || flag.NArg() > 0:
		return errors.New("usage: fleet [flags], see -help; -boxes is 1 or more, -light is up to that")
	case files.Max < need:
		return fmt.Errorf("%d proxies take %d file descriptors, the limit is %d: raise it with ulimit -n, or see -light", o.boxes, need, files.Max)
	case files.Cur < need:
		files.Cur = files.Max
		if err := syscall.Setrlimit(syscall.RLIMIT_NOFILE, &files); err != nil {
			return err
		}
	}
	o.agent, err = filepath.Abs(o.agent)
	return err
}

func run(ctx context.Context, o options) (err error) {
	if err := o.check(); err != nil {
		return err
	}
	dir, err := os.MkdirTemp(o.dir, "holdfast-fleet-")
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, os.RemoveAll(dir)) }()
	m, err := startMember(ctx, o.agent, filepath.Join(dir, "member"))
	if err != nil {
		return err
	}
	defer func() { err = errors.Join(err, m.stop()) }()
	f := &fleet{options: o, dir: dir, member: m, figures: figures{Boxes: o.boxes, Light: o.light}}
	defer func() { err = errors.Join(err, f.close()) }()
	parts := []func(context.Context) error{f.gather, f.rest}
	if o.outage > 0 {
		parts = append(parts, f.lose, f.verify)
	}
	for _, part := range parts {
		if err := part(ctx); err != nil {
			return err
		}
	}
	f.print()
	if o.json != "" {
		b, err := json.MarshalIndent(f.figures, "", "\t")
		if err == nil {
			err = os.WriteFile(o.json, append(b, '\n'), 0o644) //nolint:gosec // figures
		}
		if err != nil {
			return err
		}
	}
	return f.judge()
}
