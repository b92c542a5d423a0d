package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"

	"holdfast/kv"
)

// header says which node answered, and where it stood.
func (s *Server) header(h kv.Header) *pb.ResponseHeader {
	return &pb.ResponseHeader{ClusterId: h.Epoch.Cluster, MemberId: h.Member, Revision: h.Revision, RaftTerm: h.Term}
}

// do applies ops as one command. It waits for a quorum.
func (s *Server) do(ctx context.Context, ops ...kv.Op) (kv.Result, error) {
	res, err := s.opts.Backend.Do(ctx, kv.Command{Ops: ops, Write: kv.WriteSync})
	if err != nil {
		return kv.Result{}, s.refusal(ctx, err)
	}
	return res, nil
}

// read answers ops: linearizable, or serializable, which is from what this node has if it has it.
func (s *Server) read(ctx context.Context, serializable bool, ops ...kv.Op) (kv.Page, error) {
	q := kv.Query{Ops: ops}
	if serializable {
		q.MaxAge = kv.Unlimited
	}
	page, err := s.opts.Backend.Read(ctx, q)
	if err != nil {
		return kv.Page{}, s.refusal(ctx, err)
	}
	return page, nil
}

// here is a header for an answer that no part of the Backend gave. A node that cannot tell where it stands leaves it
// empty.
func (s *Server) here(ctx context.Context) kv.Header {
	page, err := s.opts.Backend.Read(ctx, kv.Query{MaxAge: kv.Unlimited})
	if err != nil {
		return kv.Header{}
	}
	return page.Header
}
