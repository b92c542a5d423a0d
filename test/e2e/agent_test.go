//go:build e2e

package e2e

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// startMax is how long an agent may take to be ready, replay included, on a slow shared machine.
const startMax = 60 * time.Second

func TestMain(m *testing.M) {
	if err := preconditions(); err != nil {
		fmt.Fprintln(os.Stderr, "e2e:", err)
		os.Exit(1)
	}
	code := m.Run()
	for _, dir := range leftBehind {
		_ = os.RemoveAll(dir) // of use to nobody, and in the way of nobody either
	}
	os.Exit(code)
}

// leftBehind is folders that several tests use.
var leftBehind []string

func preconditions() error {
	if os.Geteuid() != 0 {
		return errors.New("these tests mount, boot and kill: run them as root")
	}
	if info, err := os.Stat(os.Getenv("AGENT")); err != nil || info.Mode()&0o111 == 0 {
		return fmt.Errorf("AGENT=%q is not a binary that can be run: use make e2e", os.Getenv("AGENT"))
	}
	if !filepath.IsAbs(os.Getenv("CACHE")) {
		return fmt.Errorf("CACHE=%q is not an absolute path: use make e2e", os.Getenv("CACHE"))
	}
	return nil
}

// agent is one process of the binary under test.
type agent struct {
	t       *testing.T
	cmd     *exec.Cmd
	url     string
	via     http.RoundTripper // how it is reached, nil for the network
	dir     string
	log     string // file that has its standard error
	spawned time.Time
	killed  bool
	token   string        // file with a token to be promoted with, if its settings have none
	exited  chan struct{} // closed when it has ended
}

// cleanEnv is what an agent finds around it: nothing of the caller's settings.
func cleanEnv(t *testing.T, more ...string) []string {
	return append([]string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir(), "TMPDIR=" + os.TempDir()}, more...)
}

// freeAddr returns an address on which nothing listens, another one each time: the kernel may give out one again before an
// agent has taken it.
func freeAddr(t *testing.T) string {
	t.Helper()
	for {
		l, err := net.Listen("tcp", "127.0.0.1:0")
		if err != nil {
			t.Fatal(err)
		}
		addr := l.Addr().String()
		if err := l.Close(); err != nil {
			t.Fatal(err)
		}
		if _, taken := givenOut.LoadOrStore("tcp "+addr, true); !taken {
			return addr
		}
	}
}

// givenOut is the addresses that freeAddr and freeUDP have returned.
var givenOut sync.Map

// launch starts an agent on dir and addr and does not wait; unless args say where, it listens for other nodes on a free
// port. It is killed when the test ends; its log is shown if the test fails while it runs.
func launch(t *testing.T, dir, addr string, args ...string) *agent {
	t.Helper()
	if !slices.Contains(args, "--peer-listen") {
		args = append([]string{"--peer-listen", freeUDP(t)}, args...)
	}
	return launchIn(t, nil, dir, addr, args...)
}

// launchIn is launch through a command that ends by executing its arguments.
func launchIn(t *testing.T, through []string, dir, addr string, args ...string) *agent {
	t.Helper()
	a := &agent{t: t, url: "http://" + addr, dir: dir, exited: make(chan struct{})}
	log, err := os.CreateTemp(t.TempDir(), "agent-*.log")
	if err != nil {
		t.Fatal(err)
	}
	a.log = log.Name()
	line := slices.Concat(through, []string{os.Getenv("AGENT"), "run", "--data-dir", dir, "--listen", "http://" + addr, "--log-format", "json"}, args)
	a.cmd = exec.Command(line[0], line[1:]...)
	a.cmd.Env = cleanEnv(t)
	a.cmd.Dir = filepath.Dir(a.log)
	a.cmd.Stdout, a.cmd.Stderr = log, log
	a.cmd.SysProcAttr = &syscall.SysProcAttr{Setpgid: true}
	a.spawned = time.Now()
	err = a.cmd.Start()
	if err := errors.Join(err, log.Close()); err != nil {
		t.Fatal(err)
	}
	go func() {
		defer close(a.exited)
		_ = a.cmd.Wait() // how it ended is in ProcessState
	}()
	t.Cleanup(func() {
		killed := a.killed
		a.kill()
		a.logsAlone()
		if t.Failed() && !killed {
			t.Logf("the end of the log of pid %d:\n%s", a.cmd.Process.Pid, a.logTail())
		}
	})
	return a
}

// logsAlone fails the test if anything but the agent's own log and its last words is on standard error: a library that has
// found its own way there.
func (a *agent) logsAlone() {
	text, err := os.ReadFile(a.log)
	if err != nil {
		a.t.Error(err)
		return
	}
	for line := range strings.Lines(string(text)) {
		var record struct{ Time, Level, Msg string }
		whole := strings.HasSuffix(line, "\n") // else the kill came in between
		if !whole || strings.HasPrefix(line, "agent: ") {
			continue
		}
		if err := json.Unmarshal([]byte(line), &record); err != nil || record.Time == "" || record.Level == "" || record.Msg == "" {
			a.t.Errorf("this line is not of the agent's log: %s", line)
			return
		}
	}
}

// start is launch, and waits until the agent is ready.
func start(t *testing.T, dir, addr string, args ...string) *agent {
	t.Helper()
	a := launch(t, dir, addr, args...)
	a.waitReady()
	return a
}

func (a *agent) waitReady() {
	a.t.Helper()
	client := http.Client{Timeout: time.Second, Transport: a.via}
	last := "no answer"
	for time.Since(a.spawned) < startMax {
		select {
		case <-a.exited:
			a.t.Fatalf("the agent ended (%v) instead of becoming ready:\n%s", a.cmd.ProcessState, a.logTail())
		default:
		}
		resp, err := client.Get(a.url + "/readyz")
		if err == nil {
			body, _ := io.ReadAll(resp.Body)
			resp.Body.Close()
			if resp.StatusCode == http.StatusOK {
				return
			}
			last = fmt.Sprintf("%s: %s", resp.Status, body)
		}
		time.Sleep(5 * time.Millisecond)
	}
	a.t.Fatalf("not ready after %v, last: %s\n%s", startMax, last, a.logTail())
}

// kill ends the agent as a power cut would, as far as a process can tell, and waits until it is gone.
func (a *agent) kill() {
	a.killed = true
	_ = a.cmd.Process.Kill() // it may have ended
	<-a.exited
}

// stop asks the agent to end and returns its exit code.
func (a *agent) stop() int {
	a.t.Helper()
	if err := a.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		a.t.Fatal(err)
	}
	return a.waitExit(startMax)
}

func (a *agent) waitExit(within time.Duration) int {
	a.t.Helper()
	select {
	case <-a.exited:
		return a.cmd.ProcessState.ExitCode()
	case <-time.After(within):
		a.t.Fatalf("still running after %v:\n%s", within, a.logTail())
		return -1
	}
}

func (a *agent) logTail() string {
	text, err := os.ReadFile(a.log)
	if err != nil {
		return err.Error()
	}
	const most = 4000
	return string(text[max(0, len(text)-most):])
}

// reply is an answer over HTTP, read to its end.
type reply struct {
	status int
	header http.Header
	body   []byte
}

// call sends one request and reads the answer.
func call(ctx context.Context, client *http.Client, method, url string, body []byte, header ...string) (reply, error) {
	req, err := http.NewRequestWithContext(ctx, method, url, bytes.NewReader(body))
	if err != nil {
		return reply{}, err
	}
	for i := 0; i+1 < len(header); i += 2 {
		req.Header.Set(header[i], header[i+1])
	}
	resp, err := client.Do(req)
	if err != nil {
		return reply{}, err
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	return reply{resp.StatusCode, resp.Header, text}, err
}

// do is call for tests to which no answer is a failure.
func (a *agent) do(method, path string, body []byte, header ...string) reply {
	a.t.Helper()
	ctx, cancel := context.WithTimeout(a.t.Context(), 30*time.Second)
	defer cancel()
	r, err := call(ctx, &http.Client{Transport: a.via}, method, a.url+path, body, header...)
	if err != nil {
		a.t.Fatalf("%s %s: %v\n%s", method, path, err, a.logTail())
	}
	return r
}

// eventually asks until what returns nothing, and fails with its last word after a while.
func eventually(t *testing.T, within time.Duration, what func() string) {
	t.Helper()
	deadline := time.Now().Add(within)
	for {
		last := what()
		if last == "" {
			return
		}
		if time.Now().After(deadline) {
			t.Fatalf("after %v: %s", within, last)
		}
		time.Sleep(20 * time.Millisecond)
	}
}
