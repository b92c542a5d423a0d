package member

import (
	"errors"
	"io"
	"os"
	"path/filepath"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"go.etcd.io/bbolt"

	"holdfast/kv"
	"holdfast/member/nodehost"
	"holdfast/mvcc"
)

func compact(rev int64, physical bool) kv.Command {
	return kv.Command{Ops: []kv.Op{kv.Compact{Revision: rev, Physical: physical}}}
}

// Whoever asks a member something does not wait for its end: with the race detector this fails if the library is asked while
// it closes.
func TestMemberMayBeAskedBeyondTheEnd(t *testing.T) {
	shown := prometheus.NewRegistry()
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Metrics = shown })
	ctx := t.Context()
	over := make(chan struct{})
	var asking, asked sync.WaitGroup
	for _, ask := range []func(){
		func() { m.Condition() },
		func() { m.voters() },
		func() { m.Status() },
		func() { _ = m.Alive(ctx) },
		func() { _, _ = m.Read(ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("k")}}}) },
		func() { _, _ = m.Do(ctx, put("k", "v")) },
		func() { _, _ = shown.Gather() },
		func() { _, _ = m.Hash(ctx, 0) },
		func() {
			if b, _, err := m.Snapshot(ctx); err == nil {
				_ = b.Close()
			}
		},
		func() {
			since := kv.Watch{ID: 1, Key: []byte("k"), From: 1}
			m.Watch(ctx, kv.WatchSpec{Watches: []kv.Watch{since}})(func(kv.Batch, error) bool { return false })
		},
	} {
		asking.Add(1)
		asked.Go(func() {
			for first := true; ; first = false {
				ask()
				if first {
					asking.Done()
				}
				select {
				case <-over:
					return
				default:
				}
			}
		})
	}
	asking.Wait()
	m.close()
	close(over)
	asked.Wait()
	if _, known := m.voters(); known || m.Condition().Learner {
		t.Error("a member that has ended still tells who votes")
	}
}

func TestTheHostIsClosedOnceNobodyAsksIt(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	asking, closing := make(chan struct{}), make(chan struct{})
	asked := make(chan error, 1)
	go func() {
		_, err := askHost(m.Member, func(h *nodehost.Host) (*nodehost.RequestState, error) {
			close(asking)
			<-closing
			return h.ReadIndex(shardID, leaderWait)
		})
		asked <- err
	}()
	<-asking
	m.stop()
	for deadline := time.Now().Add(20 * time.Second); m.hostOpen.TryRLock(); time.Sleep(time.Millisecond) { // until closeHost waits
		m.hostOpen.RUnlock()
		if time.Now().After(deadline) {
			t.Fatal("nobody closes the host after 20 s")
		}
	}
	close(closing)
	if err := <-asked; err != nil {
		t.Errorf("while somebody asked it, the host was closed: %v", err)
	}
	m.close()
	if err := m.raftAnswers(t.Context()); err != nil {
		t.Errorf("of a member that has ended raft is said to hang: %v", err)
	}
	if _, err := askHost(m.Member, func(*nodehost.Host) (int, error) { return 0, nil }); !closedHost(err) {
		t.Errorf("a host that is closed was asked: %v", err)
	}
}

func TestConditionTellsHowALoneMemberStands(t *testing.T) {
	m := start(t, t.TempDir(), quiet, func(c *Config) {
		c.Version, c.Quota, c.Name, c.Addresses = "v1", 64<<20, "box", []string{"192.0.2.1:2380"}
	})
	m.put("a", "1")
	c := m.Condition()
	if c.Leader != m.id.Replica || c.Member != m.id.Replica || c.Term == 0 || c.Revision != 2 || c.Learner || c.Epoch.IsZero() ||
		c.Applied == 0 || c.Committed < c.Applied || c.DBSize <= 0 || c.DBInUse <= 0 || c.DBInUse > c.DBSize || c.DBQuota != 64<<20 ||
		c.Feature != kv.FeatureNewest || c.Version != "v1" || len(c.Alarms) != 0 {
		t.Errorf("got %+v", c)
	}
	for _, local := range []bool{false, true} {
		list, err := m.Replicas(t.Context(), local)
		if err != nil || len(list) != 1 || list[0].ID != m.id.Replica || list[0].Node != plainNode(m.id.Node) || list[0].Learner ||
			list[0].Name != "box" || len(list[0].PeerURLs) != 1 || list[0].PeerURLs[0] != "quic://192.0.2.1:2380" {
			t.Errorf("replicas: %+v, %v", list, err)
		}
	}
	if err := m.MoveLeader(t.Context(), m.id.Replica); err != nil {
		t.Errorf("to itself: %v", err)
	}
	wantRefusal(t, m.MoveLeader(t.Context(), 99), kv.Invalid, "no voter")
}

func TestHashNamesItsRevisions(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	for range 4 {
		m.put("a", "1")
	}
	if _, err := m.Do(t.Context(), compact(3, false)); err != nil {
		t.Fatal(err)
	}
	whole, err := m.Hash(t.Context(), 0)
	if err != nil || whole.Revision != 5 || whole.Compact != 3 || whole.Header.Revision != 5 || whole.Member != m.id.Replica || whole.Sum == 0 {
		t.Errorf("got %+v, %v", whole, err)
	}
	part, err := m.Hash(t.Context(), 4)
	if err != nil || part.Revision != 4 || part.Compact != 3 || part.Sum == whole.Sum {
		t.Errorf("got %+v, %v", part, err)
	}
	_, err = m.Hash(t.Context(), 2)
	wantRefusal(t, err, kv.Compacted, "history begins at 3")
	_, err = m.Hash(t.Context(), 6)
	wantRefusal(t, err, kv.FutureRevision, "newest is 5")
}

// A compaction that asks for it is answered once its space is free, not before and not by itself.
func TestPhysicalCompactionIsAnsweredOnceItsSpaceIsFree(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	for range 50 {
		m.put("a", strings.Repeat("x", 32<<10))
	}
	if err := m.store.Flush(); err != nil {
		t.Fatal(err)
	}
	before := m.Condition()
	if _, err := m.Do(t.Context(), compact(before.Revision, true)); err != nil {
		t.Fatal(err)
	}
	after, st := m.Condition(), m.store.Stats()
	if st.Swept != before.Revision {
		t.Errorf("swept up to %d, want %d", st.Swept, before.Revision)
	}
	if after.DBInUse > before.DBInUse/4 {
		t.Errorf("%d bytes are in use, %d before", after.DBInUse, before.DBInUse)
	}
	_, err := m.Do(t.Context(), compact(before.Revision, true))
	wantRefusal(t, err, kv.Compacted)
}

func TestDefragmentShrinksTheStateFile(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	for range 50 {
		m.put("a", strings.Repeat("x", 32<<10))
	}
	if err := m.store.Flush(); err != nil {
		t.Fatal(err)
	}
	if _, err := m.Do(t.Context(), compact(m.Status().Revision, true)); err != nil {
		t.Fatal(err)
	}
	before := m.Condition()
	if err := m.Defragment(t.Context()); err != nil {
		t.Fatal(err)
	}
	if after := m.Condition(); after.DBSize > before.DBSize/4 {
		t.Errorf("%d bytes, %d before", after.DBSize, before.DBSize)
	}
	m.put("b", "1")
	m.close()
	m = start(t, m.cfg.Dir, quiet)
	if got, _ := m.get("b"); got != "1" {
		t.Errorf("after a restart b is %q", got)
	}
}

func TestDefragmentNeedsRoomForASecondFile(t *testing.T) {
	var d disk
	d.free.Store(1 << 30)
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Free = d.look })
	m.put("a", "1")
	d.free.Store(256<<20 + 1)
	wantRefusal(t, m.Defragment(t.Context()), kv.NoSpace, "second file", "256 MiB", m.cfg.Dir)
	d.free.Store(1 << 30)
	if err := m.Defragment(t.Context()); err != nil {
		t.Error(err)
	}
	m.defragmenting.Lock()
	defer m.defragmenting.Unlock()
	wantRefusal(t, m.Defragment(t.Context()), kv.Busy, "already")
}

// What Snapshot gives is a whole bbolt file of the size it says, of one moment, while the store goes on.
func TestSnapshotIsAFileOfItsMoment(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	for range 20 {
		m.put("a", strings.Repeat("x", 16<<10))
	}
	m.put("a", "then")
	data, size, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	want := m.Status().Applied
	for range 20 {
		m.put("a", strings.Repeat("y", 16<<10))
	}
	if _, err := m.Do(t.Context(), compact(m.Status().Revision, true)); err != nil {
		t.Fatal(err)
	}
	if err := m.Defragment(t.Context()); err != nil { // it reads on in the former file
		t.Fatal(err)
	}
	b, err := io.ReadAll(data)
	if err != nil || int64(len(b)) != size || size%512 != 0 {
		t.Fatalf("%d bytes of %d, %v", len(b), size, err)
	}
	if err := errors.Join(data.Close(), data.Close()); err != nil {
		t.Error(err)
	}
	path := filepath.Join(t.TempDir(), stateName)
	if err := os.WriteFile(path, b, 0o600); err != nil {
		t.Fatal(err)
	}
	db, err := bbolt.Open(path, 0o600, &bbolt.Options{ReadOnly: true})
	if err != nil {
		t.Fatal(err)
	}
	if err := errors.Join(db.View(func(tx *bbolt.Tx) error { return errors.Join(collect(tx.Check())...) }), db.Close()); err != nil {
		t.Errorf("the copy: %v", err)
	}
	s, err := mvcc.Open(path, mvcc.Options{})
	if err != nil {
		t.Fatal(err)
	}
	defer s.Close()
	page, err := s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("a")}}})
	if err != nil || string(page.Ops[0].KVs[0].Value) != "then" || s.Applied() != want {
		t.Errorf("the copy has %d keys at index %d, want index %d: %v", len(page.Ops[0].KVs), s.Applied(), want, err)
	}
}

func collect(errs <-chan error) (all []error) {
	for err := range errs {
		all = append(all, err)
	}
	return all
}

func TestSnapshotPutBackIsBroughtUpToDateByTheLog(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("a", "1")
	data, _, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	b, err := io.ReadAll(data)
	if err != nil {
		t.Fatal(err)
	}
	if err := data.Close(); err != nil {
		t.Fatal(err)
	}
	m.put("a", "2")
	m.close()
	if err := os.WriteFile(filepath.Join(m.cfg.Dir, stateName), b, 0o600); err != nil {
		t.Fatal(err)
	}
	m = start(t, m.cfg.Dir, quiet)
	if got, _ := m.get("a"); got != "2" {
		t.Errorf("a is %q", got)
	}
}

func TestSnapshotsAreBoundedInNumberAndTime(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	var open []io.ReadSeekCloser
	for range backupsAtOnce {
		data, _, err := m.Snapshot(t.Context())
		if err != nil {
			t.Fatal(err)
		}
		open = append(open, data)
	}
	_, _, err := m.Snapshot(t.Context())
	wantRefusal(t, err, kv.Busy, "copies of the state")
	for _, data := range open {
		if err := data.Close(); err != nil {
			t.Error(err)
		}
	}
	data, _, err := m.Snapshot(t.Context())
	if err != nil {
		t.Fatal(err)
	}
	data.(*backup).expire()
	_, err = io.ReadAll(data)
	wantRefusal(t, err, kv.Busy, backupMax.String())
	if err := data.Close(); err != nil {
		t.Error(err)
	}
	if n := len(m.backups); n != 0 {
		t.Errorf("%d places are still taken", n)
	}
}

// The clock that ends a copy runs.
func TestSnapshotExpiresByItself(t *testing.T) {
	dir := t.TempDir()
	synctest.Test(t, func(t *testing.T) {
		s, err := mvcc.Open(filepath.Join(dir, stateName), mvcc.Options{})
		if err != nil {
			t.Fatal(err)
		}
		m := &Member{store: s, backups: make(chan struct{}, 1), stopping: make(chan struct{})}
		data, _, err := m.copyState()
		if err != nil {
			t.Fatal(err)
		}
		time.Sleep(backupMax - time.Second)
		if _, err := data.Read(make([]byte, 1)); err != nil {
			t.Errorf("before its time: %v", err)
		}
		time.Sleep(2 * time.Second)
		_, err = data.Read(make([]byte, 1))
		wantRefusal(t, err, kv.Busy)
		if err := s.Close(); err != nil {
			t.Error(err)
		}
	})
}

// A cluster that was founded a moment ago has no roster yet, and its one member is its last voter all the same.
func TestTheLastVoterStaysBeforeThereIsARoster(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("a", "1")
	m.roster.set(Roster{})
	wantRefusal(t, m.RemoveReplica(t.Context(), m.id.Replica), kv.Invalid, "last voter")
	wantRefusal(t, m.RemoveReplica(t.Context(), 99), kv.KeyNotFound, "no member 99")
}
