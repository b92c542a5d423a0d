package etcd

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// line is who wants a name, for a lock or an election: a key for each below the name, which lives as long as a lease of
// its owner. Whose key is oldest has the name. etcd's client library keeps them the same way, so that its locks and
// elections and those that are asked for here are of one line.
type line struct {
	*Server
	waiting chan struct{} // a token for each call that waits or observes
}

const (
	// waitersMax is how many calls may wait in lines, or observe elections, on this node. Each holds a watch.
	waitersMax = 4096

	// lineTTL is the time to live in seconds of a lease that is made for a client which names none; etcd's.
	lineTTL = 60

	// leaveTimeout is how long the place of a caller that has gone is tried to be given up. Its lease ends it otherwise.
	leaveTimeout = 5 * time.Second
)

func newLine(s *Server) line { return line{Server: s, waiting: make(chan struct{}, waitersMax)} }

// errLost says that a place is gone: its lease has ended, or somebody deleted its key.
var errLost = errors.New("the place in the line is gone")

// place is a key in a line.
type place struct {
	line
	prefix, key []byte
	lease       int64
	lent        bool // the lease was made for this call
	created     int64
	value       []byte    // as it stood when the line was entered
	first       bool      // nobody is before it
	header      kv.Header // of the entry
}

// prefixOf is what the keys of a line begin with.
func prefixOf(name []byte) []byte { return append(slices.Clip(slices.Clone(name)), '/') }

// oldest reads the key that has the name.
func oldest(prefix []byte) kv.Range {
	return kv.Range{Key: prefix, End: kv.PrefixEnd(prefix), Sort: kv.TargetCreate, Order: kv.OrderAscend, Limit: 1}
}

// enter takes a place, or finds the one that the lease has: to ask again changes nothing. Without a lease one is made,
// which nobody renews unless the caller does; its id is the end of the key. It is made by the command that takes the place:
// of a caller who may not have that nothing is left.
func (l line) enter(ctx context.Context, name, value []byte, lease int64) (*place, error) {
	p := &place{line: l, prefix: prefixOf(name), lease: lease}
	var ops []kv.Op
	if lease == 0 {
		p.lease, p.lent = drawLeaseID(), true
		ops = append(ops, kv.LeaseGrant{ID: p.lease, TTL: lineTTL})
	}
	p.key = fmt.Appendf(slices.Clone(p.prefix), "%x", p.lease)
	mine, holder := kv.Range{Key: p.key}, oldest(p.prefix)
	res, err := l.opts.Backend.Do(ctx, kv.Command{Write: kv.WriteSync, Ops: append(ops, kv.Txn{
		Compares: []kv.Compare{{Key: p.key, Target: kv.TargetCreate, Relation: kv.Equal, Num: 0}},
		Then:     []kv.Op{kv.Put{Key: p.key, Value: value, Lease: p.lease}, mine, holder},
		Else:     []kv.Op{mine, holder},
	})})
	if err != nil {
		if p.lent && api.FaceOf(kv.CodeOf(err)).Outcome == api.OutcomeUnknown {
			p.leave(ctx)
		}
		return nil, l.refusal(ctx, err)
	}
	taken := res.Ops[len(ops)]
	found := taken.Ops
	if taken.Succeeded {
		found = found[1:]
	}
	me := found[0].KVs[0]
	p.created, p.value, p.header = me.CreateRevision, me.Value, res.Header
	p.first = found[1].KVs[0].CreateRevision == p.created
	return p, nil
}

// await returns once nobody is before the place, with where the store was then. It waits for the one just before it
// alone, so that a name that becomes free wakes one.
func (p *place) await(ctx context.Context) (kv.Header, error) {
	done, err := p.wait()
	if err != nil {
		return kv.Header{}, err
	}
	defer done()
	ctx, cancel := p.whileServing(ctx)
	defer cancel()
	for {
		page, err := p.look(ctx)
		if err != nil {
			return kv.Header{}, p.orStopped(err)
		}
		before := page.Ops[0].KVs
		if len(before) == 0 {
			return page.Header, nil
		}
		// Its own key, too: without it, to wait on is in vain.
		gone := []kv.Watch{
			{ID: 0, Key: before[0].Key, From: page.Revision + 1, NoPuts: true},
			{ID: 1, Key: p.key, From: page.Revision + 1, NoPuts: true},
		}
		if err := p.watch(ctx, gone, func(kv.Header, kv.Event) (bool, error) { return true, nil }); err != nil {
			return kv.Header{}, err
		}
	}
}

// look reads who is just before the place, and whether it still is there itself, at one revision.
func (p *place) look(ctx context.Context) (kv.Page, error) {
	before := kv.Range{Key: p.prefix, End: kv.PrefixEnd(p.prefix), Sort: kv.TargetCreate, Order: kv.OrderDescend, Limit: 1,
		MaxCreate: p.created - 1, KeysOnly: true}
	page, err := p.read(ctx, false, before, kv.Range{Key: p.key, KeysOnly: true})
	if err != nil {
		return kv.Page{}, err
	}
	if me := page.Ops[1].KVs; len(me) == 0 || me[0].CreateRevision != p.created {
		return kv.Page{}, errLost
	}
	return page, nil
}

// leave gives the place up, also when its caller has gone. What cannot be given up ends with its lease.
func (p *place) leave(ctx context.Context) {
	ctx, cancel := context.WithTimeout(context.WithoutCancel(ctx), leaveTimeout)
	defer cancel()
	var op kv.Op = kv.LeaseRevoke{ID: p.lease}
	if !p.lent {
		op = kv.Txn{
			Compares: []kv.Compare{{Key: p.key, Target: kv.TargetCreate, Relation: kv.Equal, Num: p.created}},
			Then:     []kv.Op{kv.Delete{Key: p.key}},
		}
	}
	_, err := p.opts.Backend.Do(ctx, kv.Command{Ops: []kv.Op{op}})
	if err != nil && kv.CodeOf(err) != kv.LeaseNotFound {
		p.opts.Log.Warn("place in line not given up: it ends with its lease", "key", p.key, "lease", p.lease, "err", err)
	}
}

// wait counts a call that waits, if there may be another.
func (l line) wait() (done func(), err error) {
	select {
	case l.waiting <- struct{}{}:
		return func() { <-l.waiting }, nil
	default:
		return nil, l.refusal(context.Background(), kv.Errorf(kv.Busy, "%d calls wait for locks and elections here, the most at once", waitersMax))
	}
}

// watch calls on with each event of the watches until it says that it is done. It returns nil then, and when events
// have been missed, so that the caller has to look again.
func (l line) watch(ctx context.Context, watches []kv.Watch, on func(kv.Header, kv.Event) (done bool, err error)) error {
	for batch, err := range l.opts.Backend.Watch(ctx, kv.WatchSpec{Watches: watches}) {
		switch {
		case ctx.Err() != nil:
			return l.ended(ctx)
		case err != nil:
			return l.refusal(ctx, err)
		case batch.State == kv.WatchResync:
			return nil
		case batch.Canceled && batch.Err == nil:
			return errWatchEnded
		case batch.Canceled && batch.Err.Code != kv.Compacted && batch.Err.Code != kv.SlowConsumer:
			return l.refusal(ctx, batch.Err)
		case batch.Canceled:
			return nil
		}
		for _, e := range batch.Events {
			if done, err := on(batch.Header, e); done || err != nil {
				return err
			}
		}
	}
	if ctx.Err() != nil {
		return l.ended(ctx)
	}
	return errWatchEnded
}

var errWatchEnded = status.Error(codes.Unavailable, ours+"the watch on the line ended; try again")

// whileServing is ctx until the Server stops.
func (s *Server) whileServing(ctx context.Context) (context.Context, context.CancelFunc) {
	ctx, cancel := context.WithCancel(ctx)
	forget := context.AfterFunc(s.stopping, cancel)
	return ctx, func() { forget(); cancel() }
}

// ended is why a context of whileServing has.
func (s *Server) ended(ctx context.Context) error {
	return s.orStopped(status.FromContextError(ctx.Err()).Err())
}

// orStopped is err, unless it comes from the Server's stop.
func (s *Server) orStopped(err error) error {
	if s.stopping.Err() != nil {
		return errStopped
	}
	return err
}
