package member

import (
	"archive/tar"
	"compress/gzip"
	"errors"
	"flag"
	"fmt"
	"io"
	"io/fs"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"testing"

	"holdfast/kv"
)

var writeFixtures = flag.Bool("write-fixtures", false, "write testdata anew, after a deliberate change of format")

// fixtureDir is a data dir as a kill leaves it: the state file is behind the raft log.
const fixtureDir = "testdata/member2.tar.gz"

// A data dir that format 2 was first written with opens, and everything that was acknowledged is in it.
func TestDataDirOfFormat2IsRead(t *testing.T) {
	if *writeFixtures {
		writeFixtureDir(t)
	}
	dir := t.TempDir()
	unpack(t, fixtureDir, dir)
	m := start(t, dir, quiet)
	for key, want := range map[string]string{"site/1": "b", "site/2": "", "site/3": "in the log only", "queued": "1", "leased": "1"} {
		if got, _ := m.get(key); got != want {
			t.Errorf("%s is %q, want %q", key, got, want)
		}
	}
	own := kv.Alarm{Member: 9, Kind: kv.AlarmNoSpace}
	if c := m.Condition(); c.Feature < kv.FeatureAdmin || !slices.Equal(c.Alarms, []kv.Alarm{own}) || c.Revision != 8 {
		t.Errorf("condition: %+v", c)
	}
	h, err := m.Hash(t.Context(), 0)
	if err != nil || h.Sum != fixtureSum || h.Revision != 8 || h.Compact != 4 {
		t.Errorf("hash: %+v, %v", h, err)
	}
	page, err := m.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Records{}, kv.LeaseTTL{ID: 77, Keys: true}}})
	if err != nil || len(page.Ops[0].KVs) != 2 || string(page.Ops[0].KVs[1].Key) != "record" || page.Ops[1].Leases[0].Granted != 1_000_000 || len(page.Ops[1].KVs) != 1 {
		t.Errorf("records, with the list of members that this version adds, and leases: %+v, %v", page.Ops, err)
	}
	_, err = m.Do(t.Context(), put("a", "1"))
	wantRefusal(t, err, kv.NoSpace)
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.SetAlarm{Alarm: own}}}); err != nil {
		t.Fatal(err)
	}
	res, err := m.Do(t.Context(), fixtureQueued()) // its place is used up
	if err != nil || res.Ops[0].Each[0].Err != nil || res.Ops[0].Each[0].Result.Revision != 6 {
		t.Errorf("sent again: %+v, %v", res, err)
	}
	m.put("a", "1")
}

const fixtureSum = 0xaa553614

func fixtureQueued() kv.Command {
	seq := kv.Seq{Origin: [16]byte{1}, Epoch: 1, N: 1}
	return kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{{ID: kv.ID{Seq: seq}, Ops: []kv.Op{kv.Put{Key: []byte("queued"), Value: []byte("1")}}}}}}}
}

func writeFixtureDir(t *testing.T) {
	t.Helper()
	m := start(t, t.TempDir(), quiet, func(c *Config) {
		c.ClusterID, c.ReplicaID, c.NodeID = 0x5eed, 1, "00000000-0000-4000-8000-000000000001"
	})
	do := func(ops ...kv.Op) {
		t.Helper()
		if _, err := m.Do(t.Context(), kv.Command{Ops: ops}); err != nil {
			t.Fatal(err)
		}
	}
	m.put("site/1", "a")
	m.put("site/1", "b")
	m.put("site/2", "c")
	do(kv.Compact{Revision: 4, Physical: true})
	do(kv.SetRecord{Name: []byte("record"), Value: []byte("v"), Have: 0})
	do(kv.LeaseGrant{ID: 77, TTL: 1_000_000})
	do(kv.Put{Key: []byte("leased"), Value: []byte("1"), Lease: 77})
	do(kv.OpenQueue{Origin: [16]byte{1}})
	do(fixtureQueued().Ops...)
	if err := m.store.Flush(); err != nil {
		t.Fatal(err)
	}
	do(kv.Delete{Key: []byte("site/2")})
	m.put("site/3", "in the log only")
	do(kv.SetAlarm{Alarm: kv.Alarm{Member: 9, Kind: kv.AlarmNoSpace}, Raise: true})
	h, err := m.Hash(t.Context(), 0)
	t.Logf("fixtureSum = %#x (%v)", h.Sum, err)
	pack(t, m.cfg.Dir, fixtureDir)
}

// pack writes the files below dir into a tar, without the zeros that are ahead of a log's end.
func pack(t *testing.T, dir, path string) {
	t.Helper()
	if err := os.MkdirAll(filepath.Dir(path), 0o755); err != nil {
		t.Fatal(err)
	}
	f, err := os.Create(path)
	if err != nil {
		t.Fatal(err)
	}
	zip, err := gzip.NewWriterLevel(f, gzip.BestCompression)
	if err != nil {
		t.Fatal(err)
	}
	out := tar.NewWriter(zip)
	host, err := os.Hostname()
	if err != nil {
		t.Fatal(err)
	}
	root := os.DirFS(dir)
	err = fs.WalkDir(root, ".", func(name string, d fs.DirEntry, err error) error {
		if err != nil || d.IsDir() || d.Name() == hostFlagName { // which names this machine
			return err
		}
		b, err := fs.ReadFile(root, name)
		if err != nil {
			return err
		}
		name = strings.ReplaceAll(name, host, "fixture") // of the machine: the next one gives it its own
		if err := out.WriteHeader(&tar.Header{Name: name, Mode: 0o600, Size: int64(len(b))}); err != nil {
			return err
		}
		_, err = out.Write(b)
		return err
	})
	if err := errors.Join(err, out.Close(), zip.Close(), f.Close()); err != nil {
		t.Fatal(err)
	}
}

func unpack(t *testing.T, path, dir string) {
	t.Helper()
	f, err := os.Open(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	zip, err := gzip.NewReader(f)
	if err != nil {
		t.Fatal(err)
	}
	for in := tar.NewReader(zip); ; {
		h, err := in.Next()
		if errors.Is(err, io.EOF) {
			return
		}
		if err != nil {
			t.Fatal(err)
		}
		to := filepath.Join(dir, filepath.FromSlash(h.Name))
		b, err := io.ReadAll(in)
		if err := errors.Join(err, os.MkdirAll(filepath.Dir(to), 0o700), os.WriteFile(to, b, 0o600)); err != nil {
			t.Fatal(fmt.Errorf("unpack %s: %w", h.Name, err))
		}
	}
}
