package agent

import (
	"bytes"
	"context"
	"errors"
	"log/slog"
	"net"
	"os"
	"path/filepath"
	"runtime"
	"strconv"
	"strings"
	"testing"
	"time"
)

// environ is a Getenv over pairs.
func environ(pairs ...string) func(string) string {
	return func(key string) string {
		for _, p := range pairs {
			if value, ok := strings.CutPrefix(p, key+"="); ok {
				return value
			}
		}
		return ""
	}
}

// manager is a service manager's end of NOTIFY_SOCKET. Its lines arrive one by one.
type manager struct {
	conn  *net.UnixConn
	lines []string
}

func newManager(t *testing.T, address string) *manager {
	t.Helper()
	conn, err := net.ListenUnixgram("unixgram", &net.UnixAddr{Name: address, Net: "unixgram"})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := conn.Close(); err != nil && !errors.Is(err, net.ErrClosed) {
			t.Error(err)
		}
	})
	return &manager{conn: conn}
}

// await returns the next line that begins with prefix, and forgets those before it.
func (m *manager) await(t *testing.T, prefix string) string {
	t.Helper()
	if err := m.conn.SetReadDeadline(time.Now().Add(20 * time.Second)); err != nil {
		t.Fatal(err)
	}
	var seen []string
	for {
		for len(m.lines) > 0 {
			line := m.lines[0]
			m.lines = m.lines[1:]
			if strings.HasPrefix(line, prefix) {
				return line
			}
			seen = append(seen, line)
		}
		b := make([]byte, 4096)
		n, err := m.conn.Read(b)
		if err != nil {
			t.Fatalf("waiting for %q: %v; saw %q", prefix, err, seen)
		}
		m.lines = strings.Split(string(b[:n]), "\n")
	}
}

func TestNotifierSpeaksToPathsAndAbstractSockets(t *testing.T) {
	addresses := []string{filepath.Join(shortDir(t), "n")}
	if runtime.GOOS == "linux" {
		addresses = append(addresses, "@holdfast-test-"+strconv.Itoa(os.Getpid()))
	}
	for _, address := range addresses {
		m := newManager(t, address)
		n, err := newNotifier(environ("NOTIFY_SOCKET=" + address))
		if err != nil {
			t.Fatal(err)
		}
		if err := n.send("READY=1", status("two\nlines")); err != nil {
			t.Fatal(err)
		}
		m.await(t, "READY=1")
		if got := m.await(t, "STATUS="); got != "STATUS=two lines" {
			t.Errorf("status arrived as %q", got)
		}
	}
}

func TestNobodyIsNotifiedWithoutAManager(t *testing.T) {
	n, err := newNotifier(environ())
	if n != nil || err != nil || n.send("READY=1") != nil {
		t.Errorf("notifier %v, %v; want one that tells nobody", n, err)
	}
}

func TestManagerThatIsGoneIsAnError(t *testing.T) {
	n, err := newNotifier(environ("NOTIFY_SOCKET=" + filepath.Join(t.TempDir(), "gone")))
	if err != nil {
		t.Fatal(err)
	}
	if n.send("READY=1") == nil {
		t.Error("nobody listens and nobody noticed")
	}
}

func TestWatchdogIsReadFromTheEnvironment(t *testing.T) {
	me := strconv.Itoa(os.Getpid())
	for _, tc := range []struct {
		env  []string
		want time.Duration
		code int
	}{
		{[]string{"WATCHDOG_USEC=60000000", "WATCHDOG_PID=" + me}, time.Minute, ExitOK},
		{[]string{"WATCHDOG_USEC=60000000"}, time.Minute, ExitOK},
		{[]string{"WATCHDOG_USEC=60000000", "WATCHDOG_PID=1"}, 0, ExitOK},
		{[]string{"WATCHDOG_USEC=soon"}, 0, ExitConfig},
		{[]string{"WATCHDOG_USEC=9223372036854775807"}, 0, ExitConfig},
	} {
		n, err := newNotifier(environ(append(tc.env, "NOTIFY_SOCKET=@x")...))
		if ExitCode(err) != tc.code || err == nil && n.watchdog != tc.want {
			t.Errorf("%q: %+v, %v; want %v, exit %d", tc.env, n, err, tc.want, tc.code)
		}
	}
	if _, err := newNotifier(environ("NOTIFY_SOCKET=vsock:2:1")); ExitCode(err) != ExitConfig {
		t.Errorf("an address of another kind: %v", err)
	}
}

func TestServiceManagerIsToldTheTruth(t *testing.T) {
	m := newManager(t, filepath.Join(shortDir(t), "n"))
	hold := make(chan struct{})
	a := launch(t, settings(t), Options{
		Getenv: environ("NOTIFY_SOCKET="+m.conn.LocalAddr().String(), "WATCHDOG_USEC=300000"),
		beforeOpen: func(ctx context.Context) {
			select {
			case <-hold:
			case <-ctx.Done():
			}
		},
	})
	m.await(t, "READY=1")
	if got := m.await(t, "STATUS="); got != "STATUS=Replaying the log" {
		t.Errorf("while replaying: %q", got)
	}
	m.await(t, "WATCHDOG=1") // a replay is no hang
	close(hold)
	within(t, "ready", a.Ready())
	m.await(t, "STATUS=Serving as leader")
	m.await(t, "WATCHDOG=1")
	m.await(t, "WATCHDOG=1")
	if _, _, err := a.Reload(a.cfg); err != nil {
		t.Fatal(err)
	}
	m.await(t, "RELOADING=1")
	if got := m.await(t, "MONOTONIC_USEC="); got == "MONOTONIC_USEC=0" {
		t.Error("the reload has no date")
	}
	m.await(t, "READY=1")
	halt(t, a)
	m.await(t, "STOPPING=1")
	m.await(t, "STATUS=Stopping")
}

func TestWatchdogStarvesWhenTheNodeHangs(t *testing.T) {
	m := newManager(t, filepath.Join(shortDir(t), "n"))
	n, err := newNotifier(environ("NOTIFY_SOCKET="+m.conn.LocalAddr().String(), "WATCHDOG_USEC=60000000"))
	if err != nil {
		t.Fatal(err)
	}
	var log bytes.Buffer
	a := &Agent{notifier: n, started: time.Now(), opts: withDefaults([]Options{{Log: slog.New(slog.NewTextHandler(&log, nil))}})}
	first := func() string { a.tell("MARK=1"); return m.await(t, "") }
	hangs := errors.New("hangs")
	answer := error(nil)
	a.node.Store(&node{alive: func(context.Context) error { return answer }})
	a.ping(t.Context())
	if got := first(); got != "WATCHDOG=1" {
		t.Errorf("a node that answers: %q", got)
	}
	m.await(t, "MARK=1")
	answer = hangs
	a.ping(t.Context())
	if got := first(); got != "MARK=1" {
		t.Errorf("a node that hangs: %q", got)
	}
	if !strings.Contains(log.String(), "no sign of life") {
		t.Errorf("nobody is told why:\n%s", log.String())
	}
	a.node.Store(nil)
	a.started = time.Now().Add(-replayMax - time.Minute)
	a.ping(t.Context())
	if got := first(); got != "MARK=1" {
		t.Errorf("a store that does not open: %q", got)
	}
}
