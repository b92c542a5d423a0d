package wire

import (
	"time"

	"holdfast/kv"
)

const (
	outcomeErr byte = 1 << iota
	outcomeQueued
	outcomeFlags = outcomeErr | outcomeQueued
)

// AppendOutcome appends the encoding of o to dst. A kv.Result is sent as an Outcome without Err.
func AppendOutcome(dst []byte, o kv.Outcome) []byte {
	return appendOutcomeBody(appendStart(dst, kindOutcome), &o)
}

func appendOutcomeBody(dst []byte, o *kv.Outcome) []byte {
	dst = append(dst, bit(o.Err != nil, outcomeErr)|bit(o.Result.Queued != nil, outcomeQueued))
	if o.Err != nil {
		dst = appendError(dst, o.Err)
	}
	if o.Result.Queued != nil {
		dst = appendReceipt(dst, o.Result.Queued)
	}
	dst = appendHeader(dst, &o.Result.Header)
	return appendList(dst, o.Result.Ops, appendOpResult)
}

// DecodeOutcome is the inverse of AppendOutcome. Byte slices in the outcome alias b.
func DecodeOutcome(b []byte) (kv.Outcome, error) { return decode(b, kindOutcome, outcome) }

func outcome(r *reader) (o kv.Outcome) {
	f := r.flags(outcomeFlags, "outcome")
	if f&outcomeErr != 0 {
		o.Err = errorBody(r)
	}
	if f&outcomeQueued != 0 {
		o.Result.Queued = receipt(r)
	}
	o.Result.Header = header(r)
	o.Result.Ops = list(r, 2, "results", opResult)
	return o
}

const receiptExpires byte = 1

func appendReceipt(dst []byte, q *kv.Receipt) []byte {
	expires := !q.Expires.IsZero()
	dst = append(dst, bit(expires, receiptExpires))
	if expires {
		dst = appendInt(dst, q.Expires.Unix())
		dst = appendUint(dst, uint64(q.Expires.Nanosecond()))
	}
	return appendBytes(dst, q.ID)
}

func receipt(r *reader) *kv.Receipt {
	q := new(kv.Receipt)
	if r.flags(receiptExpires, "receipt") != 0 {
		sec, nsec := r.int("expiry"), r.uint("nanoseconds")
		if nsec >= uint64(time.Second) {
			r.fail(ErrMalformed, "%d nanoseconds are more than a second", nsec)
			return q
		}
		q.Expires = time.Unix(sec, int64(nsec)).UTC()
		r.present(q.Expires.IsZero(), "expiry")
	}
	q.ID = string(r.bytes("queue id"))
	return q
}

const headerEpoch byte = 1

func appendHeader(dst []byte, h *kv.Header) []byte {
	dst = append(dst, bit(!h.Epoch.IsZero(), headerEpoch))
	if !h.Epoch.IsZero() {
		dst = appendEpoch(dst, h.Epoch)
	}
	dst = appendUint(appendUint(dst, h.Member), h.Term)
	return appendInt(dst, h.Revision)
}

func header(r *reader) (h kv.Header) {
	if r.flags(headerEpoch, "header") != 0 {
		h.Epoch = epoch(r)
		r.present(h.Epoch.IsZero(), "epoch")
	}
	h.Member, h.Term = r.uint("member"), r.uint("term")
	h.Revision = r.int("revision")
	return h
}

func appendEpoch(dst []byte, e kv.Epoch) []byte {
	return append(appendFixed64(dst, e.Cluster), e.Nonce[:]...)
}

func epoch(r *reader) (e kv.Epoch) {
	e.Cluster = r.fixed64("cluster id")
	r.fixed(e.Nonce[:], "epoch")
	return e
}

const (
	resultMore byte = 1 << iota
	resultCreated
	resultSucceeded
	resultKVs
	resultOps
	resultLeases
	resultEach
	resultFurther // another byte of flags follows, which is not zero
	resultFlags   = resultMore | resultCreated | resultSucceeded | resultKVs | resultOps | resultLeases | resultEach | resultFurther
)

// The further flags of a result.
const (
	resultAlarms       byte = 1
	resultFurtherFlags      = resultAlarms
)

func appendOpResult(dst []byte, o *kv.OpResult) []byte {
	dst = append(dst, bit(o.More, resultMore)|bit(o.Created, resultCreated)|bit(o.Succeeded, resultSucceeded)|
		bit(len(o.KVs) > 0, resultKVs)|bit(len(o.Ops) > 0, resultOps)|bit(len(o.Leases) > 0, resultLeases)|
		bit(len(o.Each) > 0, resultEach)|bit(len(o.Alarms) > 0, resultFurther))
	if len(o.Alarms) > 0 {
		dst = append(dst, resultAlarms)
	}
	dst = appendInt(dst, o.Count)
	if len(o.KVs) > 0 {
		dst = appendList(dst, o.KVs, appendKeyValue)
	}
	if len(o.Ops) > 0 {
		dst = appendList(dst, o.Ops, appendOpResult)
	}
	if len(o.Leases) > 0 {
		dst = appendList(dst, o.Leases, appendLease)
	}
	if len(o.Each) > 0 {
		dst = appendList(dst, o.Each, appendOutcomeBody)
	}
	if len(o.Alarms) > 0 {
		dst = appendList(dst, o.Alarms, appendAlarm)
	}
	return dst
}

func opResult(r *reader) (o kv.OpResult) {
	f := r.flags(resultFlags, "result")
	o.More, o.Created, o.Succeeded = f&resultMore != 0, f&resultCreated != 0, f&resultSucceeded != 0
	var further byte
	if f&resultFurther != 0 {
		further = r.flags(resultFurtherFlags, "result")
		r.present(further == 0, "byte of further flags")
	}
	o.Count = r.int("count")
	if f&resultKVs != 0 {
		o.KVs = list(r, 6, "keys", keyValue)
		r.present(o.KVs == nil, "list of keys")
	}
	if f&resultOps != 0 {
		r.descend()
		o.Ops = list(r, 2, "results", opResult)
		r.ascend()
		r.present(o.Ops == nil, "list of results")
	}
	if f&resultLeases != 0 {
		o.Leases = list(r, 3, "leases", lease)
		r.present(o.Leases == nil, "list of leases")
	}
	if f&resultEach != 0 {
		if r.inEach {
			r.fail(ErrMalformed, "outcomes of a batch in a batch")
			return o
		}
		r.inEach = true
		o.Each = list(r, 5, "outcomes", outcome)
		r.inEach = false
		r.present(o.Each == nil, "list of outcomes")
	}
	if further&resultAlarms != 0 {
		o.Alarms = list(r, 2, "alarms", alarm)
		r.present(o.Alarms == nil, "list of alarms")
	}
	return o
}

func appendKeyValue(dst []byte, v *kv.KeyValue) []byte {
	dst = appendBytes(dst, v.Key)
	dst = appendBytes(dst, v.Value)
	dst = appendInt(appendInt(dst, v.CreateRevision), v.ModRevision)
	return appendInt(appendInt(dst, v.Version), v.Lease)
}

func keyValue(r *reader) (v kv.KeyValue) {
	v.Key = r.bytes("key")
	v.Value = r.bytes("value")
	v.CreateRevision, v.ModRevision = r.int("create revision"), r.int("mod revision")
	v.Version, v.Lease = r.int("version"), r.int("lease")
	return v
}

func appendLease(dst []byte, l *kv.Lease) []byte {
	return appendInt(appendInt(appendInt(dst, l.ID), l.TTL), l.Granted)
}

func lease(r *reader) kv.Lease {
	return kv.Lease{ID: r.int("lease"), TTL: r.int("time to live"), Granted: r.int("granted time")}
}

func appendAlarm(dst []byte, a *kv.Alarm) []byte {
	return appendUint(append(dst, byte(a.Kind)), a.Member)
}

func alarm(r *reader) kv.Alarm {
	return kv.Alarm{Kind: enum(r, kv.AlarmCorrupt, "kind of alarm"), Member: r.uint("member")}
}
