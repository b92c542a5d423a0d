package apitest

import (
	"bytes"
	"cmp"
	"errors"
	"fmt"
	"slices"

	"holdfast/kv"
)

// The comparisons here take nil and empty for the same, as the vocabulary does.

func asError(err error) (*kv.Error, bool) { return errors.AsType[*kv.Error](err) }

func sameKV(a, b kv.KeyValue) bool {
	return bytes.Equal(a.Key, b.Key) && bytes.Equal(a.Value, b.Value) && a.CreateRevision == b.CreateRevision &&
		a.ModRevision == b.ModRevision && a.Version == b.Version && a.Lease == b.Lease
}

func sameKVs(a, b []kv.KeyValue) bool { return slices.EqualFunc(a, b, sameKV) }

func sameOp(a, b kv.OpResult) bool {
	return sameKVs(a.KVs, b.KVs) && a.Count == b.Count && a.More == b.More && a.Created == b.Created &&
		a.Succeeded == b.Succeeded && slices.EqualFunc(a.Leases, b.Leases, sameLease) && slices.EqualFunc(a.Ops, b.Ops, sameOp)
}

// sameLease leaves out how long a lease has left, which differs from one look to the next, but not whether it is there.
func sameLease(a, b kv.Lease) bool {
	return a.ID == b.ID && a.Granted == b.Granted && (a.TTL < 0) == (b.TTL < 0)
}

// byLease is the order of their ids, those that are negative last.
func byLease(a, b kv.Lease) int { return cmp.Compare(uint64(a.ID), uint64(b.ID)) }

// first returns the only key of an answer, a zero one if there is none.
func first(r kv.OpResult) kv.KeyValue {
	if len(r.KVs) == 0 {
		return kv.KeyValue{}
	}
	return r.KVs[0]
}

func sameEvent(a, b kv.Event) bool { return a.Delete == b.Delete && sameKV(a.KV, b.KV) }

func showKV(v kv.KeyValue) string {
	if v.ModRevision == 0 {
		return "no key"
	}
	value := fmt.Sprintf("%q", v.Value)
	if len(v.Value) > 64 {
		value = fmt.Sprintf("%d bytes", len(v.Value))
	}
	return fmt.Sprintf("%q=%s (create %d, mod %d, version %d, lease %d)", v.Key, value, v.CreateRevision, v.ModRevision, v.Version, v.Lease)
}

func showEvents(events []kv.Event) string {
	var b bytes.Buffer
	for _, e := range events {
		kind := "put"
		if e.Delete {
			kind = "delete"
		}
		fmt.Fprintf(&b, "\n\t%s %s", kind, showKV(e.KV))
	}
	return b.String()
}
