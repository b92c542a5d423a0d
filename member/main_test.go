package member

import (
	"bufio"
	"context"
	"fmt"
	"log/slog"
	"os"
	"os/exec"
	"strings"
	"testing"
	"time"

	"go.uber.org/goleak"
)

// Tests that kill or ruin a member do so in a process of its own: this test binary with childEnv set to what it is to
// do and dirEnv to where.
const (
	childEnv = "HOLDFAST_MEMBER_CHILD"
	dirEnv   = "HOLDFAST_MEMBER_DIR"
)

func TestMain(m *testing.M) {
	if what := os.Getenv(childEnv); what != "" {
		child(what, os.Getenv(dirEnv))
		os.Exit(0)
	}
	goleak.VerifyTestMain(m)
}

// child is what a process of its own does.
func child(what, dir string) {
	if op, ok := strings.CutPrefix(what, "halt "); ok {
		childHalts(op)
		return
	}
	m, err := Open(Config{Dir: dir, Log: slog.New(slog.NewTextHandler(os.Stderr, nil))})
	if err != nil {
		fmt.Println("open:", err)
		os.Exit(1)
	}
	done := make(chan error, 1)
	go func() { done <- m.Run(context.Background()) }()
	select {
	case <-m.Ready():
	case err := <-done:
		fmt.Println("run:", err)
		os.Exit(1)
	}
	switch what {
	case "write":
		childWrites(m)
	case "renew":
		childRenews(m)
	case "ruin":
		childRuins(m, done)
	}
}

// process is a child that runs.
type process struct {
	*exec.Cmd
	t   *testing.T
	out *bufio.Scanner
	err *strings.Builder
}

func startChild(t *testing.T, what, dir string) *process {
	t.Helper()
	p := &process{Cmd: exec.Command(os.Args[0]), t: t, err: &strings.Builder{}} //nolint:gosec // ourselves
	p.Env = append(os.Environ(), childEnv+"="+what, dirEnv+"="+dir)
	p.Stderr = p.err
	out, err := p.StdoutPipe()
	if err != nil {
		t.Fatal(err)
	}
	p.out = bufio.NewScanner(out)
	if err := p.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if p.ProcessState == nil {
			_ = p.Process.Kill()
			_ = p.Wait()
		}
	})
	return p
}

// within fails the test unless cond becomes true in time.
func within(t *testing.T, limit time.Duration, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(limit); !cond(); time.Sleep(2 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %s: %s", limit, what)
		}
	}
}
