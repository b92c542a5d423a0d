package etcd

import (
	"context"
	"sync"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/metadata"

	"holdfast/api"
	"holdfast/auth"
	"holdfast/kv"
)

// policed is a node that keeps a policy, behind a Guard, as a member is.
type policed struct {
	api.Backend
	mu      sync.Mutex
	policy  *auth.Policy
	changed chan struct{}
}

func (b *policed) now() (*auth.Policy, <-chan struct{}) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.policy, b.changed
}

func (b *policed) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	if err := b.policy.Permits(&c, nil); err != nil {
		return kv.Result{}, err
	}
	op, isAuth := c.Ops[0].(kv.SetAuth)
	if !isAuth {
		return b.Backend.Do(ctx, c)
	}
	next, _, err := b.policy.Change(op)
	if err != nil {
		return kv.Result{}, err
	}
	b.policy = next
	close(b.changed)
	b.changed = make(chan struct{})
	page, rerr := b.Backend.Read(ctx, kv.Query{})
	return kv.Result{Header: page.Header, Ops: []kv.OpResult{{}}}, rerr
}

func (b *policed) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if len(q.Ops) == 1 {
		if op, ok := q.Ops[0].(kv.ReadAuth); ok {
			page, err := b.Backend.Read(ctx, kv.Query{})
			if err != nil {
				return page, err
			}
			p, _ := b.now()
			answer, err := p.Answer(op)
			page.Ops = []kv.OpResult{answer}
			return page, err
		}
	}
	return b.Backend.Read(ctx, q)
}

// withPolicy puts one behind a server.
func withPolicy(o *Options) {
	node := &policed{Backend: o.Backend, changed: make(chan struct{})}
	passwords := auth.NewPasswords(time.Now, 4)
	o.Hash = passwords.Hash
	o.Backend = auth.NewGuard(node, func() auth.Source {
		return auth.Source{
			Policy:  func() (*auth.Policy, bool) { p, _ := node.now(); return p, true },
			Changed: func() <-chan struct{} { _, c := node.now(); return c },
			Signs:   true,
		}
	}, auth.Options{Passwords: passwords})
}

func TestAuthIsOffInANewCluster(t *testing.T) {
	n := openRig(t, nil)
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
}

func TestAuthRefusesAsEtcdDoesWithoutUsers(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewAuthClient(n.conn)
	const (
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
		{"enable", errOf(c.AuthEnable(n.ctx, &pb.AuthEnableRequest{})), codes.FailedPrecondition, "etcdserver: root user does not exist"},
		{"authenticate", errOf(c.Authenticate(n.ctx, &pb.AuthenticateRequest{Name: "root", Password: "x"})), codes.FailedPrecondition, "etcdserver: authentication is not enabled"},
		{"add nobody", errOf(c.UserAdd(n.ctx, &pb.AuthUserAddRequest{})), codes.InvalidArgument, emptyUser},
		{"get user", errOf(c.UserGet(n.ctx, &pb.AuthUserGetRequest{Name: "u"})), codes.FailedPrecondition, noUser},
		{"delete user", errOf(c.UserDelete(n.ctx, &pb.AuthUserDeleteRequest{Name: "u"})), codes.FailedPrecondition, noUser},
		{"password", errOf(c.UserChangePassword(n.ctx, &pb.AuthUserChangePasswordRequest{Name: "u"})), codes.FailedPrecondition, noUser},
		{"grant role", errOf(c.UserGrantRole(n.ctx, &pb.AuthUserGrantRoleRequest{User: "u", Role: "r"})), codes.FailedPrecondition, noUser},
		{"revoke role", errOf(c.UserRevokeRole(n.ctx, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "r"})), codes.FailedPrecondition, noUser},
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

func TestAuthEnabledAsksForATokenEverywhere(t *testing.T) {
	n := openRig(t, nil)
	c, keys := pb.NewAuthClient(n.conn), pb.NewKVClient(n.conn)
	ok[*pb.AuthUserAddResponse](t)(c.UserAdd(n.ctx, &pb.AuthUserAddRequest{Name: "root", Password: "r"}))
	n.refused(errOnly(c.AuthEnable(n.ctx, &pb.AuthEnableRequest{})), codes.FailedPrecondition, "etcdserver: root user does not have root role")
	ok[*pb.AuthUserGrantRoleResponse](t)(c.UserGrantRole(n.ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))
	ok[*pb.AuthUserAddResponse](t)(c.UserAdd(n.ctx, &pb.AuthUserAddRequest{Name: "meter", Password: "m"}))
	ok[*pb.AuthRoleAddResponse](t)(c.RoleAdd(n.ctx, &pb.AuthRoleAddRequest{Name: "meters"}))
	ok[*pb.AuthRoleGrantPermissionResponse](t)(c.RoleGrantPermission(n.ctx, &pb.AuthRoleGrantPermissionRequest{Name: "meters",
		Perm: &authpb.Permission{PermType: authpb.Permission_READWRITE, Key: []byte("site/"), RangeEnd: []byte("site0")}}))
	ok[*pb.AuthUserGrantRoleResponse](t)(c.UserGrantRole(n.ctx, &pb.AuthUserGrantRoleRequest{User: "meter", Role: "meters"}))
	ok[*pb.AuthEnableResponse](t)(c.AuthEnable(n.ctx, &pb.AuthEnableRequest{}))

	const nobody, denied = "etcdserver: user name is empty", "etcdserver: permission denied"
	put := func(ctx context.Context, key string) error {
		return errOnly(keys.Put(ctx, &pb.PutRequest{Key: []byte(key), Value: []byte("1")}))
	}
	n.refused(put(n.ctx, "site/a"), codes.InvalidArgument, nobody)
	n.refused(put(metadata.AppendToOutgoingContext(n.ctx, "token", "abc.1"), "site/a"), codes.Unauthenticated, "etcdserver: invalid auth token")
	n.refused(errOnly(c.Authenticate(n.ctx, &pb.AuthenticateRequest{Name: "meter", Password: "x"})), codes.InvalidArgument, "etcdserver: authentication failed, invalid user ID or password")
	as := func(user, password string) context.Context {
		t.Helper()
		r := ok[*pb.AuthenticateResponse](t)(c.Authenticate(n.ctx, &pb.AuthenticateRequest{Name: user, Password: password}))
		return metadata.AppendToOutgoingContext(n.ctx, "token", r.Token)
	}
	meter, root := as("meter", "m"), as("root", "r")
	if err := put(meter, "site/a"); err != nil {
		t.Error(err)
	}
	n.refused(put(meter, "other"), codes.PermissionDenied, denied)
	if err := put(root, "other"); err != nil {
		t.Error(err)
	}
	members, upkeep := pb.NewClusterClient(n.conn), pb.NewMaintenanceClient(n.conn)
	for name, call := range map[string]func(context.Context) error{
		"defragment": func(ctx context.Context) error { return errOnly(upkeep.Defragment(ctx, &pb.DefragmentRequest{})) },
		"hash":       func(ctx context.Context) error { return errOnly(upkeep.HashKV(ctx, &pb.HashKVRequest{})) },
		"member remove": func(ctx context.Context) error {
			return errOnly(members.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 7}))
		},
		"compact": func(ctx context.Context) error { return errOnly(keys.Compact(ctx, &pb.CompactionRequest{Revision: 1})) },
		"users":   func(ctx context.Context) error { return errOnly(c.UserList(ctx, &pb.AuthUserListRequest{})) },
		"snapshot": func(ctx context.Context) error {
			s, err := upkeep.Snapshot(ctx, &pb.SnapshotRequest{})
			if err == nil {
				_, err = s.Recv()
			}
			return err
		},
	} {
		t.Run(name, func(t *testing.T) {
			r := &rig{T: t}
			r.refused(call(n.ctx), codes.InvalidArgument, nobody)
			r.refused(call(meter), codes.PermissionDenied, denied)
		})
	}
	n.refused(errOnly(members.MemberList(n.ctx, &pb.MemberListRequest{})), codes.InvalidArgument, nobody)
	if r := ok[*pb.AuthUserGetResponse](t)(c.UserGet(meter, &pb.AuthUserGetRequest{Name: "meter"})); len(r.Roles) != 1 {
		t.Errorf("its own roles: %v", r)
	}
	n.refused(errOnly(c.UserGet(meter, &pb.AuthUserGetRequest{Name: "root"})), codes.PermissionDenied, denied)

	ok[*pb.AuthUserChangePasswordResponse](t)(c.UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "meter", Password: "n"}))
	n.refused(put(meter, "site/a"), codes.Unauthenticated, "etcdserver: invalid auth token")
}

func TestWatchIsRefusedAndCut(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewAuthClient(n.conn)
	for _, user := range []string{"root", "eye"} {
		ok[*pb.AuthUserAddResponse](t)(c.UserAdd(n.ctx, &pb.AuthUserAddRequest{Name: user, Password: user}))
	}
	ok[*pb.AuthUserGrantRoleResponse](t)(c.UserGrantRole(n.ctx, &pb.AuthUserGrantRoleRequest{User: "root", Role: "root"}))
	ok[*pb.AuthRoleAddResponse](t)(c.RoleAdd(n.ctx, &pb.AuthRoleAddRequest{Name: "eyes"}))
	ok[*pb.AuthRoleGrantPermissionResponse](t)(c.RoleGrantPermission(n.ctx, &pb.AuthRoleGrantPermissionRequest{Name: "eyes",
		Perm: &authpb.Permission{Key: []byte("a"), RangeEnd: []byte("b")}}))
	ok[*pb.AuthUserGrantRoleResponse](t)(c.UserGrantRole(n.ctx, &pb.AuthUserGrantRoleRequest{User: "eye", Role: "eyes"}))
	ok[*pb.AuthEnableResponse](t)(c.AuthEnable(n.ctx, &pb.AuthEnableRequest{}))
	as := func(user string) context.Context {
		r := ok[*pb.AuthenticateResponse](t)(c.Authenticate(n.ctx, &pb.AuthenticateRequest{Name: user, Password: user}))
		return metadata.AppendToOutgoingContext(n.ctx, "token", r.Token)
	}
	root := as("root")
	w := ok[pb.Watch_WatchClient](t)(pb.NewWatchClient(n.conn).Watch(as("eye")))
	ask := func(key, end string) *pb.WatchResponse {
		t.Helper()
		if err := w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: []byte(key), RangeEnd: []byte(end)}}}); err != nil {
			t.Fatal(err)
		}
		return ok[*pb.WatchResponse](t)(w.Recv())
	}
	if r := ask("a", "c"); !r.Created || !r.Canceled || r.WatchId != -1 || r.CancelReason != "rpc error: code = PermissionDenied desc = etcdserver: permission denied" {
		t.Errorf("too wide: %v", r)
	}
	r := ask("a", "b")
	if !r.Created || r.Canceled {
		t.Fatalf("within its rights: %v", r)
	}
	put := func(v string) {
		t.Helper()
		ok[*pb.PutResponse](t)(pb.NewKVClient(n.conn).Put(root, &pb.PutRequest{Key: []byte("a1"), Value: []byte(v)}))
	}
	put("1")
	if r := ok[*pb.WatchResponse](t)(w.Recv()); len(r.Events) != 1 {
		t.Fatalf("an event: %v", r)
	}
	ok[*pb.AuthRoleRevokePermissionResponse](t)(c.RoleRevokePermission(root, &pb.AuthRoleRevokePermissionRequest{Role: "eyes", Key: []byte("a"), RangeEnd: []byte("b")}))
	put("2")
	if r := ok[*pb.WatchResponse](t)(w.Recv()); !r.Canceled || len(r.Events) > 0 || r.CancelReason != "rpc error: code = PermissionDenied desc = etcdserver: permission denied" {
		t.Errorf("after the right was withdrawn: %v", r)
	}
}

func errOnly[T any](_ T, err error) error { return err }
