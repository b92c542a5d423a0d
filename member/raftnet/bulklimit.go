package raftnet

import (
	"context"
	"sync"
	"time"
)

// bulkLimit bounds what all snapshots from this node take together, as its operator wants it. It is beside the pace, which
// looks at one link.
type bulkLimit struct {
	mu      sync.Mutex
	rate    int64                // bytes a second; 0: no bound
	free    func(time.Time) bool // whether the bound does not hold then; nil: it always holds
	next    time.Time            // when the next may be sent
	changed chan struct{}        // closed when rate or free do, then replaced; nil: nobody waits
}

// BulkLeast is the least rate, in bytes a second, that LimitBulk holds snapshots to: with less none would ever arrive.
const BulkLeast = paceLeast

// LimitBulk bounds what snapshots to other members take of the links of this node, all together, in bytes a second, of
// which there are BulkLeast at least; 0 is no bound. It does not hold at times of which free says so; nil is no time. What
// is under way goes on as it now says.
func (n *Net) LimitBulk(rate int64, free func(time.Time) bool) {
	l := &n.limit
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.rate, l.free = rate, free; rate > 0 {
		l.rate = max(rate, BulkLeast)
	}
	l.next = time.Time{}
	if l.changed != nil {
		close(l.changed)
		l.changed = nil
	}
}

// now is the bound that holds, 0 for none. l.mu is held.
func (l *bulkLimit) now(at time.Time) int64 {
	if l.free != nil && l.free(at) {
		return 0
	}
	return l.rate
}

// bound is the bound that holds at present, 0 for none.
func (l *bulkLimit) bound() int64 {
	l.mu.Lock()
	defer l.mu.Unlock()
	return l.now(time.Now())
}

// take waits until some of n bytes may be sent and returns how many: what takes paceStep at the bound, or a packet. An error
// says that ctx has ended.
func (l *bulkLimit) take(ctx context.Context, n int) (int, error) {
	l.mu.Lock()
	now := time.Now()
	rate := l.now(now)
	if rate == 0 {
		l.mu.Unlock()
		return n, ctx.Err()
	}
	n = min(n, max(paceSliceMin, int(float64(rate)*paceStep.Seconds())))
	if from := now.Add(-paceLate); l.next.Before(from) {
		l.next = from
	}
	wait := l.next.Sub(now)
	l.next = l.next.Add(time.Duration(float64(n) / float64(rate) * float64(time.Second)))
	if l.changed == nil {
		l.changed = make(chan struct{})
	}
	changed := l.changed
	l.mu.Unlock()
	if wait <= 0 {
		return n, ctx.Err()
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	select {
	case <-timer.C:
	case <-changed:
	case <-ctx.Done():
		return 0, ctx.Err()
	}
	return n, nil
}

// Bulk is how snapshots to a peer go.
type Bulk struct {
	Sent  uint64  // bytes given to connections, those sent again included
	Pace  float64 // bytes a second at which one goes now, 0 if none does
	Limit int64   // the bound that LimitBulk has set and that holds now, 0 for none
}

// Bulk is how snapshots go, by node.
func (n *Net) Bulk() map[string]Bulk {
	limit := n.limit.bound()
	n.mu.Lock()
	defer n.mu.Unlock()
	all := make(map[string]Bulk, len(n.peers))
	for node, p := range n.peers {
		b := Bulk{Sent: p.bulkSent.Load(), Pace: p.pace.now(), Limit: limit}
		if limit > 0 {
			b.Pace = min(b.Pace, float64(limit))
		}
		all[node] = b
	}
	return all
}
