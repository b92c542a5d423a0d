package rest

import (
	"context"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

// shed is an api.Devices in memory.
type shed struct {
	list  []api.DeviceInfo
	asked api.DeviceRequest
	node  string
	scope *api.NodeScope
}

func (s *shed) Create(_ context.Context, r api.DeviceRequest) (api.CreatedDevice, error) {
	s.asked = r
	id := strconv.Itoa(len(s.list) + 1)
	s.list = append(s.list, api.DeviceInfo{ID: id, Name: r.Name, Allow: r.Allow, Prefixes: r.Prefixes})
	return api.CreatedDevice{Token: "HFD1." + id + ".secret", ID: id, Expires: &issued}, nil
}

func (s *shed) List(context.Context) ([]api.DeviceInfo, error) { return s.list, nil }

func (s *shed) Revoke(_ context.Context, id string) error {
	for i := range s.list {
		if s.list[i].ID == id {
			s.list = append(s.list[:i], s.list[i+1:]...)
			return nil
		}
	}
	return kv.Errorf(kv.KeyNotFound, "no device %q", id)
}

func (s *shed) SetScope(_ context.Context, node string, scope *api.NodeScope) error {
	s.node, s.scope = node, scope
	return nil
}

func TestADevicesTokenIsMadeListedAndRevoked(t *testing.T) {
	s := &shed{}
	n := serveAdmin(t, &office{}, func(o *Options) { o.Devices = s })
	if r := n.call("GET", "/v1/devices", "").want(t, 200); r.body != "{\"devices\":[]}\n" {
		t.Errorf("none are listed as %s", r.body)
	}
	r := n.call("POST", "/v1/devices", `{"name":"pump-7","allow":["get","watch"],"prefixes":["a/","b/"],"ttl":"1h","rate":9,"share_kib":8}`).want(t, 201)
	r.wantHeaders(t, map[string]string{"Location": "/v1/devices/1", "Cache-Control": "no-store"})
	if !strings.Contains(r.body, `"token":"HFD1.1.secret"`) {
		t.Errorf("answered %s", r.body)
	}
	if got := s.asked; got.TTL != time.Hour || got.Rate != 9 || got.ShareKiB != 8 || len(got.Allow) != 2 || len(got.Prefixes) != 2 {
		t.Errorf("asked for %+v", got)
	}
	if r := n.call("GET", "/v1/devices", "").want(t, 200); !strings.Contains(r.body, `"pump-7"`) || strings.Contains(r.body, "secret") {
		t.Errorf("listed as %s", r.body)
	}
	n.call("DELETE", "/v1/devices/1", "").want(t, 200)
	n.call("DELETE", "/v1/devices/1", "").refused(t, 404, "key-not-found")
}

func TestARequestForADeviceIsCheckedForForm(t *testing.T) {
	n := serveAdmin(t, &office{})
	for _, body := range []string{
		``, `{}`, `{"name":"x","allow":["get"]}`, `{"name":"x","prefixes":[""]}`, `{"allow":["get"],"prefixes":[""]}`,
		`{"name":"x","allow":["fly"],"prefixes":[""]}`, `{"name":"x","allow":["get","get"],"prefixes":[""]}`,
		`{"name":"x","allow":["get"],"prefixes":["a","a"]}`, `{"name":"x","allow":["get"],"prefixes":[""],"ttl":"90d"}`,
		`{"name":"x","allow":["get"],"prefixes":[""],"ttl":"-1h"}`, `{"name":"x","allow":["get"],"prefixes":[""],"rate":-1}`,
		`{"name":"x","allow":["get"],"prefixes":[""],"rate":1000001}`, `{"name":"x\n","allow":["get"],"prefixes":[""]}`,
		`{"name":"x","allow":["get"],"prefixes":[""]} {}`, `{"name":"x","allow":["get"],"prefixes":[""],"king":true}`,
		`{"name":"` + strings.Repeat("x", deviceNameMax+1) + `","allow":["get"],"prefixes":[""]}`,
		`{"name":"x","allow":["get"],"prefixes":["` + strings.Repeat("x", keyMax+1) + `"]}`,
	} {
		n.call("POST", "/v1/devices", body).refused(t, 400, "invalid")
	}
	n.call("POST", "/v1/devices", strings.Repeat(" ", deviceBodyMax+1)).refused(t, 413, "too-large")
	for call, allow := range map[string]string{"PUT /v1/devices": allowDevices, "GET /v1/devices/1": allowDevice, "GET /v1/nodes/1/scope": allowScope} {
		method, path, _ := strings.Cut(call, " ")
		n.call(method, path, "").want(t, 405).wantHeaders(t, map[string]string{"Allow": allow})
	}
}

func TestANodesScopeIsSetAndTakenBack(t *testing.T) {
	s := &shed{}
	n := serveAdmin(t, &office{}, func(o *Options) { o.Devices = s })
	n.call("PUT", "/v1/nodes/7f/scope", `{"prefixes":["site/42/"]}`).want(t, 200)
	if s.node != "7f" || s.scope == nil || len(s.scope.Prefixes) != 1 || s.scope.Roles != nil {
		t.Errorf("node %q has %+v", s.node, s.scope)
	}
	n.call("DELETE", "/v1/nodes/7f/scope", "").want(t, 200)
	if s.scope != nil {
		t.Errorf("node %q has %+v still", s.node, s.scope)
	}
}
