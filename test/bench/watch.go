package main

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"sync"
	"time"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"golang.org/x/sync/errgroup"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
)

// scene is how watchers are spread over streams and keys.
type scene struct {
	what              string
	watchers, streams int
	keys              int // watcher i is on key i modulo keys
}

// many is the number of watchers of the large scenes.
const many = 10_000

// scenes are one watcher to a stream, on one key, for each number of clients; and the large ones.
func (b *bench) scenes() (list []scene) {
	for _, n := range b.clients {
		list = append(list, scene{"one key", n, n, 1})
	}
	if !b.large {
		return list
	}
	return append(list,
		scene{"one key, a stream each", many, many, 1},
		scene{"a key each, a stream each", many, many, many},
		scene{"a key each, one stream", many, 1, many},
	)
}

// The names of values of this suite.
const (
	vLast  = "last_watcher_p50_ms"
	vSetUp = "set_up_ms"
	vRSS   = "rss_bytes"
)

// runWatch measures watches over gRPC. One writer puts a key and waits until every watcher of it has seen that before it
// puts the next: the events that are delivered in a second are as many as get through, and none of them waits in a queue.
// The latency of an event is from the answer to its put to its arrival, 0 if it came first.
func runWatch(ctx context.Context, b *bench) error {
	list, err := b.grpcOnly(ctx)
	if err != nil {
		return err
	}
	bare, err := floor(b.value)
	if err != nil {
		return err
	}
	list = append(slices.Clone(list), contender{name: floorGRPC, system: bare, dial: dialGRPC})
	for _, s := range b.scenes() {
		for round := range b.options.rounds {
			for _, c := range list {
				if c.name == floorGRPC && s.streams < s.watchers {
					continue // it has one watch on a stream
				}
				b.progress("%d watchers, %s, round %d of %d: %s", s.watchers, s.what, round+1, b.options.rounds, c.name)
				values, err := b.watchRound(ctx, s, c)
				if err != nil {
					return fmt.Errorf("%s, %d watchers, %s: %w", c.name, s.watchers, s.what, because(ctx, err))
				}
				b.report.add(cell{"watch", s.what, c.name, s.watchers}, round, values)
			}
		}
	}
	var rows [][]string
	var claims []claim
	for _, s := range b.scenes() {
		for _, c := range list {
			if c.name == floorGRPC && s.streams < s.watchers {
				continue
			}
			x := cell{"watch", s.what, c.name, s.watchers}
			show := func(name string, format func(float64) string) string { return b.report.figure(x, name, format) }
			rows = append(rows, []string{
				strconv.Itoa(s.watchers), s.what, c.name, show(vRate, whole), show(vP50, hundredth), show(vP99, hundredth), show(vLast, hundredth),
				show(vCPU, hundredth), show(vRSS, sized), show(vSetUp, whole), show(vOthers, share),
			})
		}
		num, den := cell{"watch", s.what, hfGRPC, s.watchers}, cell{"watch", s.what, etcdGRPC, s.watchers}
		for _, figure := range []claim{
			{what: "events/s", value: vRate, target: 2, must: 1.2}, {what: "p99", value: vP99, less: true},
			{what: "server CPU", value: vCPU, less: true}, {what: "RSS", value: vRSS, less: true},
		} {
			figure.what = fmt.Sprintf("%s, %d watchers, %s", figure.what, s.watchers, s.what)
			figure.num, figure.den = num, den
			claims = append(claims, figure)
		}
		if s.streams == s.watchers {
			claims = append(claims, claim{
				what: fmt.Sprintf("events/s, the floor over etcd: the most that any store can have, %d watchers, %s", s.watchers, s.what), value: vRate,
				num: cell{"watch", s.what, floorGRPC, s.watchers}, den: den,
			})
		}
	}
	b.report.table("Watch", []string{
		"watchers", "on", "contender", "events/s", "p50 ms", "p99 ms", "the last of a put, p50 ms", "server CPU us/event", "RSS", "set up, ms", "CPU of others",
	}, rows)
	b.report.claims("Watch: ratios", claims)
	return nil
}

// watchRound is one cell, on a server of its own.
func (b *bench) watchRound(ctx context.Context, s scene, c contender) (values map[string]float64, err error) {
	v, dir, err := b.startEmpty(ctx, c.system, false)
	defer b.discard(dir)
	if err != nil {
		return nil, err
	}
	defer v.kill()
	a := &audience{scene: s, seen: make(chan sight, 4*s.watchers)}
	began := time.Now()
	ctx, cancel := context.WithCancel(ctx)
	group, ctx := errgroup.WithContext(ctx)
	defer func() {
		cancel()
		_ = group.Wait() // why it ended is known
		a.close()
	}()
	if err := a.open(ctx, v.addr, group); err != nil {
		return nil, err
	}
	setUp := time.Since(began)
	out, err := a.play(ctx, b.options, v)
	if err != nil {
		return nil, err
	}
	m, err := readMemory(v.pid)
	if err != nil {
		return nil, err
	}
	values = out.values()
	values[vSetUp], values[vRSS], values[vLast] = ms(setUp), float64(m.rss), ms(quantile(a.last, 0.5))
	return values, nil
}

// audience are the watchers of a scene.
type audience struct {
	scene
	conns []*grpc.ClientConn
	seen  chan sight
	last  []time.Duration // from each put's answer to the arrival of its last event, sorted
}

// sight is that a watcher has seen a revision.
type sight struct {
	revision int64
	at       time.Time
}

func (a *audience) close() {
	for _, c := range a.conns {
		_ = c.Close() // nothing is lost with it
	}
}

func (a *audience) key(i int) []byte { return fmt.Appendf(nil, "bench/%08d", i%a.keys) }

// open makes all watches and returns when the server has confirmed them.
func (a *audience) open(ctx context.Context, addr string, group *errgroup.Group) error {
	for range (a.streams + grpcShare - 1) / grpcShare {
		c, err := grpc.NewClient("passthrough:///"+addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			return err
		}
		a.conns = append(a.conns, c)
	}
	var ready sync.WaitGroup
	ready.Add(a.watchers)
	for n := range a.streams {
		stream, err := pb.NewWatchClient(a.conns[n/grpcShare]).Watch(ctx)
		if err != nil {
			return errors.Join(context.Cause(ctx), err) // another watcher may have failed first
		}
		group.Go(func() error {
			for i := n; i < a.watchers; i += a.streams {
				err := stream.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: a.key(i)}}})
				if err != nil {
					return err
				}
			}
			return nil
		})
		group.Go(func() error { return a.receive(ctx, stream, &ready) })
	}
	done := make(chan struct{})
	go func() { defer close(done); ready.Wait() }() // it ends with the process at the latest
	select {
	case <-done:
		return nil
	case <-ctx.Done():
		return errors.Join(context.Cause(ctx), group.Wait())
	}
}

func (a *audience) receive(ctx context.Context, stream pb.Watch_WatchClient, ready *sync.WaitGroup) error {
	for {
		r, err := stream.Recv()
		switch {
		case ctx.Err() != nil:
			return nil
		case err != nil:
			return err
		case r.Canceled:
			return fmt.Errorf("watch %d was cancelled: %s", r.WatchId, r.CancelReason)
		case r.Created:
			ready.Done()
		}
		now := time.Now()
		for _, e := range r.Events {
			if e.Type != mvccpb.PUT {
				return fmt.Errorf("watch %d: %v", r.WatchId, e)
			}
			select {
			case a.seen <- sight{e.Kv.ModRevision, now}:
			case <-ctx.Done():
				return nil
			}
		}
	}
}

// play puts keys until the time is over.
func (a *audience) play(ctx context.Context, o options, v *server) (out outcome, err error) {
	kv := pb.NewKVClient(a.conns[0])
	g := newGenerator(o, 0)
	each := a.watchers / a.keys
	begin := time.Now().Add(o.warmup)
	end := begin.Add(o.duration)
	if out.before, err = v.counters(); err != nil {
		return out, err
	}
	watching := make(chan error, 1)
	go func() { watching <- out.watch(ctx, v, begin, end) }()
	for time.Now().Before(end) {
		res, err := kv.Put(ctx, &pb.PutRequest{Key: a.key(g.rand.IntN(a.keys)), Value: g.next()})
		if err != nil {
			return out, errors.Join(err, <-watching)
		}
		answered := time.Now()
		late := time.NewTimer(grace)
		var last time.Duration
		for range each {
			select {
			case s := <-a.seen:
				if s.revision != res.Header.Revision {
					return out, fmt.Errorf("an event of revision %d after the put of revision %d", s.revision, res.Header.Revision)
				}
				took := max(0, s.at.Sub(answered))
				last = max(last, took)
				if !answered.Before(begin) {
					out.took = append(out.took, took)
				}
				if !s.at.Before(begin) && s.at.Before(end) {
					out.done++
				}
			case <-ctx.Done():
				return out, context.Cause(ctx)
			case <-late.C:
				return out, fmt.Errorf("an event did not arrive within %v", grace)
			}
		}
		late.Stop()
		if !answered.Before(begin) {
			a.last = append(a.last, last)
		}
	}
	slices.Sort(out.took)
	slices.Sort(a.last)
	if err := <-watching; err != nil {
		return out, err
	}
	if out.done == 0 {
		return out, errors.New("not one event arrived in the window")
	}
	return out, nil
}
