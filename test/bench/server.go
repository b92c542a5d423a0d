package main

import (
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"slices"
	"strconv"
	"sync"
	"syscall"
	"time"

	"golang.org/x/sys/unix"
)

// Bounds on waiting for a server.
const (
	startLimit = 30 * time.Second
	stopLimit  = 30 * time.Second
	readyPoll  = time.Millisecond // resolution of the start times
)

// system is something that can be started and measured.
type system struct {
	name    string
	version string
	bin     string
	args    func(dir string, port, peer int) []string
	ready   func(ctx context.Context, addr string) error // nil once it serves
}

// server is a running system. Its context ending kills it, and the kernel does if this program dies first.
type server struct {
	*system
	dir     string
	addr    string
	pid     int
	started time.Duration // from fork to ready

	cmd    *exec.Cmd
	log    *tail
	disk   *disk         // its own, nil if it shares one
	beside []*server     // members of the same cluster, whose costs count with its own
	done   chan struct{} // closed when it has ended; then final and err are set
	final  counters
	err    error
}

// watched says how a server is looked at while it runs; the zero value is not at all. Either slows it down, so that
// figures of speed mean nothing.
type watched struct {
	trace string // file in which strace notes the calls that make data durable
	image string // file system to mount on the server's directory, see disk
}

// start forks a server on dir, which must be there, and returns when it is ready.
func (s *system) start(ctx context.Context, dir string, w watched) (*server, error) {
	port, peer, err := freePorts()
	if err != nil {
		return nil, err
	}
	v := &server{system: s, dir: dir, addr: net.JoinHostPort("127.0.0.1", strconv.Itoa(port)), log: &tail{}, done: make(chan struct{})}
	data := dir
	if w.image != "" {
		data = filepath.Join(dir, "data")
	}
	bin, args := w.wrap(dir, s.bin, s.args(data, port, peer))
	v.cmd = exec.CommandContext(ctx, bin, args...)
	v.cmd.Dir = dir
	v.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + data, "TMPDIR=" + data} // no setting of the caller's reaches it
	v.cmd.Stdout, v.cmd.Stderr = v.log, v.log
	v.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	v.cmd.WaitDelay = stopLimit
	begin := time.Now()
	if err := v.cmd.Start(); err != nil {
		return nil, fmt.Errorf("start %s: %w", s.name, err)
	}
	v.pid = v.cmd.Process.Pid
	go v.wait()
	if err := v.awaitReady(ctx); err != nil {
		v.kill()
		return nil, err
	}
	v.started = time.Since(begin)
	if w.image != "" {
		if v.disk, err = openDisk(v.pid, w.image, dir); err != nil {
			v.kill()
			return nil, err
		}
	}
	return v, nil
}

// wrap puts the commands of what is watched around another. All of it stays one process.
func (w watched) wrap(dir, bin string, args []string) (string, []string) {
	if w.trace != "" {
		bin, args = "strace", slices.Concat(straceArgs(w.trace), []string{bin}, args)
	}
	if w.image != "" {
		bin, args = onDisk(w.image, dir, bin, args)
	}
	return bin, args
}

// wait reads the last counters between the end of the process and its burial. It ends with the process.
func (v *server) wait() {
	defer close(v.done)
	for {
		err := unix.Waitid(unix.P_PID, v.pid, nil, unix.WEXITED|unix.WNOWAIT, nil)
		if !errors.Is(err, unix.EINTR) {
			v.err = err
			break
		}
	}
	if v.err == nil {
		v.final, v.err = readCounters(v.pid)
	}
	v.err = errors.Join(v.err, v.cmd.Wait())
}

func (v *server) awaitReady(ctx context.Context) error {
	ctx, cancel := context.WithTimeoutCause(ctx, startLimit, fmt.Errorf("not ready within %v", startLimit))
	defer cancel()
	poll := time.NewTicker(readyPoll)
	defer poll.Stop()
	for {
		err := v.ready(ctx, v.addr)
		if err == nil {
			return nil
		}
		select {
		case <-v.done:
			return fmt.Errorf("%s ended before it was ready: %w\n%s", v.name, v.err, v.log)
		case <-ctx.Done():
			return fmt.Errorf("%s: %w: last answer: %w\n%s", v.name, context.Cause(ctx), err, v.log)
		case <-poll.C:
		}
	}
}

// counters reads what the server, and those beside it, have used so far.
func (v *server) counters() (counters, error) {
	sum, err := readCounters(v.pid)
	if err != nil {
		return sum, fmt.Errorf("%s is gone: %w\n%s", v.name, err, v.log)
	}
	for _, o := range v.beside {
		c, err := o.counters()
		if err != nil {
			return sum, err
		}
		sum.cpu += c.cpu
		sum.wrote += c.wrote
	}
	return sum, nil
}

// stop asks the server to end and returns what it used in its whole life, so that work it had put off is counted too.
func (v *server) stop() (counters, error) {
	if err := v.cmd.Process.Signal(syscall.SIGTERM); err != nil && !errors.Is(err, os.ErrProcessDone) {
		return counters{}, fmt.Errorf("stop %s: %w", v.name, err)
	}
	select {
	case <-v.done:
	case <-time.After(stopLimit):
		v.kill()
		return counters{}, fmt.Errorf("%s did not stop within %v\n%s", v.name, stopLimit, v.log)
	}
	// A server may end by the signal itself, as etcd does.
	if ws, ok := v.cmd.ProcessState.Sys().(syscall.WaitStatus); ok && ws.Signaled() && ws.Signal() == syscall.SIGTERM {
		return v.final, nil
	}
	if v.err != nil {
		return v.final, fmt.Errorf("%s stopped badly: %w\n%s", v.name, v.err, v.log)
	}
	return v.final, nil
}

// kill ends the server if it still runs, waits for it, and lets its disk go.
func (v *server) kill() {
	_ = v.cmd.Process.Kill() // it may have ended, which is what is wanted
	<-v.done
	if v.disk != nil {
		_ = v.disk.Close() // nothing was written through it
	}
}

// freePorts returns two ports that nobody listens on.
func freePorts() (a, b int, err error) {
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer l.Close()
	m, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		return 0, 0, err
	}
	defer m.Close()
	return l.Addr().(*net.TCPAddr).Port, m.Addr().(*net.TCPAddr).Port, nil
}

// askOK returns a check that a path answers 200.
func askOK(path string) func(context.Context, string) error {
	return func(ctx context.Context, addr string) error {
		_, err := fetch(ctx, addr, path)
		return err
	}
}

// fetch gets a small page over a connection of its own.
func fetch(ctx context.Context, addr, path string) ([]byte, error) {
	ctx, cancel := context.WithTimeout(ctx, 5*time.Second)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://"+addr+path, nil)
	if err != nil {
		return nil, err
	}
	c := http.Client{Transport: &http.Transport{DisableKeepAlives: true, Proxy: nil}}
	res, err := c.Do(req)
	if err != nil {
		return nil, err
	}
	defer res.Body.Close()
	body, err := io.ReadAll(io.LimitReader(res.Body, 8<<20))
	if err == nil && res.StatusCode != http.StatusOK {
		err = fmt.Errorf("GET %s: %s: %s", path, res.Status, body)
	}
	return body, err
}

// tail keeps the end of what a server said, for the error that needs it. It is in memory, so that logging does not
// count as the server's disk writes.
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
