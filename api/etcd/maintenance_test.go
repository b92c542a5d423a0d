package etcd

import (
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"

	"holdfast/api"
	"holdfast/kv"
)

func TestStatusTellsHowAMemberStands(t *testing.T) {
	n := openRig(t, nil)
	n.admin.condition = kv.Condition{
		Header: kv.Header{Epoch: kv.Epoch{Cluster: 5}, Member: 1, Term: 3, Revision: 8},
		Leader: 1, Committed: 12, Applied: 11, DBSize: 100, DBInUse: 60, DBQuota: 1000, Version: "of Holdfast",
	}
	r := ok[*pb.StatusResponse](t)(pb.NewMaintenanceClient(n.conn).Status(n.ctx, &pb.StatusRequest{}))
	if h := r.Header; h.GetClusterId() != 5 || h.GetMemberId() != 1 || h.GetRaftTerm() != 3 || h.GetRevision() != 8 {
		t.Errorf("header %v", h)
	}
	if r.Leader != 1 || r.RaftIndex != 12 || r.RaftAppliedIndex != 11 || r.RaftTerm != 3 || r.IsLearner {
		t.Errorf("raft: %v", r)
	}
	if r.DbSize != 100 || r.DbSizeInUse != 60 || r.DbSizeQuota != 1000 {
		t.Errorf("sizes: %v", r)
	}
	// Clients take the version apart to find out what they may ask for.
	if r.Version != api.EtcdVersion || r.StorageVersion != api.EtcdClusterVersion || r.DowngradeInfo.GetEnabled() || len(r.Errors) != 0 {
		t.Errorf("versions and errors: %v", r)
	}
}

func TestStatusNamesWhatIsWrong(t *testing.T) {
	n := openRig(t, nil)
	n.admin.condition = kv.Condition{Learner: true, Alarms: []kv.Alarm{{Member: 7, Kind: kv.AlarmNoSpace}, {Member: 8, Kind: kv.AlarmCorrupt}}}
	r := ok[*pb.StatusResponse](t)(pb.NewMaintenanceClient(n.conn).Status(n.ctx, &pb.StatusRequest{}))
	if len(r.Errors) != 3 || r.Errors[0] != "etcdserver: no leader" || !r.IsLearner {
		t.Fatalf("got %v", r)
	}
	for i, want := range [][]string{{"7", "NOSPACE"}, {"8", "CORRUPT"}} {
		for _, part := range want {
			if !strings.Contains(r.Errors[i+1], part) {
				t.Errorf("error %q does not name %s", r.Errors[i+1], part)
			}
		}
	}
}

func TestHashes(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewMaintenanceClient(n.conn)
	n.admin.hash = kv.Hash{Header: kv.Header{Revision: 9}, Sum: 77, Revision: 9, Compact: 4}
	if r := ok[*pb.HashResponse](t)(c.Hash(n.ctx, &pb.HashRequest{})); r.Hash != 77 || r.Header.GetRevision() != 9 {
		t.Errorf("hash: %v", r)
	}
	r := ok[*pb.HashKVResponse](t)(c.HashKV(n.ctx, &pb.HashKVRequest{Revision: 6}))
	if r.Hash != 77 || r.HashRevision != 6 || r.CompactRevision != 4 || r.Header.GetRevision() != 9 {
		t.Errorf("hash at 6: %v", r)
	}
	n.admin.hash.Compact = 0
	if r := ok[*pb.HashKVResponse](t)(c.HashKV(n.ctx, &pb.HashKVRequest{})); r.CompactRevision != -1 {
		t.Errorf("compact revision %d of a whole history, want etcd's -1", r.CompactRevision)
	}
	n.admin.err = kv.Errorf(kv.Compacted, "gone")
	_, err := c.HashKV(n.ctx, &pb.HashKVRequest{Revision: 2})
	n.refused(err, codes.OutOfRange, "etcdserver: mvcc: required revision has been compacted")
	n.admin.err = kv.Errorf(kv.FutureRevision, "not there")
	_, err = c.HashKV(n.ctx, &pb.HashKVRequest{Revision: 20})
	n.refused(err, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
	_, err = c.Hash(n.ctx, &pb.HashRequest{})
	n.refused(err, codes.OutOfRange, "etcdserver: mvcc: required revision is a future revision")
}

func TestDefragment(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewMaintenanceClient(n.conn)
	if r := ok[*pb.DefragmentResponse](t)(c.Defragment(n.ctx, &pb.DefragmentRequest{})); r.Header != nil {
		t.Errorf("got %v, want no header, as in etcd", r)
	}
	n.admin.err = kv.Errorf(kv.Busy, "one is under way")
	_, err := c.Defragment(n.ctx, &pb.DefragmentRequest{})
	n.refused(err, codes.ResourceExhausted, "etcdserver: too many requests")
}

func TestMoveLeader(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewMaintenanceClient(n.conn)
	move := func() error {
		_, err := c.MoveLeader(n.ctx, &pb.MoveLeaderRequest{TargetID: 2})
		return err
	}
	n.admin.condition = kv.Condition{Header: kv.Header{Member: 1}, Leader: 3}
	n.refused(move(), codes.FailedPrecondition, "etcdserver: not leader")
	if len(n.admin.moved) != 0 {
		t.Errorf("moved though another leads: %v", n.admin.moved)
	}
	n.admin.condition.Leader = 1
	if err := move(); err != nil || !slices.Equal(n.admin.moved, []uint64{2}) {
		t.Errorf("moved to %v: %v", n.admin.moved, err)
	}
	for code, want := range map[kv.Code]struct {
		code codes.Code
		text string
	}{
		kv.Invalid:        {codes.FailedPrecondition, "etcdserver: bad leader transferee"},
		kv.NoLeader:       {codes.FailedPrecondition, "etcdserver: not leader"},
		kv.OutcomeUnknown: {codes.Unavailable, "etcdserver: request timed out"},
	} {
		n.admin.err = &kv.Error{Code: code}
		n.refused(move(), want.code, want.text)
	}
}

func TestDowngradeIsRefused(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewMaintenanceClient(n.conn)
	ask := func(action pb.DowngradeRequest_DowngradeAction, version string) (*pb.DowngradeResponse, error) {
		return c.Downgrade(n.ctx, &pb.DowngradeRequest{Action: action, Version: version})
	}
	for _, action := range []pb.DowngradeRequest_DowngradeAction{pb.DowngradeRequest_VALIDATE, pb.DowngradeRequest_ENABLE} {
		for _, version := range []string{"3.6", "3.6.0", "3.6.0-rc.1"} {
			_, err := ask(action, version)
			n.refused(err, codes.Unimplemented, noDowngrade)
		}
		for _, version := range []string{"", "3", "three", "3.06.0", "3.6.0.0"} {
			_, err := ask(action, version)
			n.refused(err, codes.InvalidArgument, "etcdserver: wrong downgrade target version format")
		}
	}
	if r, err := ask(pb.DowngradeRequest_CANCEL, ""); err != nil || r.Version != "3.7" || r.Header == nil {
		t.Errorf("cancel: %v %v", r, err)
	}
	_, err := ask(9, "3.6")
	n.refused(err, codes.Unknown, "etcdserver: unknown method")
}

func TestAProxyRefusesMaintenance(t *testing.T) {
	for name, admin := range map[string]func() api.Admin{"no Admin": nil, "no Admin yet": func() api.Admin { return nil }} {
		t.Run(name, func(t *testing.T) {
			n := openRig(t, func(o *Options) { o.Admin = admin })
			c := pb.NewMaintenanceClient(n.conn)
			errOf := func(_ any, err error) error { return err }
			for name, err := range map[string]error{
				"status":     errOf(c.Status(n.ctx, &pb.StatusRequest{})),
				"hash":       errOf(c.Hash(n.ctx, &pb.HashRequest{})),
				"hashkv":     errOf(c.HashKV(n.ctx, &pb.HashKVRequest{})),
				"defragment": errOf(c.Defragment(n.ctx, &pb.DefragmentRequest{})),
				"move":       errOf(c.MoveLeader(n.ctx, &pb.MoveLeaderRequest{})),
				"downgrade":  errOf(c.Downgrade(n.ctx, &pb.DowngradeRequest{})),
				"snapshot":   errOf(ok[pb.Maintenance_SnapshotClient](t)(c.Snapshot(n.ctx, &pb.SnapshotRequest{})).Recv()),
			} {
				t.Run(name, func(t *testing.T) { (&rig{T: t}).refused(err, codes.Unimplemented, notAReplica) })
			}
		})
	}
}

func TestMaintenanceOverJSON(t *testing.T) {
	n := openRig(t, nil)
	n.admin.condition = kv.Condition{Leader: 1, DBSize: 100}
	n.admin.hash = kv.Hash{Sum: 77}
	if code, r := n.post("/v3/maintenance/status", `{}`); code != 200 || r["version"] != api.EtcdVersion || r["dbSize"] != "100" {
		t.Errorf("status: %d %v", code, r)
	}
	if code, r := n.post("/v3/maintenance/hashkv", `{}`); code != 200 || r["hash"] != 77.0 {
		t.Errorf("hashkv: %d %v", code, r)
	}
	if code, r := n.post("/v3/maintenance/transfer-leadership", `{"targetID":"2"}`); code != 400 || r["message"] != "etcdserver: not leader" {
		t.Errorf("move: %d %v", code, r)
	}
}
