package mvcc

import (
	"bytes"
	"compress/gzip"
	"flag"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

var writeFixtures = flag.Bool("write-fixtures", false, "write testdata anew, after a deliberate change of format")

// Files that the first version of the format has written can be read, to the byte.
func TestFormat1IsRead(t *testing.T) {
	if *writeFixtures {
		writeFormat1(t)
	}
	check := func(s *Store) {
		t.Helper()
		for rev, want := range map[int64]string{0: "a=3@5 c\x00d=x@6", 5: "a=3@5 b=1@4"} {
			if got := func() string {
				page, err := s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte{0}, End: []byte{0}, Revision: rev}}})
				must(t, err)
				return show(page.Ops[0].KVs)
			}(); got != want {
				t.Errorf("revision %d: got %q, want %q", rev, got, want)
			}
		}
		hash, rev, compact, err := s.hash(0)
		must(t, err)
		if hash != 0x3f4a798b || rev != 6 || compact != 4 || s.Applied() != 7 || s.LeaderTerm() != 12 ||
			s.Epoch() != (kv.Epoch{Cluster: 10, Nonce: [16]byte{15: 11}}) {
			t.Errorf("got hash %08x, revision %d, compact %d, applied %d, term %d, epoch %v", hash, rev, compact, s.Applied(), s.LeaderTerm(), s.Epoch())
		}
	}
	g := &rig{replica: &replica{t: t, path: filepath.Join(t.TempDir(), "store")}}
	must(t, os.WriteFile(g.path, gunzip(t, "testdata/format1.db.gz"), 0o600))
	g.open()
	t.Cleanup(func() { g.s.crash() })
	check(g.s)
	if got := checkFile(t, g.s); got != 5 {
		t.Errorf("got %d records", got)
	}
	snapshot := gunzip(t, "testdata/snapshot1.gz")
	restored := newRig(t, Options{})
	must(t, restored.s.Restore(bytes.NewReader(snapshot), nil))
	check(restored.s)
	// A snapshot is written as it was then.
	if again, err := io.ReadAll(dump(t, g.s)); err != nil || !bytes.Equal(again, snapshot) {
		t.Errorf("the snapshot of the fixture has %d bytes, it had %d (%v)", len(again), len(snapshot), err)
	}
}

// The second format has leases. A file has it from the first lease on, and so has its snapshot.
func TestFormat2IsRead(t *testing.T) {
	if *writeFixtures {
		writeFormat2(t)
	}
	check := func(s *Store) {
		t.Helper()
		page, err := s.Read(kv.Query{Ops: []kv.Op{
			scan("\x00", "\x00"), kv.LeaseList{}, kv.LeaseTTL{ID: 7, Keys: true}, kv.LeaseTTL{ID: -2, Keys: true}, kv.LeaseTTL{ID: 8},
		}})
		must(t, err)
		if got, want := show(page.Ops[0].KVs), "a=3@4 b=1@3"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got, want := showLeases(page.Ops[1:]...), "7:60/60 -2:9000000000/9000000000; 7:60/60 a b; -2:9000000000/9000000000; 8:-1/0"; got != want {
			t.Errorf("got %q, want %q", got, want)
		}
	}
	g := &rig{replica: &replica{t: t, path: filepath.Join(t.TempDir(), "store")}}
	must(t, os.WriteFile(g.path, gunzip(t, "testdata/format2.db.gz"), 0o600))
	g.open()
	t.Cleanup(func() { g.s.crash() })
	check(g.s)
	checkFile(t, g.s)
	snapshot := gunzip(t, "testdata/snapshot2.gz")
	restored := newRig(t, Options{})
	must(t, restored.s.Restore(bytes.NewReader(snapshot), nil))
	check(restored.s)
	checkFile(t, restored.s)
	for _, s := range []*Store{g.s, restored.s} {
		if again, err := io.ReadAll(dump(t, s)); err != nil || !bytes.Equal(again, snapshot) {
			t.Errorf("the snapshot of the fixture has %d bytes, it had %d (%v)", len(again), len(snapshot), err)
		}
	}
}

func writeFormat2(t *testing.T) {
	t.Helper()
	g := newRig(t, Options{})
	g.do(kv.LeaseGrant{ID: 7, TTL: 60})
	g.do(kv.LeaseGrant{ID: -2, TTL: MaxLeaseTTL})
	g.do(kv.LeaseGrant{ID: 8, TTL: 1})
	g.do(putLease("a", "1", 8))
	g.do(putLease("b", "1", 7))
	g.do(putLease("a", "3", 7))
	g.do(kv.LeaseRevoke{ID: 8})
	snapshot, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	gzipTo(t, "testdata/snapshot2.gz", snapshot)
	must(t, g.s.Close())
	b, err := os.ReadFile(g.path)
	must(t, err)
	gzipTo(t, "testdata/format2.db.gz", b)
}

func writeFormat1(t *testing.T) {
	t.Helper()
	g := newRig(t, Options{})
	g.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 10, Nonce: [16]byte{15: 11}}}, kv.LeaderTerm{Nonce: 12})
	g.put("a", "1")
	g.put("a", "2")
	g.put("b", "1")
	must(t, g.s.Flush())
	g.compact(4)
	g.do(put("a", "3"))
	g.do(kv.Txn{Then: []kv.Op{del("b", ""), put("c\x00d", "x")}})
	g.sweep()
	snapshot, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	gzipTo(t, "testdata/snapshot1.gz", snapshot)
	must(t, g.s.Close())
	b, err := os.ReadFile(g.path)
	must(t, err)
	gzipTo(t, "testdata/format1.db.gz", b)
}

func gzipTo(t *testing.T, path string, b []byte) {
	t.Helper()
	var buf bytes.Buffer
	w := gzip.NewWriter(&buf)
	_, err := w.Write(b)
	must(t, err)
	must(t, w.Close())
	must(t, os.MkdirAll(filepath.Dir(path), 0o755))
	must(t, os.WriteFile(path, buf.Bytes(), 0o644))
}

func gunzip(t *testing.T, path string) []byte {
	t.Helper()
	f, err := os.Open(path)
	must(t, err)
	defer f.Close()
	r, err := gzip.NewReader(f)
	must(t, err)
	b, err := io.ReadAll(r)
	must(t, err)
	return b
}

func TestNewerFormatIsRefused(t *testing.T) {
	g := newRig(t, Options{})
	must(t, g.s.layers.Load().file.db.Update(func(tx *bbolt.Tx) error {
		return tx.Bucket(bucketMeta).Put(metaFormat, []byte{0, 0, 0, formatVersion + 1})
	}))
	g.s.crash()
	_, err := Open(g.path, Options{})
	if kv.CodeOf(err) != kv.Unsupported || !strings.Contains(err.Error(), fmt.Sprint("format ", formatVersion+1)) || !strings.Contains(err.Error(), "newer") {
		t.Errorf("got %v", err)
	}
}
