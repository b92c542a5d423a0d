package compat

import (
	"context"
	"fmt"
	"testing"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/api/v3/v3rpc/rpctypes"
	clientv3 "go.etcd.io/etcd/client/v3"
	"google.golang.org/grpc"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
)

// TestClientAuthentication has every call made by each kind of caller while authentication is on: by nobody, with a token that
// is none, by a user with rights to some keys, and by root.
func TestClientAuthentication(t *testing.T) {
	t.Parallel()
	converse(t, []conversation{{name: "one member", hold: authentication}})
}

// TestClientAuthenticationThreeMembers has them made by way of each member in turn.
func TestClientAuthenticationThreeMembers(t *testing.T) {
	t.Parallel()
	newThree(t).converse(t, []conversation{{name: "three members", hold: authentication}})
}

func authentication(k *talk) error {
	if err := k.puts("u/1=1", "v/1=1"); err != nil {
		return err
	}
	lease, err := k.Grant(k.ctx, 600)
	if err != nil {
		return err
	}
	if _, err := k.Put(k.ctx, "v/leased", "1", clientv3.WithLease(lease.ID)); err != nil {
		return err
	}
	if err := k.users(); err != nil {
		return err
	}
	conns, hangUp, err := k.bare()
	if err != nil {
		return err
	}
	defer hangUp()
	root, err := token(k.ctx, conns[0], "root", "r")
	if err != nil {
		return err
	}
	user, err := token(k.ctx, conns[0], "u", "p")
	if err != nil {
		return err
	}
	for i, conn := range conns {
		for _, as := range []struct {
			who string
			ctx context.Context
		}{
			{"nobody", k.ctx}, {"garbage", shows(k.ctx, "garbage")}, {"a token of elsewhere", shows(k.ctx, "eLsEwHeReXyZaBcD.3")}, {"u", user}, {"root", root},
		} {
			k.say(fmt.Sprintf("%s at %d", as.who, i), nil, nil)
			k.calls(as.ctx, conn, lease.ID)
		}
		for _, c := range [][2]string{{"u", "wrong"}, {"u", ""}, {"nobody", "p"}, {"", "p"}, {"root", "p"}} {
			r, err := pb.NewAuthClient(conn).Authenticate(k.ctx, &pb.AuthenticateRequest{Name: c[0], Password: c[1]})
			k.say(fmt.Sprintf("authenticate %q %q", c[0], c[1]), r, err)
		}
	}
	return k.rightsGone(root, user, conns[len(conns)-1])
}

// bare are connections to each member of the side. clientv3's own ask for another token again and again before they say that
// one is refused.
func (k *talk) bare() (conns []*grpc.ClientConn, hangUp func(), err error) {
	hangUp = func() {
		for _, c := range conns {
			_ = c.Close() // nothing is lost with it
		}
	}
	all := k.side.members
	if all == nil {
		all = []*server{k.side.server}
	}
	for _, m := range all {
		c, err := grpc.NewClient(m.addr, grpc.WithTransportCredentials(insecure.NewCredentials()))
		if err != nil {
			hangUp()
			return nil, nil, err
		}
		conns = append(conns, c)
	}
	return conns, hangUp, nil
}

// users makes root, and u who may read and write below u/, and turns authentication on.
func (k *talk) users() error {
	for _, do := range []func() error{
		func() error { _, err := k.UserAdd(k.ctx, "root", "r"); return err },
		func() error { _, err := k.UserGrantRole(k.ctx, "root", "root"); return err },
		func() error { _, err := k.UserAdd(k.ctx, "u", "p"); return err },
		func() error { _, err := k.RoleAdd(k.ctx, "r"); return err },
		func() error {
			_, err := k.RoleGrantPermission(k.ctx, "r", "u/", "u0", clientv3.PermissionType(clientv3.PermReadWrite))
			return err
		},
		func() error { _, err := k.UserGrantRole(k.ctx, "u", "r"); return err },
		func() error { _, err := k.AuthEnable(k.ctx); return err },
	} {
		if err := do(); err != nil {
			return err
		}
	}
	return nil
}

// token is ctx with the token of a user.
func token(ctx context.Context, conn *grpc.ClientConn, name, password string) (context.Context, error) {
	r, err := pb.NewAuthClient(conn).Authenticate(ctx, &pb.AuthenticateRequest{Name: name, Password: password})
	if err != nil {
		return nil, err
	}
	return shows(ctx, r.Token), nil
}

func shows(ctx context.Context, token string) context.Context {
	return metadata.AppendToOutgoingContext(ctx, rpctypes.TokenFieldNameGRPC, token)
}

// calls makes each call once. What it changes it changes for everybody alike.
func (k *talk) calls(ctx context.Context, conn *grpc.ClientConn, lease clientv3.LeaseID) {
	kv, leases, auth := pb.NewKVClient(conn), pb.NewLeaseClient(conn), pb.NewAuthClient(conn)
	for _, key := range []string{"u/1", "v/1"} {
		key := []byte(key)
		k.note("range")(kv.Range(ctx, &pb.RangeRequest{Key: key}))
		k.note("serializable range")(kv.Range(ctx, &pb.RangeRequest{Key: key, Serializable: true}))
		k.note("put")(kv.Put(ctx, &pb.PutRequest{Key: key, Value: []byte("2")}))
		k.note("put, with what was there")(kv.Put(ctx, &pb.PutRequest{Key: key, IgnoreValue: true, PrevKv: true}))
		k.note("txn")(kv.Txn(ctx, &pb.TxnRequest{
			Compare: []*pb.Compare{{Key: key, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 0}}},
			Failure: []*pb.RequestOp{{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}},
		}))
		k.watched(ctx, conn, key)
	}
	k.note("range over both")(kv.Range(ctx, &pb.RangeRequest{Key: []byte("u/"), RangeEnd: []byte("w"), CountOnly: true}))
	k.note("delete over both")(kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("u/9"), RangeEnd: []byte("v/0")}))
	k.note("delete")(kv.DeleteRange(ctx, &pb.DeleteRangeRequest{Key: []byte("u/none"), PrevKv: true}))
	k.note("compact")(kv.Compact(ctx, &pb.CompactionRequest{Revision: 1}))
	k.note("empty key")(kv.Put(ctx, &pb.PutRequest{}))
	_, err := leases.LeaseRevoke(ctx, &pb.LeaseRevokeRequest{ID: 99})
	k.say("revoke a lease that is not there", nil, err)
	_, err = leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: int64(lease)})
	k.say("time to live", nil, err)
	_, err = leases.LeaseTimeToLive(ctx, &pb.LeaseTimeToLiveRequest{ID: int64(lease), Keys: true})
	k.say("time to live, with keys", nil, err)
	_, err = leases.LeaseLeases(ctx, &pb.LeaseLeasesRequest{})
	k.say("leases", nil, err)
	k.note("put with a lease of others' keys")(kv.Put(ctx, &pb.PutRequest{Key: []byte("u/1"), Lease: int64(lease)}))
	k.note("user get")(auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "u"}))
	k.note("user get of another")(auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "root"}))
	k.note("user get of none")(auth.UserGet(ctx, &pb.AuthUserGetRequest{Name: "none"}))
	k.note("user list")(auth.UserList(ctx, &pb.AuthUserListRequest{}))
	k.note("user add")(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Name: "u", Password: "p"}))
	k.note("user without a name")(auth.UserAdd(ctx, &pb.AuthUserAddRequest{Password: "p"}))
	k.note("user delete")(auth.UserDelete(ctx, &pb.AuthUserDeleteRequest{Name: "none"}))
	k.note("password")(auth.UserChangePassword(ctx, &pb.AuthUserChangePasswordRequest{Name: "none", Password: "p"}))
	k.note("user grant")(auth.UserGrantRole(ctx, &pb.AuthUserGrantRoleRequest{User: "u", Role: "none"}))
	k.note("user revoke")(auth.UserRevokeRole(ctx, &pb.AuthUserRevokeRoleRequest{Name: "u", Role: "none"}))
	k.note("role get")(auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "r"}))
	k.note("role get of another")(auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "root"}))
	k.note("role get of none")(auth.RoleGet(ctx, &pb.AuthRoleGetRequest{Role: "none"}))
	k.note("role list")(auth.RoleList(ctx, &pb.AuthRoleListRequest{}))
	k.note("role add")(auth.RoleAdd(ctx, &pb.AuthRoleAddRequest{Name: "r"}))
	k.note("role delete")(auth.RoleDelete(ctx, &pb.AuthRoleDeleteRequest{Role: "none"}))
	k.note("role grant")(auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "none", Perm: &authpb.Permission{Key: []byte("k")}}))
	k.note("role grant nothing")(auth.RoleGrantPermission(ctx, &pb.AuthRoleGrantPermissionRequest{Name: "r"}))
	k.note("role revoke")(auth.RoleRevokePermission(ctx, &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("none")}))
	k.note("status")(auth.AuthStatus(ctx, &pb.AuthStatusRequest{}))
	k.note("enable")(auth.AuthEnable(ctx, &pb.AuthEnableRequest{}))
	k.administer(ctx, conn)
}

// administer makes the calls that look at the cluster or change it, as far as they can be made again and again.
func (k *talk) administer(ctx context.Context, conn *grpc.ClientConn) {
	cluster, care := pb.NewClusterClient(conn), pb.NewMaintenanceClient(conn)
	_, err := cluster.MemberList(ctx, &pb.MemberListRequest{})
	k.say("member list", nil, err)
	_, err = cluster.MemberRemove(ctx, &pb.MemberRemoveRequest{ID: 99})
	k.say("member remove", nil, err)
	_, err = care.Status(ctx, &pb.StatusRequest{})
	k.say("node status", nil, err)
	_, err = care.Hash(ctx, &pb.HashRequest{})
	k.say("hash", nil, err)
	_, err = care.HashKV(ctx, &pb.HashKVRequest{})
	k.say("hash of keys", nil, err)
	_, err = care.Defragment(ctx, &pb.DefragmentRequest{})
	k.say("defragment", nil, err)
	k.note("alarms")(care.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_GET}))
	k.note("disarm")(care.Alarm(ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_DEACTIVATE, Alarm: pb.AlarmType_CORRUPT}))
	copying, err := care.Snapshot(ctx, &pb.SnapshotRequest{})
	if err == nil {
		_, err = copying.Recv()
	}
	k.say("snapshot", nil, err)
}

// watched notes the first answer to a watch of a key.
func (k *talk) watched(ctx context.Context, conn *grpc.ClientConn, key []byte) {
	ctx, cancel := context.WithCancel(ctx)
	defer cancel()
	s, err := pb.NewWatchClient(conn).Watch(ctx)
	if err == nil {
		err = rawWatch{k, s}.create(&pb.WatchCreateRequest{Key: key})
	}
	if err != nil {
		k.say("watch", nil, err)
		return
	}
	r, err := s.Recv()
	k.say("watch", r, err)
}

// rightsGone has users use what they have no more.
func (k *talk) rightsGone(root, user context.Context, conn *grpc.ClientConn) error {
	kv, auth := pb.NewKVClient(conn), pb.NewAuthClient(conn)
	try := func(what string) {
		k.note("put, " + what)(kv.Put(user, &pb.PutRequest{Key: []byte("u/1")}))
		k.note("range, " + what)(kv.Range(user, &pb.RangeRequest{Key: []byte("u/1")}))
	}
	k.note("revoke permission")(auth.RoleRevokePermission(root, &pb.AuthRoleRevokePermissionRequest{Role: "r", Key: []byte("u/"), RangeEnd: []byte("u0")}))
	try("without the permission")
	k.note("grant")(auth.RoleGrantPermission(root, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{Key: []byte("u/1"), PermType: authpb.READ}}))
	try("reading")
	k.note("grant")(auth.RoleGrantPermission(root, &pb.AuthRoleGrantPermissionRequest{Name: "r", Perm: &authpb.Permission{Key: []byte("u/1"), PermType: authpb.WRITE}}))
	try("writing")
	k.note("password")(auth.UserChangePassword(root, &pb.AuthUserChangePasswordRequest{Name: "u", Password: "q"}))
	try("with a token of the old password")
	fresh, err := token(k.ctx, conn, "u", "q")
	if err != nil {
		return err
	}
	user = fresh
	try("with the new password")
	k.note("user delete")(auth.UserDelete(root, &pb.AuthUserDeleteRequest{Name: "u"}))
	try("deleted")
	k.note("role delete")(auth.RoleDelete(root, &pb.AuthRoleDeleteRequest{Role: "r"}))
	k.note("disable")(auth.AuthDisable(root, &pb.AuthDisableRequest{}))
	try("without authentication")
	k.note("authenticate")(auth.Authenticate(k.ctx, &pb.AuthenticateRequest{Name: "root", Password: "r"}))
	k.note("disable again")(auth.AuthDisable(k.ctx, &pb.AuthDisableRequest{}))
	return nil
}

// note returns what notes the answer to a call.
func (k *talk) note(what string) func(answer any, err error) {
	return func(answer any, err error) { k.say(what, answer, err) }
}
