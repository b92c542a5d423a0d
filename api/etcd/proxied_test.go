package etcd

import (
	"context"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/status"

	"holdfast/api"
	"holdfast/kv"
)

// proxied is a node that is a proxy.
type proxied struct{ lost *bool }

func (p proxied) Report() api.Status {
	return api.Status{NodeID: "n1", Proxy: &api.ProxyStatus{CacheBytes: 50_000, CacheMaxBytes: 1 << 20, UplinkLost: *p.lost}}
}

func openProxied(t *testing.T, lost *bool, members func(context.Context, bool) (kv.Header, []kv.Replica, error)) *rig {
	t.Helper()
	return openRig(t, func(o *Options) {
		o.Admin, o.Reporter, o.Members = func() api.Admin { return nil }, proxied{lost}, members
	})
}

func TestAProxyListsTheMembersOfTheCluster(t *testing.T) {
	lost, asked := false, []bool(nil)
	n := openProxied(t, &lost, func(_ context.Context, local bool) (kv.Header, []kv.Replica, error) {
		asked = append(asked, local)
		if lost {
			return kv.Header{}, nil, kv.Errorf(kv.UpstreamUnavailable, "no way")
		}
		return kv.Header{Epoch: kv.Epoch{Cluster: 5}, Member: 2, Term: 3, Revision: 8}, []kv.Replica{
			{ID: 1, Name: "one", PeerURLs: []string{"quic://192.0.2.1:2380"}, ClientURLs: []string{"http://192.0.2.1:2379"}},
			{ID: 2, Name: "two", Learner: true},
		}, nil
	})
	c := pb.NewClusterClient(n.conn)
	r := ok[*pb.MemberListResponse](t)(c.MemberList(n.ctx, &pb.MemberListRequest{Linearizable: true}))
	if h := r.Header; h.GetClusterId() != 5 || h.GetMemberId() != 2 || h.GetRaftTerm() != 3 || h.GetRevision() != 0 {
		t.Errorf("header %v", h)
	}
	if len(r.Members) != 2 || r.Members[0].Name != "one" || r.Members[0].ClientURLs[0] != "http://192.0.2.1:2379" ||
		r.Members[0].PeerURLs[0] != "quic://192.0.2.1:2380" || !r.Members[1].IsLearner || len(r.Members[1].ClientURLs) != 0 {
		t.Errorf("members %v", r.Members)
	}
	ok[*pb.MemberListResponse](t)(c.MemberList(n.ctx, &pb.MemberListRequest{}))
	if len(asked) != 2 || asked[0] || !asked[1] {
		t.Errorf("asked for what is at hand: %v", asked)
	}
	lost = true
	if _, err := c.MemberList(n.ctx, &pb.MemberListRequest{}); status.Code(err) != codes.Unavailable {
		t.Errorf("without an uplink: %v", err)
	}
}

func TestAProxysStatusIsItsOwn(t *testing.T) {
	lost := false
	n := openProxied(t, &lost, nil)
	c := pb.NewMaintenanceClient(n.conn)
	r := ok[*pb.StatusResponse](t)(c.Status(n.ctx, &pb.StatusRequest{}))
	if r.Version != api.EtcdVersion || r.StorageVersion != api.EtcdClusterVersion || r.DbSize != 50_000 || r.DbSizeQuota != 1<<20 ||
		r.Leader != 0 || r.RaftIndex != 0 || r.IsLearner || len(r.Errors) != 0 || r.Header.GetRevision() == 0 || r.Header.GetMemberId() == 0 {
		t.Errorf("%v", r)
	}
	lost = true
	r = ok[*pb.StatusResponse](t)(c.Status(n.ctx, &pb.StatusRequest{}))
	if len(r.Errors) != 1 || r.Errors[0] != "etcdserver: no leader" {
		t.Errorf("without an uplink: %v", r.Errors)
	}
	for name, err := range map[string]error{
		"an alarm": second(c.Alarm(n.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE, Alarm: pb.AlarmType_NOSPACE})),
		"a hash":   second(c.HashKV(n.ctx, &pb.HashKVRequest{})),
	} {
		if status.Code(err) != codes.Unimplemented {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func second[T any](_ T, err error) error { return err }
