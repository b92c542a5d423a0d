package etcd

import (
	"context"
	"errors"
	"runtime/debug"
	"strings"
	"unicode/utf8"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
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
	if _, err := s.admit(ctx); err != nil {
		return nil, err
	}
	ctx = s.named(ctx)
	if s.opts.Trace != nil {
		var end func(code string, err error)
		ctx, end = s.opts.Trace(ctx, strings.TrimPrefix(info.FullMethod, "/"), traceparent(ctx))
		defer func() { end(status.Code(err).String(), err) }()
	}
	if err := s.allowed(ctx, info.FullMethod); err != nil {
		return nil, err
	}
	return handler(ctx, req)
}

// traceparent is the place in a trace that a call's metadata names as HTTP's header of that name does, "" for none.
func traceparent(ctx context.Context) string {
	if v := metadata.ValueFromIncomingContext(ctx, "traceparent"); len(v) > 0 {
		return v[0]
	}
	return ""
}

// stream is around every other call. Its context ends, with the error that the client then gets as the cause, when the
// node shuts down, and for a client that requires a leader when there is none.
func (s *Server) stream(srv any, ss grpc.ServerStream, info *grpc.StreamServerInfo, handler grpc.StreamHandler) (err error) {
	m := s.metrics.methods[info.FullMethod]
	m.started.Add(1)
	ctx := s.named(ss.Context())
	defer func() {
		if v := recover(); v != nil {
			err = s.panicked(info.FullMethod, v)
		}
		m.end(status.Code(err))
		s.note(ctx, info.FullMethod, nil, err)
	}()
	needsLeader, err := s.admit(ctx)
	if err != nil {
		return err
	}
	if err := s.allowed(ctx, info.FullMethod); err != nil {
		return err
	}
	ctx, cancel := context.WithCancelCause(ctx)
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

// named is the context of a call with all in it that is known of who makes it: its Caller, and the token that it shows, as
// etcd's clients do, or through the gateway as HTTP does.
func (s *Server) named(ctx context.Context) context.Context {
	ctx = s.withCaller(ctx)
	for _, name := range [2]string{rpctypes.TokenFieldNameGRPC, rpctypes.TokenFieldNameSwagger} {
		if shown := metadata.ValueFromIncomingContext(ctx, name); len(shown) > 0 {
			return api.WithToken(ctx, shown[0])
		}
	}
	return ctx
}

// rights are what it takes to make a call that is about the node or the cluster as a whole, as in etcd: with
// authentication on, everything that changes something there is for root.
var rights = map[string]kv.AuthPart{
	pb.Maintenance_Defragment_FullMethodName: kv.AuthRoot,
	pb.Maintenance_Snapshot_FullMethodName:   kv.AuthRoot,
	pb.Maintenance_Hash_FullMethodName:       kv.AuthRoot,
	pb.Maintenance_HashKV_FullMethodName:     kv.AuthRoot,
	pb.Maintenance_MoveLeader_FullMethodName: kv.AuthRoot,
	pb.Maintenance_Downgrade_FullMethodName:  kv.AuthRoot,
	pb.Maintenance_Status_FullMethodName:     kv.AuthSomeone,
	pb.Maintenance_Alarm_FullMethodName:      kv.AuthSomeone, // what is not GET asks for more itself
	pb.Cluster_MemberAdd_FullMethodName:      kv.AuthRoot,
	pb.Cluster_MemberRemove_FullMethodName:   kv.AuthRoot,
	pb.Cluster_MemberUpdate_FullMethodName:   kv.AuthRoot,
	pb.Cluster_MemberPromote_FullMethodName:  kv.AuthRoot,
	pb.Cluster_MemberList_FullMethodName:     kv.AuthSomeone,
}

// allowed refuses a call that takes more than who makes it has.
func (s *Server) allowed(ctx context.Context, method string) error {
	part, asks := rights[method]
	if !asks {
		return nil
	}
	return s.mayHave(ctx, part)
}

func (s *Server) mayHave(ctx context.Context, part kv.AuthPart) error {
	ask := api.Allowed
	if part == kv.AuthSomeone {
		ask = api.AllowedHere
	}
	err := ask(ctx, s.opts.Backend, part)
	switch code := kv.CodeOf(err); {
	case code == kv.OK:
		return nil
	case part == kv.AuthSomeone && (code == kv.NotCached || code == kv.NoLeader || code == kv.UpstreamUnavailable):
		return nil // a proxy has no policy, nor has a member that still replays: they say how they are all the same
	}
	return s.refusal(ctx, err)
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
