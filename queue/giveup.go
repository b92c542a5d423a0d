package queue

import (
	"slices"
	"time"

	"holdfast/kv"
)

// withdraw takes back an op that is not durable. If it may have been sent its outcome is unknown and it stays in line,
// so that the numbers behind it stay in order.
func (q *Queue) withdraw(o *op) (kv.Result, error) {
	q.mu.Lock()
	defer q.mu.Unlock()
	switch {
	case o.state.Ended():
		return o.result()
	case o.durable || q.keeping[o]: // for somebody who sent the same request
		return kv.Result{}, waits(o)
	case o.n <= o.lane.handed:
		return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "the write was sent and not answered in time; read the key before writing it again")
	}
	why := &kv.Error{Code: kv.UpstreamUnavailable, Detail: "the write was not sent and has been withdrawn", RetryAfter: time.Second}
	q.giveUp(o, Discarded, why)
	return kv.Result{}, why
}

// giveUp ends an op that was surely never sent; a skip takes its place in line. What comes after it on its key goes by
// what it went by.
func (q *Queue) giveUp(o *op, s State, why *kv.Error) {
	q.relink(o)
	q.finish(o, s, kv.Outcome{Err: why})
	o.lane.giveUp(o)
	q.kick()
}

// relink has what comes after an op on its key go by what that one goes by.
func (q *Queue) relink(o *op) {
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
