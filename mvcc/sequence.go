package mvcc

import (
	"bytes"
	"encoding/binary"
	"slices"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// laneState is how far a lane of an origin's queue has come, and how its last commands ended: what makes sending again
// safe. A command's place is used up by whatever became of it that is final; a command before its turn is refused
// without using one.
type laneState struct {
	epoch uint64
	last  uint64 // sequence used last
	ring  []past // of the last kv.OutcomeRing sequences that had a command, oldest first
}

// past is how the command at a sequence ended.
type past struct {
	n        uint64
	print    [16]byte // of its ops
	code     kv.Code  // OK: applied
	revision int64
}

// printOf is the fingerprint of what a command does. Its guards are left out: a write that is tried at once and queued
// afterwards gets one only then.
func printOf(c kv.Command) [16]byte {
	return wire.Fingerprint(wire.AppendCommand(nil, kv.Command{Ops: c.Ops}))
}

// applyEntry applies the command of an entry, or each of the commands it carries.
func (s *Store) applyEntry(r *reader, c kv.Command) (kv.Outcome, error) {
	each, ok := batch(c)
	if !ok {
		return s.applySequenced(r, c)
	}
	res := kv.OpResult{Each: make([]kv.Outcome, len(each.Commands))}
	for i, one := range each.Commands {
		out, err := s.applySequenced(r, one)
		if err != nil {
			return kv.Outcome{}, err
		}
		res.Each[i] = out
	}
	out := kv.Outcome{}
	out.Result.Ops = []kv.OpResult{res}
	out.Result.Epoch, out.Result.Revision = s.state.Epoch, s.state.Revision
	return out, nil
}

// batch returns the commands that a command carries, if that is what it is for.
func batch(c kv.Command) (kv.Each, bool) {
	if len(c.Ops) != 1 {
		return kv.Each{}, false
	}
	e, ok := c.Ops[0].(kv.Each)
	return e, ok
}

// applySequenced applies a command that has a place in a lane exactly once, however often it comes.
func (s *Store) applySequenced(r *reader, c kv.Command) (kv.Outcome, error) {
	seq := c.ID.Seq
	if seq.IsZero() {
		return s.applyKeyed(r, c)
	}
	lane, key, refused, err := s.lane(r, seq)
	if err != nil || refused != nil {
		return kv.Outcome{Err: refused}, err
	}
	if skip, ok := skipOf(c); ok {
		return s.skip(r, key, lane, seq.N, skip), nil
	}
	print := printOf(c)
	switch {
	case seq.N <= lane.last:
		out := lane.again(seq.N, print)
		return out, r.recall(c, out)
	case seq.N > lane.last+1:
		return kv.Outcome{Err: gap(seq.N, lane.last)}, nil
	}
	if refused := barred(s.state.Alarms, c); refused != nil {
		return s.refuse(refused), nil // its place is not used up: it comes again once the alarm is over
	}
	out, err := s.applyKeyed(r, c)
	if err != nil {
		return out, err
	}
	p := past{n: seq.N, print: print, revision: out.Result.Revision}
	if out.Err != nil {
		p.code, p.revision = out.Err.Code, out.Err.Revision
	}
	lane.use(p)
	s.setSide(r, key, lane.append(nil))
	return out, nil
}

func skipOf(c kv.Command) (kv.Skip, bool) {
	if len(c.Ops) != 1 {
		return kv.Skip{}, false
	}
	skip, ok := c.Ops[0].(kv.Skip)
	return skip, ok
}

func gap(n, last uint64) *kv.Error {
	e := kv.Errorf(kv.SequenceGap, "sequence %d comes before %d", n, last+1)
	e.Revision = int64(last)
	return e
}

// lane reads where a lane stands in the queue epoch that its origin has now.
func (s *Store) lane(r *reader, seq kv.Seq) (l laneState, key string, refused *kv.Error, err error) {
	b, err := r.side(epochKey(seq.Origin))
	if err != nil {
		return l, "", nil, err
	}
	granted, nonce, err := parseEpoch(b)
	if err != nil {
		return l, "", nil, err
	}
	if nonce != nil && !bytes.Equal(nonce, s.state.Epoch.Nonce[:]) {
		return l, "", kv.Errorf(kv.OriginConflict, "queue epoch %d of this origin was granted before the cluster was restored", granted), nil
	}
	if granted == 0 || seq.Epoch != granted {
		return l, "", kv.Errorf(kv.OriginConflict, "queue epoch %d of this origin is not the one granted last, %d", seq.Epoch, granted), nil
	}
	key = string(sideLane) + string(seq.Origin[:]) + string([]byte{byte(seq.Lane)})
	if b, err = r.side(key); err != nil {
		return l, "", nil, err
	}
	if b != nil {
		if err := l.parse(b); err != nil {
			return l, "", nil, err
		}
	}
	if l.epoch != granted {
		l = laneState{epoch: granted}
	}
	return l, key, nil, nil
}

// skip gives up sequences up to n.
func (s *Store) skip(r *reader, key string, l laneState, n uint64, op kv.Skip) kv.Outcome {
	if n <= l.last {
		if i := slices.IndexFunc(l.ring, func(p past) bool { return p.n == n }); i >= 0 {
			out := l.again(n, l.ring[i].print)
			if out.Err == nil {
				out.Result.Ops[0].Count = 1
			}
			return out
		}
		if n+kv.OutcomeRing <= l.last {
			return l.again(n, [16]byte{})
		}
	} else {
		if op.From > l.last+1 {
			return kv.Outcome{Err: gap(op.From, l.last)}
		}
		l.last = n
		s.setSide(r, key, l.append(nil))
	}
	out := kv.Outcome{}
	out.Result.Ops = []kv.OpResult{{Succeeded: true}}
	out.Result.Epoch, out.Result.Revision = s.state.Epoch, s.state.Revision
	return out
}

// recall completes the outcome of a command that comes again by what it did: whether there was a key to delete, and whether there
// was none to replace. What is kept under its retry key has that, else the history, until it is compacted.
func (r *reader) recall(c kv.Command, out kv.Outcome) error {
	if out.Err != nil || len(c.Ops) != 1 {
		return nil
	}
	var key []byte
	switch op := c.Ops[0].(type) {
	case kv.Put:
		key = op.Key
	case kv.Delete:
		if len(op.End) == 0 {
			key = op.Key
		}
	}
	if key == nil {
		return nil
	}
	res := &out.Result.Ops[0]
	past, err := r.retried(c.ID.Key)
	if err != nil {
		return err
	}
	if past != nil && past.whole && past.print == printOf(c) && len(past.out.Result.Ops) == 1 {
		res.Count, res.Created = past.out.Result.Ops[0].Count, past.out.Result.Ops[0].Created
		return nil
	}
	stage := r.stage
	r.stage = nil // it is of the command before this one, which may have been refused
	defer func() { r.stage = stage }()
	v, err := r.get(key, out.Result.Revision)
	if err != nil || v == nil || v.rev.main != out.Result.Revision {
		return err
	}
	rec, err := r.record(v)
	if err != nil || rec.writer == nil || *rec.writer != c.ID.Seq {
		return err
	}
	if rec.deleted {
		res.Count = 1
	} else {
		res.Created = rec.Version == 1
	}
	return nil
}

// again is the outcome of a command whose sequence is used up. What it changed is known by its revision alone, see recall.
func (l *laneState) again(n uint64, print [16]byte) kv.Outcome {
	i := slices.IndexFunc(l.ring, func(p past) bool { return p.n == n })
	switch {
	case i < 0 && n+kv.OutcomeRing > l.last:
		return kv.Outcome{Err: kv.Errorf(kv.OriginConflict, "sequence %d was skipped, and now there is a command for it", n)}
	case i < 0:
		return kv.Outcome{Err: kv.Errorf(kv.OutcomeUnknown, "sequence %d was used so long ago that its outcome is forgotten", n)}
	case l.ring[i].print != print:
		return kv.Outcome{Err: kv.Errorf(kv.OriginConflict, "sequence %d was used for another command", n)}
	}
	p := l.ring[i]
	if p.code != kv.OK {
		e := kv.Errorf(p.code, "refused when it came first")
		e.Revision = p.revision
		return kv.Outcome{Err: e}
	}
	out := kv.Outcome{}
	out.Result.Revision = p.revision
	out.Result.Ops = []kv.OpResult{{}}
	return out
}

// use takes the next sequence.
func (l *laneState) use(p past) {
	l.last = p.n
	l.ring = append(l.ring, p)
	if n := len(l.ring) - kv.OutcomeRing; n > 0 {
		l.ring = l.ring[n:]
	}
}

// append appends epoch, last and number of entries (uvarints), and for each entry: its sequence, fingerprint(16),
// code(1), revision (uvarint).
func (l *laneState) append(b []byte) []byte {
	b = binary.AppendUvarint(b, l.epoch)
	b = binary.AppendUvarint(b, l.last)
	b = binary.AppendUvarint(b, uint64(len(l.ring)))
	for i := range l.ring {
		p := &l.ring[i]
		b = binary.AppendUvarint(b, p.n)
		b = append(b, p.print[:]...)
		b = append(b, byte(p.code))
		b = binary.AppendUvarint(b, uint64(p.revision))
	}
	return b
}

func (l *laneState) parse(b []byte) error {
	bad := func() error { return corruptf("the state of a queue's lane is malformed") }
	num := func() (n uint64, ok bool) {
		n, w := binary.Uvarint(b)
		if w <= 0 {
			return 0, false
		}
		b = b[w:]
		return n, true
	}
	var count uint64
	for _, dst := range []*uint64{&l.epoch, &l.last, &count} {
		n, ok := num()
		if !ok {
			return bad()
		}
		*dst = n
	}
	if count > kv.OutcomeRing {
		return bad()
	}
	l.ring = make([]past, count, count+1)
	for i := range l.ring {
		p := &l.ring[i]
		n, ok := num()
		if !ok || len(b) < len(p.print)+1 {
			return bad()
		}
		p.n = n
		b = b[copy(p.print[:], b):]
		p.code, b = kv.Code(b[0]), b[1:]
		rev, ok := num()
		if !ok {
			return bad()
		}
		p.revision = int64(rev)
	}
	if len(b) > 0 {
		return bad()
	}
	return nil
}
