package etcd

import (
	"context"

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
// place in the log, and does not know which member leads; the header is that of whoever answered it last.
func (s maintenanceService) proxiedStatus(ctx context.Context, refused error) (*pb.StatusResponse, error) {
	p := s.opts.Reporter.Report().Proxy
	if p == nil {
		return nil, refused
	}
	header := s.header(s.here(ctx))
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
