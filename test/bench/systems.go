package main

import (
	"context"
	"errors"
	"fmt"
	"os/exec"
	"slices"
	"strconv"
	"strings"
)

// systems builds or finds what is to be measured, the product first.
func (b *bench) find(ctx context.Context) ([]*system, error) {
	build, err := newBuilder(b.cache, b.product)
	if err != nil {
		return nil, err
	}
	var set []*system
	if slices.Contains(b.systems, "holdfast") {
		bin := b.agent
		if bin == "" {
			b.progress("building the agent")
			if bin, err = build.agent(ctx); err != nil {
				return nil, err
			}
		}
		set = append(set, holdfast(bin))
	}
	if slices.Contains(b.systems, "etcd") {
		b.progress("building etcd")
		bin, err := build.etcd(ctx)
		if err != nil {
			return nil, err
		}
		set = append(set, etcd(bin))
	}
	if slices.Contains(b.systems, "redis") {
		if bin, err := exec.LookPath("redis-server"); err == nil {
			set = append(set, redis(bin))
		} else {
			b.progress("redis-server is not installed and is left out (Debian: apt-get install redis-server)")
		}
	}
	if len(set) == 0 {
		return nil, errors.New("nothing to measure")
	}
	for _, s := range set {
		s.version = versionOf(ctx, s)
	}
	return set, nil
}

// versionOf asks the binary; the answer only labels the report.
func versionOf(ctx context.Context, s *system) string {
	flag := "--version"
	if s.name == "holdfast" {
		flag = "version"
	}
	out, err := exec.CommandContext(ctx, s.bin, flag).Output()
	if err != nil {
		return "version unknown"
	}
	line, _, _ := strings.Cut(string(out), "\n")
	return strings.TrimSpace(line)
}

func (b *bench) system(name string) *system {
	for _, s := range b.set {
		if s.name == name {
			return s
		}
	}
	return nil
}

func url(port int) string { return "http://" + loopback(port) }

func holdfast(bin string) *system {
	return &system{
		name: "holdfast", bin: bin, ready: askOK("/readyz"),
		args: func(dir string, port, peer int) []string {
			// A stream is a watch to limits.watches, 1024 by default; the suite watch has many.
			return []string{"--data-dir", dir, "--listen", url(port), "--peer-listen", loopback(peer), "--limits-watches", strconv.Itoa(2 * many)}
		},
	}
}

func loopback(port int) string { return "127.0.0.1:" + strconv.Itoa(port) }

func etcd(bin string) *system {
	return &system{
		name: "etcd", bin: bin, ready: askOK("/readyz"),
		args: func(dir string, port, peer int) []string {
			return []string{
				"--name", "m", "--data-dir", dir,
				"--listen-client-urls", url(port), "--advertise-client-urls", url(port),
				"--listen-peer-urls", url(peer), "--initial-advertise-peer-urls", url(peer),
				"--initial-cluster", "m=" + url(peer),
			}
		},
	}
}

// redis fsyncs its log before it answers, which is the durability the others have.
func redis(bin string) *system {
	return &system{
		name: "redis", bin: bin,
		ready: func(ctx context.Context, addr string) error {
			c, err := dialRESP(ctx, addr)
			if err != nil {
				return err
			}
			return errors.Join(c.ping(), c.Close())
		},
		args: func(dir string, port, _ int) []string {
			return []string{
				"--bind", "127.0.0.1", "--port", strconv.Itoa(port), "--dir", dir, "--daemonize", "no",
				"--appendonly", "yes", "--appendfsync", "always", "--save", "",
			}
		},
	}
}

// contender is a system reached over one of its protocols.
type contender struct {
	name   string
	system *system
	dial   func(ctx context.Context, addr string, clients int) (dialer, error)
	// maybe is set for a protocol the product may not have yet: one that does not answer is left out of the tables,
	// with a line that says so.
	maybe bool
}

// contenders are all ways to put a key, in the order in which they take turns. They are tried once.
func (b *bench) contenders(ctx context.Context) ([]contender, error) {
	if b.tried != nil {
		return b.tried, nil
	}
	var list []contender
	if s := b.system("holdfast"); s != nil {
		list = append(list,
			contender{name: hfREST, system: s, dial: dialREST},
			contender{name: hfGRPC, system: s, dial: dialGRPC, maybe: true},
			contender{name: hfJSON, system: s, dial: dialGateway, maybe: true})
	}
	if s := b.system("etcd"); s != nil {
		list = append(list,
			contender{name: etcdGRPC, system: s, dial: dialGRPC},
			contender{name: etcdJSON, system: s, dial: dialGateway})
	}
	if s := b.system("redis"); s != nil {
		list = append(list, contender{name: redisRESP, system: s, dial: dialRedis})
	}
	var err error
	b.tried, err = b.answering(ctx, list)
	return b.tried, err
}

// onePerSystem is the plainest way to each system, where the protocol does not matter: to a disk, or to a start.
func onePerSystem(list []contender) []contender {
	return slices.DeleteFunc(slices.Clone(list), func(c contender) bool {
		return c.name != hfREST && c.name != etcdGRPC && c.name != redisRESP
	})
}

// The contenders, as the tables name them.
const (
	hfREST    = "Holdfast REST"
	hfGRPC    = "Holdfast gRPC"
	hfJSON    = "Holdfast JSON gateway"
	etcdGRPC  = "etcd gRPC"
	etcdJSON  = "etcd JSON gateway"
	redisRESP = "Redis, appendfsync always"
)

// answering leaves out the contenders that may be missing and are. Whatever must be there and is not is an error.
func (b *bench) answering(ctx context.Context, list []contender) ([]contender, error) {
	var there []contender
	for _, c := range list {
		err := b.try(ctx, c)
		switch {
		case err == nil:
			there = append(there, c)
		case c.maybe && ctx.Err() == nil:
			b.report.print("\n%s does not answer and is left out.\n", c.name)
			b.progress("%s is left out: %.200s", c.name, err)
		default:
			return nil, fmt.Errorf("%s: %w", c.name, err)
		}
	}
	return there, nil
}

// try puts one key and reads it back.
func (b *bench) try(ctx context.Context, c contender) error {
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
	d, err := c.dial(ctx, v.addr, 1)
	if err != nil {
		return err
	}
	defer d.Close()
	k, err := d.Dial(ctx, 0)
	if err != nil {
		return err
	}
	defer k.Close()
	o := b.options
	o.keys = 1
	g := newGenerator(o, 0)
	if err := put(k, g); err != nil {
		return err
	}
	return errors.Join(get(true)(k, g), get(false)(k, g))
}
