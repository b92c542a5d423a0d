package queue

import (
	"cmp"
	"slices"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

const guardUncovered = 0x80

// load reads the log and puts every lane in the state in which its next op can be sent.
func (q *Queue) load() error {
	ops := [lanes]map[uint64]*op{{}, {}, {}}
	if err := q.log.open(func(r record, at place) error { return q.visit(ops, r, at) }); err != nil {
		return err
	}
	for i, l := range q.lanes {
		for _, o := range ops[i] {
			l.pending = append(l.pending, o)
			q.bytes += o.size
		}
		slices.SortFunc(l.pending, func(a, b *op) int { return cmp.Compare(a.n, b.n) })
		for _, o := range l.pending {
			q.addKey(o)
		}
		for _, o := range l.pending {
			if o.n <= l.mark && l.recovering < kv.OutcomeRing {
				l.recovering++
			}
		}
		l.fill()
		l.handed = l.mark
	}
	slices.SortFunc(q.kept, func(a, b *op) int { return a.at.Compare(b.at) })
	return q.log.drop()
}

// visit takes in one record. Records about ops that are not there belong to segments that are gone.
func (q *Queue) visit(ops [lanes]map[uint64]*op, r record, at place) error {
	l := q.lanes[r.lane]
	switch r.kind {
	case recordOp:
		o, err := q.restore(l, r, at)
		if err != nil {
			return err
		}
		ops[r.lane][r.n] = o
		l.next = max(l.next, r.n+1)
		q.log.hold(at, 1)
	case recordSent:
		l.mark = max(l.mark, r.n)
		l.next = max(l.next, r.n+1)
	case recordEpoch:
		l.epoch, l.base = r.epoch, r.base
	case recordEnd:
		o := ops[r.lane][r.n]
		if o == nil {
			return nil
		}
		delete(ops[r.lane], r.n)
		o.state = r.state
		if !r.state.kept() {
			q.log.hold(o.place, -1)
			return nil
		}
		out, err := wire.DecodeOutcome(r.outcome)
		if err != nil {
			return err
		}
		o.outcome = out
		close(o.done)
		q.kept = append(q.kept, o)
	case recordForget:
		q.kept = slices.DeleteFunc(q.kept, func(o *op) bool {
			gone := o.lane == l && o.n == r.n
			if gone {
				q.log.hold(o.place, -1)
			}
			return gone
		})
	}
	return nil
}

// restore makes an op of its record. The command itself stays on disk until it is its turn.
func (q *Queue) restore(l *lane, r record, at place) (*op, error) {
	c, err := wire.DecodeCommand(r.command)
	if err != nil {
		return nil, err
	}
	o := &op{lane: l, n: r.n, guard: Guard(r.guard &^ guardUncovered), seen: r.seen, covered: r.guard&guardUncovered == 0,
		pred: r.pred, at: time.UnixMilli(r.at), durable: true, place: at, done: make(chan struct{}), size: opOverhead}
	if r.expires > 0 {
		o.expires = time.UnixMilli(r.expires)
	}
	if len(c.Ops) == 1 {
		switch op := c.Ops[0].(type) {
		case kv.Put:
			o.key = string(op.Key)
			o.size += int64(len(op.Key) + len(op.Value))
		case kv.Delete:
			o.key = string(op.Key)
			o.size += int64(len(op.Key))
		}
	}
	return o, nil
}

// checkpoint is the head of a new segment: what earlier ones said about epochs and sent marks.
func (q *Queue) checkpoint() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var b []byte
	for _, l := range q.lanes {
		if l.epoch != 0 {
			b = appendRecord(b, &record{kind: recordEpoch, lane: l.id, epoch: l.epoch, base: l.base})
		}
		if l.mark != 0 {
			b = appendRecord(b, &record{kind: recordSent, lane: l.id, n: l.mark})
		}
	}
	return b
}
