//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"fmt"
	"net/http"
	"path/filepath"
	"slices"
	"strings"
	"testing"
	"time"

	"go.etcd.io/etcd/api/v3/authpb"
	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"go.etcd.io/etcd/server/v3/etcdserver/api/v3lock/v3lockpb"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/credentials/insecure"
	"google.golang.org/grpc/metadata"
	"google.golang.org/grpc/status"
)

// foreignLease holds site/2, which is none of the device's.
const foreignLease = 0x5eed

var foreignKey, ownKey = []byte("site/2"), []byte("q/9")

var foreignLeader = &v3electionpb.LeaderKey{Name: []byte("site"), Key: foreignKey, Rev: 1, Lease: foreignLease}

// overREST, overGateway and overGRPC are what a device's token does not allow (TestEveryDoorRefusesWhatATokenDoesNotAllow),
// each over its door. What needs somebody else may also be refused because that one is not there.
var overREST = [][3]string{
	{"GET", "/v1/kv/site/2", ""},
	{"GET", "/v1/kv/site/2?consistency=local", ""},
	{"GET", "/v1/kv/?prefix", ""},
	{"GET", "/v1/kv/site/2?watch", ""},
	{"GET", "/v1/kv/site/?watch&prefix", ""},
	{"GET", "/v1/kv/site/2?index=1&wait=1s", ""},
	{"PUT", "/v1/kv/site/2", "x"},
	{"PUT", "/v1/kv/site/2?ttl=30s", "x"},
	{"PUT", "/v1/kv/q/9?lease=0000000000005eed", "x"}, // it would end what the lease holds by letting go of it
	{"DELETE", "/v1/kv/q/9", ""},
	{"DELETE", "/v1/kv/site/?prefix", ""},
	{"POST", "/v1/txn", `{"then":[{"get":{"key":"site/2"}},{"put":{"key":"q/9","value":"x"}}]}`},
	{"POST", "/v1/txn", `{"compare":[{"key":"site/2","version":1}],"then":[{"put":{"key":"q/9","value":"x"}}]}`},
	{"POST", "/v1/txn", `{"compare":[{"key":"q/9","version":7}],"then":[{"put":{"key":"q/9","value":"x"}}],"else":[{"put":{"key":"site/2","value":"x"}}]}`},
	{"GET", "/v1/leases", ""}, // as in etcd, for the keys under one of them
	{"GET", "/v1/leases/0000000000005eed?keys", ""},
	{"POST", "/v1/leases/0000000000005eed/keepalive", ""},
	{"DELETE", "/v1/leases/0000000000005eed", ""},
	{"GET", "/v1/snapshot", ""},
	{"POST", "/v1/queue/pause", ""},
	{"POST", "/v1/queue/resume", ""},
	{"POST", "/v1/queue/flush", ""},
	{"POST", "/v1/queue/normal-1/retry", ""},
	{"DELETE", "/v1/queue/normal-1", ""},
	{"GET", "/v1/tokens", ""},
	{"DELETE", "/v1/tokens/x", ""},
	{"POST", "/v1/tokens", `{"role":"any"}`},
	{"GET", "/v1/devices", ""},
	{"POST", "/v1/devices", `{"name":"x","allow":["get"],"prefixes":[""]}`},
	{"DELETE", "/v1/devices/x", ""},
	{"GET", "/v1/nodes", ""},
	{"DELETE", "/v1/nodes/x", ""},
	{"PUT", "/v1/nodes/x/scope", `{}`},
	{"POST", "/v1/nodes/self/demote", ""},
	{"POST", "/v1/nodes/self/promote", ""},
	{"POST", "/v1/nodes/self/leave", `{"force":true}`},
	{"PUT", "/v1/members", `{"voters":1}`},
	{"DELETE", "/v1/members/x", ""},
	{"GET", "/v1/cert", ""},
	{"POST", "/v1/cert/renew", ""},
	{"POST", "/v1/cert/rotate", ""},
	{"POST", "/v1/cert/finish", ""},
}

var overGateway = [][2]string{
	{"kv/range", `{"key":"c2l0ZS8y"}`},
	{"kv/range", `{"key":"AA==","range_end":"AA=="}`},
	{"kv/put", `{"key":"c2l0ZS8y","value":"eA=="}`},
	{"kv/deleterange", `{"key":"c2l0ZS8y"}`},
	{"kv/txn", `{"success":[{"request_range":{"key":"c2l0ZS8y"}},{"request_put":{"key":"cS85","value":"eA=="}}]}`},
	{"kv/compaction", `{"revision":2}`},
	{"lease/revoke", `{"ID":"24301"}`},
	{"lease/timetolive", `{"ID":"24301","keys":true}`},
	{"auth/disable", `{}`},
	{"auth/user/add", `{"name":"mallory","password":"p"}`},
	{"auth/user/list", `{}`},
	{"auth/role/add", `{"name":"everything"}`},
	{"auth/user/grant", `{"user":"root","role":"everything"}`},
	{"maintenance/snapshot", `{}`},
	{"maintenance/defragment", `{}`},
	{"cluster/member/add", `{"peerURLs":["http://192.0.2.1:2380"]}`},
	{"cluster/member/remove", `{"ID":"1"}`},
}

type call1[Req, Res any] func(context.Context, *Req, ...grpc.CallOption) (*Res, error)

// asked makes a call of a stub into a row.
func asked[Req, Res any](stub func(grpc.ClientConnInterface) call1[Req, Res], req *Req) func(context.Context, *grpc.ClientConn) error {
	return func(ctx context.Context, conn *grpc.ClientConn) error {
		_, err := stub(conn)(ctx, req)
		return err
	}
}

func kvOp(op *pb.RequestOp) *pb.TxnRequest { return &pb.TxnRequest{Success: []*pb.RequestOp{op}} }

func putOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: key, Value: []byte("x")}}}
}

func rangeOp(key []byte) *pb.RequestOp {
	return &pb.RequestOp{Request: &pb.RequestOp_RequestRange{RequestRange: &pb.RangeRequest{Key: key}}}
}

var (
	rangeCall = func(c grpc.ClientConnInterface) call1[pb.RangeRequest, pb.RangeResponse] {
		return pb.NewKVClient(c).Range
	}
	putCall    = func(c grpc.ClientConnInterface) call1[pb.PutRequest, pb.PutResponse] { return pb.NewKVClient(c).Put }
	deleteCall = func(c grpc.ClientConnInterface) call1[pb.DeleteRangeRequest, pb.DeleteRangeResponse] {
		return pb.NewKVClient(c).DeleteRange
	}
	txnCall = func(c grpc.ClientConnInterface) call1[pb.TxnRequest, pb.TxnResponse] { return pb.NewKVClient(c).Txn }
)

var overGRPC = map[string]func(context.Context, *grpc.ClientConn) error{
	"range":                     asked(rangeCall, &pb.RangeRequest{Key: foreignKey}),
	"serializable range":        asked(rangeCall, &pb.RangeRequest{Key: foreignKey, Serializable: true}),
	"range of all":              asked(rangeCall, &pb.RangeRequest{Key: []byte{0}, RangeEnd: []byte{0}, Serializable: true}),
	"put":                       asked(putCall, &pb.PutRequest{Key: foreignKey}),
	"put under another's lease": asked(putCall, &pb.PutRequest{Key: ownKey, Lease: foreignLease}),
	"put that shows what was":   asked(putCall, &pb.PutRequest{Key: foreignKey, PrevKv: true}),
	"delete":                    asked(deleteCall, &pb.DeleteRangeRequest{Key: ownKey}),
	"delete of a range":         asked(deleteCall, &pb.DeleteRangeRequest{Key: []byte("site/"), RangeEnd: []byte("site0")}),
	"txn that reads one key and writes another": asked(txnCall, &pb.TxnRequest{Success: []*pb.RequestOp{rangeOp(foreignKey), putOp(ownKey)}}),
	"txn that compares":                         asked(txnCall, &pb.TxnRequest{Compare: []*pb.Compare{{Key: foreignKey, Target: pb.Compare_VERSION, TargetUnion: &pb.Compare_Version{Version: 1}}}, Success: []*pb.RequestOp{putOp(ownKey)}}),
	"txn in a txn":                              asked(txnCall, kvOp(&pb.RequestOp{Request: &pb.RequestOp_RequestTxn{RequestTxn: kvOp(putOp(foreignKey))}})),
	"txn that only reads":                       asked(txnCall, kvOp(rangeOp(foreignKey))),
	"range in chunks": func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := pb.NewKVClient(conn).RangeStream(ctx, &pb.RangeRequest{Key: foreignKey})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	},
	"txn under another's lease": asked(txnCall, kvOp(&pb.RequestOp{Request: &pb.RequestOp_RequestPut{RequestPut: &pb.PutRequest{Key: ownKey, Lease: foreignLease}}})),
	"branch that is not taken":  asked(txnCall, &pb.TxnRequest{Success: []*pb.RequestOp{putOp(ownKey)}, Failure: []*pb.RequestOp{putOp(foreignKey)}}),
	"compact": asked(func(c grpc.ClientConnInterface) call1[pb.CompactionRequest, pb.CompactionResponse] {
		return pb.NewKVClient(c).Compact
	}, &pb.CompactionRequest{Revision: 2}),
	"revoke another's lease": asked(func(c grpc.ClientConnInterface) call1[pb.LeaseRevokeRequest, pb.LeaseRevokeResponse] {
		return pb.NewLeaseClient(c).LeaseRevoke
	}, &pb.LeaseRevokeRequest{ID: foreignLease}),
	"keys of another's lease": asked(func(c grpc.ClientConnInterface) call1[pb.LeaseTimeToLiveRequest, pb.LeaseTimeToLiveResponse] {
		return pb.NewLeaseClient(c).LeaseTimeToLive
	}, &pb.LeaseTimeToLiveRequest{ID: foreignLease, Keys: true}),
	"renew another's lease": func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := pb.NewLeaseClient(conn).LeaseKeepAlive(ctx)
		if err != nil {
			return err
		}
		if err := s.Send(&pb.LeaseKeepAliveRequest{ID: foreignLease}); err != nil {
			return err
		}
		_, err = s.Recv()
		return err
	},
	"list leases": asked(func(c grpc.ClientConnInterface) call1[pb.LeaseLeasesRequest, pb.LeaseLeasesResponse] {
		return pb.NewLeaseClient(c).LeaseLeases
	}, &pb.LeaseLeasesRequest{}),
	"lock another's name": asked(func(c grpc.ClientConnInterface) call1[v3lockpb.LockRequest, v3lockpb.LockResponse] {
		return v3lockpb.NewLockClient(c).Lock
	}, &v3lockpb.LockRequest{Name: foreignKey}),
	"unlock another's key": asked(func(c grpc.ClientConnInterface) call1[v3lockpb.UnlockRequest, v3lockpb.UnlockResponse] {
		return v3lockpb.NewLockClient(c).Unlock
	}, &v3lockpb.UnlockRequest{Key: foreignKey}),
	"stand for another's name": asked(func(c grpc.ClientConnInterface) call1[v3electionpb.CampaignRequest, v3electionpb.CampaignResponse] {
		return v3electionpb.NewElectionClient(c).Campaign
	}, &v3electionpb.CampaignRequest{Name: foreignKey}),
	"proclaim for another": asked(func(c grpc.ClientConnInterface) call1[v3electionpb.ProclaimRequest, v3electionpb.ProclaimResponse] {
		return v3electionpb.NewElectionClient(c).Proclaim
	}, &v3electionpb.ProclaimRequest{Leader: foreignLeader, Value: []byte("x")}),
	"resign for another": asked(func(c grpc.ClientConnInterface) call1[v3electionpb.ResignRequest, v3electionpb.ResignResponse] {
		return v3electionpb.NewElectionClient(c).Resign
	}, &v3electionpb.ResignRequest{Leader: foreignLeader}),
	"leader of another's name": asked(func(c grpc.ClientConnInterface) call1[v3electionpb.LeaderRequest, v3electionpb.LeaderResponse] {
		return v3electionpb.NewElectionClient(c).Leader
	}, &v3electionpb.LeaderRequest{Name: foreignKey}),
	"leaders of another's name": func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := v3electionpb.NewElectionClient(conn).Observe(ctx, &v3electionpb.LeaderRequest{Name: foreignKey})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	},
	"snapshot": func(ctx context.Context, conn *grpc.ClientConn) error {
		s, err := pb.NewMaintenanceClient(conn).Snapshot(ctx, &pb.SnapshotRequest{})
		if err == nil {
			_, err = s.Recv()
		}
		return err
	},
	"defragment": asked(func(c grpc.ClientConnInterface) call1[pb.DefragmentRequest, pb.DefragmentResponse] {
		return pb.NewMaintenanceClient(c).Defragment
	}, &pb.DefragmentRequest{}),
	"hash": asked(func(c grpc.ClientConnInterface) call1[pb.HashRequest, pb.HashResponse] {
		return pb.NewMaintenanceClient(c).Hash
	}, &pb.HashRequest{}),
	"hash of the keys": asked(func(c grpc.ClientConnInterface) call1[pb.HashKVRequest, pb.HashKVResponse] {
		return pb.NewMaintenanceClient(c).HashKV
	}, &pb.HashKVRequest{}),
	"downgrade": asked(func(c grpc.ClientConnInterface) call1[pb.DowngradeRequest, pb.DowngradeResponse] {
		return pb.NewMaintenanceClient(c).Downgrade
	}, &pb.DowngradeRequest{Action: pb.DowngradeRequest_VALIDATE, Version: "3.6.0"}),
	"raise an alarm": asked(func(c grpc.ClientConnInterface) call1[pb.AlarmRequest, pb.AlarmResponse] {
		return pb.NewMaintenanceClient(c).Alarm
	}, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE}),
	"move the leader": asked(func(c grpc.ClientConnInterface) call1[pb.MoveLeaderRequest, pb.MoveLeaderResponse] {
		return pb.NewMaintenanceClient(c).MoveLeader
	}, &pb.MoveLeaderRequest{TargetID: 1}),
	"add a member": asked(func(c grpc.ClientConnInterface) call1[pb.MemberAddRequest, pb.MemberAddResponse] {
		return pb.NewClusterClient(c).MemberAdd
	}, &pb.MemberAddRequest{PeerURLs: []string{"http://192.0.2.1:2380"}}),
	"remove a member": asked(func(c grpc.ClientConnInterface) call1[pb.MemberRemoveRequest, pb.MemberRemoveResponse] {
		return pb.NewClusterClient(c).MemberRemove
	}, &pb.MemberRemoveRequest{ID: 1}),
	"turn authentication off": asked(func(c grpc.ClientConnInterface) call1[pb.AuthDisableRequest, pb.AuthDisableResponse] {
		return pb.NewAuthClient(c).AuthDisable
	}, &pb.AuthDisableRequest{}),
	"add a user": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserAddRequest, pb.AuthUserAddResponse] {
		return pb.NewAuthClient(c).UserAdd
	}, &pb.AuthUserAddRequest{Name: "mallory", Password: "p"}),
	"change a password": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserChangePasswordRequest, pb.AuthUserChangePasswordResponse] {
		return pb.NewAuthClient(c).UserChangePassword
	}, &pb.AuthUserChangePasswordRequest{Name: "root", Password: "mine"}),
	"list users": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserListRequest, pb.AuthUserListResponse] {
		return pb.NewAuthClient(c).UserList
	}, &pb.AuthUserListRequest{}),
	"add a role": asked(func(c grpc.ClientConnInterface) call1[pb.AuthRoleAddRequest, pb.AuthRoleAddResponse] {
		return pb.NewAuthClient(c).RoleAdd
	}, &pb.AuthRoleAddRequest{Name: "everything"}),
	"move a member": asked(func(c grpc.ClientConnInterface) call1[pb.MemberUpdateRequest, pb.MemberUpdateResponse] {
		return pb.NewClusterClient(c).MemberUpdate
	}, &pb.MemberUpdateRequest{ID: 1, PeerURLs: []string{"http://192.0.2.1:2380"}}),
	"promote a member": asked(func(c grpc.ClientConnInterface) call1[pb.MemberPromoteRequest, pb.MemberPromoteResponse] {
		return pb.NewClusterClient(c).MemberPromote
	}, &pb.MemberPromoteRequest{ID: 1}),
	"turn authentication on": asked(func(c grpc.ClientConnInterface) call1[pb.AuthEnableRequest, pb.AuthEnableResponse] {
		return pb.NewAuthClient(c).AuthEnable
	}, &pb.AuthEnableRequest{}),
	"look at a user": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserGetRequest, pb.AuthUserGetResponse] {
		return pb.NewAuthClient(c).UserGet
	}, &pb.AuthUserGetRequest{Name: "root"}),
	"remove a user": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserDeleteRequest, pb.AuthUserDeleteResponse] {
		return pb.NewAuthClient(c).UserDelete
	}, &pb.AuthUserDeleteRequest{Name: "root"}),
	"grant a role": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserGrantRoleRequest, pb.AuthUserGrantRoleResponse] {
		return pb.NewAuthClient(c).UserGrantRole
	}, &pb.AuthUserGrantRoleRequest{User: "root", Role: "everything"}),
	"take a role": asked(func(c grpc.ClientConnInterface) call1[pb.AuthUserRevokeRoleRequest, pb.AuthUserRevokeRoleResponse] {
		return pb.NewAuthClient(c).UserRevokeRole
	}, &pb.AuthUserRevokeRoleRequest{Name: "root", Role: "root"}),
	"list roles": asked(func(c grpc.ClientConnInterface) call1[pb.AuthRoleListRequest, pb.AuthRoleListResponse] {
		return pb.NewAuthClient(c).RoleList
	}, &pb.AuthRoleListRequest{}),
	"look at a role": asked(func(c grpc.ClientConnInterface) call1[pb.AuthRoleGetRequest, pb.AuthRoleGetResponse] {
		return pb.NewAuthClient(c).RoleGet
	}, &pb.AuthRoleGetRequest{Role: "root"}),
	"remove a role": asked(func(c grpc.ClientConnInterface) call1[pb.AuthRoleDeleteRequest, pb.AuthRoleDeleteResponse] {
		return pb.NewAuthClient(c).RoleDelete
	}, &pb.AuthRoleDeleteRequest{Role: "root"}),
	"grant a permission": asked(func(c grpc.ClientConnInterface) call1[pb.AuthRoleGrantPermissionRequest, pb.AuthRoleGrantPermissionResponse] {
		return pb.NewAuthClient(c).RoleGrantPermission
	}, &pb.AuthRoleGrantPermissionRequest{Name: "everything", Perm: &authpb.Permission{PermType: authpb.READWRITE, Key: foreignKey}}),
	"take a permission": asked(func(c grpc.ClientConnInterface) call1[pb.AuthRoleRevokePermissionRequest, pb.AuthRoleRevokePermissionResponse] {
		return pb.NewAuthClient(c).RoleRevokePermission
	}, &pb.AuthRoleRevokePermissionRequest{Role: "everything", Key: foreignKey}),
	"watch": func(ctx context.Context, conn *grpc.ClientConn) error {
		w, err := openGRPCWatch(ctx, conn, []byte("site/"), []byte("site0"))
		if err != nil {
			return err
		}
		r, err := w.Recv()
		if err != nil {
			return err
		}
		for says, code := range map[string]codes.Code{
			"permission denied": codes.PermissionDenied, "invalid auth token": codes.Unauthenticated, "user name is empty": codes.InvalidArgument,
		} {
			if r.Canceled && strings.Contains(r.CancelReason, says) {
				return status.Error(code, r.CancelReason)
			}
		}
		return fmt.Errorf("the watch says %v", r)
	},
}

// forMany are the calls of which every device may make some: who leads, how the node is, a lease of one's own, a token for a password.
var forMany = []string{
	pb.Lease_LeaseGrant_FullMethodName, pb.Cluster_MemberList_FullMethodName, pb.Maintenance_Status_FullMethodName,
	pb.Auth_AuthStatus_FullMethodName, pb.Auth_Authenticate_FullMethodName,
}

func openGRPCWatch(ctx context.Context, conn *grpc.ClientConn, key, end []byte) (pb.Watch_WatchClient, error) {
	w, err := pb.NewWatchClient(conn).Watch(ctx)
	if err != nil {
		return nil, err
	}
	return w, w.Send(&pb.WatchRequest{RequestUnion: &pb.WatchRequest_CreateRequest{CreateRequest: &pb.WatchCreateRequest{Key: key, RangeEnd: end}}})
}

// grpcConn is a connection of gRPC's to a's listener.
func (a *agent) grpcConn(more ...grpc.DialOption) *grpc.ClientConn {
	a.t.Helper()
	conn, err := grpc.NewClient(strings.TrimPrefix(a.url, "http://"), append(more, grpc.WithTransportCredentials(insecure.NewCredentials()))...)
	if err != nil {
		a.t.Fatal(err)
	}
	a.t.Cleanup(func() { _ = conn.Close() })
	return conn
}

// showing is a context of a call that shows a token; "" nothing.
func showing(ctx context.Context, token string) context.Context {
	if token == "" {
		return ctx
	}
	return metadata.AppendToOutgoingContext(ctx, "token", token)
}

// refusesOverREST sends every row of overREST and wants one of the statuses.
func (a *agent) refusesOverREST(who, token string, may ...int) {
	a.t.Helper()
	for _, row := range overREST {
		var header []string
		if token != "" {
			header = []string{"Authorization", "Bearer " + token}
		}
		if r := a.do(row[0], row[1], []byte(row[2]), header...); !slices.Contains(may, r.status) {
			a.t.Errorf("%s: %s %s %s: %d %s, want one of %v", who, row[0], row[1], row[2], r.status, firstLine(r.body), may)
		}
	}
}

func firstLine(b []byte) []byte {
	line, _, _ := bytes.Cut(b, []byte("\n"))
	return line[:min(len(line), 300)]
}

func (a *agent) refusesOverGateway(who, token string, may ...codes.Code) {
	a.t.Helper()
	for _, row := range overGateway {
		header := []string{"Content-Type", "application/json"}
		if token != "" {
			header = append(header, "Authorization", token)
		}
		r := a.do("POST", "/v3/"+row[0], []byte(row[1]), header...)
		var answer struct {
			Code  codes.Code
			Error json.RawMessage // a stream's has the code in here
		}
		if err := json.Unmarshal(firstLine(r.body), &answer); err != nil {
			a.t.Errorf("%s: /v3/%s: %d %s: %v", who, row[0], r.status, firstLine(r.body), err)
		}
		if answer.Code == codes.OK {
			_ = json.Unmarshal(answer.Error, &answer) // without a code it is refused below
		}
		if !slices.Contains(may, answer.Code) {
			a.t.Errorf("%s: /v3/%s %s: %d %s, want one of %v", who, row[0], row[1], r.status, firstLine(r.body), may)
		}
	}
}

// refusesOverGRPC makes every call of overGRPC, which are all that etcd's services have but for those of forMany.
func (a *agent) refusesOverGRPC(who, token string, may ...codes.Code) {
	a.t.Helper()
	called := map[string]bool{}
	conn := a.grpcConn(
		grpc.WithUnaryInterceptor(func(ctx context.Context, method string, req, reply any, conn *grpc.ClientConn, invoke grpc.UnaryInvoker, opts ...grpc.CallOption) error {
			called[method] = true
			return invoke(ctx, method, req, reply, conn, opts...)
		}),
		grpc.WithStreamInterceptor(func(ctx context.Context, desc *grpc.StreamDesc, conn *grpc.ClientConn, method string, stream grpc.Streamer, opts ...grpc.CallOption) (grpc.ClientStream, error) {
			called[method] = true
			return stream(ctx, desc, conn, method, opts...)
		}))
	for name, do := range overGRPC {
		ctx, cancel := context.WithTimeout(showing(a.t.Context(), token), 30*time.Second)
		if err := do(ctx, conn); !slices.Contains(may, status.Code(err)) {
			a.t.Errorf("%s: %s: %v, want one of %v", who, name, err, may)
		}
		cancel()
	}
	for _, service := range []grpc.ServiceDesc{pb.KV_ServiceDesc, pb.Watch_ServiceDesc, pb.Lease_ServiceDesc, pb.Cluster_ServiceDesc, pb.Maintenance_ServiceDesc,
		pb.Auth_ServiceDesc, v3lockpb.Lock_ServiceDesc, v3electionpb.Election_ServiceDesc} {
		var methods []string
		for _, m := range service.Methods {
			methods = append(methods, m.MethodName)
		}
		for _, m := range service.Streams {
			methods = append(methods, m.StreamName)
		}
		for _, m := range methods {
			if m = "/" + service.ServiceName + "/" + m; !called[m] && !slices.Contains(forMany, m) {
				a.t.Errorf("nobody asks for %s", m)
			}
		}
	}
}

// refusesLines sends a batch of which no line is allowed, and wants each refused with one of the statuses, or all of them.
func (a *agent) refusesLines(who, token string, may ...int) {
	a.t.Helper()
	header := []string{"Content-Type", "application/x-ndjson"}
	if token != "" {
		header = append(header, "Authorization", "Bearer "+token)
	}
	lines := []string{`{"put":{"key":"site/2","value":"x"}}`, `{"put":{"key":"q/9","value":"x","lease":"0000000000005eed"}}`, `{"delete":{"key":"q/9"}}`}
	r := a.do("POST", "/v1/batch", []byte(strings.Join(lines, "\n")), header...)
	if slices.Contains(may, r.status) {
		return
	}
	all, end, _ := strings.Cut(string(r.body), `{"end":true`)
	answers := strings.Split(strings.TrimSpace(all), "\n")
	if len(answers) != len(lines) || end == "" {
		a.t.Errorf("%s: %d answers to %d lines: %d %s", who, len(answers), len(lines), r.status, r.body)
	}
	for i, text := range answers {
		var answer struct{ Status int }
		if err := json.Unmarshal([]byte(text), &answer); err != nil || !slices.Contains(may, answer.Status) {
			a.t.Errorf("%s: line %d of a batch: %s, %v, want one of %v", who, i+1, text, err, may)
		}
	}
}

// TestEveryDoorRefusesWhatATokenDoesNotAllow asks for all that a device's token is not good for, over REST, gRPC and the JSON
// gateway, on a member, on a proxy and on a proxy that is cut off; then as nobody, and with a token that was made up. Nothing
// of it may have left a trace.
func TestEveryDoorRefusesWhatATokenDoesNotAllow(t *testing.T) {
	c, member, proxy, root, args := lockedCluster(t)
	token, _ := deviceToken(t, c.memberDir(), "--device=pump-7", "--allow=get,put,watch", "--prefix=q/", "--prefix=site/1")
	member.gateway("lease/grant", fmt.Sprintf(`{"TTL":3600,"ID":%d}`, foreignLease), root)
	member.gateway("kv/put", fmt.Sprintf(`{"key":"c2l0ZS8y","value":"dGhlaXJz","lease":%d}`, foreignLease), root)
	for _, a := range []*agent{member, proxy} {
		a.waitKnown(token)
	}
	proxy.as(root, 200, "GET", "/v1/kv/site/2?consistency=linearizable", "") // it is in the cache from now on
	before := member.trace(root)

	refuses := func(a *agent, elsewhere []codes.Code, unavailable ...int) {
		t.Helper()
		t.Logf("at %s", a.url)
		known := append([]codes.Code{codes.PermissionDenied}, elsewhere...)
		a.refusesOverREST("the device", token, append(unavailable, 403)...)
		a.refusesLines("the device", token, append(unavailable, 403)...)
		a.refusesOverGateway("the device", token, known...)
		a.refusesOverGRPC("the device", token, known...)
		forged := token[:len(token)-4] + "AAAA"
		a.refusesOverREST("a made-up token", forged, append(unavailable, 401)...)
		a.refusesLines("a made-up token", forged, append(unavailable, 401)...)
		if r := a.do("GET", "/v1/queue", nil, "Authorization", "Bearer "+forged); !slices.Contains(append(unavailable, 401), r.status) { // a device's own writes are shown to it
			t.Errorf("a made-up token: GET /v1/queue: %d %s", r.status, firstLine(r.body))
		}
		a.refusesOverGateway("a made-up token", forged, append(elsewhere, codes.Unauthenticated)...)
		a.refusesOverGRPC("a made-up token", forged, append(elsewhere, codes.Unauthenticated)...)
		// etcd calls it an invalid argument: the user's name is empty. Administration is not there for nobody.
		a.refusesOverREST("nobody", "", append(unavailable, 401, 404)...)
		a.refusesLines("nobody", "", append(unavailable, 401)...)
		a.refusesOverGateway("nobody", "", append(elsewhere, codes.InvalidArgument)...)
		a.refusesOverGRPC("nobody", "", append(elsewhere, codes.InvalidArgument)...)
	}
	refuses(member, nil)
	refuses(proxy, []codes.Code{codes.Unimplemented})
	if after := member.trace(root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
	t.Log("the member is gone, and the proxy starts anew")
	member.kill()
	proxy.kill()
	proxy = start(t, filepath.Join(c.dir, "proxy"), freeAddr(t), args...)
	proxy.as(token, 200, "GET", "/v1/kv/site/1", "")
	// Passwords, leases and the policy's parts are the member's to judge, who is away.
	refuses(proxy, []codes.Code{codes.Unimplemented, codes.Unavailable}, 503)
	if s := proxy.queued(root); s != 0 {
		t.Errorf("%d writes were queued", s)
	}
	member = c.member()
	if after := member.trace(root); after != before {
		t.Errorf("before:\n%s\nafter:\n%s", before, after)
	}
}

// waitKnown waits until a node lets a device read what it may.
func (a *agent) waitKnown(token string) {
	a.t.Helper()
	eventually(a.t, startMax, func() string {
		if r := a.do("GET", "/v1/kv/site/1", nil, "Authorization", "Bearer "+token); r.status != http.StatusOK {
			return fmt.Sprintf("the new token is answered with %d", r.status)
		}
		return ""
	})
}

// trace is what could have been changed: all keys, leases, users, roles, members and alarms, without what moves by itself.
func (a *agent) trace(root string) string {
	a.t.Helper()
	var all strings.Builder
	for _, of := range [][2]string{
		{"kv/range", `{"key":"AA==","range_end":"AA=="}`}, {"lease/leases", `{}`}, {"auth/user/list", `{}`}, {"auth/role/list", `{}`},
		{"auth/user/get", `{"name":"root"}`}, {"cluster/member/list", `{}`}, {"maintenance/alarm", `{}`},
	} {
		r := a.do("POST", "/v3/"+of[0], []byte(of[1]), "Content-Type", "application/json", "Authorization", root)
		var answer map[string]any
		if err := json.Unmarshal(r.body, &answer); err != nil || r.status != http.StatusOK {
			a.t.Fatalf("/v3/%s: %d %s %v", of[0], r.status, r.body, err)
		}
		delete(answer, "header")
		text, err := json.Marshal(answer)
		if err != nil {
			a.t.Fatal(err)
		}
		fmt.Fprintf(&all, "%s: %s\n", of[0], text)
	}
	devices := a.as(root, 200, "GET", "/v1/devices", "")
	var list struct{ Devices []struct{ ID string } }
	if err := json.Unmarshal(devices.body, &list); err != nil {
		a.t.Fatal(err)
	}
	fmt.Fprintf(&all, "devices: %v\n", list)
	return all.String()
}

// queued is how many writes wait in a node's queue.
func (a *agent) queued(root string) int {
	a.t.Helper()
	var s struct{ Depth int }
	r := a.do("GET", "/v1/queue", nil, "Authorization", "Bearer "+root)
	if err := json.Unmarshal(r.body, &s); err != nil || r.status != http.StatusOK {
		a.t.Fatalf("/v1/queue: %d %s %v", r.status, r.body, err)
	}
	return s.Depth
}

// TestAdministrationIsNotServedToTheNetwork asks for administration while authentication is off, when nobody is root.
func TestAdministrationIsNotServedToTheNetwork(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "d"), freeAddr(t))
	for _, row := range overREST {
		path, _, _ := strings.Cut(strings.TrimPrefix(row[1], "/v1/"), "/")
		if !slices.Contains([]string{"tokens", "devices", "nodes", "cert"}, path) && !(path == "members" && row[0] != "GET") {
			continue
		}
		for _, header := range [][]string{nil, {"Authorization", "Basic cm9vdDpw"}, {"X-Forwarded-For", "127.0.0.1"}} {
			if r := a.do(row[0], row[1], []byte(row[2]), header...); r.status != http.StatusNotFound || !bytes.Contains(r.body, []byte("administration-only")) {
				t.Errorf("%s %s with %v: %d %s", row[0], row[1], header, r.status, r.body)
			}
		}
	}
	if r := a.do("GET", "/debug/pprof/", nil); r.status != http.StatusNotFound {
		t.Errorf("profiles: %d %s", r.status, firstLine(r.body))
	}
}

// TestAPageThatPointsHereIsNotServed asks as a browser on the box does for a page whose name was made to point to it, over REST and
// the gateway.
func TestAPageThatPointsHereIsNotServed(t *testing.T) {
	a := start(t, filepath.Join(t.TempDir(), "d"), freeAddr(t))
	a.expect(201, "PUT", "/v1/kv/k", "secret", "")
	_, port, _ := strings.Cut(strings.TrimPrefix(a.url, "http://"), ":")
	as := func(host, method, path, body string) int {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, a.url+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.Host = host
		res, err := http.DefaultClient.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		defer res.Body.Close()
		return res.StatusCode
	}
	for _, row := range [][3]string{{"GET", "/v1/kv/k", ""}, {"GET", "/v1/kv/?watch&prefix", ""}, {"GET", "/v1/snapshot", ""}, {"POST", "/v1/batch", `{"delete":{"key":"k"}}`}, {"POST", "/v3/kv/range", `{"key":"aw=="}`}} {
		if got := as("evil.example:"+port, row[0], row[1], row[2]); got != http.StatusForbidden {
			t.Errorf("%s %s: %d", row[0], row[1], got)
		}
	}
	a.expect(200, "GET", "/v1/kv/k", "", "secret")
	if got := as("localhost:"+port, "GET", "/v1/kv/k", ""); got != http.StatusOK {
		t.Errorf("as localhost: %d", got)
	}
}
