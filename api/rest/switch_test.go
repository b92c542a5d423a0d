package rest

import (
	"context"
	"net/http/httptest"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// lever is a node whose mode can be changed, in memory.
type lever struct {
	asked api.SwitchRequest
	slow  bool // it takes longer than anybody waits
	err   error
}

func (l *lever) Switch(ctx context.Context, r api.SwitchRequest) (api.SwitchStatus, error) {
	l.asked = r
	s := api.SwitchStatus{Kind: r.Kind, NodeID: "ab", Step: "asking the cluster", Since: issued, Done: !l.slow}
	if l.slow {
		s.Trouble = "nobody answers"
	}
	if l.slow {
		<-ctx.Done()
	}
	return s, l.err
}

func TestAChangeOfModeIsAskedFor(t *testing.T) {
	l := &lever{}
	n := serveAdmin(t, nil, func(o *Options) { o.Switch = l })
	for _, tc := range []struct {
		path, body string
		want       api.SwitchRequest
	}{
		{"/v1/nodes/self/promote", "", api.SwitchRequest{Kind: "promote", Node: "self"}},
		{"/v1/nodes/box-7/promote?wait=1s", `{"token":"HF1x"}`, api.SwitchRequest{Kind: "promote", Node: "box-7", Token: "HF1x"}},
		{"/v1/nodes/self/demote", "{}", api.SwitchRequest{Kind: "demote", Node: "self"}},
		{"/v1/nodes/self/leave", `{"force":true}`, api.SwitchRequest{Kind: "leave", Node: "self", Force: true}},
	} {
		r := n.call("POST", tc.path, tc.body).want(t, 200)
		if want := `{"kind":"` + tc.want.Kind + `","node_id":"ab","step":"asking the cluster","since":"2030-01-02T03:04:05Z","done":true}` + "\n"; r.body != want {
			t.Errorf("%s: got %s, want %s", tc.path, r.body, want)
		}
		if l.asked != tc.want {
			t.Errorf("%s: asked for %+v, want %+v", tc.path, l.asked, tc.want)
		}
	}
	l.slow = true
	began := time.Now()
	if r := n.call("POST", "/v1/nodes/self/promote?wait=20ms", "").want(t, 202); !strings.Contains(r.body, `"done":false`) {
		t.Errorf("while it is under way: %s", r.body)
	}
	if took := time.Since(began); took > 10*time.Second {
		t.Errorf("waited %v", took)
	}
	l.slow, l.err = false, kv.Errorf(kv.PreconditionFailed, "the last one")
	n.call("POST", "/v1/nodes/self/demote", "").want(t, 412)
}

func TestAChangeOfModeThatIsNoneIsRefused(t *testing.T) {
	l := &lever{}
	n := serveAdmin(t, nil, func(o *Options) { o.Switch = l })
	for _, tc := range []struct {
		method, path, body string
		status             int
	}{
		{"POST", "/v1/nodes/self/demote", `{"token":"x"}`, 400},
		{"POST", "/v1/nodes/self/promote", `{"force":true}`, 400},
		{"POST", "/v1/nodes/box-7/leave", `{"force":true}`, 400},
		{"POST", "/v1/nodes/self/promote", `{"now":true}`, 400},
		{"POST", "/v1/nodes/self/promote", `{}{}`, 400},
		{"POST", "/v1/nodes/self/promote?wait=1h", "", 400},
		{"POST", "/v1/nodes/self/promote?force", "", 400},
		{"POST", "/v1/nodes/self/promote", strings.Repeat(" ", switchBodyMax+1), 413},
		{"GET", "/v1/nodes/self/promote", "", 405},
		{"POST", "/v1/nodes/self/explode", "", 404},
		{"POST", "/v1/nodes//promote", "", 404},
	} {
		n.call(tc.method, tc.path, tc.body).want(t, tc.status)
	}
	if l.asked != (api.SwitchRequest{}) {
		t.Errorf("%+v went through", l.asked)
	}
	devices := httptest.NewServer(n.handler)
	defer devices.Close()
	n.Server = devices
	if r := n.call("POST", "/v1/nodes/self/demote", "").want(t, 404); !strings.Contains(r.body, "administration-only") {
		t.Errorf("a device got %s", r.body)
	}
}
