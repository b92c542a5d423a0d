// Package queue is store-and-forward in front of a node: writes that a quorum does not take in time are kept on this
// disk, acknowledged as such, and applied exactly once, in order, when there is a quorum again.
//
// A Queue is a Backend around a Backend. A write is numbered in its lane and handed to the one sender, which carries
// batches up in order; a writer that may not wait longer has its op made durable and gets a receipt instead. On the
// happy path nothing is written to this disk except, now and then, how far numbers may have been used: the sent mark.
// The sequence makes sending again safe, so a crash at any point costs at most a batch sent twice.
//
// Locks: Queue.mu is never held while the disk or the node below is waited for; log.mu is taken without Queue.mu, or
// inside it for an instant, never the other way round.
package queue

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// Next is the node behind the queue.
type Next interface {
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Guard is the precondition of an op that was queued without one.
type Guard uint8

// The guards.
const (
	GuardSeen Guard = iota // nobody else wrote the key since what this node had seen
	GuardNone              // the last one wins, by sequence
)

// Rule says how writes under a prefix are queued. The longest matching prefix counts.
type Rule struct {
	Prefix  []byte
	Lane    kv.Lane
	Guard   Guard
	Expires time.Duration // an op not sent by then is given up, 0 for never
}

// Options of a Queue; zero values are the defaults given.
type Options struct {
	Dir      string        // where segments live; made if missing
	Origin   [16]byte      // the node that numbers
	Rules    []Rule        // none: nothing is ever queued
	MaxBytes int64         // of queued ops, 256 MiB; beyond it writes are refused with NoSpace
	Wait     time.Duration // how long WriteAuto waits for a quorum, 1 s
	Retry    time.Duration // longest pause between two attempts to send, 5 s
	Log      *slog.Logger
	Metrics  prometheus.Registerer // nil for none

	// Free returns the bytes free on the file system of Dir and the reserve below which nothing is queued. Nil: no
	// reserve.
	Free func() (free, reserve int64)

	disk disk
}

// The bounds of a queue that have no setting.
const (
	waitDefault     = time.Second
	retryDefault    = 5 * time.Second
	retryFirst      = 50 * time.Millisecond
	maxBytesDefault = 256 << 20
	memoryOps       = 1024               // ops held in memory only; further writers go to disk at once
	batchOps        = kv.OutcomeRing     // ops of one batch: never more unanswered than outcomes are kept for
	batchBytes      = 512 << 10          // of one batch
	markStep        = 1024               // numbers the sent mark is ahead by: one fsync for so many ops
	endsMax         = kv.OutcomeRing / 2 // outcomes of durable ops that may wait to be written down
	keptMax         = 1024               // conflicts and the like that stay listed; beyond it the oldest goes
	recentMax       = 1024               // settled ops that can still be asked for, until a restart
	sendTimeout     = 10 * time.Second   // an attempt that takes longer counts as unanswered
	drainShare      = 10                 // of so many batches one takes the lowest lane first
	loadedBytes     = 8 * batchBytes     // commands of durable ops kept in memory, to spare reading them again
)

// Queue is a store-and-forward queue. Its methods may be called concurrently, once Run is running.
type Queue struct {
	next Next
	opts Options
	log  *log
	met  *metrics

	mu       sync.Mutex
	lanes    [lanes]*lane
	keys     map[string]*keyState
	keeping  map[*op]bool // ops on their way to disk
	kept     []*op        // ended ops that stay listed, oldest first
	recent   []*op        // ended ops that are not kept: a ring of recentMax, so that a writer that asks later is answered
	recentAt int
	ends     []record
	bytes    int64         // of durable pending ops
	loaded   int64         // bytes of durable ops held in memory
	inMemory int           // pending ops that are not durable
	down     error         // why the last attempt to send failed; nil while the way up works
	downC    chan struct{} // closed while down
	wake     chan struct{}
	batches  uint64
	lostHave uint64 // the epoch that was lost, to ask for the one after it
}

// keyState is what a key with pending ops needs: how many, on which lane, and the last of them.
type keyState struct {
	count int
	last  *op
}

// Open reads the queue in o.Dir. Damage that may hide acknowledged writes is refused as Corrupt.
func Open(next Next, o Options) (*Queue, error) {
	if o.Log == nil {
		o.Log = slog.New(slog.DiscardHandler)
	}
	if o.disk == nil {
		o.disk = folder{}
	}
	o.Wait = def(o.Wait, waitDefault)
	o.Retry = def(o.Retry, retryDefault)
	o.MaxBytes = def(o.MaxBytes, maxBytesDefault)
	if err := os.MkdirAll(o.Dir, 0o700); err != nil {
		return nil, fmt.Errorf("queue: %w", err)
	}
	q := &Queue{next: next, opts: o, keys: map[string]*keyState{}, keeping: map[*op]bool{}, downC: make(chan struct{}), wake: make(chan struct{}, 1)}
	for i := range q.lanes {
		q.lanes[i] = &lane{id: uint8(i), next: 1}
	}
	q.log = &log{dir: o.Dir, disk: o.disk, slog: o.Log, checkpoint: q.checkpoint}
	if err := q.load(); err != nil {
		return nil, errors.Join(err, q.log.close())
	}
	q.met = newMetrics(q, o.Metrics)
	return q, nil
}

func def[T comparable](v, d T) T {
	var zero T
	if v == zero {
		return d
	}
	return v
}

// Close closes the files. Run must have returned.
func (q *Queue) Close() error {
	q.met.unregister()
	return errors.Join(q.flushEnds(), q.log.close())
}

// Read asks the node behind and says how many queued writes the answer does not show.
func (q *Queue) Read(ctx context.Context, query kv.Query) (kv.Page, error) {
	page, err := q.next.Read(ctx, query)
	if err == nil && len(query.Ops) == 1 {
		if r, ok := query.Ops[0].(kv.Range); ok {
			page.Pending += q.pendingIn(r.Key, r.End)
		}
	}
	return page, err
}

// Watch is the node's behind: queued writes are not shown as events before they are committed.
func (q *Queue) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return q.next.Watch(ctx, w)
}

func (q *Queue) pendingIn(key, end []byte) (n int) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if len(end) == 0 {
		if k := q.keys[string(key)]; k != nil {
			n = k.count
		}
		return n
	}
	for k, s := range q.keys {
		if kv.Contains(key, end, []byte(k)) {
			n += s.count
		}
	}
	return n
}

// rule returns the rule of a command that may be queued: one Put or Delete of one key, without a lease or a value to
// answer with.
func (q *Queue) rule(c kv.Command) (key []byte, r *Rule) {
	if len(c.Ops) != 1 {
		return nil, nil
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
		return nil, nil
	}
	for i := range q.opts.Rules {
		p := &q.opts.Rules[i]
		if bytes.HasPrefix(key, p.Prefix) && (r == nil || len(p.Prefix) > len(r.Prefix)) {
			r = p
		}
	}
	return key, r
}

// Do takes a write. WriteSync goes straight to the node behind unless ops on its key are pending; then it waits in line
// without being kept. WriteAuto gets a receipt if a quorum does not answer in time; WriteQueue does not wait for one, but if
// a quorum has it before this disk does, that is the answer.
func (q *Queue) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	write, wait := c.Write, def(c.Wait, q.opts.Wait)
	c.Write, c.Wait = kv.WriteSync, 0
	key, rule := q.rule(c)
	switch {
	case rule == nil && write == kv.WriteQueue:
		return kv.Result{}, kv.Errorf(kv.Invalid, "write=queue: only a plain PUT or DELETE of one key under queue.prefixes can be queued; key %q is not or not so", key)
	case rule == nil, !c.ID.Seq.IsZero(): // what has an origin is never numbered again
		return q.next.Do(ctx, c)
	case write == kv.WriteSync && q.pendingIn(key, nil) == 0:
		return q.next.Do(ctx, c)
	}
	if err := q.check(c); err != nil {
		return kv.Result{}, err
	}
	seen, covered := q.seen(ctx, key, rule)
	o, err := q.file(c, key, rule, write, seen, covered)
	if err != nil {
		return kv.Result{}, err
	}
	return q.await(ctx, o, write, wait)
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

// seen is what this node knows about the key: its revision if it is sure, else the newest revision of anything.
func (q *Queue) seen(ctx context.Context, key []byte, r *Rule) (rev int64, covered bool) {
	if r.Guard == GuardNone {
		return 0, false
	}
	page, err := q.next.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key, KeysOnly: true}}, MaxAge: kv.Unlimited, LocalOnly: true})
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e.Revision, false
	}
	if err != nil || len(page.Ops) == 0 {
		return 0, false
	}
	if kvs := page.Ops[0].KVs; len(kvs) > 0 {
		return kvs[0].ModRevision, true
	}
	return 0, true
}

// file numbers the op and puts it in line.
func (q *Queue) file(c kv.Command, key []byte, r *Rule, write kv.Write, seen int64, covered bool) (*op, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if q.down != nil && write == kv.WriteSync {
		return nil, &kv.Error{Code: kv.UpstreamUnavailable, Detail: "writes on this key are queued and cannot be sent at present: " + q.down.Error()}
	}
	size := int64(len(key)) + opOverhead
	if p, ok := c.Ops[0].(kv.Put); ok {
		size += int64(len(p.Value))
	}
	if q.bytes+size > q.opts.MaxBytes {
		q.met.refused.Inc()
		return nil, kv.Errorf(kv.NoSpace, "queue: %d of %d bytes are in use (queue.max-bytes); nothing was stored: wait until it drains, or raise the limit", q.bytes, q.opts.MaxBytes)
	}
	now := time.Now()
	o := &op{lane: q.lanes[r.Lane], key: string(key), command: c, loaded: true, guard: r.Guard, seen: seen, covered: covered,
		at: now, size: size, done: make(chan struct{})}
	if r.Expires > 0 {
		o.expires = now.Add(r.Expires)
	}
	if len(c.Guards) > 0 {
		o.guard = GuardNone // it brought its own
	}
	if k := q.keys[o.key]; k != nil && k.last != nil {
		o.lane = k.last.lane // order per key comes before the lane
		o.pred, o.seen, o.covered = k.last.n, k.last.seen, k.last.covered
	}
	o.n = o.lane.next
	o.lane.next++
	o.lane.pending = append(o.lane.pending, o)
	q.addKey(o)
	q.inMemory++
	q.kick()
	return o, nil
}

// opOverhead is what an op costs beside key and value, on disk and in memory.
const opOverhead = 64

func (q *Queue) addKey(o *op) {
	k := q.keys[o.key]
	if k == nil {
		k = &keyState{}
		q.keys[o.key] = k
	}
	k.count++
	k.last = o
}

func (q *Queue) dropKey(o *op) {
	k := q.keys[o.key]
	if k == nil {
		return
	}
	if k.count--; k.count <= 0 {
		delete(q.keys, o.key)
	}
}

func (q *Queue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// await waits for the op as its writer allows, and makes it durable when that is over.
func (q *Queue) await(ctx context.Context, o *op, write kv.Write, wait time.Duration) (kv.Result, error) {
	q.mu.Lock()
	down, downC, crowded := q.down != nil, q.downC, q.inMemory > memoryOps
	q.mu.Unlock()
	if write == kv.WriteSync {
		select {
		case <-o.done:
			return o.result()
		case <-ctx.Done():
		case <-downC:
		}
		return q.withdraw(o)
	}
	if write == kv.WriteAuto && !down && !crowded {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-o.done:
			return o.result()
		case <-timer.C:
		case <-downC:
		case <-ctx.Done():
		}
	}
	return q.keep(o)
}

// keep makes the op durable and returns its receipt, or its outcome if that came first.
func (q *Queue) keep(o *op) (kv.Result, error) {
	q.mu.Lock()
	ended, c := o.state.Ended(), o.command
	if !ended {
		o.keeping = make(chan struct{})
		q.keeping[o] = true
	}
	q.mu.Unlock()
	if ended {
		return o.result()
	}
	rec := record{kind: recordOp, lane: o.lane.id, n: o.n, at: o.at.UnixMilli(), guard: uint8(o.guard), seen: o.seen, pred: o.pred,
		command: wire.AppendCommand(nil, c)}
	if !o.covered {
		rec.guard |= guardUncovered
	}
	if !o.expires.IsZero() {
		rec.expires = o.expires.UnixMilli()
	}
	var at place
	err := q.log.append([]record{rec}, []*place{&at})
	q.mu.Lock()
	ended = o.state.Ended()
	delete(q.keeping, o)
	close(o.keeping)
	if err == nil {
		o.durable, o.place = true, at
		if ended {
			q.ends = append(q.ends, o.endRecord())
		} else {
			q.inMemory--
			q.bytes += o.size
			q.log.hold(at, 1)
			if q.loaded += o.size; q.loaded > loadedBytes {
				q.unload(o)
			}
		}
	}
	q.mu.Unlock()
	switch {
	case ended:
		return o.result()
	case err != nil:
		q.met.refused.Inc()
		res, werr := q.withdraw(o)
		if werr != nil && kv.CodeOf(werr) == kv.UpstreamUnavailable {
			return res, err // surely not sent: what the disk said is the whole truth
		}
		return res, werr
	}
	q.met.queued.Inc()
	return kv.Result{Queued: &kv.Receipt{ID: o.id(), Expires: o.expires}}, nil
}

// unload leaves a durable op's command on disk until it is its turn.
func (q *Queue) unload(o *op) {
	if o.state == Queued {
		o.command, o.loaded = kv.Command{}, false
		q.loaded -= o.size
	}
}

// withdraw takes back an op that is not durable. If it may have been sent its outcome is unknown and it stays in line,
// so that the numbers behind it stay in order.
func (q *Queue) withdraw(o *op) (kv.Result, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case o.state.Ended():
		return o.result()
	case o.n <= o.lane.handed:
		return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "the write was sent and not answered in time; read the key before writing it again")
	}
	q.giveUp(o, Discarded)
	return kv.Result{}, &kv.Error{Code: kv.UpstreamUnavailable, Detail: "the write was not sent and has been withdrawn", RetryAfter: time.Second}
}

// giveUp ends an op that was surely never sent; a skip takes its place in line.
func (q *Queue) giveUp(o *op, s State) {
	for i, p := range o.lane.pending {
		if p == o {
			o.lane.pending[i] = o.lane.gap(o.n)
		}
	}
	q.finish(o, s, kv.Outcome{})
	q.kick()
}

func (o *op) result() (kv.Result, error) {
	if o.outcome.Err != nil {
		return kv.Result{}, o.outcome.Err
	}
	return o.outcome.Result, nil
}
