package agent

import (
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"io/fs"
	"net/http"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/config"
	"holdfast/internal/failpoint"
)

// filledDir is the data dir of a stopped agent with a key in it, and a backup taken of that.
func filledDir(t *testing.T) (cfg config.Config, backup string) {
	t.Helper()
	cfg = settings(t)
	a := launch(t, cfg, Options{Version: "1.2.3"})
	within(t, "ready", a.Ready())
	expect(t, httpClient(t, nil), "PUT", a.Addrs()[0]+"/v1/kv/a", "kept", http.StatusCreated)
	data, _, err := a.admin().Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(data)
	if err := errors.Join(err, data.Close()); err != nil {
		t.Fatal(err)
	}
	sum := sha256.Sum256(b)
	backup = filepath.Join(t.TempDir(), "backup")
	if err := os.WriteFile(backup, append(b, sum[:]...), 0o600); err != nil {
		t.Fatal(err)
	}
	halt(t, a)
	return cfg, backup
}

// at is a copy of cfg for another dir.
func at(t *testing.T, dir string) config.Config {
	t.Helper()
	cfg := settings(t)
	cfg.DataDir, cfg.Socket = dir, filepath.Join(filepath.Dir(filepath.Dir(cfg.Socket)), "s.sock")
	return cfg
}

// serves starts an agent, wants a to be kept, and stops it. It returns the epoch and the cluster.
func serves(t *testing.T, cfg config.Config) (epoch, cluster, node string) {
	t.Helper()
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	got := expect(t, httpClient(t, nil), "GET", a.Addrs()[0]+"/v1/kv/a", "", http.StatusOK)
	if got.body != "kept" {
		t.Errorf("a is %q", got.body)
	}
	s := a.Report()
	halt(t, a)
	return s.Epoch, s.Member.ClusterID, s.NodeID
}

var errKilled = errors.New("killed")

// killAt ends a restore at a step, and notes those that it passes.
func killAt(name failpoint.Point, passed *[]failpoint.Point) func(failpoint.Point) error {
	return func(at failpoint.Point) error {
		if passed != nil {
			*passed = append(*passed, at)
		}
		if at == name {
			return errKilled
		}
		return nil
	}
}

func TestTwoRestoresOfOneBackupAreTwoClusters(t *testing.T) {
	old, backup := filledDir(t)
	wasEpoch, wasCluster, wasNode := serves(t, old)
	seen := map[string]bool{wasEpoch: true, wasCluster: true, wasNode: true}
	for range 2 {
		cfg := at(t, filepath.Join(t.TempDir(), "new"))
		done, err := Restore(t.Context(), Restoration{Offline: Offline{DataDir: cfg.DataDir}, File: backup})
		if err != nil {
			t.Fatal(err)
		}
		if done.Revision != 2 || done.Keys != 1 || done.SameIdentity {
			t.Errorf("got %+v", done)
		}
		epoch, cluster, node := serves(t, cfg)
		if epoch != done.Epoch || cluster != done.Cluster || node != done.Node {
			t.Errorf("%s %s %s serve, %+v was restored", epoch, cluster, node, done)
		}
		for _, id := range []string{epoch, cluster, node} {
			if seen[id] {
				t.Errorf("%s is there twice", id)
			}
			seen[id] = true
		}
	}
}

func TestARestoreSurvivesAKillAtEachStep(t *testing.T) {
	_, backup := filledDir(t)
	restore := func(dir string, step func(failpoint.Point) error) error {
		_, err := Restore(t.Context(), Restoration{Offline: Offline{DataDir: dir, step: step}, File: backup})
		return err
	}
	var steps []failpoint.Point
	if err := restore(t.TempDir(), killAt("", &steps)); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 7 {
		t.Fatalf("only the steps %q were taken", steps)
	}
	journalled := false
	for _, step := range steps {
		journalled = journalled || step == failpoint.ReplaceJournalled
		t.Run(string(step), func(t *testing.T) {
			cfg := at(t, t.TempDir())
			if err := restore(cfg.DataDir, killAt(step, nil)); !errors.Is(err, errKilled) {
				t.Fatalf("the step was not reached: %v", err)
			}
			if !journalled {
				_, err := Start(t.Context(), cfg, Options{})
				if ExitCode(err) != ExitConfig || !strings.Contains(fmt.Sprint(err), "agent snapshot restore again") {
					t.Fatalf("the next start: %v", err)
				}
				if err := restore(cfg.DataDir, nil); err != nil {
					t.Fatalf("the next restore: %v", err)
				}
			}
			serves(t, cfg)
			serves(t, cfg)
		})
	}
}

func TestARecoverySurvivesAKillAtEachStep(t *testing.T) {
	recovery := func(dir string, step func(failpoint.Point) error) error {
		_, err := Recover(t.Context(), Recovery{Offline: Offline{DataDir: dir, step: step}, Confirm: func(Loss) bool { return true }})
		return err
	}
	old, _ := filledDir(t)
	wasEpoch, _, wasNode := serves(t, old)
	var steps []failpoint.Point
	if err := recovery(copyOf(t, old.DataDir), killAt("", &steps)); err != nil {
		t.Fatal(err)
	}
	if len(steps) < 7 {
		t.Fatalf("only the steps %q were taken", steps)
	}
	journalled := false
	for _, step := range steps {
		journalled = journalled || step == failpoint.ReplaceJournalled
		t.Run(string(step), func(t *testing.T) {
			cfg := at(t, copyOf(t, old.DataDir))
			if err := recovery(cfg.DataDir, killAt(step, nil)); !errors.Is(err, errKilled) {
				t.Fatalf("the step was not reached: %v", err)
			}
			epoch, _, node := serves(t, cfg)
			if (epoch != wasEpoch) != journalled || node != wasNode {
				t.Errorf("epoch %s before, %s now, node %s before, %s now", wasEpoch, epoch, wasNode, node)
			}
			if entries, err := os.ReadDir(filepath.Join(cfg.DataDir, retiredName)); journalled && (err != nil || len(entries) != 1) {
				t.Errorf("the former member is not there: %v, %v", entries, err)
			}
			if _, err := os.Stat(filepath.Join(cfg.DataDir, replacedName)); !errors.Is(err, os.ErrNotExist) {
				t.Errorf("what was staged is still there: %v", err)
			}
		})
	}
}

// copyOf copies a data dir.
func copyOf(t *testing.T, dir string) string {
	t.Helper()
	to := filepath.Join(t.TempDir(), "copy")
	copyTo(t, to, dir)
	return to
}

func copyTo(t *testing.T, to, dir string) {
	t.Helper()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	if err := filepath.WalkDir(to, func(path string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() {
			return err
		}
		return os.Chmod(path, 0o600) //nolint:gosec // the test's own folder; CopyFS gives more
	}); err != nil {
		t.Fatal(err)
	}
}

// Everything of a lone member is there but the small file that says what it is.
func TestAMemberThatLostItsRecordIsRecovered(t *testing.T) {
	old, _ := filledDir(t)
	_, _, was := serves(t, old)
	whole, err := os.ReadFile(filepath.Join(old.DataDir, modeFile))
	if err != nil {
		t.Fatal(err)
	}
	recovery := func(dir string, step func(failpoint.Point) error) error {
		_, err := Recover(t.Context(), Recovery{Offline: Offline{DataDir: dir, step: step}, Confirm: func(Loss) bool { return true }})
		return err
	}
	for name, lose := range map[string]func(file string) error{
		"missing": os.Remove,
		"cut":     func(file string) error { return os.WriteFile(file, whole[:len(whole)/2], 0o600) },
		"empty":   func(file string) error { return os.WriteFile(file, nil, 0o600) },
	} {
		t.Run(name, func(t *testing.T) {
			cfg := at(t, copyOf(t, old.DataDir))
			if err := lose(filepath.Join(cfg.DataDir, modeFile)); err != nil {
				t.Fatal(err)
			}
			if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), "agent recover") {
				t.Fatalf("a start: %v", err)
			}
			for _, step := range []failpoint.Point{failpoint.ReplaceFolder, failpoint.ReplaceFounded} { // killed twice before the journal
				if err := recovery(cfg.DataDir, killAt(step, nil)); !errors.Is(err, errKilled) {
					t.Fatalf("the step %s was not reached: %v", step, err)
				}
				if _, err := Start(t.Context(), cfg, Options{}); ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), "agent recover") {
					t.Fatalf("a start after %s: %v", step, err)
				}
			}
			if err := recovery(cfg.DataDir, nil); err != nil {
				t.Fatal(err)
			}
			if _, _, node := serves(t, cfg); node != was {
				t.Errorf("node %s, was %s", node, was)
			}
		})
	}
	for name, spoil := range map[string]func(dir string) error{
		"a cache beside it":        func(dir string) error { return os.Mkdir(filepath.Join(dir, proxyName), 0o700) },
		"a change that was staged": func(dir string) error { return os.Mkdir(filepath.Join(dir, stagedName), 0o700) },
		"no identity":              func(dir string) error { return os.RemoveAll(filepath.Join(dir, identityName)) },
		"a record of a newer agent": func(dir string) error {
			return writeSealed(filepath.Join(dir, modeFile), modeKind, modeVersion+1, record{})
		},
	} {
		dir := copyOf(t, old.DataDir)
		if err := errors.Join(os.Remove(filepath.Join(dir, modeFile)), spoil(dir)); err != nil {
			t.Fatal(err)
		}
		if err := recovery(dir, nil); err == nil {
			t.Errorf("recovered in spite of %s", name)
		}
	}
}

func TestARecoveryThatIsNotConfirmedChangesNothing(t *testing.T) {
	cfg, _ := filledDir(t)
	before, _, node := serves(t, cfg)
	var shown Loss
	_, err := Recover(t.Context(), Recovery{Offline: Offline{DataDir: cfg.DataDir}, Confirm: func(l Loss) bool { shown = l; return false }})
	if !errors.Is(err, ErrNotConfirmed) {
		t.Fatal(err)
	}
	if shown.Node != node || shown.Epoch != before || shown.Keys != 1 || shown.Revision != 2 || shown.LastIndex < shown.Committed || len(shown.Others) != 0 {
		t.Errorf("it was shown %+v", shown)
	}
	if after, _, _ := serves(t, cfg); after != before {
		t.Errorf("epoch %s, was %s", after, before)
	}
}

func TestWhatARestoreWouldTakeThePlaceOfIsRefused(t *testing.T) {
	cfg, backup := filledDir(t)
	restore := func(dir, file string) error {
		_, err := Restore(t.Context(), Restoration{Offline: Offline{DataDir: dir}, File: file})
		return err
	}
	err := restore(cfg.DataDir, backup)
	if ExitCode(err) != ExitConfig || !strings.Contains(err.Error(), "is not empty (member, mode.json)") {
		t.Errorf("a dir with a member: %v", err)
	}
	serves(t, cfg)
	for name, file := range map[string]string{"no file": backup + ".not", "no backup": filepath.Join(cfg.DataDir, modeFile)} {
		dir := filepath.Join(t.TempDir(), "new")
		if err := restore(dir, file); ExitCode(err) != ExitConfig {
			t.Errorf("%s: %v", name, err)
		}
		if _, err := os.Stat(dir); !errors.Is(err, os.ErrNotExist) {
			t.Errorf("%s: something was made: %v", name, err)
		}
	}
	a := launch(t, cfg, Options{})
	within(t, "ready", a.Ready())
	if err := restore(cfg.DataDir, backup); ExitCode(err) != ExitTemporary {
		t.Errorf("while the agent runs: %v", err)
	}
	_, err = Recover(t.Context(), Recovery{Offline: Offline{DataDir: cfg.DataDir}})
	if ExitCode(err) != ExitTemporary || !strings.Contains(err.Error(), "in use") {
		t.Errorf("recover while the agent runs: %v", err)
	}
	_, err = Recover(t.Context(), Recovery{Offline: Offline{DataDir: t.TempDir()}})
	if ExitCode(err) != ExitConfig {
		t.Errorf("recover an empty dir: %v", err)
	}
}

// With identity/ of the former node the CA is the same, so that nodes that had joined are known.
func TestARestoreKeepsTheIdentityThatItFinds(t *testing.T) {
	old, backup := filledDir(t)
	_, _, was := serves(t, old)
	cfg := at(t, t.TempDir())
	copyTo(t, filepath.Join(cfg.DataDir, identityName), filepath.Join(old.DataDir, identityName))
	done, err := Restore(t.Context(), Restoration{Offline: Offline{DataDir: cfg.DataDir}, File: backup})
	if err != nil || !done.SameIdentity {
		t.Fatalf("%+v, %v", done, err)
	}
	if _, _, node := serves(t, cfg); node != was {
		t.Errorf("node %s, was %s", node, was)
	}
}
