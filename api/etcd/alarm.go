package etcd

import (
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/kv"
)

// Alarm lists, raises and disarms alarms. The numbers of their kinds are etcd's and ours alike.
func (s maintenanceService) Alarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if _, known := pb.AlarmType_name[int32(r.Alarm)]; !known {
		return nil, status.Errorf(codes.InvalidArgument, "holdfast: there is no alarm of kind %d", r.Alarm)
	}
	switch r.Action {
	case pb.AlarmRequest_GET:
		return s.alarms(ctx, r.Alarm)
	case pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE:
		if err := s.mayHave(ctx, kv.AuthRoot); err != nil {
			return nil, err
		}
		if _, err := s.replica(ctx); err != nil {
			return nil, err
		}
		return s.setAlarm(ctx, r)
	default:
		return nil, status.Errorf(codes.InvalidArgument, "holdfast: alarms are listed, activated or deactivated: there is no action %d", r.Action)
	}
}

// alarms lists those of a kind, or all. As in etcd it does not matter which member is named.
func (s maintenanceService) alarms(ctx context.Context, kind pb.AlarmType) (*pb.AlarmResponse, error) {
	page, err := s.read(ctx, false, kv.Alarms{})
	if err != nil {
		return nil, err
	}
	answer := &pb.AlarmResponse{Header: s.header(page.Header)}
	for _, op := range page.Ops {
		for _, a := range op.Alarms {
			if kind == pb.AlarmType_NONE || pb.AlarmType(a.Kind) == kind {
				answer.Alarms = append(answer.Alarms, toAlarm(a))
			}
		}
	}
	return answer, nil
}

// setAlarm answers with the alarm that stands now, or that stood. As in etcd, of no kind at all there is none.
func (s maintenanceService) setAlarm(ctx context.Context, r *pb.AlarmRequest) (*pb.AlarmResponse, error) {
	if r.Alarm == pb.AlarmType_NONE {
		return &pb.AlarmResponse{Header: s.header(s.here(ctx))}, nil
	}
	op := kv.SetAlarm{Alarm: kv.Alarm{Member: r.MemberID, Kind: kv.AlarmKind(r.Alarm)}, Raise: r.Action == pb.AlarmRequest_ACTIVATE}
	result, err := s.do(ctx, op)
	if err != nil {
		return nil, err
	}
	answer := &pb.AlarmResponse{Header: s.header(result.Header)}
	for _, op := range result.Ops {
		for _, a := range op.Alarms {
			answer.Alarms = append(answer.Alarms, toAlarm(a))
		}
	}
	return answer, nil
}
