package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/enroll"
	"holdfast/kv"
)

// fleet is the proxies of one region and their member.
type fleet struct {
	options
	dir    string
	region region
	member *member
	boxes  []*box
	local  writer
	figures
}

// figures are what a run finds. Times are in seconds, sizes in bytes.
type figures struct {
	Boxes       int
	Light       int // of them
	JoinSeconds float64
	AnonAlone   int64   // the member's memory before the first proxy
	AnonEach    int64   // and for each proxy at rest
	IdleCPU     float64 // of one core
	BackFirst   float64 // after the network was back
	BackMedian  float64
	BackLast    float64
	BusiestTen  float64 // share of the fleet that came back in the busiest tenth of the time
	StormCPU    float64 // of one core, until the last was back
	AnonPeak    int64   // for each, once all were back
	AnonAfter   int64   // and when that was over
	PutIdle     latency // of a client of the member, one PUT every 20 ms
	PutOutage   latency
	PutStorm    latency
	Lost        int
	Doubled     int
}

const (
	joinsAtOnce  = 16 // proxies
	mirroredKeys = 50 // by each
	probes       = 5  // of quic-go until it knows the size of packets, from 1,200 to 1,452 bytes by halves, and the answer to the last
)

// gather has the proxies join, and waits until all are in step.
func (f *fleet) gather(ctx context.Context) error {
	for i := range mirroredKeys {
		if _, err := f.member.put(ctx, fmt.Sprintf("%s%d", mirrored, i)); err != nil {
			return err
		}
	}
	text, err := f.member.token(ctx)
	if err != nil {
		return err
	}
	token, err := enroll.ParseToken(text)
	if err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	alone, err := f.member.usage()
	if err != nil {
		return err
	}
	began := time.Now()
	f.boxes = make([]*box, f.options.boxes)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(joinsAtOnce)
	for i := range f.boxes {
		g.Go(func() (err error) {
			dir := filepath.Join(f.dir, fmt.Sprint("box", i))
			if i < f.light {
				dir = ""
			}
			f.boxes[i], err = join(gctx, i, dir, &f.region, f.member.peer, token, f.silence)
			return err
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if _, err := f.await(ctx, f.within); err != nil {
		return fmt.Errorf("after joining: %w", err)
	}
	f.JoinSeconds = time.Since(began).Seconds()
	f.AnonAlone = alone.anon
	progress("%d joined within %.0f s", f.Boxes, f.JoinSeconds)
	return nil
}

// rest measures a fleet that does nothing.
func (f *fleet) rest(ctx context.Context) error {
	f.local.begin(ctx, f.member)
	if err := wait(ctx, 10*time.Second); err != nil { // the client at work, too
		return err
	}
	var err error
	if f.PutIdle, err = f.local.end(); err != nil {
		return err
	}
	// With each of its first keep-alives a connection still tries how large a packet its path takes.
	if err := wait(ctx, probes*f.silence); err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	before, err := f.member.usage()
	if err != nil {
		return err
	}
	if err := wait(ctx, f.idle); err != nil {
		return err
	}
	after, err := f.member.usage()
	if err != nil {
		return err
	}
	f.IdleCPU = (after.cpu - before.cpu).Seconds() / f.idle.Seconds()
	f.AnonEach = (after.anon - f.AnonAlone) / int64(f.Boxes)
	progress("at rest: %d B each, %.2f %% CPU", f.AnonEach, 100*f.IdleCPU)
	if f.profile != "" {
		return f.member.profile(ctx, f.profile)
	}
	return nil
}

// settle waits until what was done before no longer takes memory.
func (f *fleet) settle(ctx context.Context) error {
	if err := f.member.collect(ctx); err != nil {
		return err
	}
	return wait(ctx, 20*time.Second)
}

// lose takes the network away, has each proxy queue writes meanwhile, and gives it back.
func (f *fleet) lose(ctx context.Context) error {
	f.region.lost.Store(true)
	over := time.Now().Add(f.outage)
	f.local.begin(ctx, f.member)
	g, gctx := errgroup.WithContext(ctx)
	g.SetLimit(4 * joinsAtOnce)
	for _, b := range f.boxes {
		g.Go(func() error {
			for i := range f.writes {
				if err := b.write(gctx, i); err != nil {
					return err
				}
			}
			return nil
		})
	}
	if err := g.Wait(); err != nil {
		return err
	}
	if err := wait(ctx, time.Until(over)); err != nil {
		return err
	}
	var err error
	if f.PutOutage, err = f.local.end(); err != nil {
		return err
	}
	before, err := f.member.usage()
	if err != nil {
		return err
	}
	f.local.begin(ctx, f.member)
	began := time.Now()
	f.region.lost.Store(false)
	back, err := f.await(ctx, f.within)
	took := time.Since(began)
	if err != nil {
		return fmt.Errorf("after the outage: %w", err)
	}
	if f.PutStorm, err = f.local.end(); err != nil {
		return err
	}
	after, err := f.member.usage()
	if err != nil {
		return err
	}
	if err := f.settle(ctx); err != nil {
		return err
	}
	settled, err := f.member.usage()
	if err != nil {
		return err
	}
	f.StormCPU = (after.cpu - before.cpu).Seconds() / took.Seconds()
	f.AnonPeak = (after.anon - f.AnonAlone) / int64(f.Boxes)
	f.AnonAfter = (settled.anon - f.AnonAlone) / int64(f.Boxes)
	slices.Sort(back)
	f.BackFirst, f.BackMedian, f.BackLast = back[0].Seconds(), back[len(back)/2].Seconds(), back[len(back)-1].Seconds()
	f.BusiestTen = busiest(back, back[len(back)-1]/10)
	progress("all back after %.1f s", f.BackLast)
	return nil
}

// busiest is the largest share of some times, in order, that lies within a span.
func busiest(times []time.Duration, span time.Duration) float64 {
	most, from := 0, 0
	for to := range times {
		for times[to]-times[from] > span {
			from++
		}
		most = max(most, to-from+1)
	}
	return float64(most) / float64(len(times))
}

// await waits until each proxy is back, and says when it was.
func (f *fleet) await(ctx context.Context, within time.Duration) ([]time.Duration, error) {
	began := time.Now()
	back := make([]time.Duration, 0, len(f.boxes))
	away := slices.Clone(f.boxes)
	for len(away) > 0 {
		for _, b := range away {
			if err := b.failure(); err != nil {
				return nil, err
			}
		}
		away = slices.DeleteFunc(away, func(b *box) bool {
			if !b.back() {
				return false
			}
			back = append(back, time.Since(began))
			return true
		})
		if time.Since(began) > within && len(away) > 0 {
			b := away[0]
			return nil, fmt.Errorf("%d of %d proxies are not back within %v, as box %d: %s", len(away), len(f.boxes), within, b.n, b.state())
		}
		if err := wait(ctx, 20*time.Millisecond); err != nil {
			return nil, err
		}
	}
	return back, nil
}

// verify looks for each write that was queued: there, as it was written, and written once.
func (f *fleet) verify(ctx context.Context) error {
	found := map[string]kv.KeyValue{}
	from, end := kv.PrefixRange([]byte(queued))
	for {
		page, err := f.boxes[0].up.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: from, End: end, Limit: 1000}}})
		if err != nil {
			return err
		}
		for _, v := range page.Ops[0].KVs {
			found[string(v.Key)] = v
			from = append(slices.Clone(v.Key), 0)
		}
		if !page.Ops[0].More {
			break
		}
	}
	for _, b := range f.boxes {
		for i := range f.writes {
			switch v, there := found[b.key(i)]; {
			case !there || string(v.Value) != b.value(i):
				f.Lost++
			case v.Version != 1:
				f.Doubled++
			}
		}
		if b.light != nil {
			continue
		}
		if kept := b.queue.Status().Kept; kept > 0 {
			return fmt.Errorf("box %d lists %d writes that ended otherwise than committed", b.n, kept)
		}
	}
	if extra := len(found) - len(f.boxes)*f.writes; extra > 0 {
		return fmt.Errorf("%d keys that nobody wrote", extra)
	}
	return nil
}

func (f *fleet) close() error {
	var mu sync.Mutex
	var errs []error
	var g errgroup.Group
	g.SetLimit(4 * joinsAtOnce)
	for _, b := range f.boxes {
		if b == nil {
			continue
		}
		g.Go(func() error {
			if err := b.close(); err != nil {
				mu.Lock()
				defer mu.Unlock()
				errs = append(errs, err)
			}
			return nil
		})
	}
	_ = g.Wait() // errs has them
	return errors.Join(errs...)
}

func wait(ctx context.Context, d time.Duration) error {
	select {
	case <-time.After(d):
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

func progress(format string, args ...any) { fmt.Fprintf(os.Stderr, format+"\n", args...) }
