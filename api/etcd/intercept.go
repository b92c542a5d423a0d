package etcd

import (
	"context"
	"errors"
	"runtime/debug"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"holdfast/api"
)

// unary is around every call that has one request and one answer.
func (s *Server) unary(ctx context.Context, req any, info *grpc.UnaryServerInfo, handler grpc.UnaryHandler) (res any, err error) {
	m := s.metrics.methods[info.FullMethod]
	m.started.Add(1)
	m.msgsReceived.Add(1)
	defer func() {
		if v := recover(); v != nil {
			res, err = nil, s.panicked(info.FullMethod, v)
		}
		if err == nil {
			m.msgsSent.Add(1)
		}
		m.end(status.Code(err))
		s.note(ctx, info.FullMethod, req, err)
	}()
	ctx = s.withCaller(ctx)
	if _, err := s.admit(ctx); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// stream is around every other call. Its context ends, with the error that the client then gets as the cause, when the
// node shuts down, and for a client that requires a leader when there is none.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	m := s.metrics.methods[info.FullMethod]
	m.started.Add(1)
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(info.FullMethod, v)
		}
		m.end(status.Code(err))
		s.note(s.withCaller(ss.Context()), info.FullMethod, nil, err)
	}()
	needsLeader, err := s.admit(ss.Context())
	if err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(s.withCaller(ss.Context()))
	defer cancel(nil)
	defer context.AfterFunc(s.stopping, func() { cancel(errStopped) })()
	if needsLeader {
		defer s.leaders.watch(cancel)()
	}
	err = handler(srv, &countedStream{ServerStream: ss, ctx: ctx, method: m})
	if cause := context.Cause(ctx); errors.Is(cause, errStopped) || errors.Is(cause, rpctypes.ErrGRPCNoLeader) {
		return cause
	}
	return err
}

// admit looks at the metadata of a call, and reports whether it is to end when there is no leader.
func (s *Server) admit(ctx context.Context) (needsLeader bool, err error) {
	version := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataClientAPIVersionKey)
	if len(version) > 0 && !utf8.ValidString(version[0]) {
		return false, rpctypes.ErrGRPCInvalidClientAPIVersion
	}
	leader := metadata.ValueFromIncomingContext(ctx, rpctypes.MetadataRequireLeaderKey)
	if len(leader) == 0 || leader[0] != rpctypes.MetadataHasLeader {
		return false, nil
	}
	if !s.hasLeader() {
		return true, rpctypes.ErrGRPCNoLeader
	}
	return true, nil
}

// deeds are the calls that an administrator makes: all but those on data, and those that only look.
var deeds = map[string]bool{
	pb.Cluster_MemberAdd_FullMethodName: true, pb.Cluster_MemberRemove_FullMethodName: true, pb.Cluster_MemberUpdate_FullMethodName: true, pb.Cluster_MemberPromote_FullMethodName: true,
	pb.Maintenance_Defragment_FullMethodName: true, pb.Maintenance_MoveLeader_FullMethodName: true, pb.Maintenance_Downgrade_FullMethodName: true, pb.Maintenance_Alarm_FullMethodName: true, pb.Maintenance_Snapshot_FullMethodName: true,
	pb.Auth_AuthEnable_FullMethodName: true, pb.Auth_AuthDisable_FullMethodName: true,
	pb.Auth_UserAdd_FullMethodName: true, pb.Auth_UserDelete_FullMethodName: true, pb.Auth_UserChangePassword_FullMethodName: true, pb.Auth_UserGrantRole_FullMethodName: true, pb.Auth_UserRevokeRole_FullMethodName: true,
	pb.Auth_RoleAdd_FullMethodName: true, pb.Auth_RoleDelete_FullMethodName: true, pb.Auth_RoleGrantPermission_FullMethodName: true, pb.Auth_RoleRevokePermission_FullMethodName: true,
}

// note tells Options.Audit of a deed. Of one that was refused to a client it says nothing: anybody can ask.
func (s *Server) note(ctx context.Context, method string, req any, err error) {
	if s.opts.Audit == nil || !deeds[method] {
		return
	}
	if a, ok := req.(*pb.AlarmRequest); ok && a.Action == pb.AlarmRequest_GET {
		return
	}
	if caller, _ := api.CallerFrom(ctx); err == nil || caller.Admin {
		s.opts.Audit(ctx, method, status.Code(err).String())
	}
}

// panicked keeps a fault in one call from ending the node.
func (s *Server) panicked(method string, v any) error {
	s.opts.Log.Error("handler panicked", "method", method, "panic", v, "stack", string(debug.Stack()))
	return status.Error(codes.Internal, "holdfast: internal fault")
}

// countedStream counts messages, and has a context of ours.
type countedStream struct {
	grpc.ServerStream
	ctx    context.Context
	method *method
}

func (s *countedStream) Context() context.Context { return s.ctx }

func (s *countedStream) SendMsg(m any) error {
	err := s.ServerStream.SendMsg(m)
	if err == nil {
		s.method.msgsSent.Add(1)
	}
	return err
}

func (s *countedStream) RecvMsg(m any) error {
	err := s.ServerStream.RecvMsg(m)
	if err == nil {
		s.method.msgsReceived.Add(1)
	}
	return err
}
