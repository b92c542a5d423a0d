package main

import (
	"archive/tar"
	"bytes"
	"compress/gzip"
	"encoding/json"
	"errors"
	"io"
	"net"
	"os"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api"
)

// Beside a real agent everything can be looked at, and what does not fit is found and has a remedy.
func TestCheckLooksAtAnAgent(t *testing.T) {
	w := newWorld(t)
	dir := "--data-dir=" + w.path("data")
	r := w.background(dir, "--listen=http://127.0.0.1:0", "--peer-listen=127.0.0.1:0")
	r.logged(`"agent ready"`)
	user := newWorld(t)
	found := user.findings(0, dir)
	for name, state := range map[string]string{"config": "ok", "agent": "ok", "udp": "skip", "versions": "ok", "permissions": "ok", "seal": "skip", "disk-space": "ok", "ports": "ok", "uplink": "skip"} {
		if found[name].State != state {
			t.Errorf("%s is %+v, want %s", name, found[name], state)
		}
	}
	if len(found) != len(checks) {
		t.Errorf("%d findings of %d checks", len(found), len(checks))
	}
	if err := os.WriteFile(w.path("data/identity/left-open"), nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(w.path("data/identity/left-open"), 0o644); err != nil {
		t.Fatal(err)
	}
	if got := user.findings(1, dir, "permissions")["permissions"]; got.State != "fail" || !strings.Contains(got.Found, "left-open") || !strings.Contains(got.Remedy, "chmod") {
		t.Errorf("a file that others may read: %+v", got)
	}
	r.send <- os.Interrupt
	r.ends(0)
}

// findings runs check and returns what it found, by name.
func (w *world) findings(code int, args ...string) map[string]finding {
	w.t.Helper()
	out := w.runs(code, append([]string{"check", "-o", "json"}, args...)...)
	var list []finding
	if err := json.Unmarshal([]byte(out), &list); err != nil {
		w.t.Fatalf("%v in %q", err, out)
	}
	found := map[string]finding{}
	for _, one := range list {
		if one.State != checkOK && one.State != checkSkip && one.Remedy == "" {
			w.t.Errorf("%s is %s and has no remedy", one.Check, one.State)
		}
		found[one.Check] = one
	}
	return found
}

func TestCheckFindsWhatIsWrong(t *testing.T) {
	w := newWorld(t)
	taken, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	address := taken.LocalAddr().String()
	w.env = []string{"HOLDFAST_PEER_LISTEN=" + address, "HOLDFAST_LISTEN=http://127.0.0.1:0"}
	if got := w.findings(1, "ports")["ports"]; !strings.Contains(got.Found, address) {
		t.Errorf("a port that is taken: %+v", got)
	}
	w = newWorld(t)
	w.env = []string{"HOLDFAST_LOG_LEVEL=loud"}
	if got := w.findings(1, "config")["config"]; !strings.Contains(got.Found, "loud") {
		t.Errorf("a wrong setting: %+v", got)
	}
	if got := w.findings(1, "agent")["agent"]; got.State != checkFail {
		t.Errorf("no agent: %+v", got)
	}
	if code := w.run("check", "prots"); code != exitUsage {
		t.Errorf("a check that is none: exit %d", code)
	}
}

// Nobody answers where something else listens; a node answers, whoever asks.
func TestCheckAsksOverUDP(t *testing.T) {
	silent, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer silent.Close()
	if err := probeQUIC(t.Context(), silent.LocalAddr().String()); err == nil {
		t.Error("something that does not speak QUIC passes for a node")
	}
	w := newWorld(t)
	free, err := net.ListenPacket("udp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	address := free.LocalAddr().String()
	if err := free.Close(); err != nil {
		t.Fatal(err)
	}
	r := w.background("--data-dir="+w.path("data"), "--listen=http://127.0.0.1:0", "--peer-listen="+address)
	r.logged(`"agent ready"`)
	if err := probeQUIC(t.Context(), address); err != nil {
		t.Errorf("a node: %v", err)
	}
	r.send <- os.Interrupt
	r.ends(0)
}

// A bubble's clock begins in 2000, as that of a box without a battery in 1970.
func TestCheckNoticesAClockThatIsOff(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		if got := checkClock(t.Context(), nil); got.State != checkFail || !strings.Contains(got.Found, "2000-01-01") {
			t.Errorf("%+v", got)
		}
	})
}

func TestCheckJudgesAnAgentByItsStatus(t *testing.T) {
	for _, tc := range []struct {
		status api.Status
		state  string
		says   string
	}{
		{api.Status{Mode: "member", State: "serving", Ready: true, Member: &api.MemberStatus{Leader: "1"}}, checkOK, "member"},
		{api.Status{Ready: true, Member: &api.MemberStatus{Leader: "1", WritesRefused: "disk full"}}, checkFail, "disk full"},
		{api.Status{Ready: true, Member: &api.MemberStatus{Leader: "1", LogHeldSeconds: 7}}, checkFail, "held back a write of the raft log for 7 s"},
		{api.Status{Ready: true, Member: &api.MemberStatus{}}, checkFail, "no quorum"},
		{api.Status{State: "replaying", Reason: "the log"}, checkWarn, "not ready"},
	} {
		if got := checkAgent(t.Context(), &checkup{status: &tc.status}); got.State != tc.state || !strings.Contains(got.Found, tc.says) {
			t.Errorf("%+v: %+v", tc.status, got)
		}
	}
	lost := &checkup{status: &api.Status{Proxy: &api.ProxyStatus{Joined: true, UplinkLost: true, UplinkError: "timeout"}}}
	if got := checkUplink(t.Context(), lost); got.State != checkFail || !strings.Contains(got.Found, "timeout") {
		t.Errorf("%+v", got)
	}
	lost.status.Proxy.UplinkError, lost.status.Proxy.Upstream = "", "192.0.2.1:2380"
	if got := checkUplink(t.Context(), lost); !strings.Contains(got.Found, "nothing comes back from 192.0.2.1:2380") {
		t.Errorf("without an error: %+v", got)
	}
	if got := checkVersions(t.Context(), &checkup{status: &api.Status{Version: "0.0.1"}}); got.State != checkWarn {
		t.Errorf("%+v", got)
	}
	if got := checkAgent(t.Context(), &checkup{statusErr: errors.New("refused")}); got.State != checkFail {
		t.Errorf("%+v", got)
	}
}

// Secrets are planted wherever one may be, and none comes out.
func TestASupportBundleHoldsNoSecret(t *testing.T) {
	w := newWorld(t)
	dir := "--data-dir=" + w.path("data")
	r := w.background(dir, "--listen=http://127.0.0.1:0", "--peer-listen=127.0.0.1:0")
	r.logged(`"agent ready"`)
	user := newWorld(t)
	token := strings.TrimSpace(user.runs(0, "token", "create", dir))
	user.runs(0, "kv", "put", "private", "swordfish-value", dir)
	user.write("etc/agent.yaml", "token-file: "+user.write("tok", "HF1opaque.from.a.file\n")+"\n")
	user.env = []string{"HOLDFAST_TOKEN=letmein-from-the-environment"}
	path := user.path("bundle.tar.gz")
	user.runs(0, "support-bundle", path, dir)
	r.send <- os.Interrupt
	r.ends(0)

	names, all := unpack(t, path)
	for _, want := range []string{"status.json", "checks.json", "settings.txt", "metrics.txt", "goroutines.txt", "files.txt", "nodes.json", "cert.json"} {
		if len(names["holdfast-support/"+want]) < 20 {
			t.Errorf("%s holds %q", want, names["holdfast-support/"+want])
		}
	}
	secrets := []string{token, "swordfish-value", "opaque.from.a.file", "letmein-from-the-environment", "PRIVATE KEY"}
	for _, s := range secrets {
		if bytes.Contains(all, []byte(s)) {
			t.Errorf("%q is in it", s)
		}
	}
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("its mode is %v, %v", info.Mode(), err)
	}
	// What a journal might hold, whoever wrote it.
	c := censor{known: []string{"known-secret"}}
	for text, secret := range map[string]string{
		"token=" + token:                   token,
		"Authorization: Bearer abcdef1234": "abcdef1234",
		`{"password": "hunter22"}`:         "hunter22",
		"-----BEGIN PRIVATE KEY-----\nMC4CAQAw\n-----END PRIVATE KEY-----\n": "MC4CAQAw",
		"-----BEGIN EC PRIVATE KEY-----\nMC4CAQAw cut short":                 "MC4CAQAw",
		"x known-secret y": "known-secret",
	} {
		if got := c.clean([]byte(text)); bytes.Contains(got, []byte(secret)) {
			t.Errorf("%q becomes %q", text, got)
		}
	}
}

// unpack returns what a bundle holds, by name and together.
func unpack(t *testing.T, path string) (files map[string]string, all []byte) {
	t.Helper()
	file, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer file.Close()
	zip, err := gzip.NewReader(file)
	if err != nil {
		t.Fatal(err)
	}
	files = map[string]string{}
	for in := tar.NewReader(zip); ; {
		head, err := in.Next()
		if errors.Is(err, io.EOF) {
			return files, all
		}
		if err != nil {
			t.Fatal(err)
		}
		if time.Since(head.ModTime) > time.Hour {
			t.Errorf("%s is of %v", head.Name, head.ModTime)
		}
		text, err := io.ReadAll(in)
		if err != nil {
			t.Fatal(err)
		}
		files[head.Name], all = string(text), append(all, text...)
	}
}
