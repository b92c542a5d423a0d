package queue

import (
	"time"

	"holdfast/kv"
)

// room makes sure that there is room for an op, or says why there is none. What has to go for it was surely not sent, and
// the rule allows it. The caller holds q.mu.
func (q *Queue) room(o *op, by device) error {
	most, named := q.opts.DeviceBytes, "queue.device-max-bytes"
	switch {
	case by.share > 0:
		most, named = by.share, "--share of its token"
	case by.share < 0:
		most = 0
	}
	if most > 0 && by.name != "" && q.deviceBytes(by.payer)+int64(o.size) > most {
		return &kv.Error{Code: kv.RateLimited, RetryAfter: time.Second,
			Detail: "the queued writes of this device take its whole share (" + named + "); nothing was stored: wait until some have been sent"}
	}
	r := &q.opts.Rules[o.rule]
	why := q.full(o)
	if why == nil || r.OnFull == OnFullReject {
		return why
	}
	if r.OnFull == OnFullDropOldest {
		return q.dropOldest(o)
	}
	if q.dups[o.rule] > 0 {
		q.squeeze(o.rule)
		if why = q.full(o); why == nil {
			return nil
		}
	}
	last := q.keys.last(o.key)
	if last == nil || !q.droppable(last, o.rule) {
		return why
	}
	q.count(last, -1) // it goes once the new one is on disk
	why = q.full(o)
	q.count(last, 1)
	return why
}

// full says why there is no room for an op, nil if there is.
func (q *Queue) full(o *op) error { return q.fullBut(o, 0) }

// fullBut is full if others of the op's rule that take so many bytes went.
func (q *Queue) fullBut(o *op, freed int64) error {
	size, r := int64(o.size)-freed, &q.opts.Rules[o.rule]
	switch {
	case q.bytes+size > q.opts.MaxBytes:
		return kv.Errorf(kv.NoSpace, "queue: %d of %d bytes are in use (queue.max-bytes); nothing was stored: wait until it drains, or raise the limit", q.bytes, q.opts.MaxBytes)
	case r.MaxBytes > 0 && q.ruleBytes[o.rule]+size > r.MaxBytes:
		return kv.Errorf(kv.NoSpace, "queue: the writes under %q take %d of the %d bytes that queue.prefixes gives them; nothing was stored: wait until they drain, or raise max-bytes there", r.Prefix, q.ruleBytes[o.rule], r.MaxBytes)
	}
	return nil
}

// droppable reports whether an op on disk may be given up for another: it falls under the rule, and was surely not sent.
func (q *Queue) droppable(o *op, rule int16) bool {
	return o.durable && !o.skip && o.rule == rule && !o.state.Ended() && !o.lane.mayBeKnown(o)
}

// dropOldest gives up the oldest ops of the rule until there is room for o, or none if all of them would not make it.
func (q *Queue) dropOldest(o *op) error {
	var old []*op
	freed := int64(0)
	for _, l := range q.lanes {
		for i, _ := l.find(l.handed + 1); i < len(l.pending) && q.fullBut(o, freed) != nil; i++ {
			if one := l.pending[i]; q.droppable(one, o.rule) {
				old, freed = append(old, one), freed+int64(one.size)
			}
		}
	}
	if why := q.fullBut(o, freed); why != nil {
		return why
	}
	for _, one := range old {
		q.drop(one, Discarded, "given up for a newer write: the queue was full (on-full: drop-oldest)")
	}
	return nil
}

// squeeze keeps of each key under the rule the newest op that is not sent yet.
func (q *Queue) squeeze(rule int16) {
	q.dups[rule] = 0
	for _, l := range q.lanes {
		i, _ := l.find(l.handed + 1)
		var old []*op
		for _, o := range l.pending[i:] {
			if q.droppable(o, rule) && o.succ != nil && q.droppable(o.succ, rule) {
				old = append(old, o)
			}
		}
		for _, o := range old {
			q.drop(o, Superseded, superseded)
		}
	}
}

const superseded = "a later write of the key took its place: the queue was full (on-full: coalesce)"

// supersede gives up the op before o on its key if the queue is fuller than it may be since o came.
func (q *Queue) supersede(o *op) {
	if o.rule < 0 || q.opts.Rules[o.rule].OnFull != OnFullCoalesce || o.pred == 0 {
		return
	}
	r := &q.opts.Rules[o.rule]
	if q.bytes <= q.opts.MaxBytes && (r.MaxBytes == 0 || q.ruleBytes[o.rule] <= r.MaxBytes) {
		return
	}
	if i, found := o.lane.find(o.pred); found && q.droppable(o.lane.pending[i], o.rule) {
		q.drop(o.lane.pending[i], Superseded, superseded)
	}
}

// drop gives up an acknowledged op because there is no room.
func (q *Queue) drop(o *op, s State, why string) {
	q.giveUp(o, s, &kv.Error{Code: kv.NoSpace, Detail: why})
	q.met.dropped.Inc()
}
