package queue

import (
	"bytes"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// record is the op as it is written down. The caller holds q.mu.
func (o *op) record(command []byte) record {
	r := o.baseRecord()
	r.kind, r.at, r.expires, r.history, r.command = recordOp, o.at, o.expires, o.history, command
	r.keyAt, r.key = max(bytes.Index(command, []byte(o.key)), 0), len(o.key)
	return r
}

// records are those that an op is written down as, its own the last. The caller holds q.mu.
func (o *op) records(command []byte) []record {
	r := o.record(command)
	by := o.payer()
	if by.name == "" {
		return []record{r}
	}
	return []record{note(o.lane.id, by), r}
}

// placeOfLast has the place of the last of some records told, as append wants it.
func placeOfLast(recs []record, at *place) []*place {
	all := make([]*place, len(recs))
	all[len(all)-1] = at
	return all
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
	for q.keeping[o] { // by somebody who sent the same request
		kept := o.keeping
		q.mu.Unlock()
		<-kept
		q.mu.Lock()
	}
	if o.state.Ended() {
		q.mu.Unlock()
		return o.result()
	}
	if o.durable {
		q.mu.Unlock()
		return o.receipt(), nil
	}
	o.keeping = make(chan struct{})
	q.keeping[o] = true
	recs := o.records(wire.AppendCommand(make([]byte, 0, o.size), o.command))
	q.mu.Unlock()
	var at place
	err := q.log.append(recs, placeOfLast(recs, &at))
	q.mu.Lock()
	ended := o.state.Ended()
	delete(q.keeping, o)
	close(o.keeping)
	if err == nil {
		o.durable = true
		switch {
		case ended && o.state == Conflict && o.guard == GuardSeen: // a receipt it is, and for a look
			o.place = at
			q.log.hold(at, 1)
			q.ends = append(q.ends, o.endRecord())
			q.keepListed(o)
			ended = false
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
	return o.receipt(), nil
}

func (o *op) receipt() kv.Result {
	return kv.Result{Queued: &kv.Receipt{ID: o.id(), Expires: until(o.expires)}}
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
