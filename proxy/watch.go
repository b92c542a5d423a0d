package proxy

import (
	"context"
	"errors"
	"iter"
	"math/rand/v2"
	"time"

	"holdfast/internal/relay"
	"holdfast/kv"
)

// Watch serves from the feed what lies in mirrored prefixes (fed.go), forwards the rest, and outlives the upstream: when it
// is lost the stream stays open and says WatchStale once; when it is back, WatchCatchingUp, every event since in order,
// and WatchSynced.
func (p *Proxy) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		if !p.admit() {
			yield(kv.Batch{}, kv.Errorf(kv.RateLimited, "%d watches are open on this node, which is its limit", watchersMax))
			return
		}
		defer p.leave()
		w := &watcher{p: p, Stream: relay.NewStream(spec, yield)}
		w.run(ctx)
	}
}

func (p *Proxy) admit() bool {
	p.mu.Lock()
	defer p.mu.Unlock()
	if p.watchers >= watchersMax {
		return false
	}
	p.watchers++
	return true
}

func (p *Proxy) leave() {
	p.mu.Lock()
	defer p.mu.Unlock()
	p.watchers--
}

// watcher is one stream of one consumer.
type watcher struct {
	*relay.Stream
	p     *Proxy
	epoch kv.Epoch // zero until it is known
}

// run serves the stream from the feed, or opens one upstream watch after the other, until the consumer or ctx ends, or a
// watch cannot go on.
func (w *watcher) run(ctx context.Context) {
	pause := retryFirst
	for {
		if w.Answer() {
			return
		}
		if seats, ok := w.fits(); ok {
			if w.fed(ctx, seats) || ctx.Err() != nil {
				return
			}
		}
		reconnected := w.p.opts.Reconnected()
		over, err := w.once(ctx)
		if over || ctx.Err() != nil {
			return
		}
		if kv.CodeOf(err) != kv.UpstreamUnavailable && kv.CodeOf(err) != kv.NoLeader {
			w.Fail(err)
			return
		}
		if w.Link() != kv.WatchStale {
			if !w.Tell(kv.Header{}, kv.WatchStale) {
				return
			}
			pause = retryFirst
		}
		if !w.rest(ctx, pause/2+rand.N(pause/2), reconnected) {
			return
		}
		pause = min(2*pause, retryMax)
	}
}

// rest waits before the next upstream watch. What the consumer asks for meanwhile is answered as far as that can be done
// without an upstream. False: the stream has ended.
func (w *watcher) rest(ctx context.Context, pause time.Duration, reconnected <-chan struct{}) bool {
	t := time.NewTimer(pause)
	defer t.Stop()
	for {
		select {
		case <-t.C:
			return true
		case <-reconnected:
			return true
		case <-ctx.Done():
			return false
		case c, ok := <-w.Control():
			if w.Take(c, ok); w.Answer() {
				return false
			}
		}
	}
}

// errEnough says that the consumer or the context has ended.
var errEnough = errors.New("the consumer had enough")

// once runs one upstream watch. over: the consumer had enough, or was told the end.
func (w *watcher) once(ctx context.Context) (over bool, err error) {
	over, err = w.Feed(ctx, w.p.up.Watch, func(b kv.Batch) error {
		if !w.sameHistory(b) {
			return errEnough
		}
		w.p.showingEvents(ctx, b)
		return nil
	})
	switch {
	case over || errors.Is(err, errEnough):
		return true, nil
	case err != nil:
		return false, err
	}
	return false, kv.Errorf(kv.UpstreamUnavailable, "the upstream ended the watch")
}

// sameHistory tells the consumer if revisions no longer mean what they did.
func (w *watcher) sameHistory(b kv.Batch) bool {
	if b.Epoch.IsZero() || b.Epoch == w.epoch {
		return true
	}
	if w.epoch.IsZero() {
		w.epoch = b.Epoch
		return true
	}
	for _, one := range w.Watches() {
		if !w.Yield(kv.Batch{Header: b.Header, WatchID: one.ID, Canceled: true,
			Err: kv.Errorf(kv.Compacted, "the cluster has another history (it was restored); read again, and watch from there")}) {
			break
		}
	}
	return false
}
