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
	"encoding/binary"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"slices"
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

// OnFull is what becomes of a write for which there is no room.
type OnFull uint8

// The ways to be full. What is given up for it was surely not sent.
const (
	OnFullReject     OnFull = iota // it is refused as NoSpace
	OnFullCoalesce                 // of each key the newest write that was not sent yet is kept, and the others end as Superseded
	OnFullDropOldest               // the oldest writes under the same prefix that were not sent yet end as Discarded
)

// Rule says how writes under a prefix are queued. The longest matching prefix counts.
type Rule struct {
	Prefix   []byte
	Lane     kv.Lane
	Guard    Guard
	OnFull   OnFull
	MaxBytes int64         // of queued ops under it, 0 for no bound of its own
	Expires  time.Duration // an op not sent by then is given up, 0 for never
}

// Options of a Queue; zero values are the defaults given.
type Options struct {
	Dir      string        // where segments live; made if missing
	Origin   [16]byte      // the node that numbers
	Rules    []Rule        // none: nothing is ever queued
	MaxBytes int64         // of queued ops, 256 MiB; beyond it writes are refused with NoSpace
	Wait     time.Duration // how long WriteAuto waits for a quorum, 1 s
	Retry    time.Duration // longest pause between two attempts to send, 5 s
	// DeviceBytes bounds the queued ops of one device (kv.Command.Device) since the last start, 0 for no bound; beyond it
	// the device's writes are refused as RateLimited.
	DeviceBytes int64
	DrainRate   int // most ops sent per second, 0 for no bound
	Log         *slog.Logger
	Metrics     prometheus.Registerer // nil for none

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
	keptShare       = 4                  // of so many parts of MaxBytes what stays listed may take one
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

	writing sync.Mutex // held from taking ends or moving ops until they are on disk; taken before mu

	mu        sync.Mutex
	lanes     [lanes]*lane
	keys      map[string]keyState
	keeping   map[*op]bool // ops on their way to disk
	kept      []*op        // ended ops that stay listed, oldest first
	recent    []*op        // ended ops that are not kept: a ring of recentMax, so that a writer that asks later is answered
	recentAt  int
	ends      []record
	depth     int              // durable pending ops
	bytes     int64            // of those
	ruleBytes []int64          // of those, by rule
	devices   map[string]int64 // of those, by device
	dups      []int            // by rule: ops whose key had one that was not sent yet, since the last squeeze
	loaded    int64            // bytes of durable ops held in memory
	inMemory  int              // pending ops that are not durable
	down      error            // why the last attempt to send failed; nil while the way up works
	downC     chan struct{}    // closed while down
	slow      bool             // an attempt is under way for longer than a writer waits
	wake      chan struct{}
	batches   uint64
	lostHave  uint64 // the epoch that was lost, to ask for the one after it
	probed    bool   // the cluster's end of our numbers was looked at in this life
	fresh     bool   // the epoch on disk was asked for in this life, and not granted yet
	history   uint64 // of the cluster that granted the epoch, 0 if not known
	paused    bool
	resumed   chan struct{} // a token: what the sender waits for may be over
	sent      meter
	keptBytes int64
	tokens    float64 // ops that the rate lets go
	tokensAt  time.Time
}

// keyState is what a key with pending ops needs: how many, and the last of them.
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
	q := &Queue{next: next, opts: o, keys: map[string]keyState{}, keeping: map[*op]bool{},
		devices: map[string]int64{}, ruleBytes: make([]int64, len(o.Rules)), dups: make([]int, len(o.Rules)),
		downC: make(chan struct{}), wake: make(chan struct{}, 1), resumed: make(chan struct{}, 1)}
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
		return q.keys[string(key)].count
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
	write, wait, by := c.Write, def(c.Wait, q.opts.Wait), device{c.Device, c.Share}
	c.Write, c.Wait, c.Device, c.Share = kv.WriteSync, 0, "", 0
	key, rule := q.rule(c)
	switch {
	case rule < 0 && write == kv.WriteQueue:
		return kv.Result{}, kv.Errorf(kv.Invalid, "write=queue: only a plain PUT or DELETE of one key under queue.prefixes can be queued; key %q is not or not so", key)
	case rule < 0, !c.ID.Seq.IsZero(): // what has an origin is never numbered again
		return q.next.Do(ctx, c)
	case write == kv.WriteSync && q.pendingIn(key, nil) == 0:
		return q.next.Do(ctx, c)
	}
	if err := q.check(c); err != nil {
		return kv.Result{}, err
	}
	o, err := q.file(c, key, rule, write, q.seen(ctx, key, rule), by)
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

// device is whose share of the queue a write takes, and how much that may be, 0 for the queue's own limit.
type device struct {
	name  string
	share int64
}

// base is what a node knew of a key when it took a write for it.
type base struct {
	revision int64
	covered  bool   // the key's own revision; else the newest of anything that this node had seen
	history  uint64 // of the cluster that it was seen in, 0 if not known
}

// seen is what this node knows about the key: its revision if it is sure, else the newest revision of anything.
func (q *Queue) seen(ctx context.Context, key []byte, rule int) (b base) {
	if q.opts.Rules[rule].Guard == GuardNone {
		return b
	}
	page, err := q.next.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key, KeysOnly: true}}, MaxAge: kv.Unlimited, LocalOnly: true})
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return base{revision: e.Revision}
	}
	if err != nil || len(page.Ops) == 0 {
		return b
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
	size := int64(len(key)) + opOverhead
	if p, ok := c.Ops[0].(kv.Put); ok {
		size += int64(len(p.Value))
	}
	now := time.Now()
	o := &op{lane: q.lanes[r.Lane], key: string(key), loaded: true, guard: r.Guard, seen: b.revision, covered: b.covered, history: b.history,
		at: now.UnixMilli(), size: int32(size), rule: int16(rule)}
	o.wake().command, o.device = c, by.name
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
	if last := q.keys[o.key].last; last != nil {
		o.lane = last.lane // order per key comes before the lane
		o.pred, o.seen, o.covered, o.history = last.n, last.seen, last.covered, last.history
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

// count adds a durable op to what is counted, or takes it off again.
func (q *Queue) count(o *op, by int64) {
	size := by * int64(o.size)
	q.bytes += size
	if o.rule >= 0 {
		q.ruleBytes[o.rule] += size
	}
	if o.live != nil && o.device != "" {
		if q.devices[o.device] += size; q.devices[o.device] <= 0 {
			delete(q.devices, o.device)
		}
	}
}

func (q *Queue) addKey(o *op) {
	k := q.keys[o.key]
	if k.last != nil {
		k.last.succ = o
		if o.rule >= 0 && k.last.n > k.last.lane.handed {
			q.dups[o.rule]++
		}
	}
	k.count++
	k.last = o
	q.keys[o.key] = k
}

// dropKey takes an op out of those of its key.
func (q *Queue) dropKey(o *op) {
	k, there := q.keys[o.key]
	if !there {
		return
	}
	if k.count--; k.count <= 0 {
		delete(q.keys, o.key)
		return
	}
	if k.last == o { // it was given up: the one before it is the last again
		if i, found := o.lane.find(o.pred); found && !o.lane.pending[i].skip {
			k.last = o.lane.pending[i]
			k.last.succ = nil
		}
	}
	q.keys[o.key] = k
}

func (q *Queue) kick() {
	select {
	case q.wake <- struct{}{}:
	default:
	}
}

// holds says why nothing is sent at present, empty if it is. The caller holds q.mu.
func (q *Queue) holds() string {
	switch {
	case q.paused:
		return "the queue is paused; agent queue resume goes on"
	case q.down != nil:
		return q.down.Error()
	case q.slow:
		return "the cluster has not answered in time"
	}
	return ""
}

// await waits for the op as its writer allows, and makes it durable when that is over.
func (q *Queue) await(ctx context.Context, o *op, write kv.Write, wait time.Duration) (kv.Result, error) {
	q.mu.Lock()
	holds, downC, crowded := q.holds() != "", q.downC, q.inMemory > memoryOps
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
	if write == kv.WriteAuto && !holds && !crowded {
		timer := time.NewTimer(wait)
		defer timer.Stop()
		select {
		case <-o.done:
			return o.result()
		case <-timer.C:
			q.late(o, wait)
		case <-downC:
		case <-ctx.Done():
		}
	}
	return q.keep(o)
}

// late notes that an op was sent and got no answer for as long as writers usually wait: those who come now are not made to
// find that out too.
func (q *Queue) late(o *op, waited time.Duration) {
	q.mu.Lock()
	defer q.mu.Unlock()
	if waited >= q.opts.Wait && !o.state.Ended() && o.n <= o.lane.handed {
		q.slow = true
	}
}

// record is the op as it is written down. The caller holds q.mu.
func (o *op) record(command []byte) record {
	r := o.baseRecord()
	r.kind, r.at, r.expires, r.history, r.command = recordOp, o.at, o.expires, o.history, command
	r.keyAt, r.key = max(bytes.Index(command, []byte(o.key)), 0), len(o.key)
	return r
}

func (o *op) baseRecord() record {
	r := record{kind: recordBase, lane: o.lane.id, n: o.n, guard: uint8(o.guard), seen: o.seen, pred: o.pred}
	if !o.covered {
		r.guard |= guardUncovered
	}
	return r
}

// keep makes the op durable and returns its receipt, or its outcome if that came first.
func (q *Queue) keep(o *op) (kv.Result, error) {
	q.mu.Lock()
	if o.state.Ended() {
		q.mu.Unlock()
		return o.result()
	}
	o.keeping = make(chan struct{})
	q.keeping[o] = true
	rec := o.record(wire.AppendCommand(nil, o.command))
	q.mu.Unlock()
	var at place
	err := q.log.append([]record{rec}, []*place{&at})
	q.mu.Lock()
	ended := o.state.Ended()
	delete(q.keeping, o)
	close(o.keeping)
	if err == nil {
		o.durable = true
		switch {
		case ended:
			q.ends = append(q.ends, o.endRecord())
		default:
			o.place = at
			q.inMemory--
			q.stored(o)
		}
	}
	full := len(q.ends) >= endsMax
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
	if full { // an error is the log's: it acknowledges nothing more and ends Run
		if err := q.flushEnds(); err != nil {
			q.opts.Log.Error("queue cannot write outcomes down", "error", err)
		}
	}
	return kv.Result{Queued: &kv.Receipt{ID: o.id(), Expires: until(o.expires)}}, nil
}

// stored takes a pending op that has become durable into account.
func (q *Queue) stored(o *op) {
	q.depth++
	q.count(o, 1)
	q.log.hold(o.place, 1)
	if o.rebased {
		q.ends = append(q.ends, o.baseRecord())
	}
	if q.loaded += int64(o.size); q.loaded > loadedBytes {
		q.unload(o)
	}
	q.supersede(o)
}

// unload leaves a durable op's command on disk until it is its turn.
func (q *Queue) unload(o *op) {
	if o.state == Queued {
		o.command, o.loaded = kv.Command{}, false
		q.loaded -= int64(o.size)
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
	q.giveUp(o, Discarded, nil)
	return kv.Result{}, &kv.Error{Code: kv.UpstreamUnavailable, Detail: "the write was not sent and has been withdrawn", RetryAfter: time.Second}
}

// giveUp ends an op that was surely never sent; a skip takes its place in line. What comes after it on its key goes by
// what it went by.
func (q *Queue) giveUp(o *op, s State, why *kv.Error) {
	if next := o.succ; next != nil {
		next.pred = o.pred
		if next.durable {
			q.ends = append(q.ends, next.baseRecord())
		}
		next.rebased = true
		if i, found := o.lane.find(o.pred); found && !o.lane.pending[i].skip {
			o.lane.pending[i].succ = next
		}
	}
	q.finish(o, s, kv.Outcome{Err: why})
	o.lane.giveUp(o)
	q.kick()
}

// giveUp puts a skip in the op's place. Skips beside each other become one.
func (l *lane) giveUp(o *op) {
	i, found := l.find(o.n)
	if !found || l.pending[i] != o {
		return
	}
	l.pending[i] = l.gap(o.n)
	if i+1 < len(l.pending) && l.pending[i+1].skip && l.pending[i+1].n > l.handed {
		l.removeAt(i)
	} else if i > 0 && l.pending[i-1].skip && l.pending[i-1].n > l.handed {
		l.removeAt(i - 1)
	}
}

// removeAt closes the hole from the nearer end.
func (l *lane) removeAt(i int) {
	if i < len(l.pending)/2 {
		copy(l.pending[1:i+1], l.pending[:i])
		l.pending[0] = nil
		l.pending = l.pending[1:]
		return
	}
	l.pending = slices.Delete(l.pending, i, i+1)
}

func (o *op) result() (kv.Result, error) {
	if o.outcome.Err != nil {
		return kv.Result{}, o.outcome.Err
	}
	return o.outcome.Result, nil
}
