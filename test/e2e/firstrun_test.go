//go:build e2e

package e2e

import (
	"bufio"
	"context"
	"errors"
	"fmt"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strconv"
	"strings"
	"syscall"
	"testing"
	"time"
)

// TestFirstRunNeedsNoConfiguration does what the README tells a newcomer to do, on a fresh copy of the tree and a network
// of its own: go run ./cmd/agent, and curl against its default address.
func TestFirstRunNeedsNoConfiguration(t *testing.T) {
	tree := freshTree(t)
	n := newNet(t)
	console := filepath.Join(t.TempDir(), "console.log")
	out, err := os.Create(console)
	if err != nil {
		t.Fatal(err)
	}
	defer out.Close()
	run := n.command(t.Context(), "go", "run", "./cmd/agent")
	run.Dir = tree
	run.Stdout, run.Stderr = out, out
	run.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	if err := run.Start(); err != nil {
		t.Fatal(err)
	}
	ended := make(chan struct{})
	go func() {
		defer close(ended)
		_ = run.Wait() // how it ended is in ProcessState
	}()
	t.Cleanup(func() {
		_ = syscall.Kill(-run.Process.Pid, syscall.SIGKILL) // it has ended if all went well
		if t.Failed() {
			text, _ := os.ReadFile(console)
			t.Logf("it printed:\n%s", text)
		}
	})
	reading := []byte(`{"temp": 21.5, "unit": "C"}` + "\n")
	if err := os.WriteFile(filepath.Join(tree, "reading.json"), reading, 0o644); err != nil {
		t.Fatal(err)
	}
	curl := func(args ...string) (string, error) {
		cmd := n.command(t.Context(), "curl", append([]string{"-sS", "--max-time", "10"}, args...)...)
		cmd.Dir = tree
		out, err := cmd.CombinedOutput()
		return string(out), err
	}
	eventually(t, 5*time.Minute, func() string { // it is compiled first
		select {
		case <-ended:
			t.Fatalf("go run ended: %v", run.ProcessState)
		default:
		}
		out, err := curl("-X", "PUT", "--data-binary", "@reading.json", "localhost:2379/v1/kv/site/42/temp")
		if err == nil && regexp.MustCompile(`^\{"revision":[2-9]\b`).MatchString(out) { // one before may have been done, and not answered in time
			return ""
		}
		return fmt.Sprintf("PUT: %s %v", out, err)
	})
	if got, err := curl("localhost:2379/v1/kv/site/42/temp"); err != nil || got != string(reading) {
		t.Errorf("GET: %q %v", got, err)
	}
	watchWithCurl(t, n, func() {
		if out, err := curl("-X", "PUT", "--data-binary", "on", "localhost:2379/v1/kv/site/42/fan"); err != nil {
			t.Errorf("PUT: %s %v", out, err)
		}
	})
	if _, err := os.Stat(filepath.Join(tree, "holdfast.data", "mode.json")); err != nil {
		t.Errorf("the data is not where the documents say: %v", err)
	}
	n.interruptAgent(run.Process.Pid)
	select {
	case <-ended: // go run itself reports an interrupt; the agent says how it ended
		if text, err := os.ReadFile(console); err != nil || !strings.Contains(string(text), "agent stopped") {
			t.Errorf("Ctrl-C did not stop it cleanly (%v)", err)
		}
	case <-time.After(time.Minute):
		t.Error("it does not stop")
	}
}

// watchWithCurl starts a watch, lets change make a change once the watch is open, and waits for the event.
func watchWithCurl(t *testing.T, n *namespace, change func()) {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), 20*time.Second)
	defer cancel()
	cmd := n.command(ctx, "curl", "-sSN", "-i", "localhost:2379/v1/kv/site/42/?watch&prefix")
	stdout, err := cmd.StdoutPipe()
	if err := errors.Join(err, cmd.Start()); err != nil {
		t.Fatal(err)
	}
	defer func() {
		cancel()
		_ = cmd.Wait() // killed
	}()
	var text strings.Builder
	for lines := bufio.NewScanner(stdout); lines.Scan(); {
		line := lines.Text()
		text.WriteString(line + "\n")
		if line == "" && change != nil { // the end of the header: the watch is open
			change()
			change = nil
		}
		if strings.HasPrefix(line, "data:") && strings.Contains(line, `"site/42/fan"`) {
			return
		}
	}
	t.Errorf("the watch has shown no event:\n%s", text.String())
}

// freshTree copies what git knows or would know of the tree, as a clone would have it.
func freshTree(t *testing.T) string {
	t.Helper()
	to := t.TempDir()
	top := strings.TrimSpace(must(t, "git", "rev-parse", "--show-toplevel"))
	must(t, "bash", "-c", `set -euo pipefail
		cd "$1"; git ls-files -z --cached --others --exclude-standard | xargs -0 -r ls -d 2>/dev/null |
		tar -cf - --no-recursion -T - | tar -xf - -C "$2"`, "copy", top, to)
	if _, err := os.Stat(filepath.Join(to, "go.mod")); err != nil {
		t.Fatalf("nothing was copied: %v", err)
	}
	return to
}

// namespace is a network with nothing but loopback.
type namespace struct {
	t      *testing.T
	holder *exec.Cmd // keeps it alive
}

func newNet(t *testing.T) *namespace {
	t.Helper()
	n := &namespace{t: t, holder: exec.Command("unshare", "--net", "sh", "-c", "ip link set lo up && echo up && exec cat")}
	stdin, err1 := n.holder.StdinPipe() // closed by us, or by the kernel if we are killed: that ends it
	stdout, err2 := n.holder.StdoutPipe()
	if err := errors.Join(err1, err2, n.holder.Start()); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := errors.Join(stdin.Close(), n.holder.Wait()); err != nil {
			t.Error(err)
		}
	})
	if line, err := bufio.NewReader(stdout).ReadString('\n'); err != nil || line != "up\n" {
		t.Fatalf("no network of its own: %q %v", line, err)
	}
	return n
}

func (n *namespace) command(ctx context.Context, name string, args ...string) *exec.Cmd {
	cmd := exec.CommandContext(ctx, "nsenter", append([]string{"-t", strconv.Itoa(n.holder.Process.Pid), "-n", name}, args...)...)
	cmd.Env = append(os.Environ(), "GOPROXY=off") // go mod download has been there
	return cmd
}

// interruptAgent does what Ctrl-C does to the whole process group.
func (n *namespace) interruptAgent(pid int) {
	n.t.Helper()
	if err := syscall.Kill(-pid, syscall.SIGINT); err != nil {
		n.t.Error(err)
	}
}
