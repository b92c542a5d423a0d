package rest

import (
	"encoding/base64"
	"net/http"
	"strconv"

	"holdfast/kv"
)

// txnAnswer writes what a transaction has done: a tree of the same shape as the branches that were taken. Values are in
// "value_base64", so that a name means in an answer what it means in a request.
type txnAnswer struct {
	w http.ResponseWriter
	b []byte
}

func replyTxn(w http.ResponseWriter, t kv.Txn, result *kv.OpResult, revision int64) int {
	header := w.Header()
	header["Content-Type"] = typeJSON
	header["X-Content-Type-Options"] = nosniff
	a := txnAnswer{w: w, b: make([]byte, 0, 1024)}
	a.b = append(a.b, '{')
	a.txn(t, result)
	a.b = append(a.b, `,"revision":`...)
	a.b = strconv.AppendInt(a.b, revision, 10)
	a.b = append(a.b, "}\n"...)
	_, _ = w.Write(a.b) // a client that has gone cannot be told; what was written stands
	return http.StatusOK
}

// txn adds the members of a transaction's answer, without the braces.
func (a *txnAnswer) txn(t kv.Txn, r *kv.OpResult) {
	a.b = append(a.b, `"succeeded":`...)
	a.b = strconv.AppendBool(a.b, r.Succeeded)
	a.b = append(a.b, `,"results":[`...)
	ops := t.Else
	if r.Succeeded {
		ops = t.Then
	}
	for i := range r.Ops {
		if i > 0 {
			a.b = append(a.b, ',')
		}
		a.op(ops[i], &r.Ops[i])
	}
	a.b = append(a.b, ']')
}

func (a *txnAnswer) op(op kv.Op, r *kv.OpResult) {
	switch op := op.(type) {
	case kv.Put:
		a.b = append(a.b, `{"put":{"created":`...)
		a.b = strconv.AppendBool(a.b, r.Created)
		if len(r.KVs) > 0 {
			a.b = append(a.b, `,"prev_kv":`...)
			a.kv(&r.KVs[0], false)
		}
	case kv.Delete:
		a.b = append(a.b, `{"delete":{"deleted":`...)
		a.b = strconv.AppendInt(a.b, r.Count, 10)
		if op.PrevKV {
			a.b = append(a.b, `,"prev_kvs":`...)
			a.kvs(r.KVs, false)
		}
	case kv.Range:
		a.b = append(a.b, `{"get":{"kvs":`...)
		a.kvs(r.KVs, op.KeysOnly)
		a.b = append(a.b, `,"count":`...)
		a.b = strconv.AppendInt(a.b, r.Count, 10)
		a.b = append(a.b, `,"more":`...)
		a.b = strconv.AppendBool(a.b, r.More)
	case kv.Txn:
		a.b = append(a.b, `{"txn":{`...)
		a.txn(op, r)
	}
	a.b = append(a.b, "}}"...)
}

func (a *txnAnswer) kvs(items []kv.KeyValue, keysOnly bool) {
	a.b = append(a.b, '[')
	for i := range items {
		if i > 0 {
			a.b = append(a.b, ',')
		}
		a.kv(&items[i], keysOnly)
	}
	a.b = append(a.b, ']')
}

func (a *txnAnswer) kv(item *kv.KeyValue, keysOnly bool) {
	a.b = append(a.b, '{')
	a.b = appendKey(a.b, item.Key)
	if !keysOnly {
		a.b = append(a.b, `,"value_base64":"`...)
		a.b = base64.StdEncoding.AppendEncode(a.b, item.Value)
		a.b = append(a.b, '"')
	}
	a.b = appendVersions(a.b, item)
	a.b = append(a.b, '}')
	if len(a.b) >= flushAt {
		_, _ = a.w.Write(a.b) // as in replyTxn
		a.b = a.b[:0]
	}
}
