package compat

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
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

// commandLimit is how long a command may take, and how long one in the background is waited for.
const commandLimit = 30 * time.Second

// side is one of the two servers, with what its answers have in them that is its own.
type side struct {
	*server
	ctl     string // the etcdctl to use
	dest    *server
	members []*server // of a cluster; the server is one of them. Nil: it is alone
	out     string    // a folder for what commands write
	vars    map[string]string
	jobs    map[string]*job
	ids     ids
}

// answer is what a command said.
type answer struct {
	stdout, stderr string
	code           int
}

func newSide(t testing.TB, k kind, ctl string) *side {
	t.Helper()
	s := &side{server: k.start(t), ctl: ctl, vars: map[string]string{}, jobs: map[string]*job{}}
	s.out = filepath.Join(filepath.Dir(s.dir), "out")
	if err := os.Mkdir(s.out, 0o700); err != nil {
		t.Fatal(err)
	}
	return s
}

// expand puts the side's own values into a word.
func (s *side) expand(word string) (string, error) {
	var missing error
	word = os.Expand(word, func(name string) string {
		switch name {
		case "$": // $$ is one
			return name
		case "ADDR":
			return s.addr
		case "DIR":
			return s.out
		case "DEST":
			if s.dest != nil {
				return s.dest.addr
			}
		}
		v, ok := s.vars[name]
		if !ok {
			missing = fmt.Errorf("%s has no $%s", s.name, name)
		}
		return v
	})
	return word, missing
}

// command is an etcdctl that was not started yet.
func (s *side) command(ctx context.Context, words []string) (*exec.Cmd, error) {
	args := make([]string, len(words))
	for i, w := range words {
		var err error
		if args[i], err = s.expand(w); err != nil {
			return nil, err
		}
	}
	cmd := exec.CommandContext(ctx, s.ctl, args...)
	cmd.Dir = s.out
	// Two seconds, its own limit, are few for a password on a busy machine.
	cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + s.out, "ETCDCTL_DIAL_TIMEOUT=20s"}
	if !slices.Contains(args, "--endpoints") { // etcdctl dies of both
		cmd.Env = append(cmd.Env, "ETCDCTL_ENDPOINTS="+s.addr)
	}
	cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	cmd.WaitDelay = time.Second
	return cmd, nil
}

// run runs a command to its end.
func (s *side) run(ctx context.Context, words []string, input string, limit time.Duration) (answer, error) {
	if limit == 0 {
		limit = commandLimit
	}
	ctx, cancel := context.WithTimeoutCause(ctx, limit, fmt.Errorf("still running after %v", limit))
	defer cancel()
	cmd, err := s.command(ctx, words)
	if err != nil {
		return answer{}, err
	}
	if input, err = s.expand(input); err != nil {
		return answer{}, err
	}
	cmd.Stdin = strings.NewReader(input)
	var stdout, stderr bytes.Buffer
	cmd.Stdout, cmd.Stderr = &stdout, &stderr
	err = cmd.Run()
	if ctx.Err() != nil {
		return answer{}, fmt.Errorf("%w; it said\n%s%s", context.Cause(ctx), &stdout, &stderr)
	}
	if exit := (*exec.ExitError)(nil); err != nil && !errors.As(err, &exit) {
		return answer{}, err
	}
	return answer{stdout: stdout.String(), stderr: stderr.String(), code: cmd.ProcessState.ExitCode()}, nil
}

// job is a command in the background.
type job struct {
	cmd            *exec.Cmd
	cancel         context.CancelFunc
	input          io.WriteCloser
	stdout, stderr *heard
	done           chan struct{} // closed when it has ended
}

// launch starts a command in the background; it ends with the test.
func (s *side) launch(t testing.TB, name string, words []string, input string) error {
	ctx, cancel := context.WithCancel(context.Background())
	cmd, err := s.command(ctx, words)
	if err != nil {
		cancel()
		return err
	}
	j := &job{cmd: cmd, cancel: cancel, stdout: newHeard(), stderr: newHeard(), done: make(chan struct{})}
	cmd.Stdout, cmd.Stderr = j.stdout, j.stderr
	if j.input, err = cmd.StdinPipe(); err != nil {
		cancel()
		return err
	}
	if err := cmd.Start(); err != nil {
		cancel()
		return err
	}
	go func() {
		_ = cmd.Wait() // its exit code is looked at
		close(j.done)
	}()
	t.Cleanup(func() {
		cancel()
		<-j.done
	})
	s.jobs[name] = j
	return j.feed(input)
}

func (j *job) feed(text string) error {
	_, err := io.WriteString(j.input, text)
	return err
}

// until waits until the job has said something.
func (j *job) until(text string) error {
	limit := time.After(commandLimit)
	said := func() bool {
		return strings.Contains(j.stdout.String(), text) || strings.Contains(j.stderr.String(), text)
	}
	for {
		out, log := j.stdout.more(), j.stderr.more()
		if said() {
			return nil
		}
		select {
		case <-out:
		case <-log:
		case <-j.done:
			if said() {
				return nil
			}
			return fmt.Errorf("it ended without saying %q but\n%s%s", text, j.stdout, j.stderr)
		case <-limit:
			return fmt.Errorf("it did not say %q within %v but\n%s%s", text, commandLimit, j.stdout, j.stderr)
		}
	}
}

// end waits for the end of the job, which it may ask for.
func (j *job) end(interrupt bool) (answer, error) {
	if interrupt {
		if err := j.cmd.Process.Signal(syscall.SIGINT); err != nil && !errors.Is(err, os.ErrProcessDone) {
			return answer{}, err
		}
	}
	select {
	case <-j.done:
	case <-time.After(commandLimit):
		return answer{}, fmt.Errorf("still running after %v; it said\n%s%s", commandLimit, j.stdout, j.stderr)
	}
	return answer{stdout: j.stdout.String(), stderr: j.stderr.String(), code: j.cmd.ProcessState.ExitCode()}, nil
}

// heard is what a job has said so far.
type heard struct {
	mu   sync.Mutex
	buf  bytes.Buffer
	news chan struct{} // closed by the next write
}

func newHeard() *heard { return &heard{news: make(chan struct{})} }

func (h *heard) Write(p []byte) (int, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	close(h.news)
	h.news = make(chan struct{})
	return h.buf.Write(p)
}

func (h *heard) more() <-chan struct{} {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.news
}

func (h *heard) String() string {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.buf.String()
}
