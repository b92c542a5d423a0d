package main

import (
	"bytes"
	"context"
	"io"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/agent"
	"holdfast/config"
)

// world is a place to run the program in: streams, an environment, signals, and no files but its own.
type world struct {
	t      *testing.T
	dir    string
	env    []string
	stdin  string
	stdout *buffer
	stderr *buffer
	send   chan os.Signal
	start  func(context.Context, config.Config, agent.Options) (node, error)
}

func newWorld(t *testing.T) *world {
	t.Helper()
	// Socket paths are short: t.TempDir holds the name of the test.
	dir, err := os.MkdirTemp("", "hf") //nolint:usetesting // see above
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return &world{t: t, dir: dir, stdout: &buffer{}, stderr: &buffer{}, send: make(chan os.Signal, 4)}
}

func (w *world) path(name string) string { return filepath.Join(w.dir, name) }

func (w *world) write(name, content string) string {
	w.t.Helper()
	if err := os.MkdirAll(filepath.Dir(w.path(name)), 0o755); err != nil {
		w.t.Fatal(err)
	}
	if err := os.WriteFile(w.path(name), []byte(content), 0o644); err != nil {
		w.t.Fatal(err)
	}
	return w.path(name)
}

// run runs the program and returns its exit code.
func (w *world) run(args ...string) int {
	w.t.Helper()
	w.stdout.reset()
	w.stderr.reset()
	p := &program{
		args: append([]string{}, args...), // cobra takes the test's own for none
		env:  w.env, stdin: strings.NewReader(w.stdin), stdout: w.stdout, stderr: w.stderr,
		configDir: w.path("etc"), systemDir: w.path("run"), procDir: w.path("proc"),
		signals: func(...os.Signal) (<-chan os.Signal, func()) { return w.send, func() {} },
		start:   w.start,
	}
	if p.start == nil {
		p.start = func(ctx context.Context, cfg config.Config, o agent.Options) (node, error) {
			return agent.Start(ctx, cfg, o)
		}
	}
	return p.main(w.t.Context())
}

// runs asserts the exit code and returns what was printed.
func (w *world) runs(code int, args ...string) string {
	w.t.Helper()
	if got := w.run(args...); got != code {
		w.t.Errorf("agent %q: exit code %d, want %d\n%s%s", args, got, code, w.stdout, w.stderr)
	}
	return w.stdout.String()
}

// says asserts that the last run wrote each text to standard error.
func (w *world) says(texts ...string) {
	w.t.Helper()
	for _, text := range texts {
		if !strings.Contains(w.stderr.String(), text) {
			w.t.Errorf("standard error is %q, want %q in it", w.stderr, text)
		}
	}
}

// buffer is a bytes.Buffer that may be read while the program writes.
type buffer struct {
	mu sync.Mutex
	b  bytes.Buffer
}

func (b *buffer) Write(p []byte) (int, error) {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.Write(p)
}

func (b *buffer) String() string {
	b.mu.Lock()
	defer b.mu.Unlock()
	return b.b.String()
}

func (b *buffer) reset() {
	b.mu.Lock()
	defer b.mu.Unlock()
	b.b.Reset()
}

// eventually waits until ok.
func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	deadline := time.Now().Add(20 * time.Second)
	for !ok() {
		if time.Now().After(deadline) {
			t.Fatalf("waited in vain: %s", what)
		}
		time.Sleep(5 * time.Millisecond)
	}
}

// request is what an agent was asked.
type request struct {
	method, uri, body string
	header            http.Header
}

// fakeAgent answers on a unix socket and remembers what it was asked.
type fakeAgent struct {
	socket string
	mu     sync.Mutex
	asked  []request
}

func newFakeAgent(t *testing.T, socket string, answer http.HandlerFunc) *fakeAgent {
	t.Helper()
	f := &fakeAgent{socket: socket}
	l, err := new(net.ListenConfig).Listen(t.Context(), "unix", socket)
	if err != nil {
		t.Fatal(err)
	}
	server := httptest.NewUnstartedServer(http.HandlerFunc(func(w http.ResponseWriter, r *http.Request) {
		body, err := io.ReadAll(r.Body)
		if err != nil {
			t.Errorf("read the request: %v", err)
		}
		f.mu.Lock()
		f.asked = append(f.asked, request{r.Method, r.RequestURI, string(body), r.Header.Clone()})
		f.mu.Unlock()
		answer(w, r)
	}))
	if err := server.Listener.Close(); err != nil {
		t.Fatal(err)
	}
	server.Listener = l
	server.Start()
	t.Cleanup(server.Close)
	return f
}

// requests returns what was asked since the last call.
func (f *fakeAgent) requests() []request {
	f.mu.Lock()
	defer f.mu.Unlock()
	asked := f.asked
	f.asked = nil
	return asked
}

func (f *fakeAgent) request(t *testing.T) request {
	t.Helper()
	asked := f.requests()
	if len(asked) != 1 {
		t.Fatalf("the agent was asked %d times, want once: %v", len(asked), asked)
	}
	return asked[0]
}

// answering is a handler that always says the same.
func answering(status int, contentType, body string) http.HandlerFunc {
	return func(w http.ResponseWriter, _ *http.Request) {
		w.Header().Set("Content-Type", contentType)
		w.WriteHeader(status)
		_, _ = io.WriteString(w, body)
	}
}
