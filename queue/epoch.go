package queue

import (
	"context"
	"errors"
	"fmt"

	"holdfast/kv"
)

// A queue epoch is what the cluster grants an origin to number in. It is on this disk before it is asked for, so that it
// can always be told whether the one there is ours:
//
//	none ── written down ──> asked for ── granted ──> in use ── OriginConflict ──> lost, and the next one is asked for
//
// The first thing in each life is to look how far the cluster is in our numbers. If it knows more of them than this disk
// may have sent, the disk was rolled back: what it has in line may be applied already. Those ops go up under their old
// numbers, which says what became of them, and then everything else is numbered anew.

// epochTries bounds how often one attempt asks for the next epoch.
const epochTries = 8

// openEpoch makes sure that there is a queue epoch whose numbers are ours.
func (q *Queue) openEpoch(ctx context.Context) error {
	for range epochTries {
		q.mu.Lock()
		epoch, probed, fresh := q.lanes[0].epoch, q.probed, q.fresh
		q.mu.Unlock()
		switch {
		case epoch != 0 && probed:
			return nil
		case epoch == 0:
			if err := q.enterEpoch(q.lostHave + 1); err != nil {
				return err
			}
			continue
		case !fresh:
			err := q.probe(ctx)
			if kv.CodeOf(err) != kv.OriginConflict {
				return err
			}
		}
		res, err := q.next.Do(ctx, kv.Command{Ops: []kv.Op{kv.OpenQueue{Origin: q.opts.Origin, Have: epoch - 1}}})
		e, refused := errors.AsType[*kv.Error](err)
		switch {
		case err == nil:
			return q.granted(epoch, res.Header)
		case !refused || e.Code != kv.PreconditionFailed:
			return fmt.Errorf("open a queue epoch: %w", err)
		case uint64(e.Revision) == epoch && fresh: // granted, and the answer was lost
			q.mu.Lock()
			q.fresh = false
			q.mu.Unlock()
		default:
			if err := q.lose(ctx, uint64(e.Revision)); err != nil {
				return err
			}
		}
	}
	return errors.New("open a queue epoch: others open epochs for this node at the same time; is its identity copied to another box?")
}

// probe asks how far the cluster is in our numbers: a skip that cannot be next is refused, and the refusal says what is.
func (q *Queue) probe(ctx context.Context) error {
	const beyond = 1 << 62
	q.mu.Lock()
	cmds := make([]kv.Command, lanes)
	for i, l := range q.lanes {
		cmds[i] = kv.Command{ID: kv.ID{Seq: l.seq(q.opts.Origin, l.base+beyond)}, Ops: []kv.Op{kv.Skip{From: beyond}}}
	}
	history := q.history
	q.mu.Unlock()
	res, err := q.next.Do(ctx, kv.Command{Ops: []kv.Op{kv.Each{Commands: cmds}}})
	if err != nil {
		return fmt.Errorf("look at the queue's numbers: %w", err)
	}
	if len(res.Ops) != 1 || len(res.Ops[0].Each) != lanes {
		return errors.New("look at the queue's numbers: the answer has another shape")
	}
	now := historyOf(res.Epoch)
	if history != 0 && now != 0 && now != history {
		return kv.Errorf(kv.OriginConflict, "the cluster has another history than the one that granted the queue's numbers")
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, out := range res.Ops[0].Each {
		if e := out.Err; e == nil || e.Code != kv.SequenceGap {
			return fmt.Errorf("look at the queue's numbers: %w", errOf(e))
		}
		q.lanes[i].known(uint64(out.Err.Revision), q)
	}
	q.probed = true
	return nil
}

// known takes in how far the cluster is in the lane's sequence.
func (l *lane) known(last uint64, q *Queue) {
	n := l.base + last
	if n <= l.mark {
		return
	}
	q.opts.Log.Error("the cluster knows more of this queue's numbers than this disk: the disk was rolled back or copied; what is in line may be there already and is compared with what the cluster has",
		"lane", laneNames[l.id], "disk", l.mark, "cluster", n)
	l.zone = n
	l.recovering = 0
	for _, o := range l.pending {
		if !o.skip && o.n < l.first && o.n <= n {
			l.recovering++
		}
	}
}

// zoned reports whether some lane has numbers that only another life of this disk knew. The caller holds q.mu.
func (q *Queue) zoned() bool {
	for _, l := range q.lanes {
		if l.zone > 0 {
			return true
		}
	}
	return false
}

// renumber gives the epoch up without a loss: nothing that is in line can have been sent in it.
func (q *Queue) renumber() {
	q.lostHave = q.lanes[0].epoch
	for _, l := range q.lanes {
		l.epoch, l.zone, l.recovering = 0, 0, 0
	}
}

// enterEpoch starts counting sequences anew at the first op of each lane that is still in line. The cluster has yet to
// grant the epoch.
func (q *Queue) enterEpoch(epoch uint64) error {
	q.mu.Lock()
	bases := [lanes]uint64{}
	for i, l := range q.lanes {
		bases[i] = l.next - 1
		if len(l.pending) > 0 {
			bases[i] = l.pending[0].n - 1
		}
		if len(l.pending) > 0 && l.pending[0].skip {
			bases[i] = l.pending[0].n // nobody asks for what was given up
			l.pending = l.pending[1:]
		}
	}
	history := q.history // of the one before, until the cluster answers
	q.mu.Unlock()
	if err := q.writeEpoch(epoch, bases, history); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, l := range q.lanes {
		l.epoch, l.base = epoch, bases[i]
	}
	q.fresh, q.probed = true, false
	return nil
}

func (q *Queue) writeEpoch(epoch uint64, bases [lanes]uint64, history uint64) error {
	recs := make([]record, lanes)
	for i := range recs {
		recs[i] = record{kind: recordEpoch, lane: uint8(i), epoch: epoch, base: bases[i], history: history}
	}
	return q.log.append(recs, nil)
}

// granted takes note that the cluster has granted the epoch.
func (q *Queue) granted(epoch uint64, h kv.Header) error {
	q.mu.Lock()
	bases := [lanes]uint64{}
	for i, l := range q.lanes {
		bases[i] = l.base
	}
	q.mu.Unlock()
	history := historyOf(h.Epoch)
	if history != 0 {
		if err := q.writeEpoch(epoch, bases, history); err != nil {
			return err
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	q.history, q.fresh, q.probed = history, false, true
	q.opts.Log.Info("queue epoch opened", "epoch", epoch)
	return nil
}

// lose gives the epoch up: the cluster knows our numbers with other contents, so this disk went back in time, was copied,
// or the cluster was restored. What may have been sent ends as unknown and is listed; the rest is filed again under the
// epoch after present, 0 for the one after ours. If the cluster has the history that it had, another life of this disk may
// have sent whatever was there when this one began.
func (q *Queue) lose(ctx context.Context, present uint64) error {
	page, err := q.next.Read(ctx, kv.Query{})
	if err != nil {
		return fmt.Errorf("which history the cluster has: %w", err)
	}
	now := historyOf(page.Epoch)
	q.mu.Lock()
	defer q.mu.Unlock()
	restored := now != 0 && q.history != 0 && now != q.history
	q.opts.Log.Error("queue numbers are used by another history: this disk was rolled back or copied, or the cluster was restored; writes that may have been sent are listed as unknown, see `agent queue ls --state unknown`",
		"epoch", q.lanes[0].epoch, "restored", restored)
	if q.lostHave = present; present == 0 {
		q.lostHave = q.lanes[0].epoch
	}
	for _, l := range q.lanes {
		for len(l.pending) > 0 {
			o := l.pending[0]
			if !l.mayBeKnown(o) && (restored || o.n >= l.first) {
				break
			}
			l.pending[0] = nil
			l.pending = l.pending[1:]
			if !o.skip {
				q.finish(o, Unknown, kv.Outcome{Err: &kv.Error{Code: kv.OutcomeUnknown, Detail: "the write may have been sent before the queue's numbers were lost; read the key, then retry or discard"}})
			}
		}
		l.epoch, l.zone, l.recovering = 0, 0, 0
	}
	return nil
}
