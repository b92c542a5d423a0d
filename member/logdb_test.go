package member

import (
	"bytes"
	"errors"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"sync"
	"testing"

	"github.com/lni/dragonboat/v4/config"
	"github.com/lni/dragonboat/v4/raftio"
	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"
)

const testReplica = 7

// countFS counts the syncs that tan asks for.
type countFS struct {
	vfs.FS
	syncs int
}

func (c *countFS) Create(name string) (vfs.File, error) {
	f, err := c.FS.Create(name)
	return &countFile{f, c}, err
}

func (c *countFS) Open(name string, o ...vfs.OpenOption) (vfs.File, error) {
	f, err := c.FS.Open(name, o...)
	return &countFile{f, c}, err
}

type countFile struct {
	vfs.File
	fs *countFS
}

func (f *countFile) Sync() error {
	f.fs.syncs++
	return f.File.Sync()
}

// testLog is a raft log on real tan and real files.
type testLog struct {
	*logDB
	t     *testing.T
	dir   string
	files *raftFS
	asked *countFS
	once  sync.Once
}

func openTestLog(t *testing.T, dir string) *testLog {
	t.Helper()
	if err := trimLogs(dir, slog.New(slog.DiscardHandler)); err != nil {
		t.Fatal(err)
	}
	l, err := tryOpenTestLog(t, dir)
	if err != nil {
		t.Fatal(err)
	}
	return l
}

func tryOpenTestLog(t *testing.T, dir string) (*testLog, error) {
	t.Helper()
	installLogger(slog.New(slog.DiscardHandler))
	h := newHalt()
	files := newRaftFS(h, func(bool, error) {})
	asked := &countFS{FS: files}
	cfg := config.NodeHostConfig{Expert: config.ExpertConfig{FS: asked, LogDB: config.GetTinyMemLogDBConfig()}}
	cfg.Expert.LogDB.KVWriteBufferSize = 64 << 10
	f := &logFactory{halt: h}
	if _, err := f.Create(cfg, nil, []string{dir}, nil); err != nil {
		return nil, err
	}
	l := &testLog{logDB: f.db, t: t, dir: dir, files: files, asked: asked}
	t.Cleanup(l.close)
	return l, nil
}

func (l *testLog) close() {
	l.once.Do(func() {
		if err := l.logDB.ILogDB.Close(); err != nil {
			l.t.Errorf("close the log: %v", err)
		}
	})
}

// crash opens the log as it is found after a kill, while the former process still has its files open.
func (l *testLog) crash() *testLog {
	l.t.Helper()
	for {
		dir := l.t.TempDir()
		err := os.CopyFS(dir, os.DirFS(l.dir))
		if errors.Is(err, os.ErrNotExist) {
			continue // tan removes obsolete files in the background
		}
		if err != nil {
			l.t.Fatal(err)
		}
		return openTestLog(l.t, dir)
	}
}

func (l *testLog) save(updates ...pb.Update) {
	l.t.Helper()
	if err := l.SaveRaftState(updates, 1); err != nil {
		l.t.Fatal(err)
	}
}

// syncsOf returns how many syncs fn causes: those tan asks for, and those that are made.
func (l *testLog) syncsOf(fn func()) (asked int, made uint64) {
	a, m := l.asked.syncs, l.files.syncs.Load()
	fn()
	return l.asked.syncs - a, l.files.syncs.Load() - m
}

func (l *testLog) raftState() raftio.RaftState {
	l.t.Helper()
	rs, err := l.ILogDB.ReadRaftState(shardID, testReplica, 0)
	if err != nil && !errors.Is(err, raftio.ErrNoSavedLog) {
		l.t.Fatal(err)
	}
	return rs
}

func update(state pb.State, entries ...pb.Entry) pb.Update {
	return pb.Update{ShardID: shardID, ReplicaID: testReplica, State: state, EntriesToSave: entries}
}

func entry(index uint64) pb.Entry {
	return pb.Entry{Index: index, Term: 1, Type: pb.EncodedEntry, Key: index, Cmd: bytes.Repeat([]byte{byte(index)}, 128)}
}

func state(term, vote, commit uint64) pb.State {
	return pb.State{Term: term, Vote: vote, Commit: commit}
}

func TestLogSyncsOncePerCommit(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 0)))
	for i := uint64(1); i <= 100; i++ {
		asked, made := l.syncsOf(func() {
			l.save(update(state(1, 7, i), entry(i))) // a lone voter commits as it appends
			l.save(update(pb.State{}))               // what follows when it has been applied
		})
		if asked != 1 || made != 1 {
			t.Fatalf("commit %d: tan asked for %d syncs, %d were made, want 1 and 1", i, asked, made)
		}
	}
}

func TestLogSyncsOncePerCommitOfAFollower(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 3, 0)))
	for i := uint64(1); i <= 100; i++ {
		asked, made := l.syncsOf(func() {
			l.save(update(pb.State{}, entry(i))) // appended, the state is as it was
			l.save(update(state(1, 3, i)))       // the leader says that it is committed
			l.save(update(pb.State{}))
		})
		if asked != 1 || made != 1 {
			t.Fatalf("commit %d: tan asked for %d syncs, %d were made, want 1 and 1", i, asked, made)
		}
	}
}

func TestLogDropsWhatSaysNothing(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 1), entry(1)))
	before := l.files.written.Load()
	l.save(update(pb.State{}))
	l.save(update(state(1, 7, 1)))
	l.save()
	if after := l.files.written.Load(); after != before {
		t.Errorf("%d bytes were written for updates without news", after-before)
	}
	l = l.crash()
	l.raftState() // tan opens a log when it is first asked
	before = l.files.written.Load()
	l.save(update(state(1, 7, 1))) // as a restarted node may
	l.save(update(pb.State{}))
	if after := l.files.written.Load(); after != before {
		t.Errorf("after a restart %d bytes were written for updates without news", after-before)
	}
}

func TestIndexOfALogIsNeverNewerThanTheLog(t *testing.T) {
	dir := t.TempDir()
	fs := newRaftFS(newHalt(), func(bool, error) {})
	create := func(name string) vfs.File {
		t.Helper()
		f, err := fs.Create(filepath.Join(dir, name))
		if err != nil {
			t.Fatal(err)
		}
		t.Cleanup(func() { _ = f.Close() })
		return f
	}
	log := create("000002.log")
	if _, err := log.Write([]byte("a commit that tan does not sync")); err != nil {
		t.Fatal(err)
	}
	before := fs.syncs.Load()
	create("000002.idxtmp")
	if fs.syncs.Load() != before+1 || log.(*logFile).dirty {
		t.Error("an index was begun while its log was not durable")
	}
}

func TestClosedLogIsDurableAndMayBeSyncedAgain(t *testing.T) {
	fs := newRaftFS(newHalt(), func(bool, error) {})
	log, err := fs.Create(filepath.Join(t.TempDir(), "000002.log"))
	if err != nil {
		t.Fatal(err)
	}
	if _, err := log.Write([]byte("a snapshot record that tan syncs in the file that follows")); err != nil {
		t.Fatal(err)
	}
	before := fs.syncs.Load()
	if err := log.Close(); err != nil || fs.syncs.Load() != before+1 {
		t.Errorf("%d syncs at the close, %v", fs.syncs.Load()-before, err)
	}
	if err := log.Sync(); err != nil {
		t.Errorf("sync after close: %v", err)
	}
	if len(fs.logs) != 0 {
		t.Error("the closed log is still known")
	}
}

func TestVoteAloneIsDurable(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 1), entry(1)))
	for term := uint64(2); term < 10; term++ {
		for _, s := range []pb.State{state(term, 0, 1), state(term, 3, 1)} {
			if asked, made := l.syncsOf(func() { l.save(update(s)) }); asked != 1 || made != 1 {
				t.Errorf("state %+v: tan asked for %d syncs, %d were made, want 1 and 1", s, asked, made)
			}
			if got := l.crash().raftState().State; got != s {
				t.Errorf("after a crash the state is %+v, want %+v", got, s)
			}
		}
	}
}

// TestCrashBetweenAnyTwoSavesLosesNothing saves what a raft node may, in every order that matters, and crashes after
// each step: all entries are there, and the state is as new as what was saved.
func TestCrashBetweenAnyTwoSavesLosesNothing(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	var last uint64
	var now pb.State
	snapshots := uint64(0)
	steps := []func(){
		func() { now = state(now.Term+1, 0, now.Commit); l.save(update(now)) },                   // a newer term is heard of
		func() { now.Vote = 3; l.save(update(now)) },                                             // a vote
		func() { last++; l.save(update(pb.State{}, entry(last))) },                               // an entry, nothing else
		func() { now.Commit = last; l.save(update(now)) },                                        // it is committed
		func() { l.save(update(pb.State{})) },                                                    // it is applied
		func() { last += 2; now.Commit = last; l.save(update(now, entry(last-1), entry(last))) }, // two at once
		func() { last++; l.save(update(now, entry(last)), update(pb.State{})) },                  // two updates at once
		func() { snapshots = last - 1; l.saveSnapshot(snapshots) },                               // a snapshot
		func() { l.save(update(pb.State{})) },                                                    // nothing
		func() { now.Term++; now.Vote = 7; last++; l.save(update(now, entry(last))) },            // elected
		func() { l.remove(snapshots - 1) },                                                       // the log is cut
		func() { l.save(update(pb.State{})) },                                                    // nothing
		func() { now.Commit = last; last++; l.save(update(now, entry(last))) },                   // an entry with a commit
		func() { l.save(update(now, entry(last))) },                                              // an entry is replaced
	}
	cut := uint64(0)
	for round := range 2 {
		for i, step := range steps {
			step()
			if i == 10 {
				cut = snapshots - 1
			}
			c := l.crash()
			rs := c.raftState()
			name := fmt.Sprintf("round %d, step %d", round, i)
			if rs.State != now {
				t.Errorf("%s: state %+v after a crash, want %+v", name, rs.State, now)
			}
			if last > cut {
				c.wantEntries(name, cut+1, last)
			}
			ss, err := c.GetSnapshot(shardID, testReplica)
			if err != nil || ss.Index != snapshots {
				t.Errorf("%s: snapshot %d, %v after a crash, want %d", name, ss.Index, err, snapshots)
			}
			if round == 1 {
				l = c // and goes on from there
			}
		}
	}
}

func (l *testLog) saveSnapshot(index uint64) {
	l.t.Helper()
	ss := pb.Snapshot{Index: index, Term: 1, ShardID: shardID, Dummy: true}
	if err := l.SaveSnapshots([]pb.Update{{ShardID: shardID, ReplicaID: testReplica, Snapshot: ss}}); err != nil {
		l.t.Fatal(err)
	}
}

func (l *testLog) remove(index uint64) {
	l.t.Helper()
	if err := l.RemoveEntriesTo(shardID, testReplica, index); err != nil {
		l.t.Fatal(err)
	}
}

func (l *testLog) wantEntries(name string, from, to uint64) {
	l.t.Helper()
	got, _, err := l.ILogDB.IterateEntries(nil, 0, shardID, testReplica, from, to+1, 0)
	if err != nil || uint64(len(got)) != to-from+1 {
		l.t.Errorf("%s: %d entries from %d to %d, %v", name, len(got), from, to, err)
		return
	}
	for i, e := range got {
		if want := entry(from + uint64(i)); e.Index != want.Index || !bytes.Equal(e.Cmd, want.Cmd) {
			l.t.Errorf("%s: entry %d is %d with %d bytes", name, want.Index, e.Index, len(e.Cmd))
		}
	}
}

func TestImportedSnapshotReplacesTheState(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	was := state(5, 7, 90)
	l.save(update(was, entry(90)))
	ss := pb.Snapshot{Index: 90, Term: 3, ShardID: shardID, Imported: true}
	if err := l.ImportSnapshot(ss, testReplica); err != nil {
		t.Fatal(err)
	}
	// The state on disk is now that of the snapshot, so the one before is news again.
	l.save(update(was))
	if got := l.crash().raftState().State; got != was {
		t.Errorf("state %+v after a crash, want %+v", got, was)
	}
	l.save(update(pb.State{}, entry(91)))
	if got := l.crash().raftState().State; got != was {
		t.Errorf("state %+v after an entry and a crash, want %+v", got, was)
	}
}

func TestRemovedReplicaLeavesNoState(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(5, 7, 1), entry(1)))
	if err := l.RemoveNodeData(shardID, testReplica); err != nil {
		t.Fatal(err)
	}
	l.save(update(pb.State{}, entry(1)))
	if got := l.raftState().State; got != (pb.State{}) {
		t.Errorf("state %+v after a removal, want none", got)
	}
}

func TestLogFilesAreSmallAndTrimmedOnClose(t *testing.T) {
	dir := t.TempDir()
	l := openTestLog(t, dir)
	l.save(update(state(1, 7, 1), entry(1)))
	size, err := dirSize(dir)
	if err != nil || size > 2<<20 {
		t.Errorf("an almost empty log takes %d bytes, %v", size, err)
	}
	l.close()
	if size, _ = dirSize(dir); size > 64<<10 {
		t.Errorf("after a clean close it takes %d bytes", size)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "tandb", "node-*", "*.log"))
	if len(logs) == 0 {
		t.Error("no log files found")
	}
}

// openMemLog opens a log on a file system that is not the system's.
func openMemLog(t *testing.T, fs vfs.FS) *logDB {
	t.Helper()
	installLogger(slog.New(slog.DiscardHandler))
	h := newHalt()
	files := newRaftFS(h, func(bool, error) {})
	files.FS = fs
	cfg := config.NodeHostConfig{Expert: config.ExpertConfig{FS: files, LogDB: config.GetTinyMemLogDBConfig()}}
	cfg.Expert.LogDB.KVWriteBufferSize = 64 << 10
	f := &logFactory{halt: h}
	if _, err := f.Create(cfg, nil, []string{"/raft"}, nil); err != nil {
		t.Fatal(err)
	}
	return f.db
}
