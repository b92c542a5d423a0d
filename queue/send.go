package queue

import (
	"context"
	"errors"
	"fmt"
	"math/rand/v2"
	"slices"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// Run carries queued ops up until ctx ends. It returns an error only if the disk fails.
func (q *Queue) Run(ctx context.Context) error {
	pause := retryFirst
	for {
		batch := q.batch()
		if len(batch) == 0 {
			if err := q.flushEnds(); err != nil {
				return err
			}
			select {
			case <-q.wake:
				continue
			case <-ctx.Done():
				return nil
			}
		}
		err := q.send(ctx, batch)
		q.linkIs(err)
		if err != nil {
			q.restate(batch)
		}
		if ctx.Err() != nil {
			return nil //nolint:nilerr // cut off by the stop; what was not answered is sent again
		}
		if err == nil {
			pause = retryFirst
			continue
		}
		if q.log.fault() != nil {
			return q.log.fault()
		}
		// Full jitter over the upper half: a fleet that lost the same member does not come back in step.
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-ctx.Done():
			return nil
		}
		pause = min(2*pause, q.opts.Retry)
	}
}

// linkIs remembers whether the way up works, and tells those who wait when it stops.
func (q *Queue) linkIs(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil && q.down == nil:
		close(q.downC)
		q.opts.Log.Info("queue holds: the way up does not answer", "error", err, "ops", q.depth())
	case err == nil && q.down != nil:
		q.downC = make(chan struct{})
		q.opts.Log.Info("queue drains: the way up answers", "ops", q.depth())
	}
	q.down = err
}

// restate shows ops that have to be sent again as queued.
func (q *Queue) restate(batch []*op) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range batch {
		if o.state == Sending {
			o.state = Queued
		}
	}
}

// batch picks what to send next: the front of the highest lane that has something, and now and then of the lowest, so
// that it is not starved.
func (q *Queue) batch() []*op {
	q.mu.Lock()
	defer q.mu.Unlock()
	q.batches++
	for i := range q.lanes {
		if q.batches%drainShare == 0 {
			i = lanes - 1 - i
		}
		if b := q.front(q.lanes[i]); len(b) > 0 {
			return b
		}
	}
	return nil
}

// front gives up what has expired and returns as much of the front as one batch may carry.
func (q *Queue) front(l *lane) []*op {
	now := time.Now()
	for _, o := range l.pending[:min(len(l.pending), batchOps)] {
		if o.n > l.handed && !o.expires.IsZero() && now.After(o.expires) {
			q.giveUp(o, Expired)
		}
	}
	var size int64
	n := 0
	for _, o := range l.pending {
		if n == batchOps || n > 0 && size+o.size > batchBytes {
			break
		}
		size += o.size
		n++
		if l.recovering > 0 && !o.skip {
			break
		}
	}
	b := l.pending[:n:n]
	if n > 0 {
		l.handed = max(l.handed, b[n-1].n)
		for _, o := range b {
			o.state = Sending
		}
	}
	return append([]*op(nil), b...)
}

// send carries one batch up and settles each of its ops. An error means that it has to be sent again.
func (q *Queue) send(ctx context.Context, batch []*op) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := q.openEpoch(ctx); err != nil {
		return err
	}
	if err := q.prepare(batch); err != nil {
		return err
	}
	cmds := make([]kv.Command, len(batch))
	q.mu.Lock()
	for i, o := range batch {
		cmds[i] = o.wire(q.opts.Origin)
	}
	q.mu.Unlock()
	res, err := q.next.Do(ctx, kv.Command{Ops: []kv.Op{kv.Each{Commands: cmds}}})
	if err != nil {
		return fmt.Errorf("send %d queued writes: %w", len(batch), err)
	}
	if len(res.Ops) != 1 || len(res.Ops[0].Each) != len(batch) {
		return fmt.Errorf("send %d queued writes: the answer has another shape", len(batch))
	}
	return q.settle(batch, res)
}

// prepare makes sure that the sent mark on disk covers the batch, that outcomes the cluster may soon forget are written
// down, and that the commands are in memory.
func (q *Queue) prepare(batch []*op) error {
	l, last := batch[0].lane, batch[len(batch)-1].n
	q.awaitKeepers(l, last)
	q.mu.Lock()
	mark, soon := l.mark, slices.ContainsFunc(q.ends, func(r record) bool { return r.lane == l.id && r.n+kv.OutcomeRing <= last })
	q.mu.Unlock()
	if soon {
		if err := q.flushEnds(); err != nil {
			return err
		}
	}
	if last > mark {
		mark = last + markStep
		if err := q.log.append([]record{{kind: recordSent, lane: l.id, n: mark}}, nil); err != nil {
			return err
		}
		q.mu.Lock()
		l.mark = mark
		q.mu.Unlock()
	}
	for _, o := range batch {
		q.mu.Lock()
		have := o.loaded || o.skip
		q.mu.Unlock()
		if have {
			continue
		}
		c, err := q.loadCommand(o)
		if err != nil {
			return err
		}
		q.mu.Lock()
		o.command, o.loaded = c, true
		q.loaded += o.size
		q.mu.Unlock()
	}
	return nil
}

// awaitKeepers waits for ops that are just being made durable and whose outcome the cluster would forget with this batch:
// on disk without an outcome, they could never be told from unsent ones.
func (q *Queue) awaitKeepers(l *lane, last uint64) {
	for {
		var wait chan struct{}
		q.mu.Lock()
		for o := range q.keeping {
			if o.lane == l && o.n+kv.OutcomeRing <= last {
				wait = o.keeping
			}
		}
		q.mu.Unlock()
		if wait == nil {
			return
		}
		<-wait
	}
}

func (q *Queue) loadCommand(o *op) (kv.Command, error) {
	b, err := q.log.read(o.place)
	if err != nil {
		return kv.Command{}, err
	}
	c, err := wire.DecodeCommand(b)
	if err != nil {
		return kv.Command{}, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("queue: op %s in %s: %v", o.id(), o.place.seg.path, err)}
	}
	return c, nil
}

// settle ends each op of an answered batch, up to the first that has to be sent again.
func (q *Queue) settle(batch []*op, res kv.Result) error {
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, o := range batch {
		out := res.Ops[0].Each[i]
		rev := out.Result.Revision
		out.Result.Header = res.Header
		out.Result.Revision = rev
		s, again := verdict(out.Err)
		switch {
		case kv.CodeOf(errOf(out.Err)) == kv.OriginConflict:
			q.lostEpoch(o.lane)
			return out.Err
		case again:
			q.mend(o, out.Err)
			return out.Err
		}
		o.lane.remove(o)
		if !o.skip {
			o.lane.recovering = max(0, o.lane.recovering-1)
			q.finish(o, s, out)
		}
	}
	return nil
}

// errOf keeps a nil *kv.Error from becoming an error that is not nil.
func errOf(e *kv.Error) error {
	if e == nil {
		return nil
	}
	return e
}

// verdict is what an outcome makes of an op: the state it ends in, or that it has to be sent again.
func verdict(e *kv.Error) (s State, again bool) {
	if e == nil {
		return Committed, false
	}
	switch e.Code {
	case kv.PreconditionFailed:
		return Conflict, false
	case kv.OutcomeUnknown:
		return Unknown, false
	case kv.SequenceGap, kv.OriginConflict, kv.NoSpace, kv.Corrupt, kv.NoLeader, kv.UpstreamUnavailable, kv.Busy, kv.RateLimited, kv.Stopping:
		return Queued, true
	default:
		return Rejected, false
	}
}

// mend fills a hole that the cluster reports in front of the first op: numbers this node no longer has.
func (q *Queue) mend(o *op, e *kv.Error) {
	l := o.lane
	if e.Code == kv.SequenceGap && len(l.pending) > 0 && l.pending[0] == o && !o.skip && o.n > l.base+uint64(e.Revision)+1 {
		l.pending = append([]*op{l.gap(o.n - 1)}, l.pending...)
	}
}

// finish ends an op that is no longer in line.
func (q *Queue) finish(o *op, s State, out kv.Outcome) {
	o.state, o.outcome = s, out
	q.dropKey(o)
	q.met.ended(s)
	if !o.durable {
		q.inMemory--
	} else {
		q.bytes -= o.size
		if o.loaded {
			q.loaded -= o.size
		}
		q.ends = append(q.ends, o.endRecord())
		if s.kept() {
			q.keepListed(o)
		} else {
			q.log.hold(o.place, -1)
			q.rememberEnd(o)
		}
	}
	o.command, o.loaded = kv.Command{}, false
	close(o.done)
}

// rememberEnd keeps a settled op for a while, without its value.
func (q *Queue) rememberEnd(o *op) {
	o.place = place{}
	if len(q.recent) < recentMax {
		q.recent = append(q.recent, o)
		return
	}
	q.recent[q.recentAt] = o
	q.recentAt = (q.recentAt + 1) % recentMax
}

// keepListed lists an ended op until it is discarded or newer ones push it out.
func (q *Queue) keepListed(o *op) {
	q.kept = append(q.kept, o)
	if len(q.kept) > keptMax {
		old := q.kept[0]
		q.kept = q.kept[1:]
		q.forget(old)
		q.opts.Log.Warn("queue forgot its oldest conflict: too many are listed", "op", old.id(), "key", old.key, "listed", keptMax)
	}
}

func (q *Queue) forget(o *op) {
	q.ends = append(q.ends, record{kind: recordForget, lane: o.lane.id, n: o.n})
	q.log.hold(o.place, -1)
}

func (o *op) endRecord() record {
	return record{kind: recordEnd, lane: o.lane.id, n: o.n, state: o.state, outcome: wire.AppendOutcome(nil, trimmed(o.outcome))}
}

// trimmed leaves out what only the waiting writer could have wanted.
func trimmed(out kv.Outcome) kv.Outcome {
	out.Result.Ops, out.Result.Queued = nil, nil
	return out
}

// flushEnds writes down the outcomes gathered, and lets go of segments that are no longer needed. Losing them costs
// sending again, no more.
func (q *Queue) flushEnds() error {
	q.mu.Lock()
	ends := q.ends
	q.ends = nil
	q.mu.Unlock()
	if len(ends) > 0 {
		if err := q.log.append(ends, nil); err != nil {
			q.mu.Lock()
			q.ends = append(ends, q.ends...)
			q.mu.Unlock()
			if kv.CodeOf(err) == kv.NoSpace {
				q.opts.Log.Warn("queue cannot write outcomes down: no space; they are kept in memory", "outcomes", len(ends))
				return nil
			}
			return err
		}
	}
	return q.log.drop()
}

// openEpoch gets a queue epoch from the cluster if there is none.
func (q *Queue) openEpoch(ctx context.Context) error {
	q.mu.Lock()
	have := q.lanes[0].epoch
	want := q.lostHave
	need := have == 0
	q.mu.Unlock()
	if !need {
		return nil
	}
	for range 8 {
		res, err := q.next.Do(ctx, kv.Command{Ops: []kv.Op{kv.OpenQueue{Origin: q.opts.Origin, Have: want}}})
		if e, ok := errors.AsType[*kv.Error](err); ok && e.Code == kv.PreconditionFailed {
			want = uint64(e.Revision)
			continue
		}
		if err != nil {
			return fmt.Errorf("open a queue epoch: %w", err)
		}
		return q.enterEpoch(uint64(res.Ops[0].Count))
	}
	return errors.New("open a queue epoch: others open epochs for this node at the same time; is its identity copied to another box?")
}

// enterEpoch starts counting sequences anew at the first op of each lane that is still in line.
func (q *Queue) enterEpoch(epoch uint64) error {
	q.mu.Lock()
	recs := make([]record, 0, lanes)
	bases := [lanes]uint64{}
	for i, l := range q.lanes {
		bases[i] = l.next - 1
		if len(l.pending) > 0 {
			bases[i] = l.pending[0].n - 1
		}
		recs = append(recs, record{kind: recordEpoch, lane: l.id, epoch: epoch, base: bases[i]})
	}
	q.mu.Unlock()
	if err := q.log.append(recs, nil); err != nil {
		return err
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	for i, l := range q.lanes {
		l.epoch, l.base = epoch, bases[i]
	}
	q.opts.Log.Info("queue epoch opened", "epoch", epoch)
	return nil
}

// lostEpoch gives the epoch up: the cluster knows our numbers with other contents, so this disk went back in time, was
// copied, or the cluster was restored. What may have been sent ends as unknown and is listed; the rest is filed again
// under the next epoch.
func (q *Queue) lostEpoch(from *lane) {
	q.opts.Log.Error("queue numbers are used by another history: this disk was rolled back or copied, or the cluster was restored; writes that may have been sent are listed as unknown, see `agent queue ls --state unknown`",
		"epoch", from.epoch, "lane", laneNames[from.id])
	q.lostHave = from.epoch
	for _, l := range q.lanes {
		l.epoch = 0
		for len(l.pending) > 0 && l.pending[0].n <= l.handed {
			o := l.pending[0]
			l.pending = l.pending[1:]
			if !o.skip {
				q.finish(o, Unknown, kv.Outcome{Err: &kv.Error{Code: kv.OutcomeUnknown, Detail: "the write may have been sent before the queue's numbers were lost; read the key, then retry or discard"}})
			}
		}
	}
}
