package rest

import (
	"context"
	"encoding/json"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// council is a replica among three others, as far as /v1/members asks.
type council struct {
	api.Admin
	replicas []kv.Replica
	wanted   kv.Wanted
	err      error
}

func newCouncil() *council {
	return &council{wanted: kv.Wanted{Voters: 3, ReplaceAfter: 10 * time.Minute}, replicas: []kv.Replica{
		{ID: 1, Node: "aa", Name: "same", PeerURLs: []string{"quic://192.0.2.1:2380"}, ClientURLs: []string{"http://192.0.2.1:2379"}},
		{ID: 2, Node: "bb", Name: "same", Learner: true},
		{ID: 3, Node: "cc", Name: "edge 3", Away: true},
		{ID: 4, Node: "dd", Leaving: true},
	}}
}

func asReplica(o *Options) {
	c := newCouncil()
	o.Admin = func() api.Admin { return c }
}

func (c *council) Replicas(context.Context, bool) ([]kv.Replica, error) { return c.replicas, c.err }
func (c *council) Condition() kv.Condition                              { return kv.Condition{Leader: 1} }
func (c *council) Wanted() kv.Wanted                                    { return c.wanted }

func (c *council) SetWanted(_ context.Context, w kv.Wanted) error {
	c.wanted = w
	return c.err
}

func (c *council) RemoveReplica(_ context.Context, id uint64) error {
	for i, r := range c.replicas {
		if r.ID == id {
			c.replicas = append(c.replicas[:i:i], c.replicas[i+1:]...)
		}
	}
	return c.err
}

func TestMembersAreListedAndRemovedByWhateverNamesThem(t *testing.T) {
	c := newCouncil()
	n := serveAdmin(t, &office{}, func(o *Options) { o.Admin = func() api.Admin { return c } })
	list := func() (names []string) {
		var got struct {
			Voters       int
			ReplaceAfter string `json:"replace_after"`
			Members      []struct {
				ID, Role     string
				Leader, Away bool
			}
		}
		r := n.call("GET", "/v1/members", "").want(t, 200)
		if err := json.Unmarshal([]byte(r.body), &got); err != nil {
			t.Fatal(err)
		}
		for _, m := range got.Members {
			name := m.ID + " " + m.Role
			if m.Leader {
				name += " leads"
			}
			if m.Away {
				name += " away"
			}
			names = append(names, name)
		}
		return names
	}
	if got := strings.Join(list(), ", "); got != "1 voter leads, 2 learner, 3 voter away, 4 leaving" {
		t.Errorf("the members are %s", got)
	}
	n.call("DELETE", "/v1/members/same", "").refused(t, 400, "invalid")
	n.call("DELETE", "/v1/members/5", "").refused(t, 404, "key-not-found")
	n.call("DELETE", "/v1/members/1%2F2", "").refused(t, 404, "no-such-resource")
	n.call("DELETE", "/v1/members/edge%203", "").want(t, 200)
	n.call("DELETE", "/v1/members/bb", "").want(t, 200)
	n.call("DELETE", "/v1/members/1", "").want(t, 200)
	if got := strings.Join(list(), ", "); got != "4 leaving" {
		t.Errorf("left are %s", got)
	}
	c.err = kv.Errorf(kv.Busy, "no quorum would be left")
	n.call("DELETE", "/v1/members/4", "").refused(t, 503, "busy")
}

func TestWhatIsWantedOfTheMembersIsSetInParts(t *testing.T) {
	c := newCouncil()
	n := serveAdmin(t, &office{}, func(o *Options) { o.Admin = func() api.Admin { return c } })
	n.call("PUT", "/v1/members", `{"voters":5}`).want(t, 200)
	n.call("PUT", "/v1/members", `{"replace_after":"0s"}`).want(t, 200)
	if c.wanted != (kv.Wanted{Voters: 5}) {
		t.Errorf("wanted is %+v", c.wanted)
	}
	for _, body := range []string{``, `{`, `{"voters":"5"}`, `{"replace_after":"soon"}`, `{"voters":1}{}`, `{"other":1}`} {
		n.call("PUT", "/v1/members", body).refused(t, 400, "invalid")
	}
	n.call("POST", "/v1/members", "").refused(t, 405, "method-not-allowed")
	n.call("GET", "/v1/members/1", "").refused(t, 405, "method-not-allowed")
}

func TestMembersAreChangedOnTheAdministrationSocketOnly(t *testing.T) {
	n := serve(t, asReplica)
	n.call("GET", "/v1/members", "").want(t, 200)
	n.call("PUT", "/v1/members", `{"voters":5}`).refused(t, 404, "administration-only")
	n.call("DELETE", "/v1/members/1", "").refused(t, 404, "administration-only")
	serveAdmin(t, &office{}).call("GET", "/v1/members", "").refused(t, 501, "unsupported")
}
