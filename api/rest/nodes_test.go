package rest

import (
	"context"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// registry is the nodes and certificates of a small cluster, and what it was asked.
type registry struct {
	rotation api.CARotation
	forced   bool
}

func (*registry) List(context.Context) (api.NodeList, error) {
	lag, depth, age := int64(2), 3, 0.5
	return api.NodeList{Missing: []string{"member 3 cannot be asked"}, Nodes: []api.NodeInfo{
		{ID: "1", Name: "edge", Role: "member", State: api.NodeHere, Version: "1.0", Revision: 9, Lag: new(int64)},
		{ID: "2", Name: "pump 12", Role: "proxy", State: api.NodeConnected, Version: "1.0", Via: "edge", Address: "10.0.0.7:1", RTTMillis: 3.5,
			Revision: 7, Lag: &lag, QueueDepth: &depth, QueueBytes: 10, AgeSeconds: &age, LastSeen: &issued, Joined: &issued, Scope: []string{"site/"}, CertificateUntil: &issued, CA: "ab"},
		{ID: "3", Name: "stolen", Role: "proxy", State: api.NodeRevoked, Revoked: &issued},
	}}, nil
}

func (*registry) Revoke(_ context.Context, name string) (api.RevokedNode, error) {
	if name != "pump 12" && name != "1" {
		return api.RevokedNode{}, kv.Errorf(kv.KeyNotFound, "no node %q", name)
	}
	return api.RevokedNode{ID: "2", Name: name, Role: "proxy", At: issued, Note: "and now"}, nil
}

func (*registry) Certificate() api.CertificateInfo {
	return api.CertificateInfo{Node: "1", Joined: true, Cluster: "c", Role: "member", Serial: "1", Issuer: "ab", Issued: &issued, Until: &issued, Renewal: &issued, Judged: issued,
		CAs: []api.CAInfo{{Hash: "ab", Ends: issued, KeyHeld: true}, {Hash: "cd", Ends: issued, Dropped: &issued}}}
}

func (r *registry) Renew(context.Context) (api.CertificateInfo, error) { return r.Certificate(), nil }

func (r *registry) Rotate(_ context.Context, rot api.CARotation) (api.CertificateInfo, error) {
	r.rotation = rot
	return r.Certificate(), nil
}

func (r *registry) Finish(_ context.Context, force bool) (api.CertificateInfo, error) {
	r.forced = force
	return r.Certificate(), nil
}

func TestNodesAreNamedAsTheyAre(t *testing.T) {
	n := serveAdmin(t, &office{})
	if r := n.call("DELETE", "/v1/nodes/pump%2012", "").want(t, 200); !strings.Contains(r.body, `"name":"pump 12"`) {
		t.Errorf("got %s", r.body)
	}
	n.call("DELETE", "/v1/nodes/a%2Fb", "").refused(t, 404, "key-not-found")
	n.call("DELETE", "/v1/nodes/", "").want(t, 404)
	n.call("PUT", "/v1/nodes/1", "").refused(t, 405, "method-not-allowed")
	n.call("GET", "/v1/cert/renew", "").refused(t, 405, "method-not-allowed")
}

func TestARotationIsPassedOnAsAsked(t *testing.T) {
	reg := &registry{}
	n := serveAdmin(t, &office{})
	n.handler.opts.Certificates = reg
	n.Server.Config.Handler = n.handler.Admin()
	n.call("POST", "/v1/cert/rotate", "").want(t, 200)
	if reg.rotation.PEM != nil || reg.rotation.Overlap != 0 {
		t.Errorf("nothing given: %+v", reg.rotation)
	}
	n.call("POST", "/v1/cert/rotate", `{"pem":"key","overlap":"1h30m"}`).want(t, 200)
	if string(reg.rotation.PEM) != "key" || reg.rotation.Overlap != 90*time.Minute {
		t.Errorf("got %+v", reg.rotation)
	}
	n.call("POST", "/v1/cert/finish", `{"force":true}`).want(t, 200)
	if !reg.forced {
		t.Error("force was not passed on")
	}
	for _, bad := range []string{`{"overlap":"0s"}`, `{"overlap":"-1h"}`, `{"pen":"x"}`, `{} {}`, `[]`} {
		n.call("POST", "/v1/cert/rotate", bad).refused(t, 400, "invalid")
	}
	n.call("POST", "/v1/cert/renew", "{}").refused(t, 400, "invalid")
	n.call("POST", "/v1/cert/rotate", strings.Repeat(" ", rotateBodyMax+1)).refused(t, 413, "too-large")
}
