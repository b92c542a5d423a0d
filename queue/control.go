package queue

import (
	"context"
	"slices"
	"time"

	"holdfast/kv"
)

// Pause stops sending until Resume, over restarts too; writes are taken as while the cluster is out of reach.
func (q *Queue) Pause() error { return q.setPaused(true) }

// Resume ends a pause.
func (q *Queue) Resume() error { return q.setPaused(false) }

func (q *Queue) setPaused(on bool) error {
	q.mu.Lock()
	was := q.paused
	q.mu.Unlock()
	if was == on {
		return nil
	}
	r := record{kind: recordPause}
	if on {
		r.n = 1
	}
	if err := q.log.append([]record{r}, nil); err != nil {
		return err
	}
	q.mu.Lock()
	q.paused = on
	q.mu.Unlock()
	q.opts.Log.Info("queue paused or resumed by an operator", "paused", on)
	q.again()
	return nil
}

// Flush sends what is in line now at once: without the pause after a failure, and without the limit of rate.
func (q *Queue) Flush() {
	q.mu.Lock()
	for _, l := range q.lanes {
		l.flush = l.next - 1
	}
	q.mu.Unlock()
	q.again()
}

// again wakes the sender whatever it waits for.
func (q *Queue) again() {
	q.kick()
	select {
	case q.resumed <- struct{}{}:
	default:
	}
}

// Retry files a write that has ended otherwise than its writer wanted as a new one, which goes by what this node knows
// now and stays its author's, whatever that one's share. The new one is on disk, or committed, when it returns; then the old one is forgotten. found is false if the old one is
// not listed, or its value is gone. One that still waits is Invalid.
func (q *Queue) Retry(ctx context.Context, id string) (newID string, found bool, err error) {
	o := q.find(id)
	if o == nil {
		return "", false, nil
	}
	q.mu.Lock()
	listed, ended, by := slices.Contains(q.kept, o), o.state.Ended(), o.payer()
	q.mu.Unlock()
	if !ended {
		return "", true, kv.Errorf(kv.Invalid, "the write %s still waits and is sent by itself; agent queue flush sends what waits at once", id)
	}
	if !listed {
		return "", false, nil
	}
	c, err := q.loadCommand(o)
	if err != nil {
		return "", true, err
	}
	c.ID, c.Guards = kv.ID{}, nil // what it was guarded by has not held
	key, rule := q.rule(c)
	if rule < 0 {
		return "", true, kv.Errorf(kv.Invalid, "writes of key %q are not queued any more (queue.prefixes); write it again", key)
	}
	if err := q.check(c); err != nil {
		return "", true, err
	}
	fresh, err := q.file(c, key, rule, kv.WriteQueue, q.seen(ctx, key, rule), device{by, -1})
	if err != nil {
		return "", true, err
	}
	res, err := q.keep(fresh)
	if err != nil {
		return "", true, err
	}
	if res.Queued == nil { // committed before this disk had it: whoever asks is told so
		q.mu.Lock()
		q.rememberEnd(fresh)
		q.mu.Unlock()
	}
	_, err = q.Discard(id)
	return fresh.id(), true, err
}

// meter counts what was sent in each of the last seconds.
type meter struct {
	at      int64 // the second of the newest bucket
	buckets [meterSeconds]int
}

const meterSeconds = 10

func (m *meter) turn(now time.Time) {
	sec := now.Unix()
	if sec < m.at || sec-m.at >= meterSeconds {
		m.buckets = [meterSeconds]int{}
		m.at = sec
		return
	}
	for ; m.at < sec; m.at++ {
		m.buckets[(m.at+1)%meterSeconds] = 0
	}
}

func (m *meter) add(now time.Time, n int) {
	m.turn(now)
	m.buckets[m.at%meterSeconds] += n
}

// rate is how many a second were counted of late.
func (m *meter) rate(now time.Time) float64 {
	m.turn(now)
	n := 0
	for _, b := range m.buckets {
		n += b
	}
	return float64(n) / meterSeconds
}
