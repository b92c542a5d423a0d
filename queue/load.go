package queue

import (
	"cmp"
	"slices"
	"strings"

	"holdfast/internal/gcpace"
	"holdfast/internal/wire"
	"holdfast/kv"
)

const guardUncovered = 0x80

// How many ops, and bytes of keys, are made at a time when the log is read: there may be a million.
const (
	slabOps  = 512
	slabKeys = 16 << 10
)

// manySegments is from how many segments on the collector is held while they are read: 64 MiB.
const manySegments = 16

// loading is what reading the log needs: the ops of each lane in order of number, those that ended included.
type loading struct {
	ops [lanes][]*op
}

// room makes room for n more, in steps of as much as there is: append's are of a quarter, and leave four times as much behind.
func room(ops []*op, n int) []*op {
	if cap(ops)-len(ops) < n {
		ops = slices.Grow(ops, max(n, len(ops)))
	}
	return ops
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

// load reads the log and puts every lane in the state in which its next op can be sent.
func (q *Queue) load() error {
	ld := &loading{}
	names, err := q.log.names()
	if err != nil {
		return err
	}
	if len(names) > manySegments { // to look at all that was read, again and again, would take as long as all the rest
		defer gcpace.Hold()()
	}
	err = q.log.open(names, func() (func(record, place) error, func() error) {
		p := &piece{q: q, devices: map[payer]*owner{}}
		return p.visit, func() error { return p.merge(ld) }
	})
	if err != nil {
		return err
	}
	total := 0
	for i, l := range q.lanes {
		l.pending = slices.DeleteFunc(ld.ops[i], func(o *op) bool { return o.state.Ended() })
		total += len(l.pending)
	}
	q.keys.reserve(total)
	for _, l := range q.lanes {
		for _, o := range l.pending {
			q.depth++
			q.count(o, 1)
			q.addKey(o)
			q.addRetry(o)
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

// piece is what a segment says. It is taken apart beside others, and merged after those before it.
type piece struct {
	q       *Queue
	ops     []*op
	others  []other
	slab    []op             // memory for the ops to come
	keys    *strings.Builder // and for their keys
	devices map[payer]*owner
	device  *owner // of the op that comes next
}

// other is a record that says something about ops before it, or about none.
type other struct {
	behind int // so many ops of the piece
	record record
}

// visit takes in one record.
func (p *piece) visit(r record, at place) error {
	switch {
	case r.kind == recordOp || r.kind == recordOldOp:
		o := p.make()
		o.owner, p.device = p.device, nil
		p.ops = append(room(p.ops, 1), o)
		return p.restore(o, &r, at)
	case r.kind == recordEnd && r.n == 0:
		p.device = p.noted(&r)
		return nil
	case r.kind == recordEnd && r.state.kept():
		r.outcome = slices.Clone(r.outcome)
	default:
		r.outcome = nil
	}
	p.others = append(p.others, other{len(p.ops), r})
	return nil
}

func (p *piece) make() *op {
	if len(p.slab) == 0 {
		p.slab = make([]op, slabOps)
	}
	o := &p.slab[0]
	p.slab = p.slab[1:]
	return o
}

// key copies a key. Memory is freed once no op has a key of its part.
func (p *piece) key(b []byte) string {
	if p.keys == nil || p.keys.Cap()-p.keys.Len() < len(b) {
		p.keys = &strings.Builder{}
		p.keys.Grow(max(slabKeys, len(b)))
	}
	at := p.keys.Len()
	p.keys.Write(b)
	return p.keys.String()[at:]
}

// noted is whose share a note names, nil if it is of another kind.
func (p *piece) noted(r *record) *owner {
	if len(r.outcome) < 2 || r.outcome[0] != noteDevice && r.outcome[0] != noteAuthor {
		return nil
	}
	author := r.outcome[0] == noteAuthor
	d := p.devices[payer{string(r.outcome[1:]), author}] // spares a copy for each op
	if d == nil {
		d = &owner{payer: payer{string(r.outcome[1:]), author}}
		p.devices[d.payer] = d
	}
	return d
}

// restore makes an op of its record. The command itself stays on disk until it is its turn.
func (p *piece) restore(o *op, r *record, at place) error {
	o.lane = p.q.lanes[r.lane]
	o.n, o.at, o.expires, o.history = r.n, r.at, r.expires, r.history
	o.durable, o.place, o.size = true, at, int32(opOverhead+len(r.command))
	o.setBase(r)
	if o.retry = retryOf(wire.RetryKey(r.command)); o.retry != 0 {
		o.size += retryOverhead
	}
	key := r.command[r.keyAt : r.keyAt+r.key]
	if r.kind == recordOldOp {
		c, err := wire.DecodeCommand(r.command)
		if err != nil {
			return err
		}
		key = keyOf(c)
	}
	o.key, o.rule = p.key(key), int16(p.q.ruleOf(key))
	o.hash = p.q.keys.hash(o.key)
	return nil
}

// merge puts what the piece says behind what is there.
func (p *piece) merge(ld *loading) error {
	from := 0
	for i := range p.others {
		x := &p.others[i]
		p.q.restored(ld, p.ops[from:x.behind])
		from = x.behind
		if err := p.q.heard(ld, &x.record); err != nil {
			return err
		}
	}
	p.q.restored(ld, p.ops[from:])
	return nil
}

// restored takes in ops. One that is there already has been moved forward, out of a segment that could go.
func (q *Queue) restored(ld *loading, ops []*op) {
	if len(ops) > 0 { // nearly always all of one lane
		id := ops[0].lane.id
		ld.ops[id] = room(ld.ops[id], len(ops))
	}
	var last, known *owner // of the op before: the piece's, and the queue's
	held := 0
	for _, o := range ops {
		device := o.owner
		o.owner = nil
		i, was := ld.find(o.lane.id, o.n)
		if was != nil {
			if was.place.seg != nil {
				q.log.hold(was.place, -1)
				was.place = o.place
				q.log.hold(was.place, 1)
			}
			continue
		}
		switch {
		case device == nil:
		case device == last:
			known.ops++
			o.owner = known
		default:
			q.owned(o, device.payer)
			last, known = device, o.owner
		}
		ld.ops[o.lane.id] = slices.Insert(ld.ops[o.lane.id], i, o)
		o.lane.next = max(o.lane.next, o.n+1)
		held++
	}
	if held > 0 { // all are of one segment
		q.log.hold(ops[0].place, held)
	}
}

// heard takes in another record. Those about ops that are not there belong to segments that are gone.
func (q *Queue) heard(ld *loading, r *record) error {
	l := q.lanes[r.lane]
	_, o := ld.find(r.lane, r.n)
	switch r.kind {
	case recordBase:
		if o != nil {
			o.setBase(r)
		}
	case recordSent:
		l.mark = max(l.mark, r.n)
		l.next = max(l.next, r.n+1)
	case recordEpoch, recordOldEpoch:
		l.epoch, l.base = r.epoch, r.base
		q.history = r.history
	case recordEnd:
		if o != nil && !o.state.Ended() {
			return q.ended(o, r)
		}
	case recordForget:
		if o != nil && !o.state.Ended() {
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

func (q *Queue) ended(o *op, r *record) error {
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
