package etcd

import (
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
)

// What alarms do is tested on a whole node, in agent.
func TestAlarmRequestsAreChecked(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewMaintenanceClient(n.conn)
	for _, r := range []*pb.AlarmRequest{{Action: 9}, {Alarm: 9}, {Action: pb.AlarmRequest_ACTIVATE, Alarm: -1}} {
		_, err := c.Alarm(n.ctx, r)
		n.refused(err, codes.InvalidArgument, "holdfast: ...")
	}
	for _, action := range []pb.AlarmRequest_AlarmAction{pb.AlarmRequest_ACTIVATE, pb.AlarmRequest_DEACTIVATE} {
		r := ok[*pb.AlarmResponse](t)(c.Alarm(n.ctx, &pb.AlarmRequest{Action: action, MemberID: 1}))
		if len(r.Alarms) != 0 || r.Header.GetRevision() != 1 {
			t.Errorf("%v of no kind of alarm: %v, want nothing, as in etcd", action, r)
		}
	}
}

func TestAProxySetsNoAlarms(t *testing.T) {
	n := openRig(t, asProxy)
	_, err := pb.NewMaintenanceClient(n.conn).Alarm(n.ctx, &pb.AlarmRequest{Action: pb.AlarmRequest_ACTIVATE})
	n.refused(err, codes.Unimplemented, notAReplica)
}
