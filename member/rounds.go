package member

import (
	"context"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/kv"
)

// roundsAtOnce is how many rounds may be under way. More than one, so that a read that just missed a round does not
// wait for its end before its own begins.
const roundsAtOnce = 4

// rounds coalesces reads into read-index rounds, and remembers when the newest successful one was sent: what the
// replica holds is at most that old. A read joins a round that has not been sent yet, or makes one.
//
//	join ---> collecting ---taken by a worker---> sent ---readIndex---> done
//
// Reads that arrive while all workers are busy share the one round that is collecting, so there is no queue to bound.
type rounds struct {
	clock func() time.Duration
	take  func(ctx context.Context, sent func()) error
	next  chan *round // the round that is collecting, until a worker takes it

	mu         sync.Mutex
	collecting *round
	proven     bool
	newest     time.Duration // when the newest successful round was sent
	stopped    bool
}

type round struct {
	done chan struct{}
	err  error // readable once done is closed
}

func newRounds(clock func() time.Duration, take func(context.Context, func()) error) *rounds {
	return &rounds{clock: clock, take: take, next: make(chan *round, 1)}
}

// join returns once a round that began after the call has ended.
func (r *rounds) join(ctx context.Context) error {
	r.mu.Lock()
	if r.stopped {
		r.mu.Unlock()
		return errStopping()
	}
	mine := r.collecting
	if mine == nil {
		mine = &round{done: make(chan struct{})}
		r.collecting = mine
		r.next <- mine // never blocks: only one is collecting
	}
	r.mu.Unlock()
	select {
	case <-mine.done:
		return mine.err
	case <-ctx.Done():
		return noLeader("the caller gave up waiting: %v", context.Cause(ctx))
	}
}

// age is how old the state of the replica may be.
func (r *rounds) age() time.Duration {
	r.mu.Lock()
	defer r.mu.Unlock()
	if !r.proven {
		return kv.AgeUnknown
	}
	return max(r.clock()-r.newest, 0)
}

// run takes rounds until ctx ends. Those that are waiting then are refused.
func (r *rounds) run(ctx context.Context) error {
	var g errgroup.Group
	for range roundsAtOnce {
		g.Go(func() error {
			for {
				select {
				case next := <-r.next:
					r.serve(ctx, next)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	err := g.Wait()
	r.stop()
	return err
}

// stop refuses the reads that wait for a round that no worker has taken, and all that come later. No worker runs.
func (r *rounds) stop() {
	r.mu.Lock()
	defer r.mu.Unlock()
	r.stopped = true
	if r.collecting == nil {
		return
	}
	<-r.next
	r.collecting.err = errStopping()
	close(r.collecting.done)
	r.collecting = nil
}

func (r *rounds) serve(ctx context.Context, rd *round) {
	r.mu.Lock()
	r.collecting = nil // from here on reads belong to the next one
	r.mu.Unlock()
	var sent time.Duration
	rd.err = r.take(ctx, func() { sent = r.clock() })
	if ctx.Err() != nil && rd.err != nil {
		rd.err = errStopping()
	}
	if rd.err == nil {
		r.mu.Lock()
		if !r.proven || sent > r.newest {
			r.proven, r.newest = true, sent
		}
		r.mu.Unlock()
	}
	close(rd.done)
}
