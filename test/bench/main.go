// Command bench measures the built agent beside its peers: real etcd, built from its Go module, and Redis where the
// machine has it.
//
//	go run -C test/bench . [flags] [suite...]
//
// Suites are put, get, rest, trickle, floor, million, proxy, queue, three, txn, watch, lossy, switch, door and fleet; all is the first four. floor measures writes over gRPC
// beside a handler that only answers. proxy measures a proxy beside the member behind it, its reads beside a bare net/http
// handler, nginx's proxy cache and etcd's grpc-proxy, and its 202s beside a handler that only writes to a file; what is not
// there is left out, with a line that says so. queue measures the 202s alone, and the start after a kill with a million of them in
// line. three measures clusters of three
// members on loopback. lossy measures such clusters, ours of boxes that have joined, over links of 50 ms that lose packets, and
// wants root, TUN and iproute2; -no-tcp has ours stay with UDP. A cell of it takes a system -duration and half a minute. So does switch, of the product alone: the gap when a leader dies or a box changes its mode, and a box that joins
// over a slow link. door measures the product alone too: what TLS and rights cost a request, handshakes, half-open ones, and
// as root PUTs under floods, each from another address, -rounds windows with each in turns with as many without, with -only alone those
// that are named.
// fleet has ten thousand simulated proxies on one member lose the network and come back.
//
// Only ratios taken in one run mean anything, so everything here is measured in rounds that alternate between the
// systems (A B A B A B), the tables show medians with the spread beside them, and a ratio is the median of the ratios
// of the rounds. Tables go to standard output as Markdown, progress to standard error, and with -json every sample to
// a file.
//
// The program talks to 127.0.0.1 only, runs no longer than -limit, and takes the servers it started and its temporary
// directory with it when it ends.
package main

import (
	"context"
	"errors"
	"flag"
	"fmt"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// options are what the command line decides.
type options struct {
	suites   []string
	systems  []string
	clients  []int
	rounds   int
	warmup   time.Duration
	duration time.Duration
	keys     int
	value    int
	starts   int
	idle     time.Duration
	trickle  time.Duration
	million  int
	fleet    int
	large    bool
	only     string
	memory   bool
	noTCP    bool
	seed     uint64
	limit    time.Duration

	product string // directory of the product's module
	agent   string // a built agent; empty: build it
	cache   string // where built binaries are kept
	dir     string // where data directories are made; empty: the system's temporary directory
	json    string
}

// Bounds on what may be asked for, so that a slip of the keyboard does not take the machine for a day.
const (
	maxClients  = 4096
	maxRounds   = 25
	maxDuration = 10 * time.Minute
	maxKeys     = 10_000_000
	maxValue    = 1 << 20
	maxFleet    = 16_000 // a member takes 16,384 connections
)

var suites = []struct {
	name string
	all  bool
	run  func(context.Context, *bench) error
}{
	{"put", true, runPut},
	{"get", true, runGet},
	{"rest", true, runRest},
	{"trickle", true, runTrickle},
	{"floor", false, runFloor},
	{"million", false, runMillion},
	{"proxy", false, runProxy},
	{"queue", false, runQueue},
	{"three", false, runThree},
	{"txn", false, runTxn},
	{"watch", false, runWatch},
	{"lossy", false, runLossy},
	{"switch", false, runSwitch},
	{"door", false, runDoor},
	{"fleet", false, runFleet},
}

func main() {
	if is, err := serve(os.Args[1:]); is {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1)
	}
	o, err := parse(os.Args[1:])
	if errors.Is(err, flag.ErrHelp) {
		return
	}
	if err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(2)
	}
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	defer stop()
	if err := run(ctx, o); err != nil {
		fmt.Fprintln(os.Stderr, "bench:", err)
		os.Exit(1) //nolint:gocritic // run has cleaned up, and stop only unregisters the signals
	}
}

func parse(args []string) (options, error) {
	var o options
	var systems, clients string
	f := flag.NewFlagSet("bench", flag.ContinueOnError)
	f.StringVar(&systems, "systems", "holdfast,etcd,redis", "what to measure; redis is left out where it is not installed")
	f.StringVar(&clients, "clients", "1,32,256", "numbers of clients")
	f.IntVar(&o.rounds, "rounds", 3, "times each cell is measured, systems alternating")
	f.DurationVar(&o.warmup, "warmup", 2*time.Second, "load before each timed window")
	f.DurationVar(&o.duration, "duration", 10*time.Second, "timed window of each cell")
	f.IntVar(&o.keys, "keys", 10_000, "number of keys the load is spread over")
	f.IntVar(&o.value, "value", 128, "bytes per value")
	f.IntVar(&o.starts, "starts", 10, "times each start is measured")
	f.DurationVar(&o.idle, "idle", time.Minute, "window of idleness")
	f.DurationVar(&o.trickle, "trickle", 90*time.Second, "length of the trickle of one PUT a second")
	f.IntVar(&o.million, "million", 1_000_000, "number of keys of 100 B in the suite of that name, and of queued writes in the suite queue")
	f.IntVar(&o.fleet, "fleet", 10_000, "number of proxies in the suite of that name")
	f.BoolVar(&o.large, "large", false, "the suite watch takes 10,000 watchers, too, three ways")
	f.StringVar(&o.only, "only", "", "measure those cells of the suites lossy and switch, or those floods of door, whose names contain this")
	f.BoolVar(&o.memory, "memory", false, "the suite lossy, asked for alone, may have -dir in memory: what it measures then are the links, without the disk that all members share here")
	f.BoolVar(&o.noTCP, "no-tcp", false, "the members of the suite lossy never go over TCP (link.tcp=off)")
	f.Uint64Var(&o.seed, "seed", 1, "seed of the keys and values")
	f.DurationVar(&o.limit, "limit", 90*time.Minute, "longest time the whole run may take")
	f.StringVar(&o.product, "product", filepath.Join("..", ".."), "directory of the product's module")
	f.StringVar(&o.agent, "agent", "", "measure this binary instead of building one")
	f.StringVar(&o.cache, "cache", "", "where built binaries are kept (default: in the user's cache directory)")
	f.StringVar(&o.dir, "dir", "", "where data directories are made, on the disk to measure (default: the temporary directory)")
	f.StringVar(&o.json, "json", "", "write every sample to this file too")
	f.Usage = func() {
		fmt.Fprintln(f.Output(), "usage: go run -C test/bench . [flags] [put|get|rest|trickle|floor|million|proxy|queue|three|txn|watch|lossy|switch|door|fleet|all]...")
		f.PrintDefaults()
	}
	if err := f.Parse(args); err != nil {
		return o, err
	}
	for s := range strings.SplitSeq(systems, ",") {
		if !slices.Contains([]string{"holdfast", "etcd", "redis"}, s) {
			return o, fmt.Errorf("-systems: %q is not holdfast, etcd or redis", s)
		}
		o.systems = append(o.systems, s)
	}
	for s := range strings.SplitSeq(clients, ",") {
		n, err := strconv.Atoi(s)
		if err != nil || n < 1 || n > maxClients {
			return o, fmt.Errorf("-clients: %q is not a number from 1 to %d", s, maxClients)
		}
		o.clients = append(o.clients, n)
	}
	var err error
	if o.agent != "" {
		if o.agent, err = filepath.Abs(o.agent); err != nil { // servers run in a directory of their own
			return o, err
		}
	}
	if err := o.pick(f.Args()); err != nil {
		return o, err
	}
	err = o.check()
	return o, err
}

// pick takes the suites named, in the order of the table above; none named is all.
func (o *options) pick(names []string) error {
	if len(names) == 0 {
		names = []string{"all"}
	}
	for _, s := range suites {
		if slices.Contains(names, s.name) || s.all && slices.Contains(names, "all") {
			o.suites = append(o.suites, s.name)
		}
	}
	for _, n := range names {
		if n != "all" && !slices.Contains(o.suites, n) {
			return fmt.Errorf("no suite %q: there are put, get, rest, trickle, floor, million, proxy, queue, three, txn, watch, lossy, switch, door, fleet and all", n)
		}
	}
	return nil
}

func (o *options) check() error {
	within := func(name string, v, low, high int) error {
		if v < low || v > high {
			return fmt.Errorf("-%s: %d is not from %d to %d", name, v, low, high)
		}
		return nil
	}
	lasts := func(name string, d, low time.Duration) error {
		if d < low || d > maxDuration {
			return fmt.Errorf("-%s: %v is not from %v to %v", name, d, low, maxDuration)
		}
		return nil
	}
	if o.memory && !slices.Equal(o.suites, []string{"lossy"}) {
		return errors.New("-memory is for the suite lossy alone: fsync means nothing in memory, and the others measure it")
	}
	return errors.Join(
		within("rounds", o.rounds, 1, maxRounds),
		within("keys", o.keys, 1, maxKeys),
		within("value", o.value, valueMin, maxValue),
		within("starts", o.starts, 1, 100),
		within("million", o.million, 1, maxKeys),
		within("fleet", o.fleet, 1, maxFleet),
		lasts("warmup", o.warmup, 0),
		lasts("duration", o.duration, 100*time.Millisecond),
		lasts("idle", o.idle, time.Second),
		lasts("trickle", o.trickle, time.Second),
	)
}

// bench is one run of the program.
type bench struct {
	options
	scratch string // temporary directory, gone when the run ends
	set     []*system
	tried   []contender // those that answer, once that is known
	report  *report
}

func run(ctx context.Context, o options) (err error) {
	ctx, cancel := context.WithTimeoutCause(ctx, o.limit, fmt.Errorf("the run took longer than -limit %v", o.limit))
	defer cancel()
	scratch, err := os.MkdirTemp(o.dir, "holdfast-bench-")
	if err != nil {
		return fmt.Errorf("make a temporary directory: %w", err)
	}
	defer func() {
		if rerr := os.RemoveAll(scratch); rerr != nil {
			err = errors.Join(err, fmt.Errorf("remove %s: %w", scratch, rerr))
		}
	}()
	b := &bench{options: o, scratch: scratch}
	if b.set, err = b.find(ctx); err != nil {
		return err
	}
	m, err := look(scratch, o.memory)
	if err != nil {
		return err
	}
	b.report = newReport(os.Stdout, m, b.set)
	for _, s := range suites {
		if !slices.Contains(o.suites, s.name) {
			continue
		}
		if err := s.run(ctx, b); err != nil {
			return fmt.Errorf("suite %s: %w", s.name, because(ctx, err))
		}
	}
	if err := b.report.finish(scratch); err != nil {
		return err
	}
	return b.report.save(o.json)
}

// because names why ctx ended, where that is what made err.
func because(ctx context.Context, err error) error {
	if err == nil {
		return nil
	}
	if cause := context.Cause(ctx); cause != nil && !errors.Is(err, cause) {
		return fmt.Errorf("%w (%w)", err, cause)
	}
	return err
}

func (b *bench) progress(format string, args ...any) {
	fmt.Fprintf(os.Stderr, format+"\n", args...)
}
