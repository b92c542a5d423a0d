//go:build lies

package lies

import (
	"bytes"
	"context"
	"fmt"
	"io"
	"net"
	"net/http"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"sync"
	"syscall"
	"testing"
	"time"
)

// patience is how long a program may take to do what it is waited for.
const patience = 30 * time.Second

// cache is where what is built here stays.
func cache(t *testing.T) string {
	t.Helper()
	dir := os.Getenv("CACHE")
	if dir == "" {
		user, err := os.UserCacheDir()
		if err != nil {
			t.Fatal(err)
		}
		dir = filepath.Join(user, "holdfast-build")
	}
	dir = filepath.Join(dir, "lies")
	if err := os.MkdirAll(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

var building sync.Mutex

// built is a program of this module's go.mod, or the agent.
func built(t *testing.T, name string) string {
	t.Helper()
	building.Lock()
	defer building.Unlock()
	bin := filepath.Join(cache(t), name)
	dir, pkg := ".", map[string]string{"etcd": "go.etcd.io/etcd/server/v3", "nats-server": "github.com/nats-io/nats-server/v2"}[name]
	if name == "agent" {
		if given := os.Getenv("AGENT"); given != "" {
			return given
		}
		dir, pkg = filepath.Join("..", ".."), "./cmd/agent"
	}
	cmd := exec.Command("go", "build", "-C", dir, "-trimpath", "-buildvcs=false", "-ldflags=-s -w", "-o", bin, pkg)
	cmd.Env = append(os.Environ(), "CGO_ENABLED=0", "GOWORK=off")
	if out, err := cmd.CombinedOutput(); err != nil {
		t.Fatalf("build %s: %v\n%s", pkg, err, out)
	}
	return bin
}

// version logs what a program says of itself.
func version(t *testing.T, bin string, args ...string) {
	t.Helper()
	out, _ := exec.Command(bin, args...).CombinedOutput() // mosquitto -h ends with 3
	line, _, _ := strings.Cut(strings.TrimSpace(string(out)), "\n")
	t.Logf("%s: %s", filepath.Base(bin), line)
}

// program is a process that ends with the test.
type program struct {
	t   *testing.T
	cmd *exec.Cmd
	log *os.File
	end sync.Once
}

func run(t *testing.T, bin string, args ...string) *program {
	t.Helper()
	log, err := os.CreateTemp(t.TempDir(), "log")
	if err != nil {
		t.Fatal(err)
	}
	p := &program{t: t, cmd: exec.Command(bin, args...), log: log}
	p.cmd.Stdout, p.cmd.Stderr = log, log
	p.cmd.Env = []string{"PATH=" + os.Getenv("PATH"), "HOME=" + t.TempDir()}
	p.cmd.SysProcAttr = &syscall.SysProcAttr{Pdeathsig: syscall.SIGKILL}
	if err := p.cmd.Start(); err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		p.kill()
		if t.Failed() {
			text, _ := os.ReadFile(log.Name())
			t.Logf("%s:\n%s", filepath.Base(bin), text[max(0, len(text)-2000):])
		}
		_ = log.Close()
	})
	return p
}

// kill is kill -9. Nobody hears of it.
func (p *program) kill() {
	p.end.Do(func() {
		_ = p.cmd.Process.Kill()
		_ = p.cmd.Wait()
	})
}

// freeze stops a program, so that nothing comes back from it, and thaw lets it go on.
func (p *program) freeze() { p.signal(syscall.SIGSTOP) }
func (p *program) thaw()   { p.signal(syscall.SIGCONT) }

func (p *program) signal(s syscall.Signal) {
	p.t.Helper()
	if err := p.cmd.Process.Signal(s); err != nil {
		p.t.Fatal(err)
	}
}

// free is an address on loopback that nobody had a moment ago.
func free(t *testing.T) string {
	t.Helper()
	l, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer l.Close()
	return l.Addr().String()
}

func eventually(t *testing.T, what string, cond func() bool) {
	t.Helper()
	for deadline := time.Now().Add(patience); !cond(); time.Sleep(20 * time.Millisecond) {
		if time.Now().After(deadline) {
			t.Fatalf("not within %v: %s", patience, what)
		}
	}
}

func listens(addr string) bool {
	c, err := net.DialTimeout("tcp", addr, time.Second)
	if err == nil {
		_ = c.Close()
	}
	return err == nil
}

// agent is a running agent.
type agent struct {
	*program
	bin, dir, url string
	args          []string
}

func startAgent(t *testing.T, dir, addr string, args ...string) *agent {
	t.Helper()
	a := &agent{bin: built(t, "agent"), dir: dir, url: "http://" + addr}
	a.args = append([]string{"run", "--data-dir", dir, "--listen", a.url, "--log-format=json"}, args...)
	a.again(t)
	return a
}

// again starts it after it was killed.
func (a *agent) again(t *testing.T) {
	t.Helper()
	a.program = run(t, a.bin, a.args...)
	eventually(t, "the agent is ready", func() bool {
		r, err := http.Get(a.url + "/readyz")
		if err != nil {
			return false
		}
		_ = r.Body.Close()
		return r.StatusCode == http.StatusOK
	})
}

type answer struct {
	status int
	body   string
	header http.Header
}

func (a *agent) call(t *testing.T, method, path, body string) answer {
	t.Helper()
	ctx, cancel := context.WithTimeout(t.Context(), patience)
	defer cancel()
	req, err := http.NewRequestWithContext(ctx, method, a.url+path, bytes.NewReader([]byte(body)))
	if err != nil {
		t.Fatal(err)
	}
	resp, err := http.DefaultClient.Do(req)
	if err != nil {
		t.Fatalf("%s %s: %v", method, path, err)
	}
	defer resp.Body.Close()
	text, err := io.ReadAll(resp.Body)
	if err != nil {
		t.Fatal(err)
	}
	return answer{resp.StatusCode, string(text), resp.Header}
}

func (a *agent) want(t *testing.T, status int, method, path, body string) answer {
	t.Helper()
	r := a.call(t, method, path, body)
	if r.status != status {
		t.Fatalf("%s %s: %d %s, want %d", method, path, r.status, r.body, status)
	}
	return r
}

// pair is a member, and a proxy that mirrors site/ and may queue writes under q/.
func pair(t *testing.T) (member, proxy *agent) {
	t.Helper()
	version(t, built(t, "agent"), "version")
	dir := t.TempDir()
	peer := free(t)
	member = startAgent(t, filepath.Join(dir, "member"), free(t), "--peer-listen", peer, "--peer-advertise", peer)
	token, err := exec.Command(member.bin, "token", "create", "--role=proxy", "--data-dir", member.dir).Output()
	if err != nil {
		t.Fatalf("token: %v", err)
	}
	file := filepath.Join(dir, "token")
	if err := os.WriteFile(file, token, 0o600); err != nil {
		t.Fatal(err)
	}
	proxy = startAgent(t, filepath.Join(dir, "proxy"), free(t), "--mode=proxy", "--join", peer, "--token-file", file, "--peer-listen", "127.0.0.1:0",
		"--proxy-prefixes=site/,q/", "--queue-prefixes=q/")
	eventually(t, "the proxy is in step", func() bool {
		return strings.Contains(proxy.call(t, "GET", "/v1/status", "").body, `"synced":true`)
	})
	return member, proxy
}

func (a *agent) depth(t *testing.T) string {
	t.Helper()
	body := a.want(t, 200, "GET", "/v1/queue", "").body
	var depth int
	if _, err := fmt.Sscanf(body, `{"depth":%d,`, &depth); err != nil {
		t.Fatalf("%s: %v", body, err)
	}
	return fmt.Sprint(depth)
}
