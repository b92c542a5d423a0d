package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"

	"holdfast/kv"
)

// kvService is etcdserverpb.KV, with a Range of its own: see kvDesc.
type kvService struct {
	pb.UnimplementedKVServer
	*Server
}

// Put sets a key.
func (s kvService) Put(ctx context.Context, r *pb.PutRequest) (*pb.PutResponse, error) {
	if err := checkPut(r); err != nil {
		return nil, err
	}
	res, err := s.do(ctx, putOp(r))
	if err != nil {
		return nil, err
	}
	return s.putResponse(&res), nil
}

func (s kvService) putResponse(r *kv.Result) *pb.PutResponse {
	return &pb.PutResponse{Header: s.header(r.Header), PrevKv: first(r.Ops[0].KVs)}
}

// DeleteRange removes keys.
func (s kvService) DeleteRange(ctx context.Context, r *pb.DeleteRangeRequest) (*pb.DeleteRangeResponse, error) {
	if err := checkDelete(r); err != nil {
		return nil, err
	}
	res, err := s.do(ctx, deleteOp(r))
	if err != nil {
		return nil, err
	}
	return &pb.DeleteRangeResponse{Header: s.header(res.Header), Deleted: res.Ops[0].Count, PrevKvs: pairs(res.Ops[0].KVs)}, nil
}

// Txn applies one of two lists of operations. One that only reads is a Query.
func (s kvService) Txn(ctx context.Context, r *pb.TxnRequest) (*pb.TxnResponse, error) {
	if err := checkTxn(r, s.opts.TxnOpsMax); err != nil {
		return nil, err
	}
	op := txnOp(r)
	var header kv.Header
	var result kv.OpResult
	if kv.ReadOnly([]kv.Op{op}) {
		page, err := s.read(ctx, serializable(r), op)
		if err != nil {
			return nil, err
		}
		header, result = page.Header, page.Ops[0]
	} else {
		res, err := s.do(ctx, op)
		if err != nil {
			return nil, err
		}
		header, result = res.Header, res.Ops[0]
	}
	answer := newTxnAnswer(header.Revision, op, result)
	res := answer.txn(op, result)
	res.Header = s.header(header)
	return res, nil
}

// Compact gives up history.
func (s kvService) Compact(ctx context.Context, r *pb.CompactionRequest) (*pb.CompactionResponse, error) {
	res, err := s.do(ctx, kv.Compact{Revision: r.Revision, Physical: r.Physical})
	if err != nil {
		return nil, err
	}
	return &pb.CompactionResponse{Header: s.header(res.Header)}, nil
}

func putOp(r *pb.PutRequest) kv.Put {
	return kv.Put{Key: r.Key, Value: r.Value, Lease: r.Lease, PrevKV: r.PrevKv, IgnoreValue: r.IgnoreValue, IgnoreLease: r.IgnoreLease}
}

func deleteOp(r *pb.DeleteRangeRequest) kv.Delete {
	return kv.Delete{Key: r.Key, End: r.RangeEnd, PrevKV: r.PrevKv}
}

func rangeOp(r *pb.RangeRequest) kv.Range {
	return kv.Range{
		Key: r.Key, End: r.RangeEnd, Limit: max(r.Limit, 0), Revision: max(r.Revision, 0),
		Sort: kv.Target(r.SortTarget), Order: kv.Order(r.SortOrder), // etcd's numbers, checked
		KeysOnly: r.KeysOnly, CountOnly: r.CountOnly,
		MinMod: r.MinModRevision, MaxMod: r.MaxModRevision, MinCreate: r.MinCreateRevision, MaxCreate: r.MaxCreateRevision,
	}
}

// rangeResponse is an answer as a message, where it is a part of another.
func rangeResponse(op kv.Range, r kv.OpResult) *pb.RangeResponse {
	res := &pb.RangeResponse{Kvs: pairs(r.KVs), Count: r.Count, More: r.More}
	for i := range res.Kvs {
		res.Kvs[i].Lease = shownLease(&op, &r.KVs[i])
	}
	return res
}

// pairs are keys as a message has them, in one allocation for all.
func pairs(kvs []kv.KeyValue) []*mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	all, refs := make([]mvccpb.KeyValue, len(kvs)), make([]*mvccpb.KeyValue, len(kvs))
	for i := range kvs {
		fill(&all[i], &kvs[i])
		refs[i] = &all[i]
	}
	return refs
}

func fill(to *mvccpb.KeyValue, from *kv.KeyValue) {
	to.Key, to.Value = from.Key, from.Value
	to.CreateRevision, to.ModRevision, to.Version, to.Lease = from.CreateRevision, from.ModRevision, from.Version, from.Lease
}

// first is the only one of kvs, nil if there is none.
func first(kvs []kv.KeyValue) *mvccpb.KeyValue {
	if len(kvs) == 0 {
		return nil
	}
	to := &mvccpb.KeyValue{}
	fill(to, &kvs[0])
	return to
}
