package agent

import (
	"context"
	"iter"
	"sync"
	"time"

	"holdfast/kv"
	"holdfast/member"
	"holdfast/proxy"
)

// rounds is a member as a cache is fed from it: whoever asks how far the cluster is gets an answer behind a read index, as
// over an uplink.
type rounds struct{ *member.Member }

// roundRetry is the pause after a read index that failed. The question stays open until one succeeds.
const roundRetry = 100 * time.Millisecond

// Watch is the member's.
func (r rounds) Watch(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if spec.Control == nil {
		return r.Member.Watch(ctx, spec)
	}
	return func(yield func(kv.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		var passing sync.WaitGroup
		defer passing.Wait()
		defer cancel()
		in, out := spec.Control, make(chan kv.WatchControl)
		spec.Control = out
		passing.Go(func() { r.pass(ctx, in, out) })
		for b, err := range r.Member.Watch(ctx, spec) {
			if !yield(b, err) {
				return
			}
		}
	}
}

func (r rounds) pass(ctx context.Context, in <-chan kv.WatchControl, out chan<- kv.WatchControl) {
	for {
		var c kv.WatchControl
		var ok bool
		select {
		case c, ok = <-in:
		case <-ctx.Done():
			return
		}
		if !ok {
			close(out)
			return
		}
		for c.Progress {
			if _, err := r.Read(ctx, kv.Query{}); err == nil {
				break
			}
			if wait(ctx, roundRetry) != nil {
				return
			}
		}
		select {
		case out <- c:
		case <-ctx.Done():
			return
		}
	}
}

// isFilled reports whether a cache has all it is going to mirror.
func isFilled(s proxy.State) bool {
	for _, m := range s.Mirrors {
		if !m.Covered && m.Reason == "" {
			return false
		}
	}
	return true
}
