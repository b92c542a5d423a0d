package queue

import (
	"context"
	"encoding/binary"
	"errors"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// A request with an Idempotency-Key (kv.ID.Key, a retry key) that comes again while its write is in line is that write:
// it gets the same answer, or the same receipt, and nothing is filed. Once the write has ended the cluster, which remembers
// more of them than are ever in line here, says what became of it.

// retryOverhead is what an op with a retry key takes in memory beyond others: its place in Queue.retries.
const retryOverhead = 48

var noRetry [16]byte

var errCameBefore = errors.New("the same request is in line")

// retryOf is short for a retry key, 0 for none. They are halves of cryptographic hashes; two that agree in this are taken
// for one, and then for one that is used by two requests.
func retryOf(key [16]byte) uint64 {
	if key == noRetry {
		return 0
	}
	return max(binary.LittleEndian.Uint64(key[:]), 1)
}

// addRetry has an op in line found by its retry key. The first one with a key stays the one.
func (q *Queue) addRetry(o *op) {
	if o.retry == 0 || q.retries[o.retry] != nil {
		return
	}
	if q.retries == nil {
		q.retries = map[uint64]*op{}
	}
	q.retries[o.retry] = o
}

func (q *Queue) dropRetry(o *op) {
	if o.retry == 0 || q.retries[o.retry] != o {
		return
	}
	if delete(q.retries, o.retry); len(q.retries) == 0 {
		q.retries = nil // a map gives no memory back
	}
}

// cameBefore is the op in line that the same request has made, nil for none. Reused if another request has.
func (q *Queue) cameBefore(c kv.Command) (*op, error) {
	if c.ID.Key == noRetry {
		return nil, nil
	}
	q.mu.Lock()
	o := q.retries[retryOf(c.ID.Key)]
	q.mu.Unlock()
	if o == nil {
		return nil, nil
	}
	was, err := q.command(o)
	q.mu.Lock()
	ended := o.state.Ended()
	q.mu.Unlock()
	switch {
	case ended: // meanwhile, and its command may be gone
		return nil, nil
	case err != nil:
		return nil, err
	case was.ID.Key != c.ID.Key, printOf(was) != printOf(c):
		return nil, kv.Errorf(kv.Reused, "the Idempotency-Key belongs to another request, which waits in the queue as %s; nothing was stored", o.id())
	}
	return o, nil
}

// printOf is what the cluster, too, tells requests with one retry key apart by.
func printOf(c kv.Command) [16]byte {
	return wire.Fingerprint(wire.AppendCommand(nil, kv.Command{Ops: c.Ops}))
}

// join waits, as its caller may, for an op that the same request has made. over is false if nothing was made of that one:
// its writer took it back, or it was given up.
func (q *Queue) join(ctx context.Context, o *op, write kv.Write, wait time.Duration) (res kv.Result, over bool, err error) {
	q.mu.Lock()
	done, downC := o.wake().done, q.downC
	q.mu.Unlock()
	if write != kv.WriteSync {
		res, err = q.await(ctx, o, write, wait)
	} else {
		select {
		case <-done:
			res, err = o.result()
		case <-ctx.Done():
			return res, true, waits(o)
		case <-downC:
			return res, true, waits(o)
		}
	}
	q.mu.Lock()
	defer q.mu.Unlock()
	if res.Queued == nil && (o.state == Discarded || o.state == Superseded || o.state == Expired) {
		return kv.Result{}, false, nil
	}
	return res, true, err
}

// waits is the answer to who wants a quorum's while the disk's is all that there is.
func waits(o *op) error {
	return kv.Errorf(kv.OutcomeUnknown, "the same request came before and waits in the queue as %s; it is not committed yet", o.id())
}
