package etcd

import (
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/protobuf/proto"

	"holdfast/kv"
)

// RangeStream reads keys in chunks, all at the revision of the first. Only the last has header, count and more.
func (s kvService) RangeStream(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	if err := checkRangeStream(r); err != nil {
		return err
	}
	if r.CountOnly || r.SortTarget != pb.RangeRequest_KEY {
		return s.streamWhole(r, stream)
	}
	ctx := stream.Context()
	op, sent, chunk := rangeOp(r), int64(0), int64(chunkFirst)
	op.Uncounted = true
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
		out := rangeResponse(op, page.Ops[0])
		sent += int64(len(out.Kvs))
		more := out.More
		out.Count, out.More = 0, false
		if more {
			op.Key = append(append([]byte(nil), out.Kvs[len(out.Kvs)-1].Key...), 0)
		}
		last := !more || r.Limit > 0 && sent >= r.Limit
		if last {
			out.Header, out.More, out.Count = s.header(header), more, sent
		}
		if last && more {
			rest, err := s.read(ctx, true, kv.Range{Key: op.Key, End: op.End, Revision: op.Revision, CountOnly: true})
			if err != nil {
				return err
			}
			out.Count += rest.Ops[0].Count
		}
		size := proto.Size(out)
		if err := sendRange(stream, out); err != nil || last {
			return err
		}
		chunk = nextChunk(chunk, size, s.opts.RequestMax)
	}
}

// streamWhole answers what cannot be read chunk by chunk: a count, and keys that are sorted by something else than
// themselves. (etcd sorts within each of its chunks, and goes on behind the key that came last then.)
func (s kvService) streamWhole(r *pb.RangeRequest, stream pb.KV_RangeStreamServer) error {
	op := rangeOp(r)
	page, err := s.read(stream.Context(), r.Serializable, op)
	if err != nil {
		return err
	}
	whole := rangeResponse(op, page.Ops[0])
	for chunk := chunkFirst; len(whole.Kvs) > chunk; {
		out := &pb.RangeResponse{Kvs: whole.Kvs[:chunk]}
		whole.Kvs = whole.Kvs[chunk:]
		if err := sendRange(stream, out); err != nil {
			return err
		}
		chunk = int(nextChunk(int64(chunk), proto.Size(out), s.opts.RequestMax))
	}
	whole.Header = s.header(page.Header)
	return sendRange(stream, whole)
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
