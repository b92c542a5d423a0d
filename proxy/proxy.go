// Package proxy is a node in front of others: it forwards, and serves what it mirrors from a cache that proves its age.
//
// A Proxy is a Backend around an Upstream. One watch feeds the cache. An age is proven by rounds: the upstream takes a
// read index after the round was asked for and reports its revision in the watch behind every event up to it. What the
// cache holds is then at least as new as the moment at which the round was sent, by this node's own clock; no other
// clock enters. Losing the upstream ages the contents and drops none.
package proxy

import (
	"context"
	"errors"
	"iter"
	"log/slog"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// Upstream is where a proxy forwards: the cluster, as one object.
type Upstream interface {
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Options of a Proxy. Upstream, Path and Clock are required.
type Options struct {
	Upstream Upstream
	Path     string   // file of the cache
	Prefixes [][]byte // what is mirrored
	MaxBytes int64    // of the cache, 64 MiB
	ReadOnly bool     // writes are refused with ReadOnlyNode
	// Clock is time since boot, suspend included (CLOCK_BOOTTIME): nobody sets it.
	Clock      func() time.Duration
	Boot       [16]byte      // names the machine's present boot
	FlushEvery time.Duration // how often changes are written down, 30 s
	Log        *slog.Logger
	Metrics    prometheus.Registerer // nil for none
}

// The bounds of a proxy that have no setting.
const (
	maxBytesDefault   = 64 << 20
	flushEveryDefault = 30 * time.Second
	pageKeys          = 500 // keys per page of an initial load
	retryFirst        = 100 * time.Millisecond
	retryMax          = 5 * time.Second
	feedWait          = 2 * time.Second // how long a read waits for the feed to bring this node's own write
	roundTimeout      = 5 * time.Second // of a round whose reader names no bound
	ownMax            = 4096            // own writes remembered until the feed brings them; beyond it a writer waits
	watchersMax       = 4096            // watches open at once; beyond it they are refused with RateLimited
)

// Proxy is safe for concurrent use; Run must be running.
type Proxy struct {
	up    Upstream
	opts  Options
	cache *cache.Cache
	feed  *feed
	met   *metrics

	mu       sync.Mutex
	newest   int64 // highest revision seen in epoch
	epoch    kv.Epoch
	own      map[string]kv.Event // writes this node has acknowledged and the feed has not brought yet
	watchers int
}

// New opens the cache. A cache that cannot be read is replaced by an empty one: all of it can be fetched again.
func New(o Options) (*Proxy, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.MaxBytes == 0 {
		o.MaxBytes = maxBytesDefault
	}
	if o.FlushEvery == 0 {
		o.FlushEvery = flushEveryDefault
	}
	c, err := openCache(o)
	if err != nil {
		return nil, err
	}
	p := &Proxy{up: o.Upstream, opts: o, cache: c, own: map[string]kv.Event{}, epoch: c.Epoch()}
	for _, s := range c.Spans() {
		p.newest = max(p.newest, s.Revision)
	}
	p.feed = newFeed(p)
	p.met = newMetrics(p, o.Metrics)
	return p, nil
}

// Run feeds the cache until ctx ends.
func (p *Proxy) Run(ctx context.Context) error {
	var flushing sync.WaitGroup
	flushing.Go(func() { p.flusher(ctx) })
	defer flushing.Wait()
	p.feed.run(ctx)
	return nil
}

func (p *Proxy) flusher(ctx context.Context) {
	t := time.NewTicker(p.opts.FlushEvery)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			if err := p.cache.Flush(); err != nil {
				p.opts.Log.Error("cache is not written down; it is kept in memory and tried again", "error", err)
			}
		case <-ctx.Done():
			return
		}
	}
}

// Close writes the cache down and closes it. Run must have returned.
func (p *Proxy) Close() error {
	p.met.unregister()
	return p.cache.Close()
}

// saw takes note of a header: which history the cluster is in, and how far.
func (p *Proxy) saw(h kv.Header) {
	if h.Epoch.IsZero() {
		return
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if h.Epoch != p.epoch {
		if !p.epoch.IsZero() {
			p.opts.Log.Warn("the cluster has another history: it was restored or founded anew; the cache starts over",
				"was", p.epoch, "is", h.Epoch)
			p.feed.restart()
		}
		p.epoch, p.newest = h.Epoch, 0
		clear(p.own)
	}
	p.newest = max(p.newest, h.Revision)
}

func (p *Proxy) seen() (kv.Epoch, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch, p.newest
}

// Do forwards. What this node acknowledges it also serves from then on.
func (p *Proxy) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	if p.opts.ReadOnly {
		return kv.Result{}, kv.Errorf(kv.ReadOnlyNode, "this proxy is read-only (proxy.read-only); write to another node")
	}
	if c.Write == kv.WriteQueue {
		return kv.Result{}, kv.Errorf(kv.Invalid, "write=queue: this node has no queue for the key (queue.prefixes)")
	}
	c.Write, c.Wait = kv.WriteSync, 0
	res, err := p.up.Do(ctx, c)
	if err != nil {
		return res, err
	}
	p.saw(res.Header)
	p.remember(ctx, c, res)
	return res, nil
}

// remember keeps an acknowledged write to a mirrored key until the feed brings it. Writes of another shape wait for the
// feed instead, for a bounded time: if it does not come, reads of those keys are as stale as they say.
func (p *Proxy) remember(ctx context.Context, c kv.Command, res kv.Result) {
	ops, results := flatten(c, res)
	wait := false
	for i, op := range ops {
		switch op := op.(type) {
		case kv.Put:
			v := kv.KeyValue{Key: op.Key, Value: op.Value, ModRevision: results[i].revision, Lease: op.Lease}
			if op.IgnoreValue || op.IgnoreLease || !p.keepOwn(kv.Event{KV: v}, results[i].created) {
				wait = true
			}
		case kv.Delete:
			e := kv.Event{Delete: true, KV: kv.KeyValue{Key: op.Key, ModRevision: results[i].revision}}
			if results[i].count > 0 && (len(op.End) > 0 || !p.keepOwn(e, false)) {
				wait = true
			}
		case kv.Txn:
			wait = true
		}
	}
	if wait {
		ctx, cancel := context.WithTimeout(ctx, feedWait)
		defer cancel()
		p.feed.reach(ctx, res.Revision, false)
	}
}

// done is what a remembered op needs to know of its result.
type done struct {
	revision, count int64
	created         bool
}

// flatten lists the ops of a command, or of the commands in a batch, that were applied.
func flatten(c kv.Command, res kv.Result) (ops []kv.Op, results []done) {
	if len(res.Ops) != len(c.Ops) {
		return nil, nil
	}
	for i, op := range c.Ops {
		e, batch := op.(kv.Each)
		if !batch {
			r := res.Ops[i]
			ops, results = append(ops, op), append(results, done{res.Revision, r.Count, r.Created})
			continue
		}
		for j, out := range res.Ops[i].Each[:min(len(res.Ops[i].Each), len(e.Commands))] {
			if out.Err == nil {
				o, r := flatten(e.Commands[j], out.Result)
				ops, results = append(ops, o...), append(results, r...)
			}
		}
	}
	return ops, results
}

// keepOwn remembers one write of a mirrored key; it reports false if it cannot.
func (p *Proxy) keepOwn(e kv.Event, created bool) bool {
	old, found, span, covered, err := p.cache.Get(e.KV.Key)
	if !covered {
		return true
	}
	if err != nil || span.Revision >= e.KV.ModRevision {
		return err == nil
	}
	switch {
	case created:
		e.KV.CreateRevision, e.KV.Version = e.KV.ModRevision, 1
	case found:
		e.KV.CreateRevision, e.KV.Version = old.CreateRevision, old.Version+1
	case !e.Delete:
		return false
	}
	p.mu.Lock()
	defer p.mu.Unlock()
	if len(p.own) >= ownMax {
		return false
	}
	if was, ok := p.own[string(e.KV.Key)]; !ok || was.KV.ModRevision < e.KV.ModRevision {
		p.own[string(e.KV.Key)] = e
	}
	if err := p.cache.Own(e); err != nil {
		p.opts.Log.Error("own write is not kept for the case of a crash; the feed will bring it", "error", err)
	}
	return true
}

// settle forgets own writes that the feed has brought.
func (p *Proxy) settle(revision int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, e := range p.own {
		if e.KV.ModRevision <= revision {
			delete(p.own, k)
		}
	}
}

// ownIn returns the own writes in a range. It is taken before the cache is read: what it no longer has, the cache has.
func (p *Proxy) ownIn(key, end []byte) (in map[string]kv.Event) {
	p.mu.Lock()
	defer p.mu.Unlock()
	for k, e := range p.own {
		if kv.Contains(key, end, []byte(k)) {
			if in == nil {
				in = map[string]kv.Event{}
			}
			in[k] = e
		}
	}
	return in
}

// State is the proxy as an operator sees it, from memory.
type State struct {
	Epoch    kv.Epoch
	Revision int64         // newest seen
	Synced   bool          // every prefix is mirrored and the feed is up
	Age      time.Duration // proven, kv.AgeUnknown without proof
	Bytes    int64
	MaxBytes int64
	Mirrors  []Mirror
	Err      error // why the feed is down
}

// Mirror is one prefix.
type Mirror struct {
	Prefix   string
	Covered  bool
	Revision int64
	Reason   string // why it is not covered
}

// State answers from memory.
func (p *Proxy) State() State {
	epoch, rev := p.seen()
	s := State{Epoch: epoch, Revision: rev, Age: p.feed.age(), Bytes: p.cache.Bytes(), MaxBytes: p.opts.MaxBytes}
	s.Synced, s.Err = p.feed.state()
	if len(p.opts.Prefixes) == 0 { // nothing is mirrored, so nothing is out of step
		s.Synced, s.Err = true, nil
	}
	for _, prefix := range p.opts.Prefixes {
		key, end := kv.PrefixRange(prefix)
		m := Mirror{Prefix: string(prefix), Reason: p.feed.why(prefix)}
		if span, ok := p.cache.Covered(key, end); ok {
			m.Covered, m.Revision = true, span.Revision
		}
		s.Synced = s.Synced && m.Covered
		s.Mirrors = append(s.Mirrors, m)
	}
	return s
}

var errNoFeed = errors.New("the feed is not up")
