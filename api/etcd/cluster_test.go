package etcd

import (
	"context"
	"net"
	"slices"
	"strings"
	"testing"

	pb "go.etcd.io/etcd/api/v3/etcdserverpb"
	"google.golang.org/grpc/codes"
	"google.golang.org/grpc/peer"
	"google.golang.org/grpc/status"

	"holdfast/kv"
)

// Clients go on with the client URLs of whoever has a name, so that the list must have both for this node.
func TestMemberListLeadsClientsHere(t *testing.T) {
	n := openRig(t, func(o *Options) {
		o.ClientURLs = []string{"http://192.0.2.7:2379", "http://0.0.0.0:2380", "http://[::]:2381", "https://box.example:2379", "unix:///run/h.sock"}
	})
	n.admin.condition.Header = kv.Header{Epoch: kv.Epoch{Cluster: 5}, Member: 1, Term: 3, Revision: 8}
	n.admin.replicas = []kv.Replica{
		{ID: 1, PeerURLs: []string{"quic://192.0.2.7:2380"}},
		{ID: 2, Name: "other", ClientURLs: []string{"http://192.0.2.8:2379"}, Learner: true},
		{ID: 3},
	}
	r := ok[*pb.MemberListResponse](t)(pb.NewClusterClient(n.conn).MemberList(n.ctx, &pb.MemberListRequest{Linearizable: true}))
	if h := r.Header; h.GetClusterId() != 5 || h.GetMemberId() != 1 || h.GetRaftTerm() != 3 || h.GetRevision() != 0 {
		t.Errorf("header %v, want one without a revision, as etcd's", h)
	}
	if len(r.Members) != 3 {
		t.Fatalf("members %v", r.Members)
	}
	// The client came by 127.0.0.1: under that address it finds what listens everywhere.
	want := []string{"http://192.0.2.7:2379", "http://127.0.0.1:2380", "http://127.0.0.1:2381", "https://box.example:2379", "unix:///run/h.sock"}
	if m := r.Members[0]; m.Name != "box" || !slices.Equal(m.ClientURLs, want) || !slices.Equal(m.PeerURLs, []string{"quic://192.0.2.7:2380"}) {
		t.Errorf("this node: %v, want the client URLs %q", m, want)
	}
	if m := r.Members[1]; m.Name != "other" || !m.IsLearner || !slices.Equal(m.ClientURLs, []string{"http://192.0.2.8:2379"}) {
		t.Errorf("the other: %v", m)
	}
	if m := r.Members[2]; m.Name != "" || len(m.ClientURLs) != 0 {
		t.Errorf("one that nothing is known of: %v", m)
	}
}

func TestMemberListPrefersWhatTheClusterKnows(t *testing.T) {
	n := openRig(t, func(o *Options) { o.ClientURLs = []string{"http://192.0.2.7:2379"} })
	n.admin.condition.Member = 1
	n.admin.replicas = []kv.Replica{{ID: 1, Name: "known", ClientURLs: []string{"http://192.0.2.9:2379"}}}
	r := ok[*pb.MemberListResponse](t)(pb.NewClusterClient(n.conn).MemberList(n.ctx, &pb.MemberListRequest{}))
	if m := r.Members[0]; m.Name != "known" || !slices.Equal(m.ClientURLs, []string{"http://192.0.2.9:2379"}) {
		t.Errorf("got %v", m)
	}
}

func TestMemberListIsLinearizableIfAskedTo(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewClusterClient(n.conn)
	ok[*pb.MemberListResponse](t)(c.MemberList(n.ctx, &pb.MemberListRequest{Linearizable: true}))
	ok[*pb.MemberListResponse](t)(c.MemberList(n.ctx, &pb.MemberListRequest{}))
	if !slices.Equal(n.admin.local, []bool{false, true}) {
		t.Errorf("asked for local lists: %v", n.admin.local)
	}
	n.admin.err = kv.Errorf(kv.NoLeader, "an election")
	_, err := c.MemberList(n.ctx, &pb.MemberListRequest{Linearizable: true})
	n.refused(err, codes.Unavailable, "etcdserver: no leader")
}

func TestAUnixClientIsNotToldOfAddressesItCannotKnow(t *testing.T) {
	n := openRig(t, func(o *Options) { o.ClientURLs = []string{"http://0.0.0.0:2380", "http://127.0.0.1:2379"} })
	n.admin.replicas = []kv.Replica{{}}
	// The gateway's own connection is in memory.
	code, r := n.post("/v3/cluster/member/list", `{}`)
	if code != 200 {
		t.Fatalf("%d %v", code, r)
	}
	m := r["members"].([]any)[0].(map[string]any)
	if urls := m["clientURLs"].([]any); len(urls) != 1 || urls[0] != "http://127.0.0.1:2379" {
		t.Errorf("client URLs %v", urls)
	}
}

func TestWhatIsDoneInAnotherWaySaysHow(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewClusterClient(n.conn)
	for want, call := range map[string]func() error{
		"agent --join":     func() error { _, err := c.MemberAdd(n.ctx, &pb.MemberAddRequest{}); return err },
		"--peer-advertise": func() error { _, err := c.MemberUpdate(n.ctx, &pb.MemberUpdateRequest{ID: 1}); return err },
	} {
		err := call()
		n.refused(err, codes.Unimplemented, "holdfast: ...")
		if !strings.Contains(err.Error(), want) {
			t.Errorf("%v does not say %q", err, want)
		}
	}
}

func TestAMemberIsRemovedAndTheRestListed(t *testing.T) {
	n := openRig(t, nil)
	c := pb.NewClusterClient(n.conn)
	n.admin.replicas = []kv.Replica{{ID: 1}, {ID: 2, Name: "b", Learner: true}, {ID: 3}}
	_, err := c.MemberRemove(n.ctx, &pb.MemberRemoveRequest{ID: 9})
	n.refused(err, codes.NotFound, "etcdserver: member not found")
	r := ok[*pb.MemberRemoveResponse](t)(c.MemberRemove(n.ctx, &pb.MemberRemoveRequest{ID: 1}))
	if len(r.Members) != 2 || r.Members[0].ID != 2 || !r.Members[0].IsLearner {
		t.Errorf("left are %v", r.Members)
	}
	for id, text := range map[uint64]string{
		2: "etcdserver: can only promote a learner member which is in sync with leader",
		3: "etcdserver: can only promote a learner member",
		9: "etcdserver: member not found",
	} {
		_, err := c.MemberPromote(n.ctx, &pb.MemberPromoteRequest{ID: id})
		if status.Convert(err).Message() != text {
			t.Errorf("promoting %d: %v, want %q", id, err, text)
		}
	}
	n.admin.err = kv.Errorf(kv.Busy, "no quorum would be left")
	_, err = c.MemberRemove(n.ctx, &pb.MemberRemoveRequest{ID: 3})
	n.refused(err, codes.Unavailable, "etcdserver: unhealthy cluster")
	n.admin.err = kv.Errorf(kv.Invalid, "member 3 is the last voter")
	_, err = c.MemberRemove(n.ctx, &pb.MemberRemoveRequest{ID: 3})
	n.refused(err, codes.FailedPrecondition, "etcdserver: re-configuration failed due to not enough started members")
}

// notAReplica is how a proxy refuses what an operator asks of a member.
const notAReplica = "holdfast: not supported by this node: it is a proxy, or its store is not open yet; ask a member"

func TestAProxyHasNoMembersToList(t *testing.T) {
	n := openRig(t, asProxy)
	_, err := pb.NewClusterClient(n.conn).MemberList(n.ctx, &pb.MemberListRequest{})
	n.refused(err, codes.Unimplemented, notAReplica)
}

func TestAClientIsToldWhatItCanDial(t *testing.T) {
	from := func(addr net.Addr) context.Context {
		return peer.NewContext(t.Context(), &peer.Peer{LocalAddr: addr})
	}
	at := func(ip string) net.Addr { return &net.TCPAddr{IP: net.ParseIP(ip), Port: 1} }
	local, lan, all := "http://127.0.0.1:2379", "http://192.0.2.7:2379", "http://[::]:2379"
	for _, tc := range []struct {
		name       string
		by         net.Addr
		urls, want []string
	}{
		{"here", at("127.0.0.1"), []string{local, lan, "unix:///run/h.sock"}, []string{local, lan, "unix:///run/h.sock"}},
		{"from elsewhere", at("192.0.2.7"), []string{local, "http://localhost:1", lan, "unix:///run/h.sock"}, []string{lan}},
		{"from elsewhere to all addresses", at("192.0.2.7"), []string{all}, []string{lan}},
		{"from elsewhere by IPv6", at("2001:db8::1"), []string{all}, []string{"http://[2001:db8::1]:2379"}},
		{"through something that forwards", at("192.0.2.7"), []string{local}, []string{local}},
		{"by a unix socket", &net.UnixAddr{Name: "/run/h.sock"}, []string{all, local}, []string{local}},
		{"by a unix socket, of all addresses", &net.UnixAddr{Name: "/run/h.sock"}, []string{all}, []string{all}},
		{"by name", at("192.0.2.7"), []string{"https://box.example:2379"}, []string{"https://box.example:2379"}},
	} {
		if got := reachable(from(tc.by), tc.urls); !slices.Equal(got, tc.want) {
			t.Errorf("%s: %q, want %q", tc.name, got, tc.want)
		}
	}
}

func TestAddressesKeepTheirZone(t *testing.T) {
	at := &net.TCPAddr{IP: net.ParseIP("fe80::1"), Zone: "eth0", Port: 1}
	if got := hostOf(at); got != "fe80::1%eth0" {
		t.Errorf("got %q", got)
	}
}
