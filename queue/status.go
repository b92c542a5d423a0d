package queue

import (
	"cmp"
	"context"
	"iter"
	"slices"
	"strings"
	"time"

	"holdfast/kv"
)

// Status is the queue as an operator sees it, from memory.
type Status struct {
	Depth    int           // writes acknowledged by this disk and not settled
	Bytes    int64         // of those
	MaxBytes int64         // beyond it writes are refused
	Oldest   time.Duration // age of the oldest, by the wall clock
	Kept     int           // conflicts, rejections and the like that wait to be looked at
	Disk     int64         // size of the segments
	Down     string        // why the last attempt to send failed, empty while the way up works
	Epoch    uint64        // queue epoch, 0 until the cluster has granted one
	Paused   bool
	Rate     float64       // ops a second that were settled of late
	ETA      time.Duration // until it is drained at that rate, 0 if that is not known
	Memory   int64         // bytes that the writes take in memory while they wait
}

// Item is one op as it is listed. Value is the losing value of a conflict, or what is still to be written.
type Item struct {
	ID       string
	Key      []byte
	Value    []byte
	Delete   bool
	State    State
	Lane     kv.Lane
	Queued   time.Time
	Expires  time.Time
	Revision int64     // committed: the revision; conflict: the key's present one
	Err      *kv.Error // why it ended otherwise than committed
	Author   string    // the principal that wrote it: a user, or a device as kv.DevicePrincipal says; empty: not known, as while authentication is off
}

// Status never blocks on the disk or the node below.
func (q *Queue) Status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Status{Depth: q.depth, Bytes: q.bytes, MaxBytes: q.opts.MaxBytes, Kept: len(q.kept), Disk: q.log.bytes(), Epoch: q.lanes[0].epoch, Paused: q.paused, Memory: q.memory()}
	if q.down != nil {
		s.Down = q.down.Error()
	}
	now := time.Now()
	for _, l := range q.lanes {
		for _, o := range l.pending {
			if o.durable { // the first is the oldest
				s.Oldest = max(s.Oldest, now.Sub(until(o.at)))
				break
			}
		}
	}
	if s.Rate = q.sent.rate(now); s.Rate > 0 && s.Depth > 0 {
		s.ETA = time.Duration(float64(s.Depth) / s.Rate * float64(time.Second))
	}
	return s
}

// ListMax is the most items one List returns.
const ListMax = 1000

// List is the first page of ListAfter.
func (q *Queue) List(state int, prefix string) []Item {
	items, _ := q.ListAfter(state, prefix, "") // fails for a bad id only
	return items
}

// ListAfter is ListOf everybody.
func (q *Queue) ListAfter(state int, prefix, after string) ([]Item, error) {
	return q.ListOf("", state, prefix, after)
}

// ListOf returns up to ListMax ops, by lane and number, those behind after if that is the id of one: those in line, those kept, and of
// the last that were settled otherwise those that were given up (superseded, discarded), until a restart. An empty author and a state
// below zero match all of them. An after that is no id is Invalid; one whose op is gone still says where to go on.
func (q *Queue) ListOf(author string, state int, prefix, after string) ([]Item, error) {
	var lane uint8
	var n uint64
	if after != "" {
		var ok bool
		if lane, n, ok = parseID(after); !ok {
			return nil, kv.Errorf(kv.Invalid, "after=%q is not the id of a queued write, as normal-7", after)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	items := []Item{}
	for _, l := range q.lanes[lane:] {
		for o := range q.listed(l, n) {
			if (state < 0 || State(state) == o.state) && (author == "" || author == o.payer().writer()) && strings.HasPrefix(o.key, prefix) {
				items = append(items, o.item())
			}
			if len(items) == ListMax {
				return items, nil
			}
		}
		n = 0 // after is in the first of these lanes
	}
	return items, nil
}

// listed are the ops of a lane to be listed whose number is above after, in order. The caller holds q.mu.
func (q *Queue) listed(l *lane, after uint64) iter.Seq[*op] {
	var ended []*op
	for _, o := range q.kept {
		if o.lane == l && o.n > after {
			ended = append(ended, o)
		}
	}
	for _, o := range q.dropped.ops {
		if o.lane == l && o.n > after {
			ended = append(ended, o)
		}
	}
	slices.SortFunc(ended, func(a, b *op) int { return cmp.Compare(a.n, b.n) })
	i, _ := l.find(after + 1)
	waiting := l.pending[i:]
	return func(yield func(*op) bool) {
		for len(ended)+len(waiting) > 0 {
			var o *op
			if len(waiting) == 0 || len(ended) > 0 && ended[0].n < waiting[0].n {
				o, ended = ended[0], ended[1:]
			} else if o, waiting = waiting[0], waiting[1:]; !o.durable {
				continue
			}
			if !yield(o) {
				return
			}
		}
	}
}

func (o *op) item() Item {
	i := Item{ID: o.id(), Key: []byte(o.key), State: o.state, Lane: kv.Lane(o.lane.id), Queued: until(o.at), Expires: until(o.expires), Author: o.payer().writer()}
	if o.live == nil {
		return i
	}
	i.Err, i.Revision = o.outcome.Err, o.outcome.Result.Revision
	if o.outcome.Err != nil {
		i.Revision = o.outcome.Err.Revision
	}
	return i
}

// Get returns one op with its value, if it is in line or kept; of the last ops that were settled otherwise only how they
// ended is known, until a restart.
func (q *Queue) Get(id string) (Item, bool, error) {
	o := q.find(id)
	if o == nil {
		return Item{}, false, nil
	}
	c, err := q.command(o)
	q.mu.Lock()
	item := o.item()
	q.mu.Unlock()
	if err != nil {
		return item, true, err
	}
	if len(c.Ops) == 1 {
		switch op := c.Ops[0].(type) {
		case kv.Put:
			item.Value = op.Value
		case kv.Delete:
			item.Delete = true
		}
	}
	return item, true, nil
}

// command is what an op does, of none if nothing of it is kept.
func (q *Queue) command(o *op) (c kv.Command, err error) {
	q.mu.Lock()
	if o.loaded {
		c = o.command
	}
	there := o.place.seg != nil
	q.mu.Unlock()
	if len(c.Ops) > 0 || !there {
		return c, nil
	}
	if c, err = q.loadCommand(o); err != nil {
		c, err = q.loadCommand(o) // it was moved meanwhile
	}
	return c, err
}

// Last returns the value that a key will have once everything in line is committed, found false if nothing is. It is a
// promise of this node's disk and no more: the write may still be refused.
func (q *Queue) Last(key []byte) (item Item, found bool, err error) {
	q.mu.Lock()
	o := q.keys.last(string(key))
	for o != nil && !o.durable { // not acknowledged yet
		l := o.lane
		i, there := l.find(o.pred)
		if o = nil; there {
			o = l.pending[i]
		}
	}
	q.mu.Unlock()
	if o == nil {
		return Item{}, false, nil
	}
	return q.Get(o.id())
}

// Wait is Get once the op has ended, or when ctx does.
func (q *Queue) Wait(ctx context.Context, id string) (Item, bool, error) {
	o := q.find(id)
	if o == nil {
		return Item{}, false, nil
	}
	q.mu.Lock()
	done := o.wake().done
	q.mu.Unlock()
	select {
	case <-done:
	case <-ctx.Done():
	}
	q.mu.Lock()
	item := o.item()
	q.mu.Unlock()
	return item, true, nil
}

// Discard forgets a kept op, or gives up one in line that was surely not sent. One that may have been sent is given up as soon as
// the cluster has said that it does not have it, over restarts too; then done is false, and the op's state says how it ended.
func (q *Queue) Discard(id string) (done bool, err error) {
	o := q.find(id)
	if o == nil {
		return false, nil
	}
	q.mu.Lock()
	done = true
	switch {
	case o.state.Ended() && o.place.seg == nil: // settled, and nothing of it is kept
	case o.state.Ended():
		q.kept = slices.DeleteFunc(q.kept, func(p *op) bool { return p == o })
		q.forget(o)
	case !o.lane.mayBeKnown(o):
		detail := "the write was discarded before it was sent; nothing was applied"
		if !q.probed && o.n < o.lane.first { // whether the disk was rolled back is not known yet
			detail += ", unless this disk was rolled back or is a copy and the write was sent from the other: the cluster was out of reach since the start"
		}
		q.giveUp(o, Discarded, &kv.Error{Code: kv.UpstreamUnavailable, Detail: detail})
	default:
		done = false
	}
	q.mu.Unlock()
	if done {
		return true, q.flushEnds()
	}
	if err := q.log.append([]record{{kind: recordForget, lane: o.lane.id, n: o.n}}, nil); err != nil {
		return false, err
	}
	q.mu.Lock()
	o.recall = true
	q.mu.Unlock()
	q.again()
	return false, nil
}

func (q *Queue) find(id string) *op {
	lane, n, ok := parseID(id)
	if !ok {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if i, found := q.lanes[lane].find(n); found && !q.lanes[lane].pending[i].skip {
		return q.lanes[lane].pending[i]
	}
	for _, o := range q.kept {
		if o.n == n && o.lane.id == lane {
			return o
		}
	}
	for _, ended := range [][]*op{q.recent.ops, q.dropped.ops} {
		for _, o := range ended {
			if o.n == n && o.lane.id == lane {
				return o
			}
		}
	}
	return nil
}
