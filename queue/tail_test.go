package queue

import (
	"bytes"
	"fmt"
	"log/slog"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/kv"
)

func sizeOf(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	if err != nil {
		t.Fatal(err)
	}
	return info.Size()
}

// A sync that finds the file longer than before makes the file system write its journal: that is what is spared.
func TestSmallCommitsDoNotMakeTheFileLonger(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.seg")
	f, err := folder{}.create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	longer, before := 0, sizeOf(t, path)
	for range 1000 {
		if _, err := f.Write(make([]byte, 250)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
		if now := sizeOf(t, path); now != before {
			longer, before = longer+1, now
		}
	}
	if longer != 1 {
		t.Errorf("the file became longer %d times in 1000 commits of 250 bytes, want once", longer)
	}
	if err := f.Trim(); err != nil || sizeOf(t, path) != int64(len(magic))+250_000 {
		t.Errorf("trimmed to %d bytes, %v, want what was written", sizeOf(t, path), err)
	}
}

func TestLargeCommitsAreNotWrittenTwice(t *testing.T) {
	path := filepath.Join(t.TempDir(), "a.seg")
	f, err := folder{}.create(path)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	for range 20 {
		if _, err := f.Write(make([]byte, smallSync+1)); err != nil {
			t.Fatal(err)
		}
		if err := f.Sync(); err != nil {
			t.Fatal(err)
		}
	}
	if got, want := sizeOf(t, path), int64(len(magic)+20*(smallSync+1)); got != want {
		t.Errorf("%d bytes, want %d: no zeros ahead", got, want)
	}
}

// After a crash the zeros ahead are still there. They are no damage, whichever segment they were in, and no news.
func TestZerosAheadAreTheEnd(t *testing.T) {
	c := newCluster()
	c.set(false, false)
	var out bytes.Buffer
	o := options(t.TempDir())
	o.Log = slog.New(slog.NewTextHandler(&out, &slog.HandlerOptions{Level: slog.LevelWarn}))
	b := start(t, c, o)
	const ops, size = 60, 100 << 10
	for i := range ops { // over the end of a segment, which small commits filled ahead
		b.mustQueue("q/none/k", fmt.Sprint("small-", i))
		b.mustQueue("q/none/k", strings.Repeat("v", size))
	}
	b.crash()
	paths, _ := filepath.Glob(filepath.Join(o.Dir, "*.seg"))
	if len(paths) < 2 {
		t.Fatalf("%d segments, want two at least", len(paths))
	}
	b = start(t, c, o)
	b.mustQueue("q/none/k", "small")
	end := b.log.last().size
	b.crash()
	if last := paths[len(paths)-1]; sizeOf(t, last) == end {
		t.Fatalf("%s ends with what was written: nothing was filled ahead", last)
	}
	q, err := Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if d := q.Status().Depth; d != 2*ops+1 {
		t.Errorf("depth %d, want %d", d, 2*ops+1)
	}
	if out.Len() > 0 {
		t.Errorf("logged: %s", &out)
	}
	if _, err := q.log.read(q.lanes[kv.LaneNormal].pending[2*ops].place); err != nil {
		t.Error(err)
	}
	if err := q.Close(); err != nil {
		t.Fatal(err)
	}
	if last := paths[len(paths)-1]; sizeOf(t, last) != end {
		t.Errorf("%s has %d bytes after an orderly end, want %d", last, sizeOf(t, last), end)
	}
}
