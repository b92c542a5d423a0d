package queue

import (
	"bytes"
	"context"
	"encoding/binary"
	"errors"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// rule returns the rule of a command that may be queued: one Put or Delete of one key, without a lease or a value to
// answer with.
func (q *Queue) rule(c kv.Command) (key []byte, rule int) {
	if len(c.Ops) != 1 {
		return nil, -1
	}
	switch o := c.Ops[0].(type) {
	case kv.Put:
		if o.Lease == 0 && !o.PrevKV && !o.IgnoreValue && !o.IgnoreLease {
			key = o.Key
		}
	case kv.Delete:
		if len(o.End) == 0 && !o.PrevKV {
			key = o.Key
		}
	}
	if len(key) == 0 {
		return nil, -1
	}
	return key, q.ruleOf(key)
}

// ruleOf is the rule for a key, -1 for none.
func (q *Queue) ruleOf(key []byte) int {
	found := -1
	for i := range q.opts.Rules {
		p := &q.opts.Rules[i]
		if bytes.HasPrefix(key, p.Prefix) && (found < 0 || len(p.Prefix) > len(q.opts.Rules[found].Prefix)) {
			found = i
		}
	}
	return found
}

// Do takes a write. WriteSync goes straight to the node behind unless ops on its key are pending; then it waits in line
// without being kept. WriteAuto gets a receipt if a quorum does not answer in time; WriteQueue does not wait for one, but if
// a quorum has it before this disk does, that is the answer.
func (q *Queue) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	write, wait, by := c.Write, def(c.Wait, q.opts.Wait), device{payer{c.Device, c.Device != "" && c.Device == c.By.Principal}, c.Share}
	c.Write, c.Wait, c.Device, c.Share = kv.WriteSync, 0, "", 0
	key, rule := q.rule(c)
	switch {
	case rule < 0 && write == kv.WriteQueue:
		return kv.Result{}, kv.Errorf(kv.Invalid, "write=queue: only a plain PUT or DELETE of one key under queue.prefixes can be queued; key %q is not or not so", key)
	case !c.ID.Seq.IsZero(): // what has an origin is never numbered again
		return q.next.Do(ctx, c)
	}
	for {
		first, err := q.cameBefore(c)
		if err != nil {
			return kv.Result{}, err
		}
		if first != nil {
			res, over, err := q.join(ctx, first, write, wait)
			if !over {
				continue
			}
			return res, err
		}
		if rule < 0 || write == kv.WriteSync && q.pendingIn(key, nil) == 0 {
			return q.next.Do(ctx, c)
		}
		if err := q.check(c); err != nil {
			return kv.Result{}, err
		}
		o, err := q.file(c, key, rule, write, q.seen(ctx, key, rule), by)
		if errors.Is(err, errCameBefore) {
			continue
		}
		if err != nil {
			return kv.Result{}, err
		}
		return q.await(ctx, o, write, wait)
	}
}

// check refuses what could not be applied later, before it is kept.
func (q *Queue) check(c kv.Command) error {
	if err := wire.CheckCommand(c); err != nil {
		return err
	}
	if q.opts.Free != nil {
		if free, reserve := q.opts.Free(); free < reserve {
			return kv.Errorf(kv.NoSpace, "queue: %d MiB free in %s, %d MiB are kept in reserve; nothing was stored: free some space or lower queue.disk-reserve", free>>20, q.opts.Dir, reserve>>20)
		}
	}
	return nil
}

// device is whose share of the queue a write takes, and how much that may be: 0 for the queue's own limit, below 0 for any.
type device struct {
	payer
	share int64
}

// base is what a node knew of a key when it took a write for it.
type base struct {
	revision int64
	covered  bool   // the key's own revision; else the newest of anything that this node had seen
	history  uint64 // of the cluster that it was seen in, 0 if not known
}

// seen is what this node knows about the key: its revision if it is sure, else the newest revision of anything. Either is of one
// history, whose revisions mean nothing in another.
func (q *Queue) seen(ctx context.Context, key []byte, rule int) (b base) {
	if q.opts.Rules[rule].Guard == GuardNone {
		return b
	}
	page, err := q.next.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key, KeysOnly: true}}, MaxAge: kv.Unlimited, LocalOnly: true})
	if err != nil || len(page.Ops) == 0 {
		if page, err = q.next.Read(ctx, kv.Query{MaxAge: kv.Unlimited}); err == nil {
			b = base{revision: page.Revision, history: historyOf(page.Epoch)}
		}
		return b // nothing: only a key that does not exist is written
	}
	b = base{covered: true, history: historyOf(page.Epoch)}
	if kvs := page.Ops[0].KVs; len(kvs) > 0 {
		b.revision = kvs[0].ModRevision
	}
	return b
}

// historyOf is short for an epoch of the cluster: enough to tell it from any other that it may ever have.
func historyOf(e kv.Epoch) uint64 {
	if e.IsZero() {
		return 0
	}
	return e.Cluster ^ binary.LittleEndian.Uint64(e.Nonce[:]) | 1
}

// file numbers the op and puts it in line.
func (q *Queue) file(c kv.Command, key []byte, rule int, write kv.Write, b base, by device) (*op, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if why := q.holds(); why != "" && write == kv.WriteSync {
		return nil, &kv.Error{Code: kv.UpstreamUnavailable, Detail: "writes on this key are queued and cannot be sent at present: " + why, RetryAfter: time.Second}
	}
	r := &q.opts.Rules[rule]
	if q.retries[retryOf(c.ID.Key)] != nil {
		return nil, errCameBefore
	}
	size := int64(len(key)) + opOverhead
	if c.ID.Key != noRetry {
		size += retryOverhead
	}
	if p, ok := c.Ops[0].(kv.Put); ok {
		size += int64(len(p.Value))
	}
	now := time.Now()
	o := &op{lane: q.lanes[r.Lane], key: string(key), loaded: true, guard: r.Guard, seen: b.revision, covered: b.covered, history: b.history,
		at: now.UnixMilli(), size: int32(size), rule: int16(rule), retry: retryOf(c.ID.Key), hash: q.keys.hash(string(key))}
	o.wake().command = c
	if err := q.room(o, by); err != nil {
		q.met.refused.Inc()
		return nil, err
	}
	if r.Expires > 0 {
		o.expires = now.Add(r.Expires).UnixMilli()
	}
	if len(c.Guards) > 0 {
		o.guard = GuardNone // it brought its own
	}
	if last := q.keys.last(o.key); last != nil {
		o.lane = last.lane // order per key comes before the lane
		o.pred, o.seen, o.covered, o.history = last.n, last.seen, last.covered, last.history
	}
	o.n = o.lane.next
	o.lane.next++
	o.lane.pending = append(o.lane.pending, o)
	q.addKey(o)
	q.addRetry(o)
	q.owned(o, by.payer)
	q.inMemory++
	q.kick()
	return o, nil
}
