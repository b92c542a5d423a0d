package member

import (
	"bytes"
	"encoding/json"
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/kv"
)

// openError opens dir, which must fail, and returns how.
func openError(t *testing.T, cfg Config) error {
	t.Helper()
	m, err := Open(cfg)
	if err == nil {
		m.Close()
		t.Fatal("it opened")
	}
	return err
}

// wantRefusal checks the code of an error, and that it names what a person must know.
func wantRefusal(t *testing.T, err error, code kv.Code, words ...string) {
	t.Helper()
	if kv.CodeOf(err) != code {
		t.Errorf("%v (%s), want %s", err, kv.CodeOf(err), code)
	}
	for _, w := range words {
		if !strings.Contains(err.Error(), w) {
			t.Errorf("%q does not say %q", err, w)
		}
	}
}

// filled returns the dir of a closed member with n keys, flushed up to a snapshot if snap is set.
func filled(t *testing.T, n int, snap bool) string {
	t.Helper()
	m := start(t, t.TempDir(), quiet)
	m.putMany(n)
	if snap {
		if err := m.snapshot(t.Context()); err != nil {
			t.Fatal(err)
		}
	}
	dir := m.cfg.Dir
	m.close()
	return dir
}

func TestLostStateFileBehindASnapshotIsExplained(t *testing.T) {
	dir := filled(t, 100, true)
	if err := os.Remove(filepath.Join(dir, stateName)); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, openError(t, Config{Dir: dir}), kv.Corrupt, stateName, "snapshot", "restore")
}

func TestLostStateFileWithoutASnapshotIsRebuilt(t *testing.T) {
	dir := filled(t, 100, false)
	if err := os.Remove(filepath.Join(dir, stateName)); err != nil {
		t.Fatal(err)
	}
	m := start(t, dir, quiet)
	if got, _ := m.get("many/000099"); got != "99" {
		t.Errorf("got %q, want 99", got)
	}
}

func TestLostLogIsExplained(t *testing.T) {
	dir := filled(t, 100, false)
	if err := os.RemoveAll(filepath.Join(dir, raftDir)); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, openError(t, Config{Dir: dir}), kv.Corrupt, stateName, raftDir, "restore")
}

func TestFlippedByteInTheLogIsExplained(t *testing.T) {
	for _, crashed := range []bool{false, true} {
		m := start(t, t.TempDir(), quiet)
		m.putMany(500)
		dir := m.cfg.Dir
		if crashed {
			dir = crashCopy(t, m)
		}
		m.close()
		path := largest(t, dir, ".log")
		edit(t, path, func(b []byte) []byte {
			b[used(b)/2] ^= 1
			return b
		})
		want, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		wantRefusal(t, openError(t, Config{Dir: dir}), kv.Corrupt, raftDir, "damaged", "restore")
		if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
			t.Errorf("crashed %t: the damaged log was changed", crashed)
		}
	}
}

func largest(t *testing.T, dir, ext string) (path string) {
	t.Helper()
	var size int64
	err := filepath.WalkDir(dir, func(p string, d os.DirEntry, err error) error {
		if err != nil || filepath.Ext(p) != ext {
			return err
		}
		info, err := d.Info()
		if err == nil && info.Size() > size {
			path, size = p, info.Size()
		}
		return err
	})
	if err != nil || path == "" {
		t.Fatalf("no %s below %s: %v", ext, dir, err)
	}
	return path
}

func TestFlippedByteInTheStateFileIsExplained(t *testing.T) {
	dir := filled(t, 500, true)
	path := filepath.Join(dir, stateName)
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	for _, at := range []int{24, 4096 + 24} { // both of bbolt's meta pages
		b[at] ^= 1
	}
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, openError(t, Config{Dir: dir}), kv.Corrupt, stateName)
}

func TestIdentityIsRecordedOnceAndChecked(t *testing.T) {
	dir := t.TempDir()
	const node = "0f0e0d0c-0b0a-4908-8706-050403020100"
	m := start(t, dir, quiet, func(c *Config) { c.ClusterID, c.NodeID = 77, node })
	if st := m.Status(); st.ClusterID != 77 || st.ReplicaID != 1 || st.Epoch.Cluster != 77 || m.NodeID() != node {
		t.Errorf("%+v, node %s", st, m.NodeID())
	}
	m.close()
	m = start(t, dir, quiet) // without any
	if st := m.Status(); st.ClusterID != 77 || m.NodeID() != node {
		t.Errorf("after a restart: %+v, node %s", st, m.NodeID())
	}
	m.close()
	for _, c := range []Config{
		{Dir: dir, ClusterID: 78},
		{Dir: dir, ReplicaID: 2},
		{Dir: dir, NodeID: "ffffffff-0b0a-4908-8706-050403020100"},
	} {
		wantRefusal(t, openError(t, c), kv.Invalid, dir)
	}
	wantRefusal(t, openError(t, Config{Dir: t.TempDir(), NodeID: "seven"}), kv.Invalid, "seven")
}

func TestDamagedOrNewerIdentityIsRefused(t *testing.T) {
	for name, c := range map[string]struct {
		content string
		want    kv.Code
	}{
		"empty":     {"", kv.Corrupt},
		"truncated": {`{"format":1,"clus`, kv.Corrupt},
		"zero":      {`{"format":1}`, kv.Corrupt},
		"newer":     {`{"format":2,"cluster":1,"replica":1,"node":"0f0e0d0c-0b0a-4908-8706-050403020100"}`, kv.Unsupported},
	} {
		dir := t.TempDir()
		path := filepath.Join(dir, identityName)
		if err := os.WriteFile(path, []byte(c.content), 0o600); err != nil {
			t.Fatal(err)
		}
		err := openError(t, Config{Dir: dir})
		if kv.CodeOf(err) != c.want || !strings.Contains(err.Error(), path) {
			t.Errorf("%s: %v, want %s", name, err, c.want)
		}
		if b, _ := os.ReadFile(path); string(b) != c.content {
			t.Errorf("%s: it was changed", name)
		}
	}
	dir := filled(t, 10, false)
	if err := os.Remove(filepath.Join(dir, identityName)); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, openError(t, Config{Dir: dir}), kv.Corrupt, identityName, "missing")
}

func TestRenamedMachineKeepsItsData(t *testing.T) {
	dir := filled(t, 10, false)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	raft := filepath.Join(dir, raftDir)
	if err := os.Rename(filepath.Join(raft, host), filepath.Join(raft, "gateway-7")); err != nil {
		t.Fatal(err)
	}
	// What the library recorded under the former name.
	path := filepath.Join(raft, hostFlagName)
	if err := os.WriteFile(path, []byte("of gateway-7"), 0o600); err != nil {
		t.Fatal(err)
	}
	m := start(t, dir, quiet)
	if got, _ := m.get("many/000009"); got != "9" {
		t.Errorf("got %q, want 9", got)
	}
	m.close()
	if err := os.Mkdir(filepath.Join(raft, "other"), 0o700); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, openError(t, Config{Dir: dir}), kv.Corrupt, "other", host)
}

func TestSettingFilesOfTheLibraryAreRefused(t *testing.T) {
	t.Chdir(t.TempDir())
	name := "dragonboat-soft-settings.json"
	if err := os.WriteFile(name, []byte("{}"), 0o600); err != nil {
		t.Fatal(err)
	}
	wantRefusal(t, openError(t, Config{Dir: t.TempDir()}), kv.Invalid, name)
}

func TestConfigIsChecked(t *testing.T) {
	for _, c := range []Config{
		{},
		{Dir: "d", History: -1},
		{Dir: "d", RequestBytes: maxRequestBytes + 1},
	} {
		if _, err := c.withDefaults(); err == nil {
			t.Errorf("%+v passes", c)
		}
	}
	c, err := Config{Dir: "d"}.withDefaults()
	if err != nil || c.RequestBytes != DefaultRequestBytes || c.FlushEvery != DefaultFlushEvery {
		t.Errorf("%+v, %v", c, err)
	}
}

func TestOpenErrorLeavesNothingBehind(t *testing.T) {
	dir := filled(t, 10, false)
	id, err := os.ReadFile(filepath.Join(dir, identityName))
	if err != nil {
		t.Fatal(err)
	}
	var recorded identity
	if err := json.Unmarshal(id, &recorded); err != nil || recorded.Format != identityFormat {
		t.Fatalf("%+v, %v", recorded, err)
	}
	if err := openError(t, Config{Dir: dir, Free: func(string) (int64, int64, error) { return 0, 0, errTest }}); !errors.Is(err, errTest) {
		t.Error(err)
	}
	m := start(t, dir, quiet) // nothing is locked
	m.close()
}
