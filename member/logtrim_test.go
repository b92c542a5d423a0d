package member

import (
	"bytes"
	"io"
	"log/slog"
	"math/rand/v2"
	"os"
	"path/filepath"
	"testing"

	pb "github.com/lni/dragonboat/v4/raftpb"
	"github.com/lni/vfs"

	"holdfast/kv"
)

// crashedLog returns the path of a log with entries 1 to n, as a kill leaves it.
func crashedLog(t *testing.T, n uint64, size int) (dir, path string) {
	t.Helper()
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 0)))
	for i := uint64(1); i <= n; i++ {
		e := entry(i)
		e.Cmd = bytes.Repeat([]byte{byte(i)}, size)
		l.save(update(state(1, 7, i), e))
	}
	dir = t.TempDir()
	if err := os.CopyFS(dir, os.DirFS(l.dir)); err != nil {
		t.Fatal(err)
	}
	logs, _ := filepath.Glob(filepath.Join(dir, "tandb", "node-*", "*.log"))
	if len(logs) != 1 {
		t.Fatalf("logs: %q", logs)
	}
	return dir, logs[0]
}

// lastEntry returns the index of the last entry of a log that is opened.
func lastEntry(t *testing.T, dir string) uint64 {
	t.Helper()
	rs := openTestLog(t, dir).raftState()
	if rs.EntryCount == 0 {
		return 0
	}
	return rs.FirstIndex + rs.EntryCount - 1
}

func edit(t *testing.T, path string, fn func([]byte) []byte) {
	t.Helper()
	b, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if err := os.WriteFile(path, fn(b), 0o600); err != nil {
		t.Fatal(err)
	}
}

// used is where the zeros at the end begin.
func used(b []byte) int { return len(bytes.TrimRight(b, "\x00")) }

func TestZerosBehindALogAreTrimmed(t *testing.T) {
	for _, size := range []int{128, 40_000} { // within a block; across blocks
		dir, path := crashedLog(t, 50, size)
		before, _ := os.Stat(path)
		if err := trimLog(path, slog.New(slog.DiscardHandler)); err != nil {
			t.Fatal(err)
		}
		after, _ := os.Stat(path)
		if size == 128 && after.Size() >= before.Size() {
			t.Errorf("log of entries of %d bytes: %d bytes before, %d after", size, before.Size(), after.Size())
		}
		if got := lastEntry(t, dir); got != 50 {
			t.Errorf("log of entries of %d bytes ends at %d, want 50", size, got)
		}
	}
}

// TestTornEndOfLogIsDropped cuts the last record short in every way a power cut can: bytes missing at its end, and
// bytes that are still zero anywhere in it.
func TestTornEndOfLogIsDropped(t *testing.T) {
	for _, size := range []int{128, 70_000} {
		_, path := crashedLog(t, 5, size)
		whole, err := os.ReadFile(path)
		if err != nil {
			t.Fatal(err)
		}
		end := used(whole)
		seed := rand.Uint64()
		rng := rand.New(rand.NewPCG(seed, 0))
		for range 20 {
			dir, path := crashedLog(t, 5, size)
			from := end - 1 - rng.IntN(size)
			to := from + 1 + rng.IntN(end-from)
			edit(t, path, func(b []byte) []byte {
				clear(b[from:to])
				return b
			})
			if err := trimLog(path, slog.New(slog.DiscardHandler)); err != nil {
				t.Fatalf("seed %d: zeros from %d to %d of %d: %v", seed, from, to, end, err)
			}
			if got := lastEntry(t, dir); got != 4 {
				t.Errorf("seed %d: zeros from %d to %d of %d: log ends at %d, want 4", seed, from, to, end, got)
			}
		}
	}
}

func TestDamageBeforeTheEndOfALogIsReportedAndLeftAlone(t *testing.T) {
	for _, size := range []int{128, 70_000} {
		dir, path := crashedLog(t, 20, size)
		var want []byte
		edit(t, path, func(b []byte) []byte {
			b[used(b)/2] ^= 0x10
			want = bytes.Clone(b)
			return b
		})
		err := trimLogs(dir, slog.New(slog.DiscardHandler))
		if kv.CodeOf(err) != kv.Corrupt {
			t.Errorf("entries of %d bytes: %v, want corrupt", size, err)
		}
		if got, _ := os.ReadFile(path); !bytes.Equal(got, want) {
			t.Error("the damaged log was changed")
		}
	}
}

func TestZeroedPageInTheMiddleOfALogIsReported(t *testing.T) {
	dir, path := crashedLog(t, 100, 1000)
	edit(t, path, func(b []byte) []byte {
		clear(b[40<<10 : 44<<10])
		return b
	})
	if err := trimLogs(dir, slog.New(slog.DiscardHandler)); kv.CodeOf(err) != kv.Corrupt {
		t.Errorf("%v, want corrupt: tan would have dropped all that follows", err)
	}
}

func TestCommitRecordsBehindATornOneAreNoDamage(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 1), entry(1)))
	l.save(update(state(1, 7, 1), entry(2)))
	for i := range uint64(10) { // not synced
		l.save(update(state(1, 7, 2+i)))
	}
	logs, _ := filepath.Glob(filepath.Join(l.dir, "tandb", "node-*", "*.log"))
	b, err := os.ReadFile(logs[len(logs)-1])
	if err != nil {
		t.Fatal(err)
	}
	at := bytes.LastIndex(b, bytes.Repeat([]byte{2}, 128)) + 128 + 40
	b[at] ^= 0xff // in one of them
	s := logScan{r: bytes.NewReader(b)}
	if err := s.run(); err != nil || s.lost != 0 || !s.torn {
		t.Errorf("lost %d, torn %t, %v, want 0, true", s.lost, s.torn, err)
	}
}

func TestVoteBehindDamageIsReported(t *testing.T) {
	l := openTestLog(t, t.TempDir())
	l.save(update(state(1, 7, 1), entry(1)))
	l.save(update(state(1, 7, 1), entry(2)))
	l.save(update(state(2, 3, 1)))
	logs, _ := filepath.Glob(filepath.Join(l.dir, "tandb", "node-*", "*.log"))
	b, err := os.ReadFile(logs[len(logs)-1])
	if err != nil {
		t.Fatal(err)
	}
	b[bytes.LastIndex(b, bytes.Repeat([]byte{2}, 128))] ^= 0xff
	s := logScan{r: bytes.NewReader(b)}
	if err := s.run(); err != nil || s.lost != 1 {
		t.Errorf("lost %d, %v, want 1", s.lost, err)
	}
}

func FuzzTrimmedLogIsAlwaysAPrefix(f *testing.F) {
	f.Add([]byte{}, uint16(0))
	f.Add([]byte{0, 0, 0, 0, 1, 0, 1, 9}, uint16(3))
	f.Fuzz(func(t *testing.T, b []byte, pad uint16) {
		b = append(b, make([]byte, pad)...)
		s := logScan{r: io.MultiReader(bytes.NewReader(b))}
		if err := s.run(); err != nil {
			t.Fatal(err)
		}
		if s.end < 0 || s.end > int64(len(b)) {
			t.Fatalf("end %d of %d", s.end, len(b))
		}
		again := logScan{r: bytes.NewReader(b[:s.end])}
		if err := again.run(); err != nil || again.end != s.end || again.torn || again.lost > 0 {
			t.Fatalf("trimmed to %d, and then to %d, torn %t", s.end, again.end, again.torn)
		}
	})
}

// TestPowerCutKeepsWhatWasPromised runs tan on a file system that forgets what was not synced.
func TestPowerCutKeepsWhatWasPromised(t *testing.T) {
	mem := vfs.NewStrictMem()
	if err := mem.MkdirAll("/raft", 0o700); err != nil {
		t.Fatal(err)
	}
	open := func() *logDB { return openMemLog(t, mem) }
	steps := []struct {
		name string
		u    pb.Update
		last uint64   // entry that must be there afterwards
		want pb.State // term and vote that must be there
	}{
		{"term", update(state(1, 0, 0)), 0, state(1, 0, 0)},
		{"vote", update(state(1, 3, 0)), 0, state(1, 3, 0)},
		{"entry", update(pb.State{}, entry(1)), 1, state(1, 3, 0)},
		{"commit", update(state(1, 3, 1)), 1, state(1, 3, 0)},
		{"nothing", update(pb.State{}), 1, state(1, 3, 0)},
		{"entries", update(pb.State{}, entry(2), entry(3)), 3, state(1, 3, 1)},
		{"vote for another", update(state(2, 7, 1)), 3, state(2, 7, 1)},
		{"entry again", update(state(2, 7, 3), entry(4)), 4, state(2, 7, 3)},
	}
	for i := range steps {
		mem.ResetToSyncedState()
		db := open()
		mem.SetIgnoreSyncs(false)
		if err := db.SaveRaftState([]pb.Update{steps[i].u}, 1); err != nil {
			t.Fatal(err)
		}
		mem.SetIgnoreSyncs(true) // the power fails here
		db.ILogDB.Close()
		mem.ResetToSyncedState()
		mem.SetIgnoreSyncs(false)
		db = open()
		rs, err := db.ReadRaftState(shardID, testReplica, 0)
		if err != nil {
			t.Fatalf("%s: %v", steps[i].name, err)
		}
		if want := steps[i].want; rs.State.Term != want.Term || rs.State.Vote != want.Vote || rs.State.Commit < want.Commit {
			t.Errorf("%s: state %+v after a power cut, want %+v or a later commit", steps[i].name, rs.State, want)
		}
		if got := rs.EntryCount; got != steps[i].last {
			t.Errorf("%s: %d entries after a power cut, want %d", steps[i].name, got, steps[i].last)
		}
		if err := db.ILogDB.Close(); err != nil {
			t.Fatal(err)
		}
	}
}
