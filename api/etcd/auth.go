package etcd

import (
	"bytes"
	"context"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/kv"
)

// authService is etcdserverpb.Auth in the only state that this version has: off, with no user and no role. What etcd
// answers in that state is answered letter for letter; what would leave it is refused, and nothing is stored. As no node
// can be in another state, every node answers, proxies included.
type authService struct {
	pb.UnimplementedAuthServer
	*Server
}

// authRevision is that of an etcd to whose users and roles nothing has been done.
const authRevision = 1

const noAccounts = "holdfast: users, roles and authentication are not in this version; keep the listeners on loopback or on a network you trust"

var errNoAccounts = status.Error(codes.Unimplemented, noAccounts)

// AuthEnable would leave the state.
func (s authService) AuthEnable(context.Context, *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	return nil, errNoAccounts
}

// AuthDisable has nothing to do, which is no error.
func (s authService) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	return &pb.AuthDisableResponse{Header: s.header(s.here(ctx))}, nil
}

// AuthStatus says that it is off.
func (s authService) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	return &pb.AuthStatusResponse{Header: s.header(s.here(ctx)), AuthRevision: authRevision}, nil
}

// Authenticate gives no token. Clients that are configured with a password go on without one when they are told so.
func (s authService) Authenticate(context.Context, *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	return nil, rpctypes.ErrGRPCAuthNotEnabled
}

// UserAdd would leave the state.
func (s authService) UserAdd(_ context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if r.Name == "" {
		return nil, rpctypes.ErrGRPCUserEmpty
	}
	return nil, errNoAccounts
}

// UserGet finds nobody.
func (s authService) UserGet(context.Context, *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserList is empty.
func (s authService) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	return &pb.AuthUserListResponse{Header: s.header(s.here(ctx))}, nil
}

// UserDelete finds nobody.
func (s authService) UserDelete(context.Context, *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserChangePassword finds nobody.
func (s authService) UserChangePassword(context.Context, *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserGrantRole finds nobody.
func (s authService) UserGrantRole(context.Context, *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// UserRevokeRole finds nobody.
func (s authService) UserRevokeRole(context.Context, *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	return nil, rpctypes.ErrGRPCUserNotFound
}

// RoleAdd would leave the state.
func (s authService) RoleAdd(_ context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	if r.Name == "" {
		return nil, rpctypes.ErrGRPCRoleEmpty
	}
	return nil, errNoAccounts
}

// RoleGet finds none.
func (s authService) RoleGet(context.Context, *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// RoleList is empty.
func (s authService) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	return &pb.AuthRoleListResponse{Header: s.header(s.here(ctx))}, nil
}

// RoleDelete finds none.
func (s authService) RoleDelete(context.Context, *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// RoleGrantPermission finds no role, once what it asks for makes sense.
func (s authService) RoleGrantPermission(_ context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	if r.Perm == nil {
		return nil, rpctypes.ErrGRPCPermissionNotGiven
	}
	if !isRange(r.Perm.Key, r.Perm.RangeEnd) {
		return nil, rpctypes.ErrGRPCInvalidAuthMgmt
	}
	return nil, rpctypes.ErrGRPCRoleNotFound
}

// isRange reports whether a permission on it could ever hold a key.
func isRange(key, end []byte) bool {
	if len(key) == 0 {
		return false
	}
	return len(end) == 0 || bytes.Equal(end, kv.FromKey()) || bytes.Compare(key, end) < 0
}

// RoleRevokePermission finds none.
func (s authService) RoleRevokePermission(context.Context, *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	return nil, rpctypes.ErrGRPCRoleNotFound
}
