package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast/kv"
)

// txnOp translates a checked transaction.
func txnOp(r *pb.TxnRequest) kv.Txn {
	t := kv.Txn{Then: branch(r.Success), Else: branch(r.Failure)}
	if len(r.Compare) > 0 {
		t.Compares = make([]kv.Compare, len(r.Compare))
	}
	for i, c := range r.Compare {
		t.Compares[i] = compare(c)
	}
	return t
}

func branch(ops []*pb.RequestOp) []kv.Op {
	if len(ops) == 0 {
		return nil
	}
	to := make([]kv.Op, len(ops))
	for i, op := range ops {
		switch op := op.Request.(type) {
		case *pb.RequestOp_RequestRange:
			to[i] = rangeOp(op.RequestRange)
		case *pb.RequestOp_RequestPut:
			to[i] = putOp(op.RequestPut)
		case *pb.RequestOp_RequestDeleteRange:
			to[i] = deleteOp(op.RequestDeleteRange)
		case *pb.RequestOp_RequestTxn:
			to[i] = txnOp(op.RequestTxn)
		}
	}
	return to
}

// compare translates one comparison. A value that is not given, or given for another target, is zero, as in etcd. What
// etcd makes of numbers that it does not know is put in terms of versions, which are never negative: an unknown result
// holds, of a value if there is a key; an unknown target finds everything equal.
func compare(c *pb.Compare) kv.Compare {
	to := kv.Compare{Key: c.Key, End: c.RangeEnd, Target: kv.TargetVersion, Relation: kv.NotEqual, Num: -1} // holds
	if pb.Compare_CompareTarget_name[int32(c.Target)] == "" {
		known := pb.Compare_CompareResult_name[int32(c.Result)] != ""
		if known && c.Result != pb.Compare_EQUAL {
			to.Relation = kv.Equal // never holds
		}
		return to
	}
	if pb.Compare_CompareResult_name[int32(c.Result)] == "" {
		if c.Target == pb.Compare_VALUE {
			to.Num = 0
		}
		return to
	}
	to.Num, to.Relation = 0, kv.Relation(c.Result) // etcd's numbers
	switch c.Target {
	case pb.Compare_VERSION:
		to.Target, to.Num = kv.TargetVersion, c.GetVersion()
	case pb.Compare_CREATE:
		to.Target, to.Num = kv.TargetCreate, c.GetCreateRevision()
	case pb.Compare_MOD:
		to.Target, to.Num = kv.TargetMod, c.GetModRevision()
	case pb.Compare_VALUE:
		to.Target, to.Value = kv.TargetValue, c.GetValue()
	case pb.Compare_LEASE:
		to.Target, to.Num = kv.TargetLease, c.GetLease()
	}
	return to
}

// serializable reports whether a transaction that only reads may be answered from this node: if nothing in it asks for
// more. One with a transaction in it does, as in etcd.
func serializable(r *pb.TxnRequest) bool {
	for _, branch := range [2][]*pb.RequestOp{r.Success, r.Failure} {
		for _, op := range branch {
			if read := op.GetRequestRange(); read == nil || !read.Serializable {
				return false
			}
		}
	}
	return true
}

// txnAnswer builds the answer to a transaction. Each operation in it has a header with the revision it saw, which is the
// one before the transaction until something has changed.
type txnAnswer struct {
	before  int64
	changed bool
}

func newTxnAnswer(after int64, op kv.Txn, result kv.OpResult) *txnAnswer {
	if changes(op, result) {
		after--
	}
	return &txnAnswer{before: after}
}

// changes reports whether a transaction has changed anything.
func changes(op kv.Txn, result kv.OpResult) bool {
	for i, op := range taken(op, result) {
		switch op := op.(type) {
		case kv.Put:
			return true
		case kv.Delete:
			if result.Ops[i].Count > 0 {
				return true
			}
		case kv.Txn:
			if changes(op, result.Ops[i]) {
				return true
			}
		}
	}
	return false
}

// taken is the branch that was applied.
func taken(op kv.Txn, result kv.OpResult) []kv.Op {
	if result.Succeeded {
		return op.Then
	}
	return op.Else
}

func (a *txnAnswer) header() *pb.ResponseHeader {
	if a.changed {
		return &pb.ResponseHeader{Revision: a.before + 1}
	}
	return &pb.ResponseHeader{Revision: a.before}
}

// txn answers a transaction, with a header that is empty: only the outermost has one, as in etcd.
func (a *txnAnswer) txn(op kv.Txn, result kv.OpResult) *pb.TxnResponse {
	res := &pb.TxnResponse{Header: &pb.ResponseHeader{}, Succeeded: result.Succeeded}
	ops := taken(op, result)
	if len(ops) > 0 {
		res.Responses = make([]*pb.ResponseOp, len(ops))
	}
	for i, op := range ops {
		res.Responses[i] = a.op(op, result.Ops[i])
	}
	return res
}

func (a *txnAnswer) op(op kv.Op, result kv.OpResult) *pb.ResponseOp {
	switch op := op.(type) {
	case kv.Range:
		r := rangeResponse(op, result)
		r.Header = a.header()
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseRange{ResponseRange: r}}
	case kv.Put:
		a.changed = true
		r := &pb.PutResponse{Header: a.header(), PrevKv: first(result.KVs)}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponsePut{ResponsePut: r}}
	case kv.Delete:
		a.changed = a.changed || result.Count > 0
		r := &pb.DeleteRangeResponse{Header: a.header(), Deleted: result.Count, PrevKvs: pairs(result.KVs)}
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseDeleteRange{ResponseDeleteRange: r}}
	case kv.Txn:
		return &pb.ResponseOp{Response: &pb.ResponseOp_ResponseTxn{ResponseTxn: a.txn(op, result)}}
	}
	return &pb.ResponseOp{}
}
