// Package proxy is a node in front of others: it forwards, and serves what it mirrors, and what it was asked for before,
// from a cache that proves its age.
//
// A Proxy is a Backend around an Upstream. One watch stream feeds the cache. An age is proven by rounds: the upstream takes a
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
	Prefixes [][]byte // what is mirrored; of other keys the cache holds those that are read
	MaxBytes int64    // of the cache, 64 MiB
	ReadOnly bool     // writes are refused with ReadOnlyNode
	Self     kv.By    // as whom the cache is filled: this node itself
	// Clock is time since boot, suspend included (CLOCK_BOOTTIME): nobody sets it.
	Clock func() time.Duration
	// Reconnected returns a channel that is closed when the connection to the upstream changes next: what pauses before it tries
	// again does so then. Nil: nobody tells.
	Reconnected func() <-chan struct{}
	// Paused says why the cache is not to be fed now, nil if it is; changed is closed when that is different. Meanwhile the cache
	// ages as without the uplink, but reads that take no answer from it are asked above. Nil: it is never paused.
	Paused     func() (changed <-chan struct{}, why error)
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
	tooLargeRetry     = time.Hour       // until a prefix that was too large is looked at again
	slowRound         = time.Second     // a round that takes longer is not waited for by who takes what is at hand
	watchersMax       = 4096            // watches open at once; beyond it they are refused with RateLimited
)

// Proxy is safe for concurrent use; Run must be running.
type Proxy struct {
	up    Upstream
	opts  Options
	cache *cache.Cache
	feed  *feed
	met   *metrics

	renewals *renewals

	mu       sync.Mutex
	newest   int64 // highest revision seen in epoch
	caught   bool  // nothing that an earlier process of this node acknowledged or showed is above newest
	epoch    kv.Epoch
	watchers int
}

// New opens the cache. A cache that cannot be read is replaced by an empty one: all of it can be fetched again.
func New(o Options) (*Proxy, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.Reconnected == nil {
		o.Reconnected = func() <-chan struct{} { return nil }
	}
	if o.Paused == nil {
		o.Paused = func() (<-chan struct{}, error) { return nil, nil }
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
	p := &Proxy{up: o.Upstream, opts: o, cache: c, epoch: c.Epoch(), newest: c.Newest()}
	p.feed = newFeed(p)
	p.met = newMetrics(p, o.Metrics)
	p.renewals = newRenewals(p.up, p.met)
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
	p.renewals.close()
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
	}
	p.newest = max(p.newest, h.Revision)
	p.cache.Saw(h.Revision)
}

func (p *Proxy) seen() (kv.Epoch, int64) {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.epoch, p.newest
}

// catchUp takes note that the newest revision seen is the cluster's: a round has come, or a linearizable answer.
func (p *Proxy) catchUp() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.caught = true
}

func (p *Proxy) caughtUp() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	return p.caught
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
	if cmds := kv.Renewals(&c); len(cmds) > 0 {
		return p.renew(ctx, c, cmds)
	}
	res, err := p.up.Do(ctx, c)
	if err != nil {
		if e, ok := errors.AsType[*kv.Error](err); ok {
			p.refused(c, e)
		}
		return res, err
	}
	p.saw(res.Header)
	p.remember(ctx, c, res)
	p.showing(c.Ops, res.Ops, res.Revision)
	return res, nil
}

// State is the proxy as an operator sees it, from memory.
type State struct {
	Epoch    kv.Epoch
	Revision int64         // newest seen
	Synced   bool          // every prefix is mirrored, and the feed is up if there are any
	Age      time.Duration // proven, kv.AgeUnknown without proof
	Bytes    int64
	MaxBytes int64
	Held     int // keys held on demand
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
	s := State{Epoch: epoch, Revision: rev, Age: p.feed.age(), Bytes: p.cache.Bytes(), MaxBytes: p.opts.MaxBytes, Held: p.cache.HeldLen()}
	s.Synced, s.Err = p.feed.state()
	if len(p.opts.Prefixes) == 0 { // nothing is mirrored, so nothing is out of step
		s.Synced, s.Err = true, nil
	}
	for i, prefix := range p.opts.Prefixes {
		key, end := kv.PrefixRange(prefix)
		m := Mirror{Prefix: string(prefix), Reason: p.feed.why(i)}
		if span, ok := p.cache.Mirrored(key, end); ok {
			m.Covered, m.Revision = true, span.Revision
		}
		s.Synced = s.Synced && m.Covered
		s.Mirrors = append(s.Mirrors, m)
	}
	return s
}

// Feeding counts the loop that feeds the cache: up by one when it begins with what the stream has brought, and by one when
// that is in the cache. It is at one thing as long as the count is odd and stays the same; while it waits for the cluster the
// count is even.
func (p *Proxy) Feeding() uint64 { return p.feed.work.Load() }

var errNoFeed = errors.New("the feed is not up")

// Reach returns once nothing that is read here is older than what h says was shown, by this node in another guise: what is
// mirrored is brought there, and whoever is asked above has to be there.
func (p *Proxy) Reach(ctx context.Context, h kv.Header) error {
	p.saw(h)
	for {
		_, _, changed := p.feed.news()
		if p.behind(h.Revision) == 0 {
			return nil
		}
		if _, _, err := p.feed.round(ctx); err != nil {
			if ctx.Err() != nil {
				return err
			}
			select { // the feed may come up yet
			case <-changed:
			case <-ctx.Done():
				return err
			}
		}
	}
}

// behind counts the mirrored prefixes that are not at a revision yet.
func (p *Proxy) behind(revision int64) (n int) {
	for _, m := range p.feed.mirrors {
		if span, ok := p.cache.Mirrored(m.key, m.end); ok && span.Revision < revision {
			n++
		}
	}
	return n
}
