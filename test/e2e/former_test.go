//go:build e2e

package e2e

import (
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"testing"
	"time"
)

// Versions that are built of the history of this repository, once, and kept in CACHE.
const (
	// formerVersion is the one that a cluster is upgraded from: it has all of a cluster's life, feature level 1 and store
	// format 3. Raise it when a release is made.
	formerVersion = "8c9fd2d815839d36f85aa5ce60cba1210c6b2a0a"
	// olderVersion reads stores up to format 2: it does not know of writes with a retry key.
	olderVersion = "ff8c830d0fc03f140b84bea13d38920e82b41f52"
)

// former builds a version and returns its binary.
func former(t *testing.T, commit string) string {
	t.Helper()
	dir := filepath.Join(os.Getenv("CACHE"), "former")
	binary := filepath.Join(dir, "agent-"+commit)
	if _, err := os.Stat(binary); err == nil {
		return binary
	}
	began := time.Now()
	source := t.TempDir()
	run := func(dir, line string, args ...string) {
		cmd := exec.CommandContext(t.Context(), "bash", append([]string{"-euo", "pipefail", "-c", line, "bash"}, args...)...)
		cmd.Dir = dir
		if out, err := cmd.CombinedOutput(); err != nil {
			t.Fatalf("build the former version %s (it wants git, and a clone with the whole history: git fetch --unshallow): %v\n%s", commit, err, out)
		}
	}
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	run(".", `git -C "$(git rev-parse --show-toplevel)" archive "$1" | tar -x -C "$2"`, commit, source)
	partly := filepath.Join(source, "agent-built")
	run(source, `CGO_ENABLED=0 go build -tags grpcnotrace -trimpath -buildvcs=false -ldflags "-s -w -X main.version=former-$1" -o "$2" ./cmd/agent`, commit[:7], partly)
	run(source, `cp "$1" "$2.new" && mv "$2.new" "$2"`, partly, binary) // whole or not there
	t.Logf("built %s in %v", commit, time.Since(began).Round(time.Second))
	return binary
}

// instead launches another binary in the place of the one under test.
func instead(binary string) []string { return []string{"sh", "-c", `shift && exec "$0" "$@"`, binary} }

// TestARollingUpgradeUnderLoadLosesNothing starts three boxes and a proxy of a former version and upgrades one after the
// other, while devices write; for as long as both are there they are one cluster, at the former feature level, and a box may go
// back. When all are upgraded the level is raised.
func TestARollingUpgradeUnderLoadLosesNothing(t *testing.T) {
	t.Parallel()
	old := instead(former(t, formerVersion))
	s := newSite(t, 3, old)
	proxy := s.add("proxy", old, "--mode", "proxy", "--proxy-prefixes", "count/")
	proxy.start()
	proxy.waitSynced()
	versions := func() string {
		t.Helper()
		var all []string
		for _, b := range s.boxes {
			all = append(all, b.name+" "+b.status().Version)
		}
		return strings.Join(all, ", ")
	}
	level := s.metric("holdfast_member_feature_level")
	s.devices(draws(t))
	move := func(b *box, to []string, way func()) {
		t.Helper()
		time.Sleep(between)
		b.close()
		way()
		b.through = to
		b.start()
		t.Log(versions())
	}
	stop := func(b *box) func() {
		return func() {
			if code := b.stop(); code != 0 {
				t.Errorf("%s: exit code %d\n%s", b.name, code, b.logTail())
			}
		}
	}
	for i, b := range s.boxes[:2] {
		if i == 0 {
			move(b, nil, b.kill)
		} else {
			move(b, nil, stop(b))
		}
	}
	move(proxy, nil, stop(proxy)) // before the last member
	proxy.waitSynced()
	if now := s.metric("holdfast_member_feature_level"); now != level {
		t.Fatalf("the feature level went from %s to %s while there was a member of the former version", level, now)
	}
	move(s.boxes[0], old, stop(s.boxes[0])) // there is a way back
	move(s.boxes[0], nil, stop(s.boxes[0]))
	move(s.boxes[2], nil, stop(s.boxes[2]))
	time.Sleep(between)
	eventually(t, startMax, func() string { // once all know it, and not before
		if now := s.metric("holdfast_member_feature_level"); now == level {
			return "the feature level is " + now + " still"
		}
		return ""
	})
	proxy.waitSynced()
	s.finish()
	if v := versions(); strings.Contains(v, "former") {
		t.Errorf("not all are upgraded: %s", v)
	}
}

// metric reads a gauge of the first box.
func (s *site) metric(name string) string {
	s.t.Helper()
	r := s.boxes[0].do("GET", "/metrics", nil)
	for line := range strings.Lines(string(r.body)) {
		if value, ok := strings.CutPrefix(line, name+" "); ok {
			return strings.TrimSpace(value)
		}
	}
	s.t.Fatalf("no metric %s in %s", name, r.body)
	return ""
}

// TestAnOlderBinaryRefusesANewerDir has a version that would apply writes twice be started on a data dir with such writes.
func TestAnOlderBinaryRefusesANewerDir(t *testing.T) {
	t.Parallel()
	dir, addr := filepath.Join(t.TempDir(), "data"), freeAddr(t)
	a := start(t, dir, addr)
	a.expect(201, "PUT", "/v1/kv/a", "1", "")
	if r := a.do("PUT", "/v1/kv/once", []byte("x"), "Idempotency-Key", `"k1"`); r.status != 201 {
		t.Fatalf("PUT with a key: %d %s", r.status, r.body)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("exit code %d", code)
	}
	older := launchIn(t, instead(former(t, olderVersion)), dir, addr, "--peer-listen", freeUDP(t))
	if code := older.waitExit(startMax); code != exitConfig {
		t.Errorf("exit code %d, want %d", code, exitConfig)
	}
	if log := older.logTail(); !strings.Contains(log, "run the version that wrote it, or a newer one") {
		t.Errorf("it does not say what to do:\n%s", log)
	} else {
		t.Logf("it says:\n%s", log)
	}
	a = start(t, dir, addr)
	a.expect(200, "GET", "/v1/kv/once", "", "x")
	a.expect(200, "GET", "/v1/kv/a", "", "1")
}
