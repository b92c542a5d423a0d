package agent

import (
	"testing"

	"holdfast/api"
)

func TestOneLineSaysWhatSomebodyShouldKnow(t *testing.T) {
	for want, s := range map[string]api.Status{
		"Serving as leader":        {Member: &api.MemberStatus{Leader: "1", ReplicaID: "1"}, Links: []api.LinkStatus{{}}},
		"Serving as follower of 1": {Member: &api.MemberStatus{Leader: "1", ReplicaID: "2"}},
		"The disk holds back a write of the raft log: serving local reads": {Member: &api.MemberStatus{Leader: "2", ReplicaID: "2", LogHeldSeconds: 2}},
		"Refusing writes: the disk is full":                                {Member: &api.MemberStatus{Leader: "1", ReplicaID: "2", WritesRefused: "the disk is full"}},
		"Serving as leader, 3 writes queued, 1 of 2 links lost": {Member: &api.MemberStatus{Leader: "1", ReplicaID: "1"},
			Queue: &api.QueueStatus{Depth: 3}, Links: []api.LinkStatus{{Lost: true}, {}}},
		"Uplink lost: serving what is cached, 7 writes queued": {Proxy: &api.ProxyStatus{Joined: true, UplinkLost: true}, Queue: &api.QueueStatus{Depth: 7},
			Links: []api.LinkStatus{{Lost: true}}},
		"Serving as proxy of a:2380": {Proxy: &api.ProxyStatus{Joined: true, Upstream: "a:2380"}},
		"Replaying the log":          {State: stateReplaying, Member: &api.MemberStatus{}},
	} {
		if got := lineOf(s); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
}
