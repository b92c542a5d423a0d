package agent

import (
	"bytes"
	"context"
	"encoding/json"
	"log/slog"
	"net/http"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/kv"
)

// auditFile reads the notes of a file.
func auditFile(t *testing.T, path string) (notes []note) {
	t.Helper()
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for line := range bytes.Lines(text) {
		var n note
		if err := json.Unmarshal(line, &n); err != nil {
			t.Fatalf("%v in %q", err, line)
		}
		notes = append(notes, n)
	}
	return notes
}

func TestTheAuditLogSaysWhoChangedWhatAndNeverAValue(t *testing.T) {
	cfg := settings(t)
	cfg.Audit.File, cfg.Audit.MaxBytes = filepath.Join(t.TempDir(), "audit"), 1<<20
	var log bytes.Buffer
	a := launch(t, cfg, Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	within(t, "ready", a.Ready())
	c, base := httpClient(t, nil), a.Addrs()[0]
	expect(t, c, "PUT", base+"/v1/kv/door", "s3cret", http.StatusCreated)
	expect(t, c, "GET", base+"/v1/kv/door", "", http.StatusOK)
	expect(t, c, "DELETE", base+"/v1/kv/site/?prefix", "", http.StatusOK)
	expect(t, c, "POST", base+"/v3/kv/put", `{"key":"YQ==","value":"czNjcmV0"}`, http.StatusOK)
	expect(t, c, "POST", base+"/v1/tokens", `{"role":"proxy"}`, http.StatusNotFound)
	expect(t, overSocket(t, a), "POST", "http://x/v1/tokens", `{"role":"proxy"}`, http.StatusCreated)
	halt(t, a)

	var did []string
	for _, n := range auditFile(t, cfg.Audit.File) {
		did = append(did, n.Door+" "+n.Do+" "+strings.Join(n.Keys, ",")+" "+n.Outcome)
		if n.From == "" || n.From == "unknown" || n.Time.IsZero() {
			t.Errorf("nobody, or at no time: %+v", n)
		}
	}
	want := []string{"clients put door revision 2", "clients delete site/..site0 revision 2", "clients put a revision 3",
		"clients POST /v1/tokens  404", "administration POST /v1/tokens  201"}
	if strings.Join(did, "\n") != strings.Join(want, "\n") {
		t.Errorf("got\n%s\nwant\n%s", strings.Join(did, "\n"), strings.Join(want, "\n"))
	}
	all, err := os.ReadFile(cfg.Audit.File)
	if err != nil || strings.Contains(string(all)+log.String(), "s3cret") {
		t.Errorf("a value was written down, or %v", err)
	}
	if n := strings.Count(log.String(), "msg=audit"); n != 1 || !strings.Contains(log.String(), "/v1/tokens") {
		t.Errorf("%d lines of audit in the log, want the administrator's alone", n)
	}
}

func TestAdministratorsAreAlwaysNoted(t *testing.T) {
	var log bytes.Buffer
	a := launch(t, settings(t), Options{Log: slog.New(slog.NewTextHandler(&log, nil))})
	within(t, "ready", a.Ready())
	expect(t, httpClient(t, nil), "PUT", a.Addrs()[0]+"/v1/kv/door", "b", http.StatusCreated)
	expect(t, httpClient(t, nil), "POST", a.Addrs()[0]+"/v1/tokens", "{}", http.StatusNotFound) // anybody can ask
	expect(t, overSocket(t, a), "POST", "http://x/v3/maintenance/defragment", `{}`, http.StatusOK)
	halt(t, a)
	if n := strings.Count(log.String(), "msg=audit"); n != 1 || !strings.Contains(log.String(), "/etcdserverpb.Maintenance/Defragment") {
		t.Errorf("%d lines of audit, want the administrator's alone", n)
	}
}

func TestARefusedChangeIsNoted(t *testing.T) {
	cfg := settings(t)
	cfg.Audit.File, cfg.Audit.MaxBytes = filepath.Join(t.TempDir(), "audit"), 1<<20
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	c, base := httpClient(t, nil), a.Addrs()[0]
	expect(t, c, "POST", base+"/v3/auth/user/add", `{"name":"root","password":"p"}`, http.StatusOK)
	expect(t, c, "POST", base+"/v3/auth/user/grant", `{"user":"root","role":"root"}`, http.StatusOK)
	expect(t, c, "POST", base+"/v3/auth/enable", `{}`, http.StatusOK)
	expect(t, c, "PUT", base+"/v1/kv/door", "s3cret", http.StatusUnauthorized)
	expect(t, c, "DELETE", base+"/v1/kv/door", "", http.StatusUnauthorized)
	expect(t, c, "POST", base+"/v3/auth/user/add", `{"name":"mallory","password":"p"}`, http.StatusBadRequest)
	as := func(method, path, body string, want int) {
		t.Helper()
		r, err := http.NewRequestWithContext(t.Context(), method, base+path, strings.NewReader(body))
		if err != nil {
			t.Fatal(err)
		}
		r.SetBasicAuth("root", "p")
		res, err := c.Do(r)
		if err != nil {
			t.Fatal(err)
		}
		if _ = res.Body.Close(); res.StatusCode != want {
			t.Errorf("%s %s: %d, want %d", method, path, res.StatusCode, want)
		}
	}
	as("PUT", "/v1/kv/door", "s3cret", http.StatusCreated)
	as("POST", "/v1/tokens", `{"role":"proxy"}`, http.StatusCreated)
	as("POST", "/v3/auth/user/add", `{"name":"ann","password":"p"}`, http.StatusOK)
	halt(t, a)
	var noted []string
	for _, n := range auditFile(t, cfg.Audit.File) {
		noted = append(noted, strings.TrimSpace(n.As+" "+n.Do+" "+strings.Join(n.Keys, ",")+" "+n.Outcome))
	}
	want := []string{
		"/etcdserverpb.Auth/UserAdd  OK", "/etcdserverpb.Auth/UserGrantRole  OK", "/etcdserverpb.Auth/AuthEnable  OK",
		"put door user-empty", "delete door user-empty", "/etcdserverpb.Auth/UserAdd  InvalidArgument",
		"root put door revision 2", "root POST /v1/tokens  201", "root /etcdserverpb.Auth/UserAdd  OK",
	}
	if !slices.Equal(noted, want) {
		t.Errorf("noted:\n%s\nwant:\n%s", strings.Join(noted, "\n"), strings.Join(want, "\n"))
	}
}

// A disk that takes nothing holds nobody up: what finds no room is counted, and told with the next line.
func TestTheAuditLogDropsRatherThanWaits(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	a, err := newAudit(path, 1<<20, slog.New(slog.DiscardHandler), prometheus.NewRegistry())
	if err != nil {
		t.Fatal(err)
	}
	ctx := api.WithCaller(t.Context(), from("192.0.2.1"))
	for range auditRing + 10 { // nobody writes
		a.command(ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("a")}}}, kv.Result{}, nil)
	}
	if got := a.dropped.Load(); got != 10 {
		t.Errorf("%d dropped, want 10", got)
	}
	stopped, stop := context.WithCancel(t.Context())
	stop()
	if err := a.Run(stopped, func() {}); err != nil {
		t.Fatal(err)
	}
	notes := auditFile(t, path)
	if len(notes) != auditRing || notes[0].Dropped != 10 || notes[1].Dropped != 0 {
		t.Errorf("%d notes, the first two say %d and %d dropped", len(notes), notes[0].Dropped, notes[1].Dropped)
	}
}

func TestTheAuditFileIsBounded(t *testing.T) {
	path := filepath.Join(t.TempDir(), "audit")
	const most = 64 << 10
	f, err := openRotated(path, most)
	if err != nil {
		t.Fatal(err)
	}
	line := []byte(strings.Repeat("x", 999) + "\n")
	for range 1000 {
		if err := f.write(line); err != nil {
			t.Fatal(err)
		}
	}
	if err := f.Close(); err != nil {
		t.Fatal(err)
	}
	for _, name := range []string{path, path + ".1"} {
		info, err := os.Stat(name)
		if err != nil || info.Size() == 0 || info.Size() > most || info.Size()%int64(len(line)) != 0 {
			t.Errorf("%s: %v, %v", name, info, err)
		}
	}
	if all, _ := filepath.Glob(path + "*"); len(all) != 2 {
		t.Errorf("files: %v", all)
	}
}
