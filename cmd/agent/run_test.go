package main

import (
	"bytes"
	"context"
	"encoding/json"
	"errors"
	"fmt"
	"net"
	"os"
	"strings"
	"sync"
	"syscall"
	"testing"

	"holdfast/agent"
	"holdfast/config"
)

// running is `agent run` in the background.
type running struct {
	*world
	code chan int
}

func (w *world) background(args ...string) *running {
	r := &running{w, make(chan int, 1)}
	go func() { r.code <- w.run(args...) }()
	return r
}

// ends waits for the end and asserts the exit code.
func (r *running) ends(code int) {
	r.t.Helper()
	if got := <-r.code; got != code {
		r.t.Errorf("exit code %d, want %d\n%s", got, code, r.stderr)
	}
}

// logged waits for a line of the log.
func (r *running) logged(text string) {
	r.t.Helper()
	eventually(r.t, text+" in the log", func() bool { return strings.Contains(r.stderr.String(), text) })
}

// A whole life: the real agent, the real commands, every signal.
func TestAnAgentServesItsCommandsAndObeysSignals(t *testing.T) {
	w := newWorld(t)
	file := w.write("etc/agent.yaml", "log-level: info\n")
	socket := "--data-dir=" + w.path("data")
	r := w.background(socket, "--listen=http://127.0.0.1:0", "--peer-listen=127.0.0.1:0", "--config="+file)
	r.logged(`"agent ready"`)

	user := newWorld(t)
	if got := user.runs(0, "kv", "put", "site/42//temp", "21", socket); !strings.HasPrefix(got, "revision ") {
		t.Errorf("got %q", got)
	}
	if got := user.runs(0, "kv", "get", "site/42//temp", socket); got != "21" {
		t.Errorf("got %q", got)
	}
	if got := user.runs(0, "kv", "get", "site/42//temp", socket, "-o", "json"); !strings.Contains(got, `"source": "member"`) {
		t.Errorf("got %q", got)
	}
	if got := user.runs(0, "kv", "ls", "site/", "--keys-only", socket); got != "site/42//temp\n" {
		t.Errorf("got %q", got)
	}
	user.runs(1, "kv", "get", "nothing", socket)
	user.runs(1, "kv", "put", "site/42//temp", "22", "--if-none-match", socket)
	user.says("precondition-failed")
	if got := user.runs(0, "kv", "del", "site/", "--prefix", socket); !strings.HasSuffix(got, ", deleted 1\n") {
		t.Errorf("got %q", got)
	}
	user.runs(1, "queue", "ls", socket)
	user.says("queue.prefixes is empty", "no-queue")
	if got := user.runs(0, "status", socket); !hasLine(got, "mode member") || !hasLine(got, "ready true") {
		t.Errorf("got %s", got)
	}

	w.write("etc/agent.yaml", "log-level: debug\nname: other\n")
	w.send <- syscall.SIGHUP
	r.logged(`"applied":["log-level"],"need_restart":["name"]`)
	w.write("etc/agent.yaml", "log-level: loud\n")
	w.send <- syscall.SIGHUP
	r.logged("configuration not reloaded")
	w.send <- syscall.SIGTERM
	r.ends(0)
	r.logged(`"agent stopped"`)

	user.runs(69, "kv", "get", "site/42//temp", socket)
	w.env = []string{"HOLDFAST_DATA_DIR=" + w.path("data"), "HOLDFAST_LISTEN=http://127.0.0.1:0", "HOLDFAST_PEER_LISTEN=127.0.0.1:0", "HOLDFAST_CONFIG="}
	w.write("etc/agent.yaml", "")
	again := w.background("run")
	again.logged(`"agent ready"`)
	w.send <- syscall.SIGINT
	again.ends(0)
}

func TestExitCodesOfAStart(t *testing.T) {
	w := newWorld(t)
	data := "--data-dir=" + w.path("data")
	r := w.background(data, "--listen=http://127.0.0.1:0", "--peer-listen=127.0.0.1:0")
	r.logged(`"agent ready"`)
	other := newWorld(t)
	other.runs(75, data, "--listen=http://127.0.0.1:0") // locked
	w.send <- syscall.SIGTERM
	r.ends(0)

	taken, err := new(net.ListenConfig).Listen(t.Context(), "tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	other.runs(75, data, "--listen=http://"+taken.Addr().String())
	other.runs(78, data, "--mode=proxy", "--listen=http://127.0.0.1:0")
	other.says("agent demote", "agent leave --force")
	other.runs(78, "--data-dir="+w.path("new"), "--mode=proxy")
	other.runs(78, "--data-dir="+w.path("new"), "--mode=chief", "--nonsense")
	other.runs(78, "run", "--data-dir="+w.path("new"), "foo")
	if _, err := os.Stat(w.path("new/member")); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("a refused start left a member behind: %v", err)
	}
}

// fakeNode is an agent that does what a test wants.
type fakeNode struct {
	done   chan struct{}
	err    error
	stop   func(context.Context) error
	mu     sync.Mutex
	loaded []config.Config
}

func (f *fakeNode) Done() <-chan struct{} { return f.done }
func (f *fakeNode) Err() error            { return f.err }

func (f *fakeNode) Stop(ctx context.Context) error { return f.stop(ctx) }

func (f *fakeNode) Reload(c config.Config) (applied, needRestart []string, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.loaded = append(f.loaded, c)
	return nil, nil, nil
}

func (w *world) starts(n node, err error) {
	w.start = func(context.Context, config.Config, agent.Options) (node, error) { return n, err }
}

func TestASecondSignalForcesTheEnd(t *testing.T) {
	w := newWorld(t)
	stopping := make(chan struct{})
	w.starts(&fakeNode{stop: func(ctx context.Context) error {
		close(stopping)
		<-ctx.Done() // a drain that would take for ever
		return fmt.Errorf("stop the agent: %w", context.Cause(ctx))
	}}, nil)
	r := w.background()
	w.send <- syscall.SIGTERM
	<-stopping
	w.send <- syscall.SIGHUP // not a reason
	w.send <- syscall.SIGTERM
	r.ends(0)
	w.says("stopping at once", "terminated again", "stopped without waiting")
	if strings.Contains(w.stderr.String(), "hangup") {
		t.Errorf("a reload forced the end: %s", w.stderr)
	}
}

func TestAFailureIsTheExitCode(t *testing.T) {
	for want, err := range map[int]error{0: nil, 70: errors.New("disk on fire")} {
		w := newWorld(t)
		n := &fakeNode{done: make(chan struct{}), err: err}
		close(n.done)
		w.starts(n, nil)
		w.runs(want, "run")
		if err != nil {
			w.says("agent failed", "disk on fire")
		}
	}
	w := newWorld(t)
	w.starts(nil, errors.New("no luck"))
	w.runs(70, "run")
	w.says("agent cannot start", "no luck")
	w = newWorld(t)
	w.starts(&fakeNode{stop: func(context.Context) error { return errors.New("flush: disk on fire") }}, nil)
	r := w.background()
	w.send <- syscall.SIGTERM
	r.ends(70)
	w.says("agent failed", "flush: disk on fire")
}

func TestReloadLoadsEverythingAgain(t *testing.T) {
	w := newWorld(t)
	n := &fakeNode{done: make(chan struct{}), stop: func(context.Context) error { return nil }}
	w.starts(n, nil)
	w.write("etc/agent.yaml", "name: one\n")
	r := w.background("--log-level=warn")
	w.write("etc/agent.yaml", "name: two\nlog-level: debug\n")
	w.send <- syscall.SIGHUP
	eventually(t, "a reload", func() bool { n.mu.Lock(); defer n.mu.Unlock(); return len(n.loaded) == 1 })
	if c := n.loaded[0]; c.Name != "two" || c.LogLevel != "warn" {
		t.Errorf("got %q, %q: files are read again, flags stay stronger", c.Name, c.LogLevel)
	}
	w.write("etc/agent.yaml", "naem: x\nmode: y\n")
	w.send <- syscall.SIGHUP
	r.logged("goes on with the one it has")
	w.says("did you mean name?", "must be one of auto, member, proxy")
	if len(n.loaded) != 1 {
		t.Error("a faulty configuration was handed on")
	}
	close(n.done)
	r.ends(0)
}

func TestEveryFaultOfACommandLineIsSaidAtOnce(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"HOLDFAST_MOED=x"}
	for _, args := range [][]string{
		{"--lisen=http://x", "--foo", "bar", "--mode", "chief"},
		{"run", "--lisen=http://x", "--foo", "bar", "--mode", "chief"},
		{"run", "--mode", "chief", "--foo", "--lisen"},
	} {
		w.runs(78, args...)
		w.says("--lisen: there is no such flag: did you mean --listen?", "--foo: there is no such flag", `mode: "chief" must be one of`, "did you mean HOLDFAST_MODE?")
		if lines := strings.Count(w.stderr.String(), "\n"); lines != 4 {
			t.Errorf("%v: got %d lines, want 4:\n%s", args, lines, w.stderr)
		}
	}
	w.env = nil
	w.runs(78, "--mode")
	w.says("--mode")
	w.runs(78, "-m", "member")
	w.says("flags have two dashes")
}

func TestTheLogTakesTheFormThatFits(t *testing.T) {
	for _, c := range []struct {
		wanted string
		env    string
		form   string
	}{
		{"auto", "", "json"}, {"auto", "JOURNAL_STREAM=8:1", "journal"}, {"auto", "INVOCATION_ID=abc", "journal"}, {"auto", "INVOCATION_ID=", "json"},
		{"text", "JOURNAL_STREAM=8:1", "text"}, {"json", "JOURNAL_STREAM=8:1", "json"}, {"journal", "", "journal"},
	} {
		if got := logFormat(c.wanted, []string{c.env}, &bytes.Buffer{}); got != c.form {
			t.Errorf("%+v: got %s", c, got)
		}
	}
	null, err := os.OpenFile(os.DevNull, os.O_WRONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer null.Close()
	if isTerminal(null) {
		t.Error("the null device is no terminal")
	}
	if terminal, err := os.OpenFile("/dev/ptmx", os.O_RDWR, 0); err == nil {
		defer terminal.Close()
		if logFormat("auto", []string{"JOURNAL_STREAM=8:1"}, terminal) != "text" {
			t.Error("a terminal gets text, whatever started it")
		}
	}
}

func TestLinesForTheJournalHaveAPriority(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"JOURNAL_STREAM=8:1", "HOLDFAST_PORT=x"}
	n := &fakeNode{done: make(chan struct{}), err: errors.New("two\nlines")}
	close(n.done)
	w.start = func(_ context.Context, _ config.Config, o agent.Options) (node, error) {
		o.Log.Debug("not shown")
		o.LogLevel.Set(-4)
		o.Log.With("part", "x").WithGroup("g").Debug("shown", "k", 1)
		o.Log.Info("started", "level", "kept")
		return n, nil
	}
	w.runs(70, "run")
	want := []string{`<4>msg=configuration warning="ignoring HOLDFAST_PORT`, `<7>msg=shown part=x g.k=1`, `<6>msg=started level=kept`, `<3>msg="agent failed" err="two\nlines"`}
	lines := strings.Split(strings.TrimSuffix(w.stderr.String(), "\n"), "\n")
	if len(lines) != len(want) {
		t.Fatalf("got %q", lines)
	}
	for i, line := range lines {
		if !strings.HasPrefix(line, want[i]) {
			t.Errorf("line %d is %q, want %q", i+1, line, want[i])
		}
	}
	w.runs(78, "--mode=x")
	if !strings.Contains(w.stderr.String(), "\n<3>config: mode") {
		t.Errorf("got %q", w.stderr)
	}
}

func TestTheAgentGetsItsSurroundings(t *testing.T) {
	w := newWorld(t)
	w.env = []string{"NOTIFY_SOCKET=/run/x", "NOTIFY_SOCKETS=no", "HOLDFAST_LOG_LEVEL=debug", "HOLDFAST_LOG_FORMAT=json"}
	n := &fakeNode{done: make(chan struct{})}
	close(n.done)
	w.start = func(_ context.Context, c config.Config, o agent.Options) (node, error) {
		if got := o.Getenv("NOTIFY_SOCKET"); got != "/run/x" {
			t.Errorf("NOTIFY_SOCKET: got %q", got)
		}
		if o.Getenv("NOTHING") != "" || o.Version == "" || c.LogLevel != "debug" {
			t.Errorf("got %+v", o)
		}
		o.Log.Debug("hello", "a", 1)
		return n, nil
	}
	w.runs(0)
	var line struct {
		Msg string
		A   int
	}
	if err := json.Unmarshal([]byte(w.stderr.String()), &line); err != nil || line.Msg != "hello" || line.A != 1 {
		t.Errorf("got %q, %v", w.stderr, err)
	}
}

// Main with what the operating system gives it.
func TestMainReturnsTheExitCode(t *testing.T) {
	var stdout, stderr bytes.Buffer
	if got := Main(t.Context(), []string{"version", "-o", "json"}, nil, strings.NewReader(""), &stdout, &stderr); got != 0 || !strings.Contains(stdout.String(), `"platform"`) {
		t.Errorf("got %d, %q, %q", got, &stdout, &stderr)
	}
	if got := Main(t.Context(), []string{"--no-such-flag"}, nil, strings.NewReader(""), &stdout, &stderr); got != 78 || !strings.Contains(stderr.String(), "--no-such-flag") {
		t.Errorf("got %d, %q", got, &stderr)
	}
	received, stop := osSignals(syscall.SIGHUP)
	defer stop()
	if err := syscall.Kill(os.Getpid(), syscall.SIGHUP); err != nil {
		t.Fatal(err)
	}
	if s := <-received; s != syscall.SIGHUP {
		t.Errorf("got %v", s)
	}
}
