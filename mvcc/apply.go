package mvcc

import (
	"fmt"
	"math"

	"holdfast/kv"
)

// Entry is a command at its place in the log.
type Entry struct {
	Index   uint64
	Command kv.Command
}

// Apply applies entries in order and returns one outcome for each. An outcome's Err is part of the history and the same
// on every replica; the error is not: it means that this replica cannot go on and has to be reopened, and none of the
// entries may be answered. Entries must come in order of index and only once.
//
// What Apply returns is durable once Durable has reached the index of the entry, and is shown to readers before Apply
// returns. Apply keeps nothing of the commands; the outcomes share memory with the store and must not be changed.
//
// Apply waits for the disk if HardBytes of changes are unflushed, else it only reads from it.
func (s *Store) Apply(entries []Entry) ([]kv.Outcome, error) {
	outcomes := make([]kv.Outcome, len(entries))
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	for i, newest := 0, s.state.Applied; i < len(entries); i++ {
		if entries[i].Index <= newest {
			return nil, fmt.Errorf("apply: entry %d comes after entry %d: the log may be applied once only", entries[i].Index, newest)
		}
		newest = entries[i].Index
	}
	for done := 0; done < len(entries); {
		if err := s.failure(); err != nil {
			return nil, err
		}
		if s.isClosed() {
			return nil, errClosed()
		}
		if s.layers.Load().active.bytes.Load() >= s.hardBytes() {
			s.applyMu.Unlock()
			s.counts.stalls.Add(1)
			err := s.flush(false)
			s.applyMu.Lock()
			if err != nil && kv.CodeOf(err) != kv.NoSpace {
				return nil, err
			}
			continue
		}
		from := s.state.Revision
		n, err := s.applyBatch(entries[done:], outcomes[done:])
		s.publish()
		s.hub.notify(s.tail, from, s.state.Revision)
		s.applied.Store(s.state.Applied)
		if err != nil {
			return nil, s.fail(err)
		}
		done += n
	}
	if s.layers.Load().active.bytes.Load() >= s.opts.FlushBytes {
		wake(s.wakeFlush)
	}
	return outcomes, nil
}

// hardBytes is where Apply flushes itself. While the disk is full there is no such place: what the log has taken must be
// applied, and it takes only as much as the disk has room for.
func (s *Store) hardBytes() int64 {
	if s.full.Load() {
		return math.MaxInt64
	}
	return s.opts.HardBytes
}

// applyBatch applies entries until they are done or the overlay is full.
func (s *Store) applyBatch(entries []Entry, outcomes []kv.Outcome) (n int, err error) {
	err = guard(func() error {
		r := s.reader(math.MaxInt64)
		defer r.close()
		for ; n < len(entries) && r.l.active.bytes.Load() < s.hardBytes(); n++ {
			out, err := s.applyEntry(r, entries[n].Command)
			if err != nil {
				return fmt.Errorf("apply %s: %w", describe(entries[n]), err)
			}
			outcomes[n], s.state.Applied = out, entries[n].Index
			if err := r.refresh(); err != nil {
				return err
			}
		}
		return nil
	})
	return n, err
}

// applyOne applies all of a command or nothing.
func (s *Store) applyOne(r *reader, c kv.Command) (kv.Outcome, error) {
	if refused := barred(s.state.Alarms, c); refused != nil {
		return s.refuse(refused), nil
	}
	if refused, err := s.permits(r, &c); err != nil || refused != nil {
		return s.refuse(refused), err
	}
	x := s.scratch.exec(r)
	x.base, x.compact, x.write = s.state.Revision, s.state.Compact, true
	x.control, x.alarms, x.writer, x.policy = s.state.control(), s.state.Alarms, c.ID.Seq, s.state.Policy
	r.base = s.state.Revision
	results, err := x.run(c)
	refused, ok := refusal(err)
	if err != nil && !ok {
		return kv.Outcome{}, err
	}
	if refused == nil {
		s.commit(r, x)
	}
	out := kv.Outcome{Err: refused}
	out.Result.Ops = results
	out.Result.Epoch, out.Result.Revision = s.state.Epoch, s.state.Revision
	return out, nil
}

// scratch is memory that applying one command after the other uses again.
type scratch struct {
	x     exec
	stage stage
}

// scratchMax is how many changes of a command leave their memory to the next one.
const scratchMax = 1024

// exec returns one for the next command, with an empty stage.
func (s *scratch) exec(r *reader) *exec {
	if cap(s.x.changes) > scratchMax || cap(s.stage.recs) > scratchMax {
		*s = scratch{}
	}
	clear(s.x.changes)
	clear(s.stage.recs)
	s.x = exec{r: r, changes: s.x.changes[:0]}
	s.stage.recs = s.stage.recs[:0]
	r.stage = &s.stage
	return &s.x
}

// refuse is the outcome of a command that was not looked at.
func (s *Store) refuse(why *kv.Error) kv.Outcome {
	out := kv.Outcome{Err: why}
	out.Result.Epoch, out.Result.Revision = s.state.Epoch, s.state.Revision
	return out
}

func (x *exec) run(c kv.Command) ([]kv.OpResult, error) {
	if err := Check(c); err != nil {
		return nil, err
	}
	if err := x.guards(c.Guards); err != nil {
		return nil, err
	}
	path, err := x.plan(c.Ops, nil)
	if err != nil {
		return nil, err
	}
	results, _, err := x.ops(c.Ops, path)
	return results, err
}

// commit makes the changes of a command part of the history. They become visible with the next publish.
func (s *Store) commit(r *reader, x *exec) {
	if len(x.changes) > 0 {
		s.state.Revision++
		for _, rec := range x.changes {
			r.l.active.insert(rec)
		}
		s.tail.append(x.changes)
		s.unsaved = true
	}
	for key, v := range x.sides {
		s.setSide(r, key, v) // their order does not matter: the keys differ
	}
	for key := range x.sides {
		if key[0] == sideRecord {
			s.opts.OnRecord(key[1:])
		}
	}
	for _, k := range x.moved {
		r.l.active.bytes.Add(r.l.active.leased.set(k))
	}
	for _, l := range x.leases {
		s.opts.OnLease(l.ID, l.TTL)
	}
	s.state.Alarms, s.state.Policy = x.alarms, x.policy
	s.tellAudit(x)
	if x.control == s.state.control() {
		return
	}
	s.state.Compact, s.state.Epoch, s.state.Term = x.control.compact, x.control.epoch, x.control.term
	s.state.Feature = x.control.feature
	s.unsaved = true
}

// Advance tells that the log has reached index without a command: raft's own entries. It is not a reason to write: a
// crash replays them for nothing.
func (s *Store) Advance(index uint64) {
	s.applyMu.Lock()
	defer s.applyMu.Unlock()
	if index > s.state.Applied {
		s.state.Applied = index
		s.applied.Store(index)
	}
}

// wake fills a channel of one slot; a full one will be noticed anyway.
func wake(c chan struct{}) {
	select {
	case c <- struct{}{}:
	default:
	}
}
