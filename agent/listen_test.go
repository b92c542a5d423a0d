package agent

import (
	"context"
	"errors"
	"fmt"
	"io/fs"
	"log/slog"
	"net"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/config"
)

// shortDir is a temporary folder whose path leaves room for the name of a socket.
func shortDir(t *testing.T) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "hf") //nolint:usetesting // t.TempDir has the name of the test in its path
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Error(err)
		}
	})
	return dir
}

// settings are those of an agent that has everything to itself.
func settings(t *testing.T) config.Config {
	t.Helper()
	cfg := config.Default()
	cfg.DataDir = filepath.Join(shortDir(t), "d")
	cfg.Listen = []string{"http://127.0.0.1:0"}
	cfg.Complete("box")
	cfg.PeerListen = "127.0.0.1:0"
	return cfg
}

func locks() *locksmith { return &locksmith{log: slog.New(slog.DiscardHandler)} }

// openAll opens the listeners of cfg and closes them after the test.
func openAll(t *testing.T, s *locksmith, cfg config.Config) ([]*door, error) {
	t.Helper()
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	doors, err := s.open(t.Context(), cfg)
	t.Cleanup(func() {
		if err := closeDoors(doors); err != nil {
			t.Error(err)
		}
	})
	return doors, err
}

func TestSocketIsForOwnerAndGroup(t *testing.T) {
	cfg := settings(t)
	if _, err := openAll(t, locks(), cfg); err != nil {
		t.Fatal(err)
	}
	info, err := os.Stat(cfg.Socket)
	if err != nil || info.Mode().Perm() != socketMode || info.Mode().Type() != fs.ModeSocket {
		t.Errorf("socket is %v, %v; want mode %o", info.Mode(), err, socketMode)
	}
}

func TestStaleSocketIsReplacedAndALiveOneIsNot(t *testing.T) {
	cfg := settings(t)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	other, err := net.ListenUnix("unix", &net.UnixAddr{Name: cfg.Socket, Net: "unix"})
	if err != nil {
		t.Fatal(err)
	}
	other.SetUnlinkOnClose(false)
	if _, err := openAll(t, locks(), cfg); ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), cfg.Socket) {
		t.Errorf("somebody answers there: %v, want a temporary error that names the socket", err)
	}
	if _, err := net.Dial("unix", cfg.Socket); err != nil {
		t.Errorf("the live socket is gone: %v", err)
	}
	if err := other.Close(); err != nil {
		t.Fatal(err)
	}
	if _, err := openAll(t, locks(), cfg); err != nil {
		t.Errorf("nobody answers there: %v", err)
	}
}

func TestFileInThePlaceOfTheSocketIsLeftAlone(t *testing.T) {
	cfg := settings(t)
	if err := os.MkdirAll(cfg.DataDir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.Socket, []byte("precious"), 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := openAll(t, locks(), cfg); ExitCode(err) != ExitConfig {
		t.Errorf("listening on a file: %v", err)
	}
	if b, err := os.ReadFile(cfg.Socket); err != nil || string(b) != "precious" {
		t.Errorf("the file is now %q, %v", b, err)
	}
}

func TestTakenPortIsTemporaryAndNamed(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := settings(t)
	free := cfg.Listen[0]
	cfg.Listen = []string{free, "http://" + taken.Addr().String()}
	doors, err := openAll(t, locks(), cfg)
	if ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("%v, exit %d; want a temporary error that names %v", err, ExitCode(err), taken.Addr())
	}
	if len(doors) != 0 {
		t.Errorf("%d listeners are left open", len(doors))
	}
}

func TestMissingIPv6IsSkippedOnLoopbackOnly(t *testing.T) {
	for errno, want := range map[syscall.Errno]int{syscall.EADDRNOTAVAIL: ExitOK, syscall.EAFNOSUPPORT: ExitOK, syscall.EADDRINUSE: ExitTemporary} {
		s := locks()
		s.listen = func(ctx context.Context, network, address string) (net.Listener, error) {
			if strings.HasPrefix(address, "[") {
				return nil, &net.OpError{Op: "listen", Err: os.NewSyscallError("bind", errno)}
			}
			return new(net.ListenConfig).Listen(ctx, network, address)
		}
		cfg := settings(t)
		cfg.Listen = []string{"http://127.0.0.1:0", "http://[::1]:2379"}
		doors, err := openAll(t, s, cfg)
		if ExitCode(err) != want || want == ExitOK && len(doors) != 2 {
			t.Errorf("%v: %d listeners, %v; want exit %d", errno, len(doors), err, want)
		}
		cfg.Listen = []string{"http://[::1]:2379"}
		if _, err := openAll(t, s, cfg); err == nil {
			t.Errorf("%v: no listener for clients is left and nobody minds", errno)
		}
	}
}

// inheritEnv makes the test binary play an agent that a service manager has passed sockets to.
const inheritEnv = "HOLDFAST_TEST_INHERIT"

// TestInheritedChild is the child of TestInheritedSocketsAreMatchedByAddress and does nothing by itself.
func TestInheritedChild(t *testing.T) {
	urls := os.Getenv(inheritEnv)
	if urls == "" {
		return
	}
	cfg := settings(t)
	cfg.Listen = strings.Split(urls, ",")
	inherited, err := inherit(os.Getenv)
	if err != nil {
		fmt.Printf("exit %d: %v\n", ExitCode(err), err)
		return
	}
	s := locks()
	s.inherited = inherited
	s.listen = func(_ context.Context, network, address string) (net.Listener, error) {
		if address == cfg.Socket {
			return net.Listen(network, address)
		}
		return nil, errors.New("opened " + address + " itself")
	}
	doors, err := openAll(t, s, cfg)
	if err != nil {
		fmt.Printf("exit %d: %v\n", ExitCode(err), err)
		return
	}
	for _, d := range doors {
		fmt.Println("has", d)
	}
}

func TestInheritedSocketsAreMatchedByAddress(t *testing.T) {
	tcp, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer tcp.Close()
	path := filepath.Join(shortDir(t), "s")
	unix, err := net.Listen("unix", path)
	if err != nil {
		t.Fatal(err)
	}
	defer unix.Close()
	url := "http://" + tcp.Addr().String()
	for name, tc := range map[string]struct {
		urls string
		says []string
	}{
		"both matched":  {url + ",unix://" + path, []string{"has " + url, "has unix://" + path}},
		"one unmatched": {url, []string{"exit 78", path, "no listener is configured"}},
		"none matched":  {"unix://" + path, []string{"exit 78", tcp.Addr().String()}},
	} {
		t.Run(name, func(t *testing.T) {
			files := []*os.File{fileOf(t, tcp), fileOf(t, unix)}
			// The pid is known only to the process itself, as with systemd: the shell sets it and becomes the child.
			cmd := exec.Command("/bin/sh", "-c", `LISTEN_PID=$$ exec "$0" -test.run='^TestInheritedChild$'`, os.Args[0]) //nolint:gosec // ourselves
			cmd.Env = append(os.Environ(), "LISTEN_FDS=2", inheritEnv+"="+tc.urls)
			cmd.ExtraFiles = files
			out, err := cmd.CombinedOutput()
			if err != nil {
				t.Fatalf("%v\n%s", err, out)
			}
			for _, part := range tc.says {
				if !strings.Contains(string(out), part) {
					t.Errorf("the child does not say %q:\n%s", part, out)
				}
			}
		})
	}
}

// fileOf is a copy of the descriptor of a listener.
func fileOf(t *testing.T, l net.Listener) *os.File {
	t.Helper()
	f, err := l.(interface{ File() (*os.File, error) }).File()
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := f.Close(); err != nil {
			t.Error(err)
		}
	})
	return f
}

func TestSocketsOfAnotherProcessAreNotTaken(t *testing.T) {
	got, err := inherit(environ("LISTEN_PID=1", "LISTEN_FDS=2"))
	if got != nil || err != nil {
		t.Errorf("took %v, %v", got, err)
	}
}

func TestSpellingsOfOneAddressMatch(t *testing.T) {
	for _, tc := range []struct {
		bound net.Addr
		url   string
		want  bool
	}{
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 2379}, "http://:2379", true},
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 2379}, "http://0.0.0.0:2379", true},
		{&net.TCPAddr{IP: net.IPv6unspecified, Port: 2379}, "http://127.0.0.1:2379", false},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2379}, "http://127.0.0.1:2379", true},
		{&net.TCPAddr{IP: net.IPv4(127, 0, 0, 1), Port: 2380}, "http://127.0.0.1:2379", false},
		{&net.UnixAddr{Name: "/run/x.sock"}, "unix:///run/x.sock", true},
		{&net.UnixAddr{Name: "/run/x.sock"}, "unix:///run/y.sock", false},
		{&net.UnixAddr{Name: "/run/x.sock"}, "http://127.0.0.1:2379", false},
	} {
		u, err := config.ParseURL(tc.url)
		if err != nil {
			t.Fatal(err)
		}
		if got := boundTo(tc.bound, u); got != tc.want {
			t.Errorf("%v for %s: %v, want %v", tc.bound, tc.url, got, tc.want)
		}
	}
}
