package queue

import (
	"context"
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
}

// Status never blocks on the disk or the node below.
func (q *Queue) Status() Status {
	q.mu.Lock()
	defer q.mu.Unlock()
	s := Status{Bytes: q.bytes, MaxBytes: q.opts.MaxBytes, Kept: len(q.kept), Disk: q.log.bytes(), Epoch: q.lanes[0].epoch}
	if q.down != nil {
		s.Down = q.down.Error()
	}
	for _, l := range q.lanes {
		for _, o := range l.pending {
			if !o.durable {
				continue
			}
			s.Depth++
			s.Oldest = max(s.Oldest, time.Since(o.at))
		}
	}
	return s
}

// depth counts the ops in line that are durable. The caller holds q.mu.
func (q *Queue) depth() (n int) {
	for _, l := range q.lanes {
		for _, o := range l.pending {
			if o.durable {
				n++
			}
		}
	}
	return n
}

// ListMax is the most items one List returns.
const ListMax = 1000

// List returns up to ListMax ops, oldest first: those in line and those kept. A state below zero matches all of them.
func (q *Queue) List(state int, prefix string) []Item {
	q.mu.Lock()
	found := slices.Clone(q.kept)
	for _, l := range q.lanes {
		for _, o := range l.pending {
			if o.durable {
				found = append(found, o)
			}
		}
	}
	found = slices.DeleteFunc(found, func(o *op) bool {
		return state >= 0 && State(state) != o.state || !strings.HasPrefix(o.key, prefix)
	})
	items := make([]Item, 0, min(len(found), ListMax))
	for _, o := range found[:min(len(found), ListMax)] {
		items = append(items, o.item())
	}
	q.mu.Unlock()
	return items
}

func (o *op) item() Item {
	i := Item{ID: o.id(), Key: []byte(o.key), State: o.state, Lane: kv.Lane(o.lane.id), Queued: o.at, Expires: o.expires, Err: o.outcome.Err}
	i.Revision = o.outcome.Result.Revision
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
	q.mu.Lock()
	item, loaded, c, at := o.item(), o.loaded, o.command, o.place
	q.mu.Unlock()
	if !loaded && at.seg != nil {
		var err error
		if c, err = q.loadCommand(o); err != nil {
			return item, true, err
		}
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

// Wait is Get once the op has ended, or when ctx does.
func (q *Queue) Wait(ctx context.Context, id string) (Item, bool, error) {
	o := q.find(id)
	if o == nil {
		return Item{}, false, nil
	}
	select {
	case <-o.done:
	case <-ctx.Done():
	}
	q.mu.Lock()
	item := o.item()
	q.mu.Unlock()
	return item, true, nil
}

// Discard forgets a kept op, or gives up one in line that was surely not sent. It reports whether it did.
func (q *Queue) Discard(id string) (bool, error) {
	o := q.find(id)
	if o == nil {
		return false, nil
	}
	q.mu.Lock()
	done := true
	switch {
	case o.state.Ended() && o.place.seg == nil: // settled, and nothing of it is kept
	case o.state.Ended():
		q.kept = slices.DeleteFunc(q.kept, func(p *op) bool { return p == o })
		q.forget(o)
	case o.n > o.lane.handed:
		q.giveUp(o, Discarded)
	default:
		done = false
	}
	q.mu.Unlock()
	if !done {
		return false, nil
	}
	return true, q.flushEnds()
}

func (q *Queue) find(id string) *op {
	lane, n, ok := parseID(id)
	if !ok {
		return nil
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range q.lanes[lane].pending {
		if o.n == n && !o.skip {
			return o
		}
	}
	for _, o := range q.kept {
		if o.n == n && o.lane.id == lane {
			return o
		}
	}
	for _, o := range q.recent {
		if o.n == n && o.lane.id == lane {
			return o
		}
	}
	return nil
}
