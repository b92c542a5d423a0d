package etcd

import (
	"context"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"

	"holdfast/api"
	"holdfast/kv"
)

// authService is etcdserverpb.Auth. Everything in it is a command or a query, so that every kind of node serves it: a proxy
// forwards. Passwords are hashed here, at the door; what goes on is the hash. An answer that a method returns beside an
// error is not sent.
type authService struct {
	pb.UnimplementedAuthServer
	*Server
}

// change makes one change of the policy.
func (s authService) change(ctx context.Context, op kv.SetAuth) (*pb.ResponseHeader, error) {
	res, err := s.do(ctx, op)
	if err != nil {
		return nil, err
	}
	return s.header(res.Header), nil
}

// changeSecret makes a change that comes with a new password, for those who may set one.
func (s authService) changeSecret(ctx context.Context, op kv.SetAuth, password string) (*pb.ResponseHeader, error) {
	err := s.mayHave(ctx, kv.AuthRoot)
	if err != nil {
		return nil, err
	}
	if op.Secret, err = s.opts.Hash(ctx, password); err != nil {
		return nil, s.refusal(ctx, err)
	}
	return s.change(ctx, op)
}

// ask reads a part of the policy.
func (s authService) ask(ctx context.Context, what kv.AuthPart, name string) (*pb.ResponseHeader, kv.OpResult, error) {
	page, err := s.read(ctx, false, kv.ReadAuth{What: what, Name: name})
	if err != nil {
		return nil, kv.OpResult{}, err
	}
	if len(page.Ops) != 1 {
		return nil, kv.OpResult{}, s.refusal(ctx, kv.Errorf(kv.Internal, "the answer about users and roles has another shape: %+v", page.Ops))
	}
	return s.header(page.Header), page.Ops[0], nil
}

func names(kvs []kv.KeyValue) []string {
	list := make([]string, len(kvs))
	for i, k := range kvs {
		list[i] = string(k.Key)
	}
	return list
}

// AuthEnable turns authentication on.
func (s authService) AuthEnable(ctx context.Context, _ *pb.AuthEnableRequest) (*pb.AuthEnableResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthEnable})
	return &pb.AuthEnableResponse{Header: h}, err
}

// AuthDisable turns it off.
func (s authService) AuthDisable(ctx context.Context, _ *pb.AuthDisableRequest) (*pb.AuthDisableResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthDisable})
	return &pb.AuthDisableResponse{Header: h}, err
}

// AuthStatus tells whether it is on, to anybody.
func (s authService) AuthStatus(ctx context.Context, _ *pb.AuthStatusRequest) (*pb.AuthStatusResponse, error) {
	h, r, err := s.ask(ctx, kv.AuthStatus, "")
	return &pb.AuthStatusResponse{Header: h, Enabled: r.Succeeded, AuthRevision: uint64(r.Count)}, err //nolint:gosec // a count
}

// Authenticate gives a token for a password.
func (s authService) Authenticate(ctx context.Context, r *pb.AuthenticateRequest) (*pb.AuthenticateResponse, error) {
	page, err := s.read(ctx, false, kv.Authenticate{User: r.Name, Password: r.Password, From: api.PlaceOf(ctx)})
	if err != nil {
		return nil, err
	}
	if len(page.Ops) != 1 || len(page.Ops[0].KVs) != 1 {
		return nil, s.refusal(ctx, kv.Errorf(kv.Internal, "the answer with a token has another shape"))
	}
	return &pb.AuthenticateResponse{Header: s.header(page.Header), Token: string(page.Ops[0].KVs[0].Value)}, nil
}

// UserAdd makes a user. As in etcd an empty password is one, and a hash that is given is not looked at.
func (s authService) UserAdd(ctx context.Context, r *pb.AuthUserAddRequest) (*pb.AuthUserAddResponse, error) {
	if r.Options.GetNoPassword() {
		h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthAddUser, User: r.Name, NoPassword: true})
		return &pb.AuthUserAddResponse{Header: h}, err
	}
	h, err := s.changeSecret(ctx, kv.SetAuth{Do: kv.AuthAddUser, User: r.Name}, r.Password)
	return &pb.AuthUserAddResponse{Header: h}, err
}

// UserGet lists the roles of a user.
func (s authService) UserGet(ctx context.Context, r *pb.AuthUserGetRequest) (*pb.AuthUserGetResponse, error) {
	h, res, err := s.ask(ctx, kv.AuthUser, r.Name)
	return &pb.AuthUserGetResponse{Header: h, Roles: names(res.KVs)}, err
}

// UserList lists users.
func (s authService) UserList(ctx context.Context, _ *pb.AuthUserListRequest) (*pb.AuthUserListResponse, error) {
	h, res, err := s.ask(ctx, kv.AuthUsers, "")
	return &pb.AuthUserListResponse{Header: h, Users: names(res.KVs)}, err
}

// UserDelete removes a user.
func (s authService) UserDelete(ctx context.Context, r *pb.AuthUserDeleteRequest) (*pb.AuthUserDeleteResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthDeleteUser, User: r.Name})
	return &pb.AuthUserDeleteResponse{Header: h}, err
}

// UserChangePassword gives a user another password. As in etcd an empty one is none: no password fits then.
func (s authService) UserChangePassword(ctx context.Context, r *pb.AuthUserChangePasswordRequest) (*pb.AuthUserChangePasswordResponse, error) {
	op := kv.SetAuth{Do: kv.AuthSetPassword, User: r.Name}
	if r.Password == "" {
		h, err := s.change(ctx, op)
		return &pb.AuthUserChangePasswordResponse{Header: h}, err
	}
	h, err := s.changeSecret(ctx, op, r.Password)
	return &pb.AuthUserChangePasswordResponse{Header: h}, err
}

// UserGrantRole gives a user a role.
func (s authService) UserGrantRole(ctx context.Context, r *pb.AuthUserGrantRoleRequest) (*pb.AuthUserGrantRoleResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthGrantRole, User: r.User, Role: r.Role})
	return &pb.AuthUserGrantRoleResponse{Header: h}, err
}

// UserRevokeRole takes it away.
func (s authService) UserRevokeRole(ctx context.Context, r *pb.AuthUserRevokeRoleRequest) (*pb.AuthUserRevokeRoleResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthRevokeRole, User: r.Name, Role: r.Role})
	return &pb.AuthUserRevokeRoleResponse{Header: h}, err
}

// RoleAdd makes a role.
func (s authService) RoleAdd(ctx context.Context, r *pb.AuthRoleAddRequest) (*pb.AuthRoleAddResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthAddRole, Role: r.Name})
	return &pb.AuthRoleAddResponse{Header: h}, err
}

// RoleGet lists the permissions of a role.
func (s authService) RoleGet(ctx context.Context, r *pb.AuthRoleGetRequest) (*pb.AuthRoleGetResponse, error) {
	h, res, err := s.ask(ctx, kv.AuthRole, r.Role)
	answer := &pb.AuthRoleGetResponse{Header: h}
	for _, k := range res.KVs {
		answer.Perm = append(answer.Perm, &authpb.Permission{PermType: authpb.Permission_Type(k.Version), Key: k.Key, RangeEnd: k.Value}) //nolint:gosec // three values
	}
	return answer, err
}

// RoleList lists roles.
func (s authService) RoleList(ctx context.Context, _ *pb.AuthRoleListRequest) (*pb.AuthRoleListResponse, error) {
	h, res, err := s.ask(ctx, kv.AuthRoles, "")
	return &pb.AuthRoleListResponse{Header: h, Roles: names(res.KVs)}, err
}

// RoleDelete removes a role, from those too who have it.
func (s authService) RoleDelete(ctx context.Context, r *pb.AuthRoleDeleteRequest) (*pb.AuthRoleDeleteResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthDeleteRole, Role: r.Role})
	return &pb.AuthRoleDeleteResponse{Header: h}, err
}

// RoleGrantPermission gives a role a range of keys.
func (s authService) RoleGrantPermission(ctx context.Context, r *pb.AuthRoleGrantPermissionRequest) (*pb.AuthRoleGrantPermissionResponse, error) {
	_, known := authpb.Permission_Type_name[int32(r.Perm.GetPermType())]
	if r.Perm == nil || !known {
		if err := s.mayHave(ctx, kv.AuthRoot); err != nil {
			return nil, err
		}
		return nil, rpctypes.ErrGRPCPermissionNotGiven
	}
	op := kv.SetAuth{Do: kv.AuthGrantPermission, Role: r.Name, Key: r.Perm.Key, End: r.Perm.RangeEnd, Permission: kv.Permission(r.Perm.PermType)} //nolint:gosec // three values
	h, err := s.change(ctx, op)
	return &pb.AuthRoleGrantPermissionResponse{Header: h}, err
}

// RoleRevokePermission takes it away.
func (s authService) RoleRevokePermission(ctx context.Context, r *pb.AuthRoleRevokePermissionRequest) (*pb.AuthRoleRevokePermissionResponse, error) {
	h, err := s.change(ctx, kv.SetAuth{Do: kv.AuthRevokePermission, Role: r.Role, Key: r.Key, End: r.RangeEnd})
	return &pb.AuthRoleRevokePermissionResponse{Header: h}, err
}
