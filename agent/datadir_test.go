package agent

import (
	"bytes"
	"encoding/json"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"
	"strings"
	"testing"
	"time"

	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/member"
)

func openDir(t *testing.T, path string) *dataDir {
	t.Helper()
	d, err := openDataDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := d.Close(); err != nil && !errors.Is(err, os.ErrClosed) {
			t.Error(err)
		}
	})
	return d
}

func TestDataDirIsPrivateAndHasOneOwner(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a", "data")
	d := openDir(t, path)
	info, err := os.Stat(path)
	if err != nil || info.Mode().Perm() != 0o700 {
		t.Errorf("data dir is %v, %v; want mode 0700", info, err)
	}
	if _, err := openDataDir(path); ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), "pid "+strconv.Itoa(os.Getpid())) {
		t.Errorf("a second owner got %v, want a temporary error with the pid", err)
	}
	if err := d.Close(); err != nil {
		t.Fatal(err)
	}
	openDir(t, path)
}

func TestDataDirThatCannotBeIsForAPerson(t *testing.T) {
	file := filepath.Join(t.TempDir(), "file")
	if err := os.WriteFile(file, nil, 0o600); err != nil {
		t.Fatal(err)
	}
	for _, path := range []string{file, filepath.Join(file, "below"), filepath.Join(t.TempDir(), strings.Repeat("x", 300))} {
		if _, err := openDataDir(path); ExitCode(err) != ExitConfig {
			t.Errorf("data dir %.60s: %v, exit %d, want %d", path, err, ExitCode(err), ExitConfig)
		}
	}
}

func TestNodeIDIsDrawnOnceAndKept(t *testing.T) {
	d, other := openDir(t, t.TempDir()), openDir(t, t.TempDir())
	first, err := d.ensureNodeID()
	if err != nil {
		t.Fatal(err)
	}
	again, err := d.ensureNodeID()
	if err != nil || again != first {
		t.Errorf("second look: %v, %v; want %v", again, err, first)
	}
	foreign, err := other.ensureNodeID()
	if err != nil || foreign == first || foreign == (nodeID{}) {
		t.Errorf("another node got %v, %v beside %v", foreign, err, first)
	}
}

func TestDamagedSealedFileDoesNotOpen(t *testing.T) {
	type body struct {
		Text string `json:"text"`
	}
	text, err := seal("thing", 1, body{Text: "kept"})
	if err != nil {
		t.Fatal(err)
	}
	var got body
	if err := unseal("thing", 1, text, &got); err != nil || got.Text != "kept" {
		t.Fatalf("read back %+v, %v", got, err)
	}
	for n := range len(text) - 1 { // the last byte is a line end
		if err := unseal("thing", 1, text[:n], &got); !errors.Is(err, errDamaged) {
			t.Errorf("cut to %d bytes: %v, want damage", n, err)
		}
	}
	for n := range len(text) - 1 {
		for _, flip := range []byte{0x01, 0x20, 0x80} {
			bad := bytes.Clone(text)
			bad[n] ^= flip
			if err := unseal("thing", 1, bad, &got); err == nil {
				// The names of fields may differ in case; nothing else may.
				if !bytes.EqualFold(bad, text) {
					t.Errorf("byte %d changed from %q to %q and nobody noticed", n, text[n], bad[n])
				}
			}
		}
	}
	if err := unseal("thing", 1, append(bytes.Clone(text), '{'), &got); !errors.Is(err, errDamaged) {
		t.Errorf("bytes too many: %v, want damage", err)
	}
	if err := unseal("other", 1, text, &got); !errors.Is(err, errDamaged) {
		t.Errorf("another kind: %v, want damage", err)
	}
	newer, err := seal("thing", 2, struct{ Fresh int }{1})
	if err != nil {
		t.Fatal(err)
	}
	if err := unseal("thing", 1, newer, &got); !errors.Is(err, errNewer) {
		t.Errorf("a newer format: %v, want to be told so", err)
	}
}

func TestWriteFileReplacesWhatACrashLeft(t *testing.T) {
	path := filepath.Join(t.TempDir(), "f")
	if err := os.WriteFile(path+".new", []byte("half of something longer"), 0o600); err != nil {
		t.Fatal(err)
	}
	for _, content := range []string{"one", "two"} {
		if err := writeFile(path, []byte(content)); err != nil {
			t.Fatal(err)
		}
		if got, err := os.ReadFile(path); err != nil || string(got) != content {
			t.Errorf("read %q, %v; want %q", got, err, content)
		}
	}
	if _, err := os.Stat(path + ".new"); !errors.Is(err, fs.ErrNotExist) {
		t.Errorf("the temporary file is still there: %v", err)
	}
}

// prepare does what a start does with the dir, the founding of the member included.
func prepare(d *dataDir, cfg config.Config) (nodeID, error) {
	p, err := admit(d, cfg, time.Now())
	if err != nil {
		return nodeID{}, err
	}
	if err := p.make(); err != nil {
		return nodeID{}, err
	}
	if err := os.WriteFile(d.join(memberName, "founded"), nil, 0o600); err != nil {
		return nodeID{}, err
	}
	return p.node, p.complete()
}

// prepareJoin is prepare for a box that the cluster takes in as a member, each time it asks under another replica id.
func prepareJoin(asked *int) func(*dataDir, config.Config) (nodeID, error) {
	return func(d *dataDir, cfg config.Config) (nodeID, error) {
		p, err := admit(d, cfg, time.Now())
		if err != nil {
			return nodeID{}, err
		}
		node, err := d.ensureNodeID()
		if err != nil {
			return nodeID{}, err
		}
		if p.do == askCluster {
			*asked++
			s, err := d.observe(cfg)
			if err != nil {
				return node, err
			}
			s.answer = voterWanted
			b, err := json.Marshal(member.Admission{Cluster: 7, Replica: uint64(*asked) + 1, Node: node.uuid()}) //nolint:gosec // few
			if err != nil {
				return node, err
			}
			if p, err = answered(d, s, b, time.Now()); err != nil {
				return node, err
			}
		}
		if err := p.make(); err != nil {
			return node, err
		}
		if cluster, _, err := member.SeatOf(d.join(memberName)); err != nil || cluster != 7 {
			return node, fmt.Errorf("the member is one of cluster %d: %w", cluster, err)
		}
		if err := d.step(failpoint.MemberOpened); err != nil {
			return node, err
		}
		return p.node, p.complete()
	}
}

func TestBootstrapSurvivesAKillAtEachStep(t *testing.T) {
	survivesKills(t, config.Config{Mode: config.ModeAuto}, prepare)
}

func TestJoiningSurvivesAKillAtEachStep(t *testing.T) {
	asked := 0
	cfg := config.Config{Mode: config.ModeAuto, Join: []string{"10.0.0.1:2380"}, TokenFile: "t"}
	survivesKills(t, cfg, prepareJoin(&asked))
}

// survivesKills cuts prepare short at each of its steps and has the next start go on.
func survivesKills(t *testing.T, cfg config.Config, prepare func(*dataDir, config.Config) (nodeID, error)) {
	t.Helper()
	killed := errors.New("killed")
	var steps []failpoint.Point
	d := openDir(t, t.TempDir())
	d.step = func(name failpoint.Point) error { steps = append(steps, name); return nil }
	if _, err := prepare(d, cfg); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 8 {
		t.Fatalf("only the steps %q were taken", steps)
	}
	for _, at := range steps {
		t.Run(string(at), func(t *testing.T) {
			path := t.TempDir()
			d := openDir(t, path)
			d.step = func(name failpoint.Point) error {
				if name == at {
					return killed
				}
				return nil
			}
			if _, err := prepare(d, cfg); !errors.Is(err, killed) {
				t.Fatalf("the step was not reached: %v", err)
			}
			drawn, err := d.readNodeID()
			if err != nil && !errors.Is(err, fs.ErrNotExist) {
				t.Fatal(err)
			}
			if err := d.Close(); err != nil {
				t.Fatal(err)
			}

			d = openDir(t, path)
			node, err := prepare(d, cfg)
			if err != nil {
				t.Fatalf("the next start refuses: %v", err)
			}
			if drawn != (nodeID{}) && node != drawn {
				t.Errorf("node %v was drawn, %v serves", drawn, node)
			}
			s, err := d.observe(cfg)
			if err != nil {
				t.Fatal(err)
			}
			if s.record == nil || s.record.Switch != nil || s.record.Mode != asMember || s.member != filled || s.staged != absent {
				t.Errorf("the dir is left as %+v, record %+v", s, s.record)
			}
		})
	}
}

func TestNothingIsMadeBeforeAdmission(t *testing.T) {
	d := openDir(t, t.TempDir())
	for _, cfg := range []config.Config{
		{Mode: asProxy},
		{Mode: asAuto, Join: []string{"10.0.0.1:2380"}},
		{Mode: asMember, Join: []string{"10.0.0.1:2380"}},
	} {
		if _, err := admit(d, cfg, time.Now()); ExitCode(err) != ExitConfig {
			t.Errorf("%+v was admitted: %v", cfg, err)
		}
	}
	p, err := admit(d, config.Config{Mode: asMember, Join: []string{"10.0.0.1:2380"}, TokenFile: "t"}, time.Now())
	if err != nil || p.do != askCluster {
		t.Errorf("a box that may join: %+v, %v; want the cluster asked", p, err)
	}
	names, err := os.ReadDir(d.path)
	if err != nil || len(names) != 1 || names[0].Name() != lockFile {
		t.Errorf("the dir has %v, %v; want the lock alone", names, err)
	}
}

func TestModeJSONIsNeverGuessedAt(t *testing.T) {
	d := openDir(t, t.TempDir())
	cfg := config.Config{Mode: asAuto}
	if _, err := prepare(d, cfg); err != nil {
		t.Fatal(err)
	}
	path := d.join(modeFile)
	good, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for name, bad := range map[string][]byte{
		"empty": {}, "cut": good[:len(good)/2], "zeroed": make([]byte, len(good)),
		"edited": bytes.Replace(good, []byte(`"mode":"member"`), []byte(`"mode":"proxy"`), 1),
		"large":  bytes.Repeat([]byte(" "), sealedMax+1),
	} {
		if err := os.WriteFile(path, bad, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := admit(d, cfg, time.Now()); ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), modeFile) {
			t.Errorf("%s: %v, want a refusal that names the file", name, err)
		}
		if now, err := os.ReadFile(path); err != nil || !bytes.Equal(now, bad) {
			t.Errorf("%s: the refused start changed the file", name)
		}
	}
	if err := os.WriteFile(path, good, 0o600); err != nil {
		t.Fatal(err)
	}
	if _, err := admit(d, cfg, time.Now()); err != nil {
		t.Errorf("put back, it is refused: %v", err)
	}
}
