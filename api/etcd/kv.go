package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/mvccpb"
	"google.golang.org/protobuf/proto"

	"holdfast/kv"
)

// kvService is etcdserverpb.KV.
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
	return &pb.PutResponse{Header: s.header(res.Header), PrevKv: first(res.Ops[0].KVs)}, nil
}

// Range reads keys.
func (s kvService) Range(ctx context.Context, r *pb.RangeRequest) (*pb.RangeResponse, error) {
	if err := checkRange(r); err != nil {
		return nil, err
	}
	page, err := s.read(ctx, r.Serializable, rangeOp(r))
	if err != nil {
		return nil, err
	}
	res := rangeResponse(page.Ops[0])
	res.Header = s.header(page.Header)
	return res, nil
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

// RangeStream reads keys in chunks, all at the revision of the first. Only the last has header, count and more.
func (s kvService) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	ctx := stream.Context()
	if r.CountOnly {
		page, err := s.read(ctx, r.Serializable, rangeOp(r))
		if err != nil {
			return err
		}
		return sendRange(stream, &pb.RangeResponse{Header: s.header(page.Header), Count: page.Ops[0].Count})
	}
	op, sent, chunk := rangeOp(r), int64(0), int64(chunkFirst)
	op.Sort = kv.TargetKey // without an order, a target says nothing
	var header kv.Header
	for {
		op.Limit = chunk
		if r.Limit > 0 {
			op.Limit = min(chunk, r.Limit-sent)
		}
		// What follows the first chunk is history, which does not change: any copy of it will do.
		page, err := s.read(ctx, r.Serializable || sent > 0, op)
		if err != nil {
			return err
		}
		if sent == 0 {
			header = page.Header
			if op.Revision <= 0 {
				op.Revision = header.Revision
			}
		}
		found := page.Ops[0]
		out := &pb.RangeResponse{Kvs: pairs(found.KVs)}
		last := !found.More || r.Limit > 0 && sent+int64(len(found.KVs)) >= r.Limit
		if last {
			out.Header, out.More, out.Count = s.header(header), found.More, sent+found.Count
		}
		size := proto.Size(out)
		if err := sendRange(stream, out); err != nil || last {
			return err
		}
		sent += int64(len(found.KVs))
		op.Key = append(append([]byte(nil), found.KVs[len(found.KVs)-1].Key...), 0)
		chunk = nextChunk(chunk, size, s.opts.RequestMax)
	}
}

// chunkFirst is how many keys the first chunk of a RangeStream has: what they weigh is not known yet.
const chunkFirst = 10

// nextChunk moves the number of keys towards chunks of the target's size.
func nextChunk(keys int64, size, target int) int64 {
	switch {
	case size < target/2:
		return keys * 2
	case size > target*2:
		return max(keys/2, 1)
	}
	return keys
}

func sendRange(stream pb.KV_RangeStreamServer, r *pb.RangeResponse) error {
	return stream.Send(&pb.RangeStreamResponse{RangeResponse: r})
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

func rangeResponse(r kv.OpResult) *pb.RangeResponse {
	return &pb.RangeResponse{Kvs: pairs(r.KVs), Count: r.Count, More: r.More}
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
