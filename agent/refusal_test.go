package agent

import (
	"crypto/tls"
	"fmt"
	"io/fs"
	"net"
	"net/http"
	"net/http/httptest"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"holdfast/config"
	"holdfast/transport"
)

func TestTwoAgentsNeedTwoDataDirs(t *testing.T) {
	cfg := settings(t)
	a := launch(t, cfg, Options{})
	if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), cfg.DataDir) {
		t.Errorf("second agent on the dir: %v, exit %d, want %d", err, ExitCode(err), ExitTemporary)
	}
	b := launch(t, settings(t), Options{})
	within(t, "the first is ready", a.Ready())
	within(t, "the second is ready", b.Ready())
	if a.Report().NodeID == b.Report().NodeID {
		t.Error("two nodes have one id")
	}
}

func TestADataDirThatCannotBeHadSaysWhatToDo(t *testing.T) {
	cfg := settings(t)
	if err := os.Remove(cfg.DataDir); err != nil && !os.IsNotExist(err) {
		t.Fatal(err)
	}
	if err := os.WriteFile(cfg.DataDir, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), "a folder is wanted there") {
		t.Errorf("a file: %v, exit %d", err, ExitCode(err))
	}
	for cause, part := range map[error]string{fs.ErrPermission: "user that the agent runs as", syscall.EROFS: "mount it writable"} {
		if err := unusable("/d", cause); ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), part) || !strings.Contains(err.Error(), "data dir /d") {
			t.Errorf("%v: %v, exit %d", cause, err, ExitCode(err))
		}
	}
}

func TestTheRemedyOfAJoinKnowsAPortForClients(t *testing.T) {
	web := httptest.NewServer(http.NotFoundHandler())
	defer web.Close()
	_, err := tls.DialWithDialer(&net.Dialer{}, "tcp", strings.TrimPrefix(web.URL, "http://"), &tls.Config{InsecureSkipVerify: true}) //nolint:gosec // it fails before that
	if got := joinRemedy(fmt.Errorf("join: %w", err)); !strings.Contains(got, "port for clients") {
		t.Errorf("after %v: %q", err, got)
	}
	if got := joinRemedy(transport.ErrUnreachable); !strings.Contains(got, "agent check udp") {
		t.Errorf("of one that does not answer: %q", got)
	}
}

func TestTakenPortMakesNothing(t *testing.T) {
	taken, err := net.Listen("tcp", "127.0.0.1:0")
	if err != nil {
		t.Fatal(err)
	}
	defer taken.Close()
	cfg := settings(t)
	cfg.Listen = []string{"http://" + taken.Addr().String()}
	if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), taken.Addr().String()) {
		t.Errorf("%v, exit %d", err, ExitCode(err))
	}
	names, err := os.ReadDir(cfg.DataDir)
	if err != nil || len(names) != 1 {
		t.Errorf("the dir has %v, %v; want the lock alone", names, err)
	}
	cfg.Listen = []string{"http://127.0.0.1:0"}
	launch(t, cfg, Options{}) // nothing is left locked
}

func TestRefusalsAreForAPerson(t *testing.T) {
	made := settings(t)
	a := launch(t, made, Options{})
	within(t, "ready", a.Ready())
	halt(t, a)
	file := func(name string) string { return filepath.Join(made.DataDir, name) }
	good, err := os.ReadFile(file(modeFile))
	if err != nil {
		t.Fatal(err)
	}
	proxyDir := func(t *testing.T) {
		t.Helper()
		if err := os.Mkdir(file(proxyName), 0o700); err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() {
			if err := os.Remove(file(proxyName)); err != nil {
				t.Error(err)
			}
		})
	}
	for name, tc := range map[string]struct {
		cfg    config.Config
		change func(*config.Config)
		dir    func(*testing.T)
		says   []string
	}{
		"a proxy of nothing":          {settings(t), func(c *config.Config) { c.Mode = asProxy }, nil, []string{"--join"}},
		"a join without a token":      {settings(t), func(c *config.Config) { c.Join = []string{"10.0.0.1:2380"} }, nil, []string{"token"}},
		"a token that is not there":   {settings(t), func(c *config.Config) { c.Join, c.TokenFile = []string{"10.0.0.1:2380"}, "t" }, nil, []string{"token-file"}},
		"https":                       {settings(t), func(c *config.Config) { c.Listen = []string{"https://127.0.0.1:0"} }, nil, []string{"no certificate: set tls.cert-file"}},
		"a member told to be a proxy": {made, func(c *config.Config) { c.Mode = asProxy }, nil, []string{"recorded as a member", "agent demote", "agent leave --force"}},
		"both dirs":                   {made, func(*config.Config) {}, proxyDir, []string{"both member/ (there) and proxy/ (empty)", "recorded as a member"}},
		"a truncated mode.json": {made, func(*config.Config) {}, func(t *testing.T) {
			t.Helper()
			if err := os.WriteFile(file(modeFile), good[:len(good)/2], 0o600); err != nil {
				t.Fatal(err)
			}
			t.Cleanup(func() {
				if err := os.WriteFile(file(modeFile), good, 0o600); err != nil {
					t.Error(err)
				}
			})
		}, []string{modeFile, "damaged"}},
	} {
		t.Run(name, func(t *testing.T) {
			if tc.dir != nil {
				tc.dir(t)
			}
			tc.change(&tc.cfg)
			_, err := Start(t.Context(), tc.cfg, Options{})
			if ExitCode(err) != ExitConfig {
				t.Fatalf("%v, exit %d, want %d", err, ExitCode(err), ExitConfig)
			}
			for _, part := range tc.says {
				if !strings.Contains(err.Error(), part) {
					t.Errorf("the refusal does not say %q: %v", part, err)
				}
			}
			if strings.Contains(err.Error(), "\n") {
				t.Errorf("the refusal is more than a line: %v", err)
			}
		})
	}
	within(t, "ready after all that", launch(t, made, Options{}).Ready())
}
