//go:build e2e

package e2e

import (
	"fmt"
	"io/fs"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"slices"
	"strings"
	"testing"
	"time"
)

// The exit codes of interface.md.
const (
	exitTemporary = 75
	exitConfig    = 78
)

// refusal is an agent that must not run: how it is started, and what it has to say to the person who did.
type refusal struct {
	name string
	args []string
	env  []string
	dir  func(t *testing.T, dir string) // prepares the data dir
	code int
	says []string // regular expressions, all of which its output matches
}

func TestRefusalsExitWithTheirCodeAndNameTheWayOut(t *testing.T) {
	for _, tc := range []refusal{
		{name: "unknown flag", args: []string{"--lisen=http://127.0.0.1:1"}, code: exitConfig, says: []string{"lisen", "--listen"}},
		{name: "unknown key", args: []string{"--config=CONFIG"}, code: exitConfig, says: []string{"data-dri", "data-dir"}},
		{name: "unknown variable", env: []string{"HOLDFAST_LOG_LEVLE=debug"}, code: exitConfig, says: []string{"HOLDFAST_LOG_LEVLE", "HOLDFAST_LOG_LEVEL"}},
		{name: "bad value of a flag", args: []string{"--mode=leader"}, code: exitConfig, says: []string{"leader", "auto, ?member, ?proxy"}},
		{name: "bad value of a variable", env: []string{"HOLDFAST_STORE_FLUSH=often"}, code: exitConfig, says: []string{"often", "HOLDFAST_STORE_FLUSH"}},
		{name: "config file that is not there", args: []string{"--config=/nonexistent/agent.yaml"}, code: exitConfig, says: []string{"/nonexistent/agent.yaml"}},
		{name: "plaintext beyond loopback", args: []string{"--listen=http://0.0.0.0:0"}, code: exitConfig, says: []string{"--insecure|insecure"}},
		{name: "path of the socket too long", args: []string{"--socket=/tmp/" + strings.Repeat("x", 110)}, code: exitConfig, says: []string{"107"}},
		{name: "proxy on an empty dir", args: []string{"--mode=proxy"}, code: exitConfig, says: []string{"--join"}},
		{name: "join without a token", args: []string{"--join=192.0.2.1:2380"}, code: exitConfig, says: []string{"token"}},
		{name: "proxy on the dir of a member", args: []string{"--mode=proxy"}, dir: memberDir, code: exitConfig,
			says: []string{"member", "agent demote", "agent leave --force", "--join"}},
		{name: "both dirs", dir: bothDirs, code: exitConfig, says: []string{"member/", "proxy/"}},
		{name: "both dirs and no record", dir: bothDirsNoRecord, code: exitConfig, says: []string{"member/", "proxy/"}},
		{name: "truncated mode.json", dir: truncatedMode, code: exitConfig, says: []string{`mode\.json`, "backup"}},
		{name: "empty mode.json", dir: emptyMode, code: exitConfig, says: []string{`mode\.json`, "backup"}},
		{name: "flipped bit in mode.json", dir: flippedMode, code: exitConfig, says: []string{`mode\.json`, "backup"}},
		{name: "member without its data", dir: withoutMember, code: exitConfig, says: []string{"member/"}},
		{name: "locked dir", dir: lockedDir, code: exitTemporary, says: []string{"in use", "pid [0-9]+"}},
		{name: "taken port", args: []string{"--listen=TAKEN"}, code: exitTemporary, says: []string{`127\.0\.0\.1:[0-9]+`, "in use"}},
		{name: "taken port for nodes", args: []string{"--peer-listen=TAKEN"}, code: exitTemporary, says: []string{`127\.0\.0\.1:[0-9]+`, "in use", "--peer-listen"}},
	} {
		t.Run(tc.name, func(t *testing.T) { tc.check(t) })
	}
}

func (tc refusal) check(t *testing.T) {
	dir := filepath.Join(t.TempDir(), "data")
	if tc.dir != nil {
		tc.dir(t, dir)
	}
	before := tree(t, dir)
	args := slices.Clone(tc.args)
	for i, arg := range args {
		switch {
		case arg == "--listen=TAKEN":
			args[i] = "--listen=http://" + takenPort(t)
		case arg == "--peer-listen=TAKEN":
			args[i] = "--peer-listen=" + takenUDP(t)
		case arg == "--config=CONFIG":
			path := filepath.Join(t.TempDir(), "agent.yaml")
			if err := os.WriteFile(path, []byte("data-dri: /tmp\n"), 0o644); err != nil {
				t.Fatal(err)
			}
			args[i] = "--config=" + path
		}
	}
	if !slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "--listen") }) {
		args = append(args, "--listen=http://"+freeAddr(t))
	}
	if !slices.ContainsFunc(args, func(s string) bool { return strings.HasPrefix(s, "--peer-listen") }) {
		args = append(args, "--peer-listen="+freeUDP(t))
	}
	cmd := exec.CommandContext(t.Context(), os.Getenv("AGENT"), append([]string{"--data-dir", dir}, args...)...)
	cmd.Env = cleanEnv(t, tc.env...)
	cmd.Dir = t.TempDir()
	cmd.WaitDelay = time.Second
	out := runFor(t, cmd, 20*time.Second)
	if code := cmd.ProcessState.ExitCode(); code != tc.code {
		t.Errorf("exit code %d, want %d", code, tc.code)
	}
	for _, want := range tc.says {
		if !regexp.MustCompile(want).MatchString(out) {
			t.Errorf("it does not say %q", want)
		}
	}
	if strings.Contains(out, "goroutine ") {
		t.Error("it shows a stack")
	}
	if after := tree(t, dir); !slices.Equal(before, after) {
		t.Errorf("the data dir has changed\nbefore %v\nafter  %v", before, after)
	}
	t.Logf("it says:\n%s", out)
}

// runFor runs a command that should end by itself and returns what it printed.
func runFor(t *testing.T, cmd *exec.Cmd, within time.Duration) string {
	t.Helper()
	timer := time.AfterFunc(within, func() { _ = cmd.Process.Kill() })
	out, err := cmd.CombinedOutput()
	if !timer.Stop() {
		t.Errorf("still running after %v", within)
	}
	if cmd.ProcessState == nil {
		t.Fatal(err)
	}
	return string(out)
}

// tree lists what is in a data dir, with sizes and times of change, but for what any start may leave: the lock.
func tree(t *testing.T, dir string) []string {
	t.Helper()
	var all []string
	err := filepath.WalkDir(dir, func(path string, d fs.DirEntry, err error) error {
		if err != nil || path == dir || d.Name() == "agent.lock" {
			return err
		}
		info, err := d.Info()
		if err != nil {
			return err
		}
		all = append(all, fmt.Sprintf("%s %v %d %v", path, info.Mode(), info.Size(), info.ModTime()))
		return nil
	})
	if err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	return all
}

// memberDir makes dir that of a lone member which has stopped.
func memberDir(t *testing.T, dir string) {
	t.Helper()
	a := start(t, dir, freeAddr(t))
	if r := a.do("PUT", "/v1/kv/kept", []byte("v")); r.status != 201 {
		t.Fatalf("PUT: %d %s", r.status, r.body)
	}
	if code := a.stop(); code != 0 {
		t.Fatalf("stop: exit code %d\n%s", code, a.logTail())
	}
}

func bothDirs(t *testing.T, dir string) {
	t.Helper()
	memberDir(t, dir)
	fill(t, filepath.Join(dir, "proxy"))
}

func bothDirsNoRecord(t *testing.T, dir string) {
	t.Helper()
	bothDirs(t, dir)
	if err := os.Remove(filepath.Join(dir, "mode.json")); err != nil {
		t.Fatal(err)
	}
}

func fill(t *testing.T, dir string) {
	t.Helper()
	if err := os.MkdirAll(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(filepath.Join(dir, "cache.db"), []byte("x"), 0o600); err != nil {
		t.Fatal(err)
	}
}

// rewriteMode changes mode.json of a member's dir.
func rewriteMode(t *testing.T, dir string, edit func([]byte) []byte) {
	t.Helper()
	memberDir(t, dir)
	path := filepath.Join(dir, "mode.json")
	text, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, edit(text), 0o600); err != nil {
		t.Fatal(err)
	}
}

func truncatedMode(t *testing.T, dir string) {
	rewriteMode(t, dir, func(b []byte) []byte { return b[:len(b)/2] })
}

func emptyMode(t *testing.T, dir string) { rewriteMode(t, dir, func([]byte) []byte { return nil }) }

func flippedMode(t *testing.T, dir string) {
	rewriteMode(t, dir, func(b []byte) []byte {
		i := strings.Index(string(b), "member")
		if i < 0 {
			t.Fatalf("mode.json does not say member: %s", b)
		}
		b[i] ^= 1
		return b
	})
}

func withoutMember(t *testing.T, dir string) {
	t.Helper()
	memberDir(t, dir)
	if err := os.RemoveAll(filepath.Join(dir, "member")); err != nil {
		t.Fatal(err)
	}
}

// lockedDir leaves another agent running on dir.
func lockedDir(t *testing.T, dir string) {
	t.Helper()
	start(t, dir, freeAddr(t), "--store-flush=10m")
}

// takenPort returns an address on which somebody else listens.
func takenPort(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.Addr().String()
}

// takenUDP is takenPort for other nodes.
func takenUDP(t *testing.T) string {
	t.Helper()
	l, err := net.ListenPacket("udp", "127.0.0.1:0") //nolint:noctx // returns at once
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { l.Close() })
	return l.LocalAddr().String()
}
