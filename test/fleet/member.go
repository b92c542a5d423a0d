package main

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strconv"
	"strings"
	"syscall"
	"time"
)

// member is the built agent, alone in its cluster.
type member struct {
	cmd  *exec.Cmd
	bin  string
	dir  string
	http string // where its clients reach it
	peer string // where its proxies do
	log  bytes.Buffer
	done chan error
}

// startLimit bounds how long it may take to be ready, and to stop.
const startLimit = time.Minute

func startMember(ctx context.Context, bin, dir string) (*member, error) {
	client, err := freePort("tcp")
	if err != nil {
		return nil, err
	}
	peer, err := freePort("udp")
	if err != nil {
		return nil, err
	}
	m := &member{bin: bin, dir: dir, http: "http://" + client, peer: peer, done: make(chan error, 1)}
	m.cmd = exec.CommandContext(ctx, bin, "run", "--data-dir", dir, "--listen", m.http, "--peer-listen", peer, "--log-level", "warn")
	m.cmd.Stdout, m.cmd.Stderr = &m.log, &m.log
	m.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := m.cmd.Start(); err != nil {
		return nil, err
	}
	go func() { m.done <- m.cmd.Wait() }()
	for deadline := time.Now().Add(startLimit); ; time.Sleep(10 * time.Millisecond) {
		r, err := http.Get(m.http + "/readyz")
		if err == nil {
			_ = r.Body.Close()
			if r.StatusCode == http.StatusOK {
				return m, nil
			}
		}
		if time.Now().After(deadline) {
			return nil, errors.Join(fmt.Errorf("the member is not ready within %v: %s", startLimit, m.log.String()), m.stop())
		}
	}
}

// freePort is an address on the loopback that is free at present.
func freePort(network string) (string, error) {
	if network == "udp" {
		c, err := net.ListenPacket("udp", "127.0.0.1:0")
		if err != nil {
			return "", err
		}
		defer c.Close()
		return c.LocalAddr().String(), nil
	}
	l, err := net.Listen(network, "127.0.0.1:0")
	if err != nil {
		return "", err
	}
	defer l.Close()
	return l.Addr().String(), nil
}

// token makes one that any number of proxies may join with.
func (m *member) token(ctx context.Context) (string, error) {
	out, err := exec.CommandContext(ctx, m.bin, "token", "create", "--role", "proxy", "--uses", "0", "--data-dir", m.dir).Output()
	if err != nil {
		return "", fmt.Errorf("make a token: %w: %s", err, out)
	}
	return strings.TrimSpace(string(out)), nil
}

// put writes a key as a client on the spot does, and says how long that took.
func (m *member) put(ctx context.Context, key string) (time.Duration, error) {
	began := time.Now()
	q, err := http.NewRequestWithContext(ctx, http.MethodPut, m.http+"/v1/kv/"+key, strings.NewReader("v"))
	if err != nil {
		return 0, err
	}
	r, err := http.DefaultClient.Do(q)
	if err != nil {
		return 0, err
	}
	_, err = io.Copy(io.Discard, r.Body)
	if err = errors.Join(err, r.Body.Close()); err == nil && r.StatusCode/100 != 2 {
		err = fmt.Errorf("put %s: %s", key, r.Status)
	}
	return time.Since(began), err
}

// collections is how often the collector has to run until stacks that grew in a handshake have shrunk: each time by half.
const collections = 5

// collect has the member's collector run, which it does every two minutes by itself: what a fleet at rest takes is asked
// for, and not what joining has left.
func (m *member) collect(ctx context.Context) error {
	for range collections {
		if _, err := m.ask(ctx, "/debug/pprof/heap?gc=1"); err != nil {
			return err
		}
	}
	return nil
}

// ask gets something over the member's administration socket.
func (m *member) ask(ctx context.Context, path string) (body []byte, err error) {
	socket := filepath.Join(m.dir, "agent.sock")
	admin := http.Client{Transport: &http.Transport{DialContext: func(ctx context.Context, _, _ string) (net.Conn, error) {
		return (&net.Dialer{}).DialContext(ctx, "unix", socket)
	}}}
	defer admin.CloseIdleConnections()
	q, err := http.NewRequestWithContext(ctx, http.MethodGet, "http://agent"+path, nil)
	if err != nil {
		return nil, err
	}
	r, err := admin.Do(q)
	if err != nil {
		return nil, err
	}
	body, err = io.ReadAll(r.Body)
	if err = errors.Join(err, r.Body.Close()); err == nil && r.StatusCode != http.StatusOK {
		err = fmt.Errorf("%s: %s: %s", path, r.Status, body)
	}
	return body, err
}

// profile writes down what the member's memory is taken by.
func (m *member) profile(ctx context.Context, dir string) error {
	for name, path := range map[string]string{
		"heap.pprof": "/debug/pprof/heap?gc=1", "goroutine.pprof": "/debug/pprof/goroutine", "goroutines.txt": "/debug/pprof/goroutine?debug=1", "metrics.txt": "/metrics",
	} {
		b, err := m.ask(ctx, path)
		if err != nil {
			return err
		}
		if err := os.WriteFile(filepath.Join(dir, name), b, 0o644); err != nil { //nolint:gosec // figures
			return err
		}
	}
	return nil
}

// usage is what the kernel says of the member's process.
type usage struct {
	anon, rss int64 // bytes
	cpu       time.Duration
}

func (m *member) usage() (u usage, err error) {
	proc := "/proc/" + strconv.Itoa(m.cmd.Process.Pid)
	status, err := os.ReadFile(filepath.Join(proc, "status"))
	if err != nil {
		return u, err
	}
	for line := range strings.Lines(string(status)) {
		name, rest, _ := strings.Cut(line, ":")
		if f := strings.Fields(rest); len(f) == 2 && (name == "RssAnon" || name == "VmRSS") {
			kib, err := strconv.ParseInt(f[0], 10, 64)
			if err != nil {
				return u, err
			}
			if name == "VmRSS" {
				u.rss = kib << 10
			} else {
				u.anon = kib << 10
			}
		}
	}
	stat, err := os.ReadFile(filepath.Join(proc, "stat"))
	if err != nil {
		return u, err
	}
	f := strings.Fields(string(stat[bytes.LastIndexByte(stat, ')')+1:])) // from the third field on, see proc(5)
	for _, i := range []int{11, 12} {
		ticks, err := strconv.ParseInt(f[i], 10, 64)
		if err != nil {
			return u, err
		}
		u.cpu += time.Duration(ticks) * 10 * time.Millisecond
	}
	return u, nil
}

func (m *member) stop() error {
	_ = m.cmd.Process.Signal(syscall.SIGTERM) // fails if it has ended
	select {
	case err := <-m.done:
		return err
	case <-time.After(startLimit):
		_ = m.cmd.Process.Kill()
		return errors.Join(fmt.Errorf("the member did not stop within %v", startLimit), <-m.done)
	}
}
