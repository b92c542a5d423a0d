package etcd

import (
	"context"
	"regexp"
	"strings"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// maintenanceService is etcdserverpb.Maintenance; alarms and snapshots have files of their own.
type maintenanceService struct {
	pb.UnimplementedMaintenanceServer
	*Server
}

// Status tells how this member stands. The versions are those of etcd's API which is spoken, as clients decide by them
// what they may ask for. No etcd could read this store, whatever the storage version says.
func (s maintenanceService) Status(ctx context.Context, _ *pb.StatusRequest) (*pb.StatusResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return s.proxiedStatus(ctx, err)
	}
	c := admin.Condition()
	answer := &pb.StatusResponse{
		Header:           s.header(c.Header),
		Version:          api.EtcdVersion,
		DbSize:           c.DBSize,
		DbSizeInUse:      c.DBInUse,
		DbSizeQuota:      c.DBQuota,
		StorageVersion:   api.EtcdClusterVersion,
		Leader:           c.Leader,
		RaftIndex:        c.Committed,
		RaftAppliedIndex: c.Applied,
		RaftTerm:         c.Term,
		IsLearner:        c.Learner,
		DowngradeInfo:    &pb.DowngradeInfo{},
	}
	if c.Leader == 0 {
		answer.Errors = append(answer.Errors, rpctypes.ErrorDesc(rpctypes.ErrGRPCNoLeader))
	}
	for _, a := range c.Alarms {
		answer.Errors = append(answer.Errors, toAlarm(a).String())
	}
	return answer, nil
}

// Hash digests what HashKV does, at the newest revision. etcd's goes over its whole file, which is of use for comparing
// files of one build alone.
func (s maintenanceService) Hash(ctx context.Context, _ *pb.HashRequest) (*pb.HashResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	h, err := admin.Hash(ctx, 0)
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	return &pb.HashResponse{Header: s.header(h.Header), Hash: h.Sum}, nil
}

// neverCompacted is the compact revision of an etcd whose history is whole.
const neverCompacted = -1

// HashKV digests the keys and their history up to a revision. Members of one cluster agree on it; it is not comparable
// with etcd's.
func (s maintenanceService) HashKV(ctx context.Context, r *pb.HashKVRequest) (*pb.HashKVResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	h, err := admin.Hash(ctx, r.Revision)
	if err != nil {
		return nil, s.refusal(ctx, err)
	}
	answer := &pb.HashKVResponse{Header: s.header(h.Header), Hash: h.Sum, HashRevision: h.Revision, CompactRevision: h.Compact}
	if h.Compact == 0 {
		answer.CompactRevision = neverCompacted
	}
	return answer, nil
}

// Defragment gives free pages back to the file system. As in etcd, the answer has no header.
func (s maintenanceService) Defragment(ctx context.Context, _ *pb.DefragmentRequest) (*pb.DefragmentResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	if err := admin.Defragment(ctx); err != nil {
		return nil, s.refusal(ctx, err)
	}
	return &pb.DefragmentResponse{}, nil
}

// MoveLeader has another member lead. Only the leader can be asked: etcdctl looks for it by Status.
func (s maintenanceService) MoveLeader(ctx context.Context, r *pb.MoveLeaderRequest) (*pb.MoveLeaderResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	if c := admin.Condition(); c.Leader != c.Member {
		return nil, rpctypes.ErrGRPCNotLeader
	}
	switch err := admin.MoveLeader(ctx, r.TargetID); kv.CodeOf(err) {
	case kv.OK:
		return &pb.MoveLeaderResponse{}, nil
	case kv.NoLeader: // lost it meanwhile
		return nil, rpctypes.ErrGRPCNotLeader
	case kv.Invalid:
		return nil, rpctypes.ErrGRPCBadLeaderTransferee
	default:
		return nil, s.refusal(ctx, err)
	}
}

// errUnknownMethod is etcd's answer to an action that is none.
var errUnknownMethod = status.Error(codes.Unknown, "etcdserver: unknown method")

const noDowngrade = "holdfast: there is no etcd version that this store could be downgraded to; to go back to an older version of " +
	"Holdfast, install it: it starts unless the cluster has begun to use what it does not know, and says so"

// targetVersion is the form of a version to which etcd can be downgraded.
var targetVersion = regexp.MustCompile(`^(0|[1-9]\d*)\.(0|[1-9]\d*)(\.(0|[1-9]\d*)(-[0-9A-Za-z.-]+)?(\+[0-9A-Za-z.-]+)?)?$`)

// Downgrade is refused: the store is not etcd's. To call it off is fine, as there never is one under way.
func (s maintenanceService) Downgrade(ctx context.Context, r *pb.DowngradeRequest) (*pb.DowngradeResponse, error) {
	admin, err := s.replica(ctx)
	if err != nil {
		return nil, err
	}
	switch r.Action {
	case pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE:
		if !targetVersion.MatchString(r.Version) {
			return nil, rpctypes.ErrGRPCWrongDowngradeVersionFormat
		}
		return nil, status.Error(codes.Unimplemented, noDowngrade)
	case pb.DowngradeRequest_CANCEL:
		return &pb.DowngradeResponse{Header: s.header(admin.Condition().Header), Version: strings.TrimSuffix(api.EtcdClusterVersion, ".0")}, nil
	default:
		return nil, errUnknownMethod
	}
}

func toAlarm(a kv.Alarm) *pb.AlarmMember {
	return &pb.AlarmMember{MemberID: a.Member, Alarm: pb.AlarmType(a.Kind)}
}
