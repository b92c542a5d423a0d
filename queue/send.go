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
	for ctx.Err() == nil {
		sent, wait, err := q.step(ctx)
		if ferr := q.log.fault(); ferr != nil {
			return ferr
		}
		if err == nil && sent {
			pause = retryFirst
			continue
		}
		if ferr := errors.Join(q.flushEnds(), q.tidy()); ferr != nil {
			return ferr
		}
		switch {
		case err == nil:
			q.idle(ctx, wait)
			continue
		case ctx.Err() != nil:
			return nil //nolint:nilerr // cut off by the stop; what was not answered is sent again
		}
		// Full jitter over the upper half: a fleet that lost the same member does not come back in step.
		select {
		case <-time.After(pause/2 + rand.N(pause/2)):
		case <-q.resumed: // asked for
		case <-ctx.Done():
		}
		pause = min(2*pause, q.opts.Retry)
	}
	return nil
}

// step sends one batch, if there is one. An error means that it has to be sent again.
func (q *Queue) step(ctx context.Context) (sent bool, wait time.Duration, err error) {
	if !q.ready() {
		return false, 0, nil
	}
	opening, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
	if err := q.openEpoch(opening); err != nil {
		q.linkIs(err)
		return false, 0, err
	}
	batch, wait := q.batch()
	if len(batch) == 0 {
		return false, wait, nil
	}
	err = q.send(ctx, batch)
	q.linkIs(err)
	if err != nil {
		q.restate(batch, err)
	}
	return true, 0, err
}

// ready reports whether there is something to send, and it may be.
func (q *Queue) ready() bool {
	q.mu.Lock()
	defer q.mu.Unlock()
	return !q.paused && slices.ContainsFunc(q.lanes[:], func(l *lane) bool { return len(l.pending) > 0 })
}

// idle waits until there may be something to send, for at most wait if that is not 0.
func (q *Queue) idle(ctx context.Context, wait time.Duration) {
	var over <-chan time.Time
	if wait > 0 {
		t := time.NewTimer(wait)
		defer t.Stop()
		over = t.C
	}
	select {
	case <-q.wake:
	case <-q.resumed:
	case <-over:
	case <-ctx.Done():
	}
}

// linkIs remembers whether the way up works, and tells those who wait when it stops.
func (q *Queue) linkIs(err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case err != nil && q.down == nil:
		close(q.downC)
		q.opts.Log.Info("queue holds: the way up does not answer", "error", err, "ops", q.depth)
	case err == nil && q.down != nil:
		q.downC = make(chan struct{})
		q.opts.Log.Info("queue drains: the way up answers", "ops", q.depth)
	}
	q.down, q.slow = err, false
}

// restate shows ops that have to be sent again as queued. If no byte of them has left they may still be given up.
func (q *Queue) restate(batch []*op, err error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	for _, o := range batch {
		if o.state == Sending {
			o.state = Queued
		}
	}
	if l := batch[0].lane; kv.CodeOf(err) == kv.UpstreamUnavailable && l.handed == batch[len(batch)-1].n {
		l.handed = l.before
	}
}

// batch picks what to send next: the front of the highest lane that has something, and now and then of the lowest, so
// that it is not starved. If the rate forbids it, wait says for how long.
func (q *Queue) batch() (b []*op, wait time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.paused {
		return nil, 0
	}
	most := q.allowed(time.Now())
	q.batches++
	if q.zoned() && !slices.ContainsFunc(q.lanes[:], (*lane).unsure) {
		q.renumber()
		return nil, time.Nanosecond // the next epoch comes first
	}
	for i := range q.lanes {
		if q.batches%drainShare == 0 {
			i = lanes - 1 - i
		}
		l := q.lanes[i]
		limit := most
		if len(l.pending) > 0 && l.pending[0].n <= l.flush {
			limit = batchOps
		}
		if limit == 0 && len(l.pending) > 0 {
			wait = time.Second / time.Duration(q.opts.DrainRate)
			continue
		}
		if b := q.front(l, limit); len(b) > 0 {
			q.tokens -= float64(len(b))
			return b, 0
		}
	}
	return nil, wait
}

// allowed is how many ops the rate lets go now. What was not used is kept for a second.
func (q *Queue) allowed(now time.Time) int {
	if q.opts.DrainRate <= 0 {
		return batchOps
	}
	most := float64(max(q.opts.DrainRate, 1))
	q.tokens = min(max(q.tokens, 0)+most*now.Sub(q.tokensAt).Seconds(), most)
	q.tokensAt = now
	return min(batchOps, int(q.tokens))
}

// front gives up what has expired and returns as much of the front as one batch may carry, most ops at the most.
func (q *Queue) front(l *lane, most int) []*op {
	q.weed(l)
	zoned := q.zoned()
	var size int64
	n := 0
	for _, o := range l.pending {
		if n == most || n > 0 && size+int64(o.size) > batchBytes || zoned && !l.mayBeKnown(o) {
			break
		}
		size += int64(o.size)
		n++
		if l.recovering > 0 && !o.skip {
			break
		}
	}
	b := slices.Clone(l.pending[:n])
	if n > 0 {
		l.before = l.handed
		l.handed = max(l.handed, b[n-1].n)
		for _, o := range b {
			o.wake()
			o.state = Sending
		}
	}
	return b
}

// weed ends what is at the front, was surely not sent, and will not be: it has expired, or what it goes by is of a history
// that the cluster has no more.
func (q *Queue) weed(l *lane) {
	now := time.Now().UnixMilli()
	for _, o := range slices.Clone(l.pending[:min(len(l.pending), batchOps)]) {
		switch {
		case o.skip || l.mayBeKnown(o):
		case o.expires > 0 && now > o.expires:
			q.giveUp(o, Expired, &kv.Error{Code: kv.UpstreamUnavailable, Detail: "the write could not be sent before it expired; nothing was applied"})
		case o.guard == GuardSeen && o.durable && o.history != 0 && q.history != 0 && o.history != q.history:
			q.giveUp(o, Conflict, &kv.Error{Code: kv.PreconditionFailed,
				Detail: "the cluster was restored since: what the writer knew of the key is of another history; read the key, then retry or discard"})
		}
	}
}

// send carries one batch up and settles each of its ops. An error means that it has to be sent again.
func (q *Queue) send(ctx context.Context, batch []*op) error {
	ctx, cancel := context.WithTimeout(ctx, sendTimeout)
	defer cancel()
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
	if err = q.settle(batch, res); kv.CodeOf(err) == kv.OriginConflict {
		return errors.Join(err, q.lose(ctx, 0))
	}
	return err
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
		q.loaded += int64(o.size)
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
	q.mu.Lock()
	at := o.place
	q.mu.Unlock()
	if at.seg == nil {
		return kv.Command{}, nil // nothing of it is kept
	}
	b, err := q.log.read(at)
	if err != nil {
		return kv.Command{}, err
	}
	c, err := wire.DecodeCommand(b)
	if err != nil {
		return kv.Command{}, &kv.Error{Code: kv.Corrupt, Detail: fmt.Sprintf("queue: op %s in %s: %v", o.id(), at.seg.path, err)}
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
			return out.Err
		case again:
			q.mend(o, out.Err)
			return out.Err
		}
		o.lane.remove(o)
		if s == Conflict && q.anew(o, out.Err) {
			continue
		}
		if o.asked && s == Committed {
			s, out = recalled(out)
		}
		if s == Discarded {
			q.relink(o)
		}
		if !o.skip {
			q.sent.add(time.Now(), 1)
			o.lane.recovering = max(0, o.lane.recovering-1)
			q.finish(o, s, out)
		}
	}
	return nil
}

// anew puts an op in line again whose writer waits for a quorum, because somebody else wrote the key since what this node knew
// of it: as a plain write it is the newer one. Its guard is now what the cluster has just said. Without one it could still be on its
// way when the writer is given a receipt, and overwrite what nobody here had seen. It reports whether it did.
func (q *Queue) anew(o *op, e *kv.Error) bool {
	if o.durable || q.keeping[o] || o.skip || o.asked || o.guard != GuardSeen {
		return false
	}
	if o.retry != 0 { // the cluster would answer the next one as it has answered this
		e.Detail = "somebody else wrote the key while this write was on its way, and with that its Idempotency-Key is used up; nothing was applied: read the key, then write it under another Idempotency-Key"
		return false
	}
	q.dropKey(o)
	l := o.lane
	o.pred, o.succ, o.state = 0, nil, Queued
	o.seen, o.covered, o.history = e.Revision, true, q.history
	if last := q.keys.last(o.key); last != nil {
		o.pred = last.n
	}
	o.n = l.next // the cluster has used the former one
	l.next++
	l.pending = append(l.pending, o)
	q.addKey(o)
	q.kick()
	return true
}

// recalled is what became of an op that went up as a skip of its own number.
func recalled(out kv.Outcome) (State, kv.Outcome) {
	switch r := out.Result.Ops; {
	case len(r) == 1 && r[0].Count == 1:
		return Committed, out
	case len(r) == 1 && r[0].Succeeded:
		return Discarded, kv.Outcome{Err: kv.Errorf(kv.UpstreamUnavailable, "the write was discarded; the cluster did not have it")}
	}
	return Unknown, kv.Outcome{Err: kv.Errorf(kv.OutcomeUnknown, "the members are of a version that does not say whether they have the write; read the key")}
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
	o.wake()
	o.state, o.outcome = s, out
	q.dropKey(o)
	q.dropRetry(o)
	q.met.ended(s)
	if !o.durable {
		q.inMemory--
	} else {
		q.depth--
		q.count(o, -1)
		if o.loaded {
			q.loaded -= int64(o.size)
		}
		q.ends = append(q.ends, o.endRecord())
		if s.kept() {
			q.keepListed(o)
		} else {
			q.log.hold(o.place, -1)
			q.rememberEnd(o)
		}
	}
	q.disown(o)
	o.command, o.loaded, o.succ = kv.Command{}, false, nil
	close(o.done)
}

// rememberEnd keeps a settled op for a while, without its value.
func (q *Queue) rememberEnd(o *op) {
	o.place = place{}
	if o.state == Superseded || o.state == Discarded {
		q.dropped.add(o)
		return
	}
	q.recent.add(o)
}

// bygone is the newest of the ops that have ended in some way, recentMax of them.
type bygone struct {
	ops []*op
	at  int // the oldest, once there are as many
}

func (p *bygone) add(o *op) {
	if len(p.ops) < recentMax {
		p.ops = append(p.ops, o)
		return
	}
	p.ops[p.at] = o
	p.at = (p.at + 1) % recentMax
}

// keepListed lists an ended op until it is discarded or newer ones push it out.
func (q *Queue) keepListed(o *op) {
	q.kept = append(q.kept, o)
	q.keptBytes += int64(o.size)
	for len(q.kept) > keptMax || len(q.kept) > 1 && q.keptBytes > q.opts.MaxBytes/keptShare {
		old := q.kept[0]
		q.kept = q.kept[1:]
		q.forget(old)
		q.opts.Log.Warn("queue forgot its oldest conflict: too many are listed", "op", old.id(), "key", old.key, "listed", len(q.kept))
	}
}

// forget takes an op off the list, which the caller has cut it from.
func (q *Queue) forget(o *op) {
	q.ends = append(q.ends, record{kind: recordForget, lane: o.lane.id, n: o.n})
	q.keptBytes -= int64(o.size)
	q.log.hold(o.place, -1)
	o.place = place{}
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
	q.writing.Lock()
	defer q.writing.Unlock()
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
