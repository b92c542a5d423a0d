package member

import (
	"context"
	"errors"
	"sync"
	"time"

	"golang.org/x/sync/errgroup"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// asks puts questions about leases to the leader over the Network. Those that come while all senders are busy go
// together, so that there are few streams, however many ask.
type asks struct {
	send func(ctx context.Context, leader uint64, request []byte) ([]byte, error)
	wake chan struct{} // of one slot: something waits

	mu      sync.Mutex
	waiting []*question // at most maxAsking
	stopped bool
}

const (
	askSenders = 4
	maxAsked   = 1024  // questions that go together
	maxAsking  = 16384 // waiting to be sent; more are refused as Busy
	// askTimeout is how long the leader has: for its own round, and the way there and back.
	askTimeout = leaderWait + time.Second
)

// question is one that somebody waits for.
type question struct {
	leader uint64
	op     kv.Op
	lease  kv.Lease
	err    error
	done   chan struct{}
}

func newAsks(send func(context.Context, uint64, []byte) ([]byte, error)) *asks {
	return &asks{send: send, wake: make(chan struct{}, 1)}
}

// ask returns what the leader answers, or NoLeader if it cannot be asked, leads no more, or stop is closed before.
func (a *asks) ask(ctx context.Context, leader uint64, op kv.Op, stop <-chan struct{}) (kv.Lease, error) {
	q := &question{leader: leader, op: op, done: make(chan struct{})}
	a.mu.Lock()
	switch {
	case a.stopped:
		a.mu.Unlock()
		return kv.Lease{}, errStopping()
	case len(a.waiting) >= maxAsking:
		a.mu.Unlock()
		return kv.Lease{}, kv.Errorf(kv.Busy, "%d questions about leases wait to be passed on to the leader: send fewer at a time", maxAsking)
	}
	a.waiting = append(a.waiting, q)
	a.mu.Unlock()
	a.nudge()
	select {
	case <-q.done:
		return q.lease, q.err
	case <-stop:
		return kv.Lease{}, noLeader("it has changed")
	case <-ctx.Done():
		return kv.Lease{}, noLeader("the caller gave up waiting: %v", context.Cause(ctx))
	}
}

func (a *asks) nudge() {
	select {
	case a.wake <- struct{}{}:
	default:
	}
}

// run sends questions until ctx ends. Those that wait then are refused.
func (a *asks) run(ctx context.Context) error {
	var g errgroup.Group
	for range askSenders {
		g.Go(func() error {
			for {
				select {
				case <-a.wake:
					a.sendSome(ctx)
				case <-ctx.Done():
					return nil
				}
			}
		})
	}
	err := g.Wait()
	a.mu.Lock()
	defer a.mu.Unlock()
	a.stopped = true
	for _, q := range a.waiting {
		q.answer(kv.Lease{}, errStopping())
	}
	a.waiting = nil
	return err
}

func (q *question) answer(l kv.Lease, err error) {
	q.lease, q.err = l, err
	close(q.done)
}

// sendSome sends what waits for one leader.
func (a *asks) sendSome(ctx context.Context) {
	some := a.take()
	if len(some) == 0 {
		return
	}
	var each kv.Each
	for _, q := range some {
		each.Commands = append(each.Commands, kv.Command{Ops: []kv.Op{q.op}})
	}
	ctx, cancel := context.WithTimeout(ctx, askTimeout)
	defer cancel()
	answers, err := a.exchange(ctx, some[0].leader, each)
	for i, q := range some {
		switch {
		case err != nil:
			q.answer(kv.Lease{}, err)
		case answers[i].Err != nil:
			q.answer(kv.Lease{}, answers[i].Err)
		default:
			q.answer(answers[i].Result.Ops[0].Leases[0], nil)
		}
	}
}

// take takes the questions for one leader that wait, up to maxAsked.
func (a *asks) take() (some []*question) {
	a.mu.Lock()
	defer a.mu.Unlock()
	var rest []*question
	for _, q := range a.waiting {
		if len(some) < maxAsked && (len(some) == 0 || q.leader == some[0].leader) {
			some = append(some, q)
		} else {
			rest = append(rest, q)
		}
	}
	if a.waiting = rest; len(rest) > 0 {
		a.nudge()
	}
	return some
}

var errNoAnswer = errors.New("what came back is no answer")

// exchange asks the leader. Whatever goes wrong on the way there or back looks as if there were none.
func (a *asks) exchange(ctx context.Context, leader uint64, each kv.Each) ([]kv.Outcome, error) {
	b, err := a.send(ctx, leader, wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{each}}))
	if err != nil {
		return nil, noLeader("it cannot be asked: %v", err)
	}
	out, err := wire.DecodeOutcome(b)
	switch {
	case err != nil:
		return nil, noLeader("its answer cannot be read: %v", err)
	case out.Err != nil:
		return nil, out.Err
	case len(out.Result.Ops) != 1 || len(out.Result.Ops[0].Each) != len(each.Commands):
		return nil, noLeader("%v", errNoAnswer)
	}
	answers := out.Result.Ops[0].Each
	for _, o := range answers {
		if o.Err == nil && (len(o.Result.Ops) != 1 || len(o.Result.Ops[0].Leases) != 1) {
			return nil, noLeader("%v", errNoAnswer)
		}
	}
	return answers, nil
}
