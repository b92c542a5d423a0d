package etcd

import (
	"context"
	"fmt"
	"slices"
	"testing"

	"go.etcd.io/etcd/server/v3/etcdserver/api/v3election/v3electionpb"
	"google.golang.org/grpc/codes"

	"holdfast/kv"
)

func (n *rig) elections() v3electionpb.ElectionClient { return v3electionpb.NewElectionClient(n.conn) }

func (n *rig) campaign(ctx context.Context, name string, lease int64, value string) (*v3electionpb.CampaignResponse, error) {
	return n.elections().Campaign(ctx, &v3electionpb.CampaignRequest{Name: []byte(name), Lease: lease, Value: []byte(value)})
}

// elect is campaign for one that wins at once.
func (n *rig) elect(name string, lease int64, value string) *v3electionpb.LeaderKey {
	n.Helper()
	return ok[*v3electionpb.CampaignResponse](n.T)(n.campaign(n.ctx, name, lease, value)).Leader
}

// run begins a campaign and returns when its key is in the line.
func (n *rig) run(ctx context.Context, name string, lease int64, value string) *call[*v3electionpb.CampaignResponse] {
	n.Helper()
	c := begin(func() (*v3electionpb.CampaignResponse, error) { return n.campaign(ctx, name, lease, value) })
	n.until("the candidate is in the line", func() bool { return slices.Contains(n.keys(name+"/"), fmt.Sprintf("%s/%x", name, lease)) })
	return c
}

func (n *rig) leader(name string) (*v3electionpb.LeaderResponse, error) {
	return n.elections().Leader(n.ctx, &v3electionpb.LeaderRequest{Name: []byte(name)})
}

func (n *rig) proclaim(leader *v3electionpb.LeaderKey, value string) error {
	_, err := n.elections().Proclaim(n.ctx, &v3electionpb.ProclaimRequest{Leader: leader, Value: []byte(value)})
	return err
}

func (n *rig) resign(leader *v3electionpb.LeaderKey) error {
	_, err := n.elections().Resign(n.ctx, &v3electionpb.ResignRequest{Leader: leader})
	return err
}

// leads fails the test unless the leader of an election has a key and a value.
func (n *rig) leads(name, key, value string) {
	n.Helper()
	r, err := n.leader(name)
	if err != nil || string(r.Kv.Key) != key || string(r.Kv.Value) != value {
		n.Errorf("%v %v leads %s, want %s=%s", r, err, name, key, value)
	}
}

func TestCampaignMakesALeader(t *testing.T) {
	n := openRig(t, nil)
	n.lease(0xab)
	_, err := n.leader("e")
	n.refused(err, codes.Unknown, "election: no leader")
	r := ok[*v3electionpb.CampaignResponse](t)(n.campaign(n.ctx, "e", 0xab, "one"))
	l := r.Leader
	if string(l.Name) != "e" || string(l.Key) != "e/ab" || l.Rev != 2 || l.Lease != 0xab || r.Header.GetRevision() != 2 {
		t.Errorf("elected: %v", r)
	}
	n.leads("e", "e/ab", "one")
	if err := n.proclaim(l, "two"); err != nil {
		t.Fatal(err)
	}
	n.leads("e", "e/ab", "two")
	if err := n.resign(l); err != nil {
		t.Fatal(err)
	}
	_, err = n.leader("e")
	n.refused(err, codes.Unknown, "election: no leader")
}

func TestCampaignAgainKeepsThePlace(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	first := n.elect("e", 1, "one")
	if again := n.elect("e", 1, "one"); again.Rev != first.Rev {
		t.Errorf("elected at %d, and again at %d", first.Rev, again.Rev)
	}
	if again := n.elect("e", 1, "two"); again.Rev != first.Rev {
		t.Errorf("elected at %d, and again at %d", first.Rev, again.Rev)
	}
	n.leads("e", "e/1", "two")
}

func TestCampaignWithoutALeaseGetsOne(t *testing.T) {
	n := openRig(t, nil)
	l := n.elect("e", 0, "one")
	if l.Lease <= 0 || string(l.Key) != fmt.Sprintf("e/%x", l.Lease) {
		t.Fatalf("elected %v", l)
	}
	n.revoke(l.Lease)
	_, err := n.leader("e")
	n.refused(err, codes.Unknown, "election: no leader")
}

func TestLeadershipPassesOn(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2, 3, 4)
	first := n.elect("e", 1, "one")
	second := n.run(n.ctx, "e", 2, "two")
	ctx, cancel := context.WithCancel(n.ctx)
	third := n.run(ctx, "e", 3, "three")
	fourth := n.run(n.ctx, "e", 4, "four")
	n.leads("e", "e/1", "one")
	second.waits(t)
	if err := n.resign(first); err != nil {
		t.Fatal(err)
	}
	if r, err := second.end(t); err != nil || string(r.Leader.Key) != "e/2" || r.Leader.Rev != 3 {
		t.Fatalf("the second: %v %v", r, err)
	}
	n.leads("e", "e/2", "two")
	cancel() // the third gives up
	_, err := third.end(t)
	n.refused(err, codes.Canceled, "...")
	n.until("its place is given up", func() bool { return slices.Equal(n.keys("e/"), []string{"e/2", "e/4"}) })
	fourth.waits(t)
	n.revoke(2) // as when it expires
	if r, err := fourth.end(t); err != nil || string(r.Leader.Key) != "e/4" {
		t.Errorf("the fourth: %v %v", r, err)
	}
}

// etcd would tell a candidate whose lease ended while it waited that it leads.
func TestCampaignEndsWithItsOwnLease(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2)
	n.elect("e", 1, "one")
	second := n.run(n.ctx, "e", 2, "two")
	n.revoke(2)
	_, err := second.end(t)
	n.refused(err, codes.Unknown, "election: not leader")
}

func TestWhoLeadsNoMoreIsTold(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	old := n.elect("e", 1, "one")
	if err := n.resign(old); err != nil {
		t.Fatal(err)
	}
	n.refused(n.proclaim(old, "late"), codes.Unknown, "election: not leader")
	n.elect("e", 1, "again") // the same key, made anew
	n.refused(n.proclaim(old, "late"), codes.Unknown, "election: not leader")
	if err := n.resign(old); err != nil {
		t.Errorf("resign when it was not the leader any more: %v, want no error, as in etcd", err)
	}
	n.leads("e", "e/1", "again")
}

func TestElectionsCheckWhatTheyAreGiven(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	noKey, noRev := &v3electionpb.LeaderKey{Rev: 2}, &v3electionpb.LeaderKey{Key: []byte("e/1"), Lease: 1}
	n.refused(n.proclaim(nil, "x"), codes.Unknown, `"leader" field must be provided`)
	n.refused(n.resign(nil), codes.Unknown, `"leader" field must be provided`)
	n.refused(n.proclaim(noKey, "x"), codes.InvalidArgument, "etcdserver: key is not provided")
	n.refused(n.resign(noKey), codes.InvalidArgument, "etcdserver: key is not provided")
	n.refused(n.proclaim(noRev, "x"), codes.Unknown, "election: not leader")
	_, err := n.campaign(n.ctx, "e", 99, "x")
	n.refused(err, codes.NotFound, "etcdserver: requested lease not found")
	if got := n.keys(""); len(got) != 0 {
		t.Errorf("made %q", got)
	}
}

func TestProclaimWithoutALeaseKeepsTheLease(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	l := n.elect("e", 1, "one")
	l.Lease = 0
	if err := n.proclaim(l, "two"); err != nil {
		t.Fatal(err)
	}
	n.leads("e", "e/1", "two")
	n.revoke(1)
	_, err := n.leader("e")
	n.refused(err, codes.Unknown, "election: no leader")
}

func TestObserveSendsLeadersAndWhatTheyProclaim(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1, 2, 3)
	stream := ok[v3electionpb.Election_ObserveClient](t)(n.elections().Observe(n.ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}))
	next := func(key, value string) {
		t.Helper()
		r := ok[*v3electionpb.LeaderResponse](t)(stream.Recv())
		if string(r.Kv.Key) != key || string(r.Kv.Value) != value || r.Header.GetRevision() < r.Kv.ModRevision {
			t.Fatalf("observed %v, want %s=%s", r, key, value)
		}
	}
	first := n.elect("e", 1, "one")
	next("e/1", "one")
	for i := range 5 {
		if err := n.proclaim(first, fmt.Sprint(i)); err != nil {
			t.Fatal(err)
		}
		next("e/1", fmt.Sprint(i))
	}
	second := n.run(n.ctx, "e", 2, "two") // a candidate is not seen
	if err := n.resign(first); err != nil {
		t.Fatal(err)
	}
	next("e/2", "two")
	if _, err := second.end(t); err != nil {
		t.Fatal(err)
	}
	n.revoke(2) // nobody leads
	n.elect("e", 3, "three")
	next("e/3", "three")
	n.stop()
	_, err := stream.Recv()
	n.refused(err, codes.Unavailable, "etcdserver: server stopped")
}

// One who begins to look sees who leads, and not what was proclaimed before.
func TestObserveBeginsWithThePresent(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	l := n.elect("e", 1, "one")
	if err := n.proclaim(l, "two"); err != nil {
		t.Fatal(err)
	}
	stream := ok[v3electionpb.Election_ObserveClient](t)(n.elections().Observe(n.ctx, &v3electionpb.LeaderRequest{Name: []byte("e")}))
	if r := ok[*v3electionpb.LeaderResponse](t)(stream.Recv()); string(r.Kv.Value) != "two" || r.Header.GetRevision() != 3 {
		t.Errorf("observed %v", r)
	}
}

func TestObserveGoesOnThroughACompaction(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	observe := electionService{line: newLine(n.server)}
	l := n.elect("e", 1, "one")
	if err := n.proclaim(l, "two"); err != nil {
		t.Fatal(err)
	}
	h := n.put("other", "1", 0)
	if _, err := n.backend.Do(n.ctx, kv.Command{Ops: []kv.Op{kv.Compact{Revision: h.Revision}}}); err != nil {
		t.Fatal(err)
	}
	// To follow from before the compaction ends without a failure: the observer looks again.
	err := observe.watch(n.ctx, []kv.Watch{{Key: l.Key, From: 2}}, func(kv.Header, kv.Event) (bool, error) {
		t.Error("an event that was compacted")
		return true, nil
	})
	if err != nil {
		t.Errorf("watch from what is compacted: %v", err)
	}
}

func TestElectionsOverJSON(t *testing.T) {
	n := openRig(t, nil)
	n.lease(1)
	code, r := n.post("/v3/election/campaign", `{"name":"ZQ==","lease":"1","value":"b25l"}`)
	leader, _ := r["leader"].(map[string]any)
	if code != 200 || leader["key"] != "ZS8x" || leader["rev"] != "2" {
		t.Fatalf("campaign: %d %v", code, r)
	}
	if code, r := n.post("/v3/election/proclaim", `{"leader":{"name":"ZQ==","key":"ZS8x","rev":"2","lease":"1"},"value":"dHdv"}`); code != 200 {
		t.Errorf("proclaim: %d %v", code, r)
	}
	if code, r := n.post("/v3/election/leader", `{"name":"ZQ=="}`); code != 200 || r["kv"].(map[string]any)["value"] != "dHdv" {
		t.Errorf("leader: %d %v", code, r)
	}
	if code, r := n.post("/v3/election/resign", `{"leader":{"key":"ZS8x","rev":"2"}}`); code != 200 {
		t.Errorf("resign: %d %v", code, r)
	}
	if code, r := n.post("/v3/election/leader", `{"name":"ZQ=="}`); code != 500 || r["message"] != "election: no leader" {
		t.Errorf("leader when nobody leads: %d %v", code, r)
	}
}
