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
	"context"
	"errors"
	"fmt"
	"iter"
	"log/slog"
	"os"
	"sync"
	"time"

	"holdfast/kv"
)

// Next is the node behind the queue.
type Next interface {
	Do(ctx context.Context, c kv.Command) (kv.Result, error)
	Read(ctx context.Context, q kv.Query) (kv.Page, error)
	Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

// Queue is a store-and-forward queue. Its methods may be called concurrently, once Run is running.
type Queue struct {
	next Next
	opts Options
	log  *log
	met  *metrics

	writing sync.Mutex // held from taking ends or moving ops until they are on disk; taken before mu

	mu        sync.Mutex
	lanes     [lanes]*lane
	keys      index
	retries   map[uint64]*op // the op in line with a retry key, by what is short for that; nil: none
	keeping   map[*op]bool   // ops on their way to disk
	kept      []*op          // ended ops that stay listed, oldest first
	recent    bygone         // ended ops that are not kept, so that a writer that asks later is answered
	dropped   bygone         // of those the ones that were given up, which are listed too
	ends      []record
	depth     int              // durable pending ops
	bytes     int64            // of those
	ruleBytes []int64          // of those, by rule
	devices   map[payer]*owner // those that have ops in line
	keyBytes  int64            // of the keys of durable ops
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
	q := &Queue{next: next, opts: o, keys: newIndex(), keeping: map[*op]bool{},
		devices: map[payer]*owner{}, ruleBytes: make([]int64, len(o.Rules)), dups: make([]int, len(o.Rules)),
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
	err := q.flushEnds()
	q.log.end()
	return errors.Join(err, q.log.trim(), q.log.close())
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
		if last := q.keys.last(string(key)); last != nil {
			return int(last.line)
		}
		return 0
	}
	for _, last := range q.keys.slots {
		if last != nil && kv.Contains(key, end, []byte(last.key)) {
			n += int(last.line)
		}
	}
	return n
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

func (o *op) result() (kv.Result, error) {
	if o.outcome.Err != nil {
		return kv.Result{}, o.outcome.Err
	}
	return o.outcome.Result, nil
}
