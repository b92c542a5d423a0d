package proxy

import (
	"context"
	"errors"
	"fmt"
	"sync"
	"time"

	"holdfast/kv"
)

// Renewals of leases are gathered, so that what they cost the uplink and the cluster does not grow with the clients:
//
//	one comes, none for renewEvery ----> goes up at once
//	others within renewEvery of it ----> wait, and go up together; many of one lease are one
//
// Each joins only a call that has not been sent yet. So the lease has its whole time at some moment after it was asked
// for, and what the cluster answers is true for all of those who asked.
const (
	renewEvery   = 50 * time.Millisecond // between the beginnings of two calls: at most 20 a second
	renewMost    = 512                   // leases of one call
	renewalsMax  = 8192                  // that wait to be sent; more are refused as Busy
	renewCalls   = 4                     // under way at once: one that is not answered does not hold up the next
	renewTimeout = 10 * time.Second      // of one call
	renewSingly  = time.Minute           // how long a member that takes no batch is not asked again whether it does
)

// renewals sends what waits. Its methods may be called concurrently.
type renewals struct {
	up    func(context.Context, kv.Command) (kv.Result, error)
	met   *metrics
	turn  chan struct{} // a token for each call that may be under way
	calls sync.WaitGroup

	mu      sync.Mutex
	filling *renewing // nil if nothing waits
	waiting int       // leases that wait to be sent
	next    time.Time // before it no call begins
	singly  time.Time // until then each lease has a call of its own
	closed  bool      // guards calls.Go against calls.Wait
}

// renewing is one call.
type renewing struct {
	at   map[renewal]int
	cmds []kv.Command
	done chan struct{}
	outs []kv.Outcome // of cmds, once done
	err  error        // of all
}

// renewal is what is asked for only once, however many ask.
type renewal struct {
	lease int64
	by    kv.By
}

func newRenewals(up Upstream, met *metrics) *renewals {
	return &renewals{up: up.Do, met: met, turn: make(chan struct{}, renewCalls)}
}

// close refuses what comes from now on, and waits for the calls under way.
func (r *renewals) close() {
	r.mu.Lock()
	r.closed = true
	r.mu.Unlock()
	r.calls.Wait()
}

// renew renews the leases of some commands and returns how each ended.
func (r *renewals) renew(ctx context.Context, cmds []kv.Command) []kv.Outcome {
	type ticket struct {
		call *renewing
		i    int
		err  error
	}
	tickets := make([]ticket, len(cmds))
	for i, c := range cmds {
		tickets[i].call, tickets[i].i, tickets[i].err = r.join(c)
	}
	outs := make([]kv.Outcome, len(cmds))
	for i, t := range tickets {
		if t.err != nil {
			outs[i].Err = asError(t.err)
			continue
		}
		select {
		case <-t.call.done:
			if outs[i].Err = asError(t.call.err); t.call.err == nil {
				outs[i] = t.call.outs[t.i]
			}
		case <-ctx.Done():
			outs[i].Err = kv.Errorf(kv.OutcomeUnknown, "the renewal was not answered in time (%v); it does no harm to ask for it again", context.Cause(ctx))
		}
	}
	return outs
}

// join puts a renewal into the call that goes next.
func (r *renewals) join(c kv.Command) (*renewing, int, error) {
	what := renewal{c.Ops[0].(kv.LeaseKeepAlive).ID, c.By}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.met.renewals.Inc()
	if r.closed {
		return nil, 0, kv.Errorf(kv.Stopping, "this node is stopping; the lease was not renewed: ask another one, or this one once it is back")
	}
	if r.filling != nil {
		if i, there := r.filling.at[what]; there {
			return r.filling, i, nil
		}
	}
	if r.waiting >= renewalsMax {
		return nil, 0, &kv.Error{Code: kv.Busy, RetryAfter: time.Second,
			Detail: fmt.Sprintf("%d renewals of leases wait to be sent up, which is the limit", renewalsMax)}
	}
	if r.filling == nil {
		r.filling = &renewing{at: map[renewal]int{}, done: make(chan struct{})}
		r.begin(r.filling)
	}
	b := r.filling
	b.at[what] = len(b.cmds)
	b.cmds = append(b.cmds, c)
	r.waiting++
	if len(b.cmds) == renewMost {
		r.filling = nil // the next one begins another
	}
	return b, len(b.cmds) - 1, nil
}

// begin has a call sent when it is its turn. The caller holds r.mu.
func (r *renewals) begin(b *renewing) {
	now := time.Now()
	wait := r.next.Sub(now)
	r.next = now.Add(max(wait, 0) + renewEvery)
	r.calls.Go(func() {
		if wait > 0 {
			time.Sleep(wait)
		}
		r.turn <- struct{}{}
		defer func() { <-r.turn }()
		defer close(b.done)
		r.mu.Lock()
		if r.filling == b {
			r.filling = nil
		}
		r.waiting -= len(b.cmds)
		singly := time.Now().Before(r.singly)
		r.mu.Unlock()
		ctx, cancel := context.WithTimeout(context.Background(), renewTimeout)
		defer cancel()
		r.send(ctx, b, singly)
	})
}

// send makes the call. A member of a former version takes no batch of renewals; then each lease has a call of its own.
func (r *renewals) send(ctx context.Context, b *renewing, singly bool) {
	if len(b.cmds) == 1 || singly {
		r.sendSingly(ctx, b)
		return
	}
	r.met.renewalCalls.Inc()
	res, err := r.up(ctx, kv.Command{Ops: []kv.Op{kv.Each{Commands: b.cmds}}})
	switch {
	case kv.CodeOf(err) == kv.Invalid || kv.CodeOf(err) == kv.Unsupported:
		r.mu.Lock()
		r.singly = time.Now().Add(renewSingly)
		r.mu.Unlock()
		r.sendSingly(ctx, b)
	case err != nil:
		b.err = err
	case len(res.Ops) != 1 || len(res.Ops[0].Each) != len(b.cmds):
		b.err = kv.Errorf(kv.Internal, "the answer to %d renewals has another shape", len(b.cmds))
	default:
		b.outs = res.Ops[0].Each
		for i := range b.outs {
			own := b.outs[i].Result.Revision
			b.outs[i].Result.Header = res.Header
			b.outs[i].Result.Revision = max(own, res.Revision)
		}
	}
}

func (r *renewals) sendSingly(ctx context.Context, b *renewing) {
	b.outs = make([]kv.Outcome, len(b.cmds))
	var all sync.WaitGroup
	for i, c := range b.cmds {
		all.Go(func() {
			r.met.renewalCalls.Inc()
			res, err := r.up(ctx, c)
			b.outs[i] = kv.Outcome{Result: res, Err: asError(err)}
		})
	}
	all.Wait()
}

// renew answers a command that renews leases, or a batch of such.
func (p *Proxy) renew(ctx context.Context, c kv.Command, cmds []kv.Command) (kv.Result, error) {
	outs := p.renewals.renew(ctx, cmds)
	var newest kv.Header
	for _, out := range outs {
		if h := out.Result.Header; out.Err == nil && h.Revision >= newest.Revision {
			newest = h
		}
	}
	p.saw(newest)
	if _, alone := c.Ops[0].(kv.LeaseKeepAlive); !alone {
		return kv.Result{Header: newest, Ops: []kv.OpResult{{Each: outs}}}, nil
	}
	if outs[0].Err != nil {
		return kv.Result{}, outs[0].Err
	}
	return outs[0].Result, nil
}

// asError is err as an outcome has it.
func asError(err error) *kv.Error {
	if err == nil {
		return nil
	}
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e
	}
	return kv.Errorf(kv.Internal, "%v", err)
}
