package etcd

import (
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

func TestAuthIsOffAndStaysOff(t *testing.T) {
	for kind, change := range map[string]func(*Options){"member": nil, "proxy": asProxy} {
		t.Run(kind, func(t *testing.T) {
			n := openRig(t, change)
			c := pb.NewAuthClient(n.conn)
			s := ok[*pb.AuthStatusResponse](t)(c.AuthStatus(n.ctx, &pb.AuthStatusRequest{}))
			if s.Enabled || s.AuthRevision != 1 || s.Header.GetRevision() != 1 || s.Header.ClusterId == 0 {
				t.Errorf("status %v", s)
			}
			if r := ok[*pb.AuthDisableResponse](t)(c.AuthDisable(n.ctx, &pb.AuthDisableRequest{})); r.Header.GetRevision() != 1 {
				t.Errorf("disable: %v", r)
			}
			if r := ok[*pb.AuthUserListResponse](t)(c.UserList(n.ctx, &pb.AuthUserListRequest{})); len(r.Users) != 0 || r.Header == nil {
				t.Errorf("users: %v", r)
			}
			if r := ok[*pb.AuthRoleListResponse](t)(c.RoleList(n.ctx, &pb.AuthRoleListRequest{})); len(r.Roles) != 0 || r.Header == nil {
				t.Errorf("roles: %v", r)
			}
		})
	}
}

func TestAuthRefusesAsEtcdDoesWithoutUsers(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewAuthClient(n.conn)
	const (
		later     = noAccounts
		noUser    = "etcdserver: user name not found"
		noRole    = "etcdserver: role name not found"
		emptyUser = "etcdserver: user name is empty"
		emptyRole = "etcdserver: role name is empty"
	)
	perm := func(key, end string) *pb.AuthRoleGrantPermissionRequest {
		return &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{Key: []byte(key), RangeEnd: []byte(end)}}
	}
	errOf := func(_ any, err error) error { return err }
	for _, tc := range []struct {
		name string
		err  error
		code codes.Code
		text string
	}{
		{"enable", errOf(c.AuthEnable(n.ctx, &pb.AuthEnableRequest{})), codes.Unimplemented, later},
		{"authenticate", errOf(c.Authenticate(n.ctx, &pb.AuthenticateRequest{Name: "root", Password: "x"})), codes.FailedPrecondition, "etcdserver: authentication is not enabled"},
		{"add user", errOf(c.UserAdd(n.ctx, &pb.AuthUserAddRequest{Name: "u", Password: "x"})), codes.Unimplemented, later},
		{"add nobody", errOf(c.UserAdd(n.ctx, &pb.AuthUserAddRequest{})), codes.InvalidArgument, emptyUser},
		{"get user", errOf(c.UserGet(n.ctx, &pb.AuthUserGetRequest{Name: "u"})), codes.FailedPrecondition, noUser},
		{"delete user", errOf(c.UserDelete(n.ctx, &pb.AuthUserDeleteRequest{Name: "u"})), codes.FailedPrecondition, noUser},
		{"password", errOf(c.UserChangePassword(n.ctx, &pb.AuthUserChangePasswordRequest{Name: "u"})), codes.FailedPrecondition, noUser},
		{"grant role", errOf(c.UserGrantRole(n.ctx, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"})), codes.FailedPrecondition, noUser},
		{"revoke role", errOf(c.UserRevokeRole(n.ctx, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"})), codes.FailedPrecondition, noUser},
		{"add role", errOf(c.RoleAdd(n.ctx, &pb.AuthRoleAddRequest{Name: "r"})), codes.Unimplemented, later},
		{"add no role", errOf(c.RoleAdd(n.ctx, &pb.AuthRoleAddRequest{})), codes.InvalidArgument, emptyRole},
		{"get role", errOf(c.RoleGet(n.ctx, &pb.AuthRoleGetRequest{Role: "root"})), codes.FailedPrecondition, noRole},
		{"delete role", errOf(c.RoleDelete(n.ctx, &pb.AuthRoleDeleteRequest{Role: "r"})), codes.FailedPrecondition, noRole},
		{"no permission", errOf(c.RoleGrantPermission(n.ctx, &pb.AuthRoleGrantPermissionRequest{Name: "r"})), codes.InvalidArgument, "etcdserver: permission not given"},
		{"permission on nothing", errOf(c.RoleGrantPermission(n.ctx, perm("", ""))), codes.InvalidArgument, "etcdserver: invalid auth management"},
		{"permission backwards", errOf(c.RoleGrantPermission(n.ctx, perm("b", "a"))), codes.InvalidArgument, "etcdserver: invalid auth management"},
		{"permission", errOf(c.RoleGrantPermission(n.ctx, perm("a", "b"))), codes.FailedPrecondition, noRole},
		{"permission without end", errOf(c.RoleGrantPermission(n.ctx, perm("a", "\x00"))), codes.FailedPrecondition, noRole},
		{"revoke permission", errOf(c.RoleRevokePermission(n.ctx, &pb.AuthRoleRevokePermissionRequest{Role: "r"})), codes.FailedPrecondition, noRole},
	} {
		n.T.Run(tc.name, func(t *testing.T) {
			(&rig{T: t}).refused(tc.err, tc.code, tc.text)
		})
	}
	if got := n.keys(""); len(got) != 0 {
		t.Errorf("stored %q", got)
	}
}

func TestAuthOverJSON(t *testing.T) {
	n := openRig(t, nil)
	if code, r := n.post("/v3/auth/status", `{}`); code != 200 || r["authRevision"] != "1" {
		t.Errorf("status: %d %v", code, r)
	}
	if code, r := n.post("/v3/auth/authenticate", `{"name":"root","password":"x"}`); code != 400 || r["message"] != "etcdserver: authentication is not enabled" {
		t.Errorf("authenticate: %d %v", code, r)
	}
}
