package etcd

import (
	"context"
	"hash/fnv"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"holdfast/api"
)

// proxiedList is the list of members as a node that is none knows it. Refused is what it says otherwise.
func (s clusterService) proxiedList(ctx context.Context, r *pb.MemberListRequest, refused error) (*pb.MemberListResponse, error) {
	if s.opts.Members == nil {
		return nil, refused
	}
	header, replicas, err := s.opts.Members(ctx, !r.Linearizable)
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	header.Revision = 0 // as in etcd
	answer := &pb.MemberListResponse{Header: s.header(header)}
	for _, replica := range replicas {
		answer.Members = append(answer.Members, s.describe(ctx, replica, false))
	}
	return answer, nil
}

// page is the least that a store has; etcdctl divides by it.
const page = 4 << 10

// proxiedStatus is how a proxy stands: the size of its cache, and that it has no leader if its uplink is lost. It has no
// place in the log, and does not know which member leads. In the header it stands for itself, by a number made of its node
// id: tools take a node for the leader whose number is the leader's, and 0 is that of no leader.
func (s maintenanceService) proxiedStatus(ctx context.Context, refused error) (*pb.StatusResponse, error) {
	report := s.opts.Reporter.Report()
	p := report.Proxy
	if p == nil {
		return nil, refused
	}
	header := s.header(s.here(ctx))
	header.MemberId = numberOf(report.NodeID)
	answer := &pb.StatusResponse{
		Header:         header,
		Version:        api.EtcdVersion,
		StorageVersion: api.EtcdClusterVersion,
		DbSize:         max(p.CacheBytes, page),
		DbSizeInUse:    max(p.CacheBytes, page),
		DbSizeQuota:    p.CacheMaxBytes,
		RaftTerm:       header.RaftTerm,
		DowngradeInfo:  &pb.DowngradeInfo{},
	}
	if p.UplinkLost {
		answer.Errors = append(answer.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	return answer, nil
}

// numberOf is a node id as one of 63 bits, and not 0.
func numberOf(node string) uint64 {
	h := fnv.New64a()
	_, _ = h.Write([]byte(node)) // never fails
	return h.Sum64()>>1 | 1
}
