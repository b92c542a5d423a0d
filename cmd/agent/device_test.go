package main

import (
	"strings"
	"testing"
	"time"
)

func TestADevicesTokenIsPrintedAlone(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(201, "application/json", `{"token":"HFD1.7f.secret","id":"7f","expires":"2030-01-02T03:04:05Z"}`))
	got := w.runs(0, "token", "create", "--device=pump-7", "--allow=put,get", "--prefix=site/42/", "--prefix=x", "--expires=90d", "--rate=5", "--share=64", "--socket", f.socket)
	if got != "HFD1.7f.secret\n" {
		t.Errorf("printed %q", got)
	}
	w.says("lets pump-7 put, get site/42/, x, until 2030-01-02T03:04:05Z")
	if r := f.request(t); r.uri != "/v1/devices" || r.body != `{"name":"pump-7","allow":["put","get"],"prefixes":["site/42/","x"],"ttl":"2160h0m0s","rate":5,"share_kib":64}` {
		t.Errorf("asked %+v", r)
	}
}

func TestFlagsOfADeviceAndOfANodeDoNotMix(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(201, "application/json", madeToken))
	for _, args := range []string{
		"--allow=put", "--prefix=a", "--expires=1d", "--rate=1", "--share=1", "--device=", "--device=x", "--device=x --allow=put",
		"--device=x --allow=put --prefix=a --role=any", "--device=x --allow=put --prefix=a --ttl=1h", "--device=x --allow=put --prefix=a --expires=0d",
		"--device=x --allow=put --prefix=a --expires=soon", "--device=x --allow=put --prefix=a --expires=-1h", "--device=x --allow=put --prefix=a --expires=99999d",
	} {
		w.runs(2, append([]string{"token", "create", "--socket", f.socket}, strings.Fields(args)...)...)
	}
	if asked := f.requests(); len(asked) != 0 {
		t.Errorf("asked %+v", asked)
	}
}

func TestTokensOfDevicesAreListedAndRevoked(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"tokens":[],"devices":[`+
		`{"id":"00112233445566ff","name":"pump-7","allow":["get","put"],"prefixes":["site/42/"],"expires":"2001-01-02T03:04:05Z","last_seen":"2000-01-02T03:04:05Z"},`+
		`{"id":"0011223344556600","name":"pump-8","allow":["watch"],"prefixes":[""]}]}`))
	got := w.runs(0, "token", "ls", "--socket", f.socket)
	for _, line := range []string{
		"00112233445566ff pump-7 get,put site/42/ 2001-01-02T03:04:05Z (expired) 2000-01-02T03:04:05Z",
		"0011223344556600 pump-8 watch every key - -",
	} {
		if !hasLine(got, line) {
			t.Errorf("got\n%s\nwant the line %q", got, line)
		}
	}
	f.requests()
	w.runs(0, "token", "revoke", "00112233445566ff", "--socket", f.socket)
	if r := f.request(t); r.method != "DELETE" || r.uri != "/v1/devices/00112233445566ff" {
		t.Errorf("asked %+v", r)
	}
}

func TestNodesScope(t *testing.T) {
	w := newWorld(t)
	f := newFakeAgent(t, w.path("a.sock"), answering(200, "application/json", `{"node_id":"7f"}`))
	w.runs(0, "nodes", "scope", "7f", "--prefix=site/42/", "--role=operators", "--socket", f.socket)
	if r := f.request(t); r.method != "PUT" || r.uri != "/v1/nodes/7f/scope" || r.body != `{"roles":["operators"],"prefixes":["site/42/"]}` {
		t.Errorf("asked %+v", r)
	}
	w.runs(0, "nodes", "scope", "7f", "--clear", "--socket", f.socket)
	if r := f.request(t); r.method != "DELETE" {
		t.Errorf("asked %+v", r)
	}
	w.runs(2, "nodes", "scope", "7f", "--socket", f.socket)
	w.runs(2, "nodes", "scope", "7f", "--clear", "--role=x", "--socket", f.socket)
}

func TestALifeMayBeInDays(t *testing.T) {
	for text, want := range map[string]time.Duration{"90d": 2160 * time.Hour, "12h": 12 * time.Hour, "0d": 0, "-1d": 0, "d": 0, "1w": 0, "": 0} {
		if got, err := parseLife(text); got != want || (err == nil) != (want > 0) {
			t.Errorf("%q: %v, %v", text, got, err)
		}
	}
}
