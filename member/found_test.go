package member

import (
	"bytes"
	"context"
	"crypto/sha256"
	"errors"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/kv"
	"holdfast/mvcc"
)

const testNode = "00000000-0000-4000-8000-00000000000a"

// save writes a backup of a member to a file, as its doors do.
func (m *testMember) save() string {
	m.t.Helper()
	data, size, err := m.Snapshot(context.Background())
	if err != nil {
		m.t.Fatal(err)
	}
	b, err := io.ReadAll(data)
	if err = errors.Join(err, data.Close()); err != nil || int64(len(b)) != size {
		m.t.Fatalf("%d bytes of %d: %v", len(b), size, err)
	}
	sum := sha256.Sum256(b)
	path := filepath.Join(m.t.TempDir(), "backup")
	if err := os.WriteFile(path, append(b, sum[:]...), 0o600); err != nil {
		m.t.Fatal(err)
	}
	return path
}

// found makes a new cluster of a backup and moves its dir to its place.
func found(t *testing.T, path string, epoch kv.Epoch) string {
	t.Helper()
	b, err := ReadBackup(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	dir := filepath.Join(t.TempDir(), "new")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if _, err := b.Make(t.Context(), filepath.Join(dir, stateName), mvcc.Renewal{Epoch: epoch}); err != nil {
		t.Fatal(err)
	}
	return begin(t, dir, epoch)
}

func begin(t *testing.T, dir string, epoch kv.Epoch) string {
	t.Helper()
	if err := Found(t.Context(), Config{Dir: dir, ClusterID: epoch.Cluster, NodeID: testNode}); err != nil {
		t.Fatal(err)
	}
	to := dir + ".moved"
	if err := os.Rename(dir, to); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestABackupBecomesAnotherClusterThatGoesOn(t *testing.T) {
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Version = "1.2.3" })
	for i := range 50 {
		m.put(fmt.Sprint("k", i%7), fmt.Sprint(i))
	}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.LeaseGrant{ID: 5, TTL: 600}}}); err != nil {
		t.Fatal(err)
	}
	seq := kv.Seq{Origin: [16]byte{1}, Epoch: 1, N: 1}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.OpenQueue{Origin: seq.Origin}}}); err != nil {
		t.Fatal(err)
	}
	queued := put("queued", "once")
	queued.ID.Seq = seq
	if _, err := m.Do(t.Context(), queued); err != nil {
		t.Fatal(err)
	}
	path, rev := m.save(), m.Status().Revision
	b, err := ReadBackup(t.Context(), path)
	if err != nil {
		t.Fatal(err)
	}
	if b.Kind != HoldfastBackup || b.Info == nil || b.Info.Version != "1.2.3" || b.Info.Revision != rev || b.Contents.Revision != rev || b.Contents.Keys != 8 || b.Contents.Leases != 1 {
		t.Errorf("the backup: %+v %+v", b, b.Info)
	}

	epoch := kv.Epoch{Cluster: 77, Nonce: [16]byte{7}}
	dir := found(t, path, epoch)
	n := start(t, dir, quiet)
	if s := n.Status(); s.Epoch != epoch || s.ClusterID != 77 || s.Revision != rev {
		t.Errorf("epoch %v, cluster %x, revision %d; want %v, 77 and %d", s.Epoch, s.ClusterID, s.Revision, epoch, rev)
	}
	if got, _ := n.get("k3"); got != "45" {
		t.Errorf("k3 is %q", got)
	}
	if got := n.put("k3", "new"); got != rev+1 {
		t.Errorf("the next revision is %d, want %d", got, rev+1)
	}
	if res, err := n.Do(t.Context(), queued); kv.CodeOf(err) != kv.OriginConflict {
		t.Errorf("a queue goes on in another cluster under the epoch that it had: %+v, %v", res, err)
	}
	page, err := n.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: 5}}})
	if err != nil || page.Ops[0].Leases[0].TTL < 590 {
		t.Errorf("lease: %+v, %v", page, err)
	}
	n.close()
	n = start(t, dir, quiet)
	if got, _ := n.get("k3"); got != "new" {
		t.Errorf("after a restart k3 is %q", got)
	}
}

// A log that begins at 1 could be replayed by a member that joins, who would never see what the backup held.
func TestTheLogOfAFoundedClusterBeginsBehindASnapshot(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("a", "1")
	dir := found(t, m.save(), kv.Epoch{Cluster: 78})
	n, err := Open(Config{Dir: dir})
	if err != nil {
		t.Fatal(err)
	}
	defer n.Close()
	s, err := summarize(n.logs.db.ILogDB, 1)
	if err != nil || s.snapshot.Index == 0 {
		t.Fatalf("snapshot at %d: %v", s.snapshot.Index, err)
	}
	rs, err := n.logs.db.ILogDB.ReadRaftState(shardID, 1, s.snapshot.Index)
	if err != nil || rs.EntryCount > 0 && rs.FirstIndex <= s.snapshot.Index {
		t.Errorf("entries from %d on, the snapshot is at %d: %v", rs.FirstIndex, s.snapshot.Index, err)
	}
}

func TestABackupThatIsNotWholeIsRefused(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("a", "1")
	path := m.save()
	whole, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	flipped := bytes.Clone(whole)
	flipped[len(flipped)/2] ^= 1
	newer := bytes.Replace(bytes.Clone(whole[:len(whole)-32]), []byte(`"format":1`), []byte(`"format":9`), 1)
	sum := sha256.Sum256(newer)
	for name, c := range map[string]struct {
		content []byte
		code    kv.Code
		says    string
	}{
		"empty":       {nil, kv.Corrupt, "no backup"},
		"text":        {[]byte("hello"), kv.Corrupt, "no backup"},
		"cut":         {whole[:len(whole)-4096], kv.Corrupt, "SHA-256"},
		"no checksum": {whole[:len(whole)-32], kv.Corrupt, "cut short"},
		"flipped":     {flipped, kv.Corrupt, "SHA-256"},
		"newer":       {append(newer, sum[:]...), kv.Unsupported, "install that version"},
	} {
		if err := os.WriteFile(path, c.content, 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := ReadBackup(t.Context(), path); kv.CodeOf(err) != c.code || !strings.Contains(fmt.Sprint(err), c.says) {
			t.Errorf("%s: got %v, want %v that says %q", name, err, c.code, c.says)
		}
	}
}

func TestWhatTheLogHoldsBeyondTheStateIsSalvaged(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("a", "1")
	early, err := os.ReadFile(m.save())
	if err != nil {
		t.Fatal(err)
	}
	for i := range 300 {
		m.put(fmt.Sprint("k", i), strings.Repeat("packs well ", 200)) // and is long enough for that
	}
	m.put("a", "2")
	m.close()
	// As after a kill: the state file is behind the log.
	if err := os.WriteFile(filepath.Join(m.cfg.Dir, stateName), early, 0o600); err != nil {
		t.Fatal(err)
	}
	s, err := Survey(Config{Dir: m.cfg.Dir})
	if err != nil {
		t.Fatal(err)
	}
	r := s.Remains()
	if r.Applied >= r.Last || r.Last < 301 || r.Committed > r.Last || r.Replica != 1 || len(r.Members) != 1 || r.LastTerm == 0 || r.Written.IsZero() {
		t.Errorf("got %+v", r)
	}
	dir := t.TempDir()
	epoch := kv.Epoch{Cluster: 79, Nonce: [16]byte{7}}
	c, err := s.Salvage(t.Context(), filepath.Join(dir, stateName), mvcc.Renewal{Epoch: epoch})
	if err != nil || c.Keys != 301 || c.Revision != 303 {
		t.Fatalf("%+v, %v", c, err)
	}
	if err := s.Close(); err != nil {
		t.Fatal(err)
	}
	n := start(t, begin(t, dir, epoch), quiet)
	if got, _ := n.get("a"); got != "2" {
		t.Errorf("a is %q", got)
	}
	old := start(t, m.cfg.Dir, quiet) // the way back
	if got, _ := old.get("a"); got != "2" {
		t.Errorf("in the old dir a is %q", got)
	}
}
