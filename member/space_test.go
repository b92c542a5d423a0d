package member

import (
	"errors"
	"fmt"
	"log/slog"
	"os"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lni/vfs"

	"holdfast/kv"
)

// disk is a file system whose free space a test sets.
type disk struct {
	free  atomic.Int64
	asked atomic.Int64
}

func (d *disk) look(string) (int64, int64, error) {
	d.asked.Add(1)
	return d.free.Load(), 10 << 30, nil
}

func TestWritesAreRefusedBelowTheReserveAndTakenAgainAbove(t *testing.T) {
	var d disk
	d.free.Store(1 << 30)
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Free = d.look })
	m.put("a", "1")
	m.put("b", "1")
	d.free.Store(200 << 20) // below the reserve of 256 MiB, above its half
	m.space.left.Store(0)
	_, err := m.Do(t.Context(), put("c", "1"))
	wantRefusal(t, err, kv.NoSpace, "200 MiB", "256 MiB", m.cfg.Dir, "free some", "nothing was stored")
	if m.Status().WritesRefused == "" {
		t.Error("status does not say that writes are refused")
	}
	if got, _ := m.get("a"); got != "1" {
		t.Errorf("reads: a is %q", got)
	}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("a")}}}); err != nil {
		t.Errorf("delete: %v", err)
	}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: 3}}}); err != nil {
		t.Errorf("compact: %v", err)
	}
	d.free.Store(100 << 20) // below the half
	_, err = m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("b")}}})
	wantRefusal(t, err, kv.NoSpace, "100 MiB", "not even")
	d.free.Store(1 << 30)
	m.put("c", "1")
	if why := m.Status().WritesRefused; why != "" {
		t.Errorf("status still says that writes are refused: %s", why)
	}
}

func TestSpaceIsNotAskedForAtEachWrite(t *testing.T) {
	var d disk
	d.free.Store(1 << 30)
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Free = d.look })
	m.put("k", "v")
	began, asked := time.Now(), d.asked.Load()
	for range 200 {
		m.put("k", "v")
	}
	took := time.Since(began)
	if n, most := d.asked.Load()-asked, int64(2+took/spaceFresh+took/spacePoll); n > most {
		t.Errorf("the file system was asked %d times for 200 writes in %v, want %d at most", n, took, most)
	}
}

func TestBudgetIsUsedUpBeforeTheReserveIs(t *testing.T) {
	var d disk
	d.free.Store(100 << 20)
	s, err := newSpace(Config{Free: d.look, DiskReserve: 90 << 20, Log: slog.New(slog.DiscardHandler)}, func() int64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	taken := int64(0)
	for s.admit(100<<10, false) == nil { // 100 KiB each
		taken += 100 << 10
		d.free.Add(-100 << 10)
		if taken > 10<<20 {
			t.Fatal("it takes more than there is")
		}
	}
	if d.free.Load() < 90<<20 || taken == 0 {
		t.Errorf("%d bytes were taken, %d are free, the reserve is %d", taken, d.free.Load(), 90<<20)
	}
}

func TestReserveIsSmallOnASmallDisk(t *testing.T) {
	free := func(string) (int64, int64, error) { return 60 << 20, 64 << 20, nil }
	s, err := newSpace(Config{Free: free, Log: slog.New(slog.DiscardHandler)}, func() int64 { return 0 })
	if err != nil || s.reserve != 8<<20 {
		t.Errorf("reserve %d, %v, want an eighth of 64 MiB", s.reserve, err)
	}
	if err := s.admit(1<<20, false); err != nil {
		t.Error(err)
	}
	free = func(string) (int64, int64, error) { return 0, 64 << 20, nil }
	s, err = newSpace(Config{Free: free, DiskReserve: -1, Log: slog.New(slog.DiscardHandler)}, nil)
	if err != nil || s.admit(1<<20, false) != nil {
		t.Errorf("a negative reserve refuses: %v", err)
	}
}

func TestUnknownFreeSpaceRefusesWrites(t *testing.T) {
	fail := false
	free := func(string) (int64, int64, error) {
		if fail {
			return 0, 0, errTest
		}
		return 1 << 30, 1 << 40, nil
	}
	s, err := newSpace(Config{Free: free, Log: slog.New(slog.DiscardHandler)}, func() int64 { return 0 })
	if err != nil {
		t.Fatal(err)
	}
	fail = true
	if err := s.admit(1, false); kv.CodeOf(err) != kv.NoSpace || !errors.Is(err, errTest) {
		t.Errorf("%v, want no space, for the reason given", err)
	}
}

// fullFile takes a few bytes at a time, and says that the disk is full as often as told.
type fullFile struct {
	vfs.File
	full  int
	wrote []byte
}

func (f *fullFile) Write(p []byte) (int, error) {
	n := min(3, len(p))
	f.wrote = append(f.wrote, p[:n]...)
	if n == len(p) {
		return n, nil
	}
	f.full--
	if f.full < 0 {
		f.wrote = append(f.wrote, p[n:]...)
		return len(p), nil
	}
	return n, &os.PathError{Op: "write", Err: syscall.ENOSPC}
}

func TestFullDiskMakesTheLogWaitAndLosesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var said []bool
		fs := newRaftFS(newHalt(), func(waits bool, _ error) { said = append(said, waits) })
		fs.armed.Store(true)
		file := &fullFile{full: 5}
		g := &guardedFile{File: file, fs: fs}
		began := time.Now()
		const text = "the quick brown fox jumps over the lazy dog"
		n, err := g.Write([]byte(text))
		if err != nil || n != len(text) || string(file.wrote) != text {
			t.Errorf("wrote %d bytes, %v: %q", n, err, file.wrote)
		}
		if took := time.Since(began); took < 5*spaceRetry {
			t.Errorf("it took %s: it did not wait", took)
		}
		if fmt.Sprint(said) != "[true false]" {
			t.Errorf("told %v, want that it waits and that it is over", said)
		}
	})
}

func TestFullDiskIsAnErrorBeforeTheStart(t *testing.T) {
	fs := newRaftFS(newHalt(), func(bool, error) { t.Error("it waits") })
	g := &guardedFile{File: &fullFile{full: 1}, fs: fs}
	if _, err := g.Write([]byte("four and more")); !errors.Is(err, syscall.ENOSPC) {
		t.Errorf("%v, want no space", err)
	}
}

// brokenFile fails.
type brokenFile struct{ vfs.File }

func (brokenFile) Write([]byte) (int, error) { return 0, syscall.EIO }
func (brokenFile) Sync() error               { return syscall.EIO }

func TestFailedWriteOrSyncHaltsAndNeverReturns(t *testing.T) {
	for name, op := range map[string]func(*guardedFile) error{
		"write": func(f *guardedFile) error { _, err := f.Write([]byte("x")); return err },
		"sync":  func(f *guardedFile) error { return f.Sync() },
	} {
		p := startChild(t, "halt "+name, t.TempDir())
		var out []string
		for p.out.Scan() {
			out = append(out, p.out.Text())
		}
		_ = p.Wait()
		if got := strings.Join(out, "\n"); got != "halted: "+name+" a file: input/output error" {
			t.Errorf("%s: the child said %q", name, got)
		}
		fs := newRaftFS(newHalt(), nil) // before the start it is an error
		if err := op(&guardedFile{File: brokenFile{}, fs: fs}); !errors.Is(err, syscall.EIO) {
			t.Errorf("%s before the start: %v", name, err)
		}
	}
}

// childHalts fails a write or a sync, and says whether it came back.
func childHalts(what string) {
	h := newHalt()
	fs := newRaftFS(h, nil)
	fs.armed.Store(true)
	f := &guardedFile{File: brokenFile{}, fs: fs}
	var wg sync.WaitGroup
	wg.Go(func() {
		if what == "sync" {
			_ = f.Sync()
		} else {
			_, _ = f.Write([]byte("x"))
		}
		fmt.Println("it came back")
	})
	<-h.done
	time.Sleep(100 * time.Millisecond)
	fmt.Println("halted:", h.err)
}
