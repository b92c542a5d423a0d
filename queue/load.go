package queue

import (
	"cmp"
	"slices"
	"strings"

	"holdfast/internal/wire"
	"holdfast/kv"
)

const guardUncovered = 0x80

// How many ops, and bytes of keys, are made at a time when the log is read: there may be a million.
const (
	slabOps  = 512
	slabKeys = 16 << 10
)

// loading is what reading the log needs: the ops of each lane in order of number, those that ended included.
type loading struct {
	ops   [lanes][]*op
	slab  []op
	keys  *strings.Builder // memory for the keys to come
	payer payer            // of the op that comes next
}

// key copies a key. Memory is freed once no op has a key of its piece.
func (ld *loading) key(b []byte) string {
	if ld.keys == nil || ld.keys.Cap()-ld.keys.Len() < len(b) {
		ld.keys = &strings.Builder{}
		ld.keys.Grow(max(slabKeys, len(b)))
	}
	at := ld.keys.Len()
	ld.keys.Write(b)
	return ld.keys.String()[at:]
}

func (ld *loading) find(lane uint8, n uint64) (int, *op) {
	ops := ld.ops[lane]
	if last := len(ops) - 1; last < 0 || ops[last].n < n { // nearly always
		return len(ops), nil
	}
	i, found := slices.BinarySearchFunc(ops, n, func(o *op, n uint64) int { return cmp.Compare(o.n, n) })
	if !found {
		return i, nil
	}
	return i, ops[i]
}

func (ld *loading) make() *op {
	if len(ld.slab) == 0 {
		ld.slab = make([]op, slabOps)
	}
	o := &ld.slab[0]
	ld.slab = ld.slab[1:]
	return o
}

// load reads the log and puts every lane in the state in which its next op can be sent.
func (q *Queue) load() error {
	ld := &loading{}
	if err := q.log.open(func(r record, at place) error { return q.visit(ld, r, at) }); err != nil {
		return err
	}
	total := 0
	for _, ops := range ld.ops {
		total += len(ops)
	}
	q.keys = newIndex(total)
	for i, l := range q.lanes {
		l.pending = slices.DeleteFunc(ld.ops[i], func(o *op) bool { return o.state.Ended() })
		for _, o := range l.pending {
			q.depth++
			q.count(o, 1)
			q.addKey(o)
			if o.n <= l.mark && l.recovering < kv.OutcomeRing {
				l.recovering++
			}
		}
		l.fill()
		l.handed, l.first = l.mark, l.next
	}
	slices.SortFunc(q.kept, func(a, b *op) int { return cmp.Compare(a.at, b.at) })
	return q.log.drop()
}

// visit takes in one record. Records about ops that are not there belong to segments that are gone.
func (q *Queue) visit(ld *loading, r record, at place) error {
	l := q.lanes[r.lane]
	switch r.kind {
	case recordOp, recordOldOp:
		return q.visitOp(ld, r, at)
	case recordBase:
		if _, o := ld.find(r.lane, r.n); o != nil {
			o.setBase(&r)
		}
	case recordSent:
		l.mark = max(l.mark, r.n)
		l.next = max(l.next, r.n+1)
	case recordEpoch, recordOldEpoch:
		l.epoch, l.base = r.epoch, r.base
		q.history = r.history
	case recordEnd:
		if r.n == 0 {
			ld.payer = q.noted(&r)
		} else if _, o := ld.find(r.lane, r.n); o != nil && !o.state.Ended() {
			return q.visitEnd(o, &r)
		}
	case recordForget:
		if _, o := ld.find(r.lane, r.n); o != nil && !o.state.Ended() {
			o.recall = true
			return nil
		}
		q.kept = slices.DeleteFunc(q.kept, func(o *op) bool {
			gone := o.lane == l && o.n == r.n
			if gone {
				q.keptBytes -= int64(o.size)
				q.log.hold(o.place, -1)
				o.place = place{}
			}
			return gone
		})
	case recordPause:
		q.paused = r.n == 1
	}
	return nil
}

// visitOp takes in an op. One that is there already has been moved forward, out of a segment that could go.
func (q *Queue) visitOp(ld *loading, r record, at place) error {
	l := q.lanes[r.lane]
	i, was := ld.find(r.lane, r.n)
	by := ld.payer
	ld.payer = payer{}
	if was != nil {
		if was.place.seg != nil {
			q.log.hold(was.place, -1)
			was.place = at
			q.log.hold(at, 1)
		}
		return nil
	}
	o := ld.make()
	if err := q.restore(ld, o, &r, at); err != nil {
		return err
	}
	o.lane = l
	q.owned(o, by)
	ld.ops[r.lane] = slices.Insert(ld.ops[r.lane], i, o)
	l.next = max(l.next, r.n+1)
	q.log.hold(at, 1)
	return nil
}

func (q *Queue) visitEnd(o *op, r *record) error {
	o.state = r.state
	if !r.state.kept() {
		q.disown(o)
		q.log.hold(o.place, -1)
		o.place = place{}
		return nil
	}
	out, err := wire.DecodeOutcome(r.outcome)
	if err != nil {
		return err
	}
	o.wake().outcome = out
	q.disown(o)
	q.kept = append(q.kept, o)
	q.keptBytes += int64(o.size)
	return nil
}

// setBase takes over what an op's guard goes by.
func (o *op) setBase(r *record) {
	o.guard, o.seen, o.covered, o.pred = Guard(r.guard&^guardUncovered), r.seen, r.guard&guardUncovered == 0, r.pred
}

// restore makes an op of its record. The command itself stays on disk until it is its turn.
func (q *Queue) restore(ld *loading, o *op, r *record, at place) error {
	o.n, o.at, o.expires, o.history = r.n, r.at, r.expires, r.history
	o.durable, o.place, o.size = true, at, int32(opOverhead+len(r.command))
	o.setBase(r)
	key := r.command[r.keyAt : r.keyAt+r.key]
	if r.kind == recordOldOp {
		c, err := wire.DecodeCommand(r.command)
		if err != nil {
			return err
		}
		key = keyOf(c)
	}
	o.key, o.rule = ld.key(key), int16(q.ruleOf(key))
	return nil
}

// keyOf is the key of a queued command, nil if it is of another shape.
func keyOf(c kv.Command) []byte {
	if len(c.Ops) == 1 {
		switch op := c.Ops[0].(type) {
		case kv.Put:
			return op.Key
		case kv.Delete:
			return op.Key
		}
	}
	return nil
}

// checkpoint is the head of a new segment: what earlier ones said about epochs and sent marks.
func (q *Queue) checkpoint() []byte {
	q.mu.Lock()
	defer q.mu.Unlock()
	var b []byte
	for _, l := range q.lanes {
		if l.epoch != 0 {
			b = appendRecord(b, &record{kind: recordEpoch, lane: l.id, epoch: l.epoch, base: l.base, history: q.history})
		}
		if l.mark != 0 {
			b = appendRecord(b, &record{kind: recordSent, lane: l.id, n: l.mark})
		}
	}
	if q.paused {
		b = appendRecord(b, &record{kind: recordPause, n: 1})
	}
	return b
}
