package queue

import (
	"context"
	"errors"
	"iter"
	"sync"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// cluster is the node behind the queue in tests: it keeps the replicated state's side of the bargain (sequences,
// outcomes, guards with predecessors) in a few maps, and its link fails on command.
type cluster struct {
	mu      sync.Mutex
	up      bool
	mute    bool // applies, and loses the answer
	blank   bool // the node behind knows no key by itself
	rev     int64
	keys    map[string]*stored
	epochs  map[[16]byte]uint64
	lanes   map[laneKey]*laneState
	keyed   map[[16]byte]past // by retry key
	applied []string          // values in the order in which they were applied
	sends   int
	epoch   kv.Epoch
	grants  map[[16]byte]kv.Epoch // the history in which the last queue epoch was granted
	hung    chan struct{}         // not nil: nothing is answered until it is closed
}

type stored struct {
	value  string
	mod    int64
	writer kv.Seq
}

type laneKey struct {
	origin [16]byte
	lane   kv.Lane
}

type laneState struct {
	epoch, last uint64
	ring        map[uint64]past
	order       []uint64 // of the ring
}

type past struct {
	print [16]byte
	out   kv.Outcome
}

func newCluster() *cluster {
	return &cluster{up: true, rev: 1, keys: map[string]*stored{}, epochs: map[[16]byte]uint64{}, lanes: map[laneKey]*laneState{}, keyed: map[[16]byte]past{}, grants: map[[16]byte]kv.Epoch{}}
}

func (c *cluster) set(up, mute bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.up, c.mute = up, mute
}

func (c *cluster) log() []string {
	c.mu.Lock()
	defer c.mu.Unlock()
	return append([]string(nil), c.applied...)
}

func (c *cluster) hang() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.hung = make(chan struct{})
}

func (c *cluster) release() {
	c.mu.Lock()
	defer c.mu.Unlock()
	close(c.hung)
	c.hung = nil
}

func (c *cluster) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	c.mu.Lock()
	hung := c.hung
	c.mu.Unlock()
	if hung != nil {
		select {
		case <-hung:
		case <-ctx.Done():
			return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "no answer in time")
		}
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	c.sends++
	if !c.up {
		return kv.Result{}, kv.Errorf(kv.UpstreamUnavailable, "the link is down")
	}
	cmd, err := wire.DecodeCommand(wire.AppendCommand(nil, cmd)) // as it would arrive
	if err != nil {
		return kv.Result{}, err
	}
	out := c.apply(cmd)
	if c.mute {
		return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "the answer was lost")
	}
	if out.Err != nil {
		return kv.Result{}, out.Err
	}
	return out.Result, nil
}

func (c *cluster) apply(cmd kv.Command) kv.Outcome {
	switch o := cmd.Ops[0].(type) {
	case kv.Each:
		var r kv.OpResult
		for _, one := range o.Commands {
			r.Each = append(r.Each, c.apply(one))
		}
		return c.ok(r)
	case kv.OpenQueue:
		if c.epochs[o.Origin] != o.Have {
			return kv.Outcome{Err: &kv.Error{Code: kv.PreconditionFailed, Revision: int64(c.epochs[o.Origin])}}
		}
		c.epochs[o.Origin]++
		c.grants[o.Origin] = c.epoch
		return c.ok(kv.OpResult{Count: int64(c.epochs[o.Origin])})
	}
	if s := cmd.ID.Seq; !s.IsZero() {
		return c.sequenced(cmd, s)
	}
	return c.once(cmd)
}

// once answers a command with a retry key as it was answered when it came first.
func (c *cluster) once(cmd kv.Command) kv.Outcome {
	if cmd.ID.Key == noRetry {
		return c.change(cmd)
	}
	p, found := c.keyed[cmd.ID.Key]
	switch {
	case !found:
		p = past{printOf(cmd), c.change(cmd)}
		c.keyed[cmd.ID.Key] = p
	case p.print != printOf(cmd):
		return kv.Outcome{Err: &kv.Error{Code: kv.Reused}}
	}
	return p.out
}

func (c *cluster) sequenced(cmd kv.Command, s kv.Seq) kv.Outcome {
	l := c.lanes[laneKey{s.Origin, s.Lane}]
	if s.Epoch != c.epochs[s.Origin] || c.grants[s.Origin] != c.epoch {
		return kv.Outcome{Err: &kv.Error{Code: kv.OriginConflict}}
	}
	if l == nil || l.epoch != s.Epoch {
		l = &laneState{epoch: s.Epoch, ring: map[uint64]past{}}
		c.lanes[laneKey{s.Origin, s.Lane}] = l
	}
	print := printOf(cmd)
	skip, isSkip := cmd.Ops[0].(kv.Skip)
	if s.N <= l.last {
		p, found := l.ring[s.N]
		switch {
		case isSkip && found:
			if p.out.Err != nil {
				return p.out
			}
			out := c.ok(kv.OpResult{Count: 1})
			out.Result.Revision = p.out.Result.Revision
			return out
		case isSkip:
			return c.ok(kv.OpResult{Succeeded: true})
		case !found:
			return kv.Outcome{Err: &kv.Error{Code: kv.OutcomeUnknown}}
		case p.print != print:
			return kv.Outcome{Err: &kv.Error{Code: kv.OriginConflict}}
		}
		return p.out
	}
	if isSkip && skip.From <= l.last+1 {
		l.last = s.N
		return c.ok(kv.OpResult{Succeeded: true})
	}
	if s.N != l.last+1 {
		return kv.Outcome{Err: &kv.Error{Code: kv.SequenceGap, Revision: int64(l.last)}}
	}
	out := c.once(cmd)
	l.last = s.N
	l.ring[s.N] = past{print, out}
	if l.order = append(l.order, s.N); len(l.order) > kv.OutcomeRing { // of commands: skips have no outcome
		delete(l.ring, l.order[0])
		l.order = l.order[1:]
	}
	return out
}

func (c *cluster) change(cmd kv.Command) kv.Outcome {
	for _, g := range cmd.Guards {
		k := c.keys[string(g.Key)]
		if k == nil {
			k = &stored{}
		}
		ok := g.Relation == kv.Equal && k.mod == g.Num || g.Relation == kv.Less && k.mod < g.Num
		if !ok && (g.Or.IsZero() || k.writer != g.Or) {
			return kv.Outcome{Err: &kv.Error{Code: kv.PreconditionFailed, Revision: k.mod}}
		}
	}
	c.rev++
	switch o := cmd.Ops[0].(type) {
	case kv.Put:
		c.keys[string(o.Key)] = &stored{value: string(o.Value), mod: c.rev, writer: cmd.ID.Seq}
		c.applied = append(c.applied, string(o.Value))
	case kv.Delete:
		delete(c.keys, string(o.Key))
	}
	return c.ok(kv.OpResult{})
}

func (c *cluster) ok(r kv.OpResult) kv.Outcome {
	return kv.Outcome{Result: kv.Result{Header: kv.Header{Revision: c.rev, Epoch: c.epoch}, Ops: []kv.OpResult{r}}}
}

func (c *cluster) Read(_ context.Context, q kv.Query) (kv.Page, error) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if len(q.Ops) == 0 {
		return kv.Page{Header: kv.Header{Revision: c.rev, Epoch: c.epoch}}, nil
	}
	if q.LocalOnly && c.blank {
		return kv.Page{}, &kv.Error{Code: kv.NotCached, Revision: c.rev}
	}
	r, ok := q.Ops[0].(kv.Range)
	if !ok {
		return kv.Page{}, errors.New("only ranges")
	}
	var res kv.OpResult
	if k := c.keys[string(r.Key)]; k != nil {
		res.KVs = []kv.KeyValue{{Key: r.Key, Value: []byte(k.value), ModRevision: k.mod}}
	}
	return kv.Page{Header: kv.Header{Revision: c.rev, Epoch: c.epoch}, Ops: []kv.OpResult{res}}, nil
}

func (c *cluster) Watch(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] { return nil }

// encoded is a put as it is written down.
func encoded(key, value string) []byte {
	return encodedCommand(kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}})
}

func encodedCommand(c kv.Command) []byte { return wire.AppendCommand(nil, c) }

// others writes a key as somebody else does.
func (c *cluster) others(key, value string) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.rev++
	c.keys[key] = &stored{value: value, mod: c.rev}
}
