package compat

import (
	"context"
	"errors"
	"fmt"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"sync"
	"syscall"
	"testing"
	"time"
)

// Bounds on waiting for a server.
const (
	startLimit = 30 * time.Second
	stopLimit  = 15 * time.Second
	readyPoll  = 10 * time.Millisecond
	startTries = 3 // a port may be taken between choosing it and listening on it
)

// kind is what can be started.
type kind struct {
	name string
	bin  string
	args func(s *server) []string
}

func etcdKind(b binaries) kind {
	return kind{name: "etcd", bin: b.etcd, args: func(s *server) []string {
		peer := "http://" + s.peer
		return []string{
			"--name", "m", "--data-dir", s.dir,
			"--listen-client-urls", "http://" + s.addr, "--advertise-client-urls", "http://" + s.addr,
			"--listen-peer-urls", peer, "--initial-advertise-peer-urls", peer, "--initial-cluster", "m=" + peer,
		}
	}}
}

func agentKind(b binaries) kind {
	return kind{name: "agent", bin: b.agent, args: func(s *server) []string {
		return []string{"--name", "m", "--data-dir", s.dir, "--listen", "http://" + s.addr, "--peer-listen", s.peer}
	}}
}

// server is a running one. It ends with the test, or with this program.
type server struct {
	kind
	dir        string
	addr, peer string // host:port

	cmd  *exec.Cmd
	log  *tail
	done chan struct{} // closed when it has ended; then err is set
	err  error
}

// start starts a server on a new directory and returns when it is ready.
func (k kind) start(t testing.TB) *server {
	t.Helper()
	dir, err := os.MkdirTemp("", "compat-") //nolint:usetesting // the agent's socket lies in it, whose path has to be short
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	for try := 1; ; try++ {
		s := &server{kind: k, dir: filepath.Join(dir, strconv.Itoa(try))}
		if s.addr, s.peer, err = freeAddrs(); err != nil {
			t.Fatal(err)
		}
		err := s.run(t.Context())
		if err == nil {
			t.Cleanup(func() { s.stop(t) })
			return s
		}
		if try == startTries {
			t.Fatal(err)
		}
		t.Logf("try %d: %v", try, err)
	}
}

// run forks the server and waits until it is ready; if it does not become so, it is gone when run returns.
func (s *server) run(ctx context.Context) error {
	s.log, s.done = &tail{}, make(chan struct{})
	s.cmd = exec.Command(s.bin, s.args(s)...)
	s.cmd.Dir = filepath.Dir(s.dir)
	s.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.cmd.Dir, "TMPDIR=" + s.cmd.Dir} // no setting of the caller's reaches it
	s.cmd.Stdout, s.cmd.Stderr = s.log, s.log
	s.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := s.cmd.Start(); err != nil {
		return fmt.Errorf("start %s: %w", s.name, err)
	}
	go func() {
		s.err = s.cmd.Wait()
		close(s.done)
	}()
	err := s.awaitReady(ctx)
	if err != nil {
		_ = s.cmd.Process.Kill() // it may have ended, which is what is wanted
		<-s.done
	}
	return err
}

func (s *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready within %v", startLimit))
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		err := fetch(ctx, "http://"+s.addr+"/readyz")
		if err == nil {
			return nil
		}
		select {
		case <-s.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", s.name, s.err, s.log)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: last answer: %w\n%s", s.name, context.Cause(ctx), err, s.log)
		case <-poll.C:
		}
	}
}

// stop asks the server to end and waits for it. If the test has failed, its last log lines are in the test's output.
func (s *server) stop(t testing.TB) {
	select {
	case <-s.done:
		t.Errorf("%s ended during the test: %v\n%s", s.name, s.err, s.log)
		return
	default:
	}
	if err := s.cmd.Process.Signal(syscall.SIGTERM); err != nil {
		t.Errorf("stop %s: %v", s.name, err)
	}
	select {
	case <-s.done:
	case <-time.After(stopLimit):
		t.Errorf("%s did not stop within %v", s.name, stopLimit)
		_ = s.cmd.Process.Kill()
		<-s.done
	}
	if t.Failed() && testing.Verbose() && s.name == "agent" {
		t.Logf("the log of %s ends with\n%s", s.name, s.log)
	}
}

// fetch gets a page over a connection of its own; any status but 200 is an error.
func fetch(ctx context.Context, url string) error {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, url, http.NoBody)
	if err != nil {
		return err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true}}
	res, err := c.Do(req)
	if err != nil {
		return err
	}
	if res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s", url, res.Status)
	}
	return errors.Join(err, res.Body.Close())
}

// freeAddrs returns two loopback addresses that nobody listens on.
func freeAddrs() (a, b string, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer l.Close()
	m, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return "", "", err
	}
	defer m.Close()
	return l.Addr().String(), m.Addr().String(), nil
}

// tail keeps the end of what a server said.
type tail struct {
	mu  sync.Mutex
	buf []byte
}

const tailBytes = 4 << 10

func (t *tail) Write(p []byte) (int, error) {
	t.mu.Lock()
	defer t.mu.Unlock()
	t.buf = append(t.buf, p...)
	t.buf = t.buf[max(0, len(t.buf)-tailBytes):]
	return len(p), nil
}

func (t *tail) String() string {
	t.mu.Lock()
	defer t.mu.Unlock()
	return string(t.buf)
}
