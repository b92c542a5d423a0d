package mvcc

import (
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/kv"
)

// A process that dies at any step of a flush finds either what was there before it or all of it, never an applied index
// without its data, and the log brings back the rest.
func TestCrashBetweenAnyTwoStepsOfAFlush(t *testing.T) {
	for _, step := range []string{"frozen", "committed", "dropped"} {
		t.Run(step, func(t *testing.T) {
			g := newRig(t, Options{})
			g.put("a", "1")
			must(t, g.s.Flush())
			g.s.opts.step = dieAt(step, 1)
			g.put("a", "2")
			g.do(kv.Txn{Then: []kv.Op{put("b", "1"), put("c", "1")}})
			if err := g.s.Flush(); !errors.Is(err, errDied) {
				t.Fatalf("flush: got %v, want the death", err)
			}
			g.s.crash()
			g.open()
			switch durable := g.s.Durable(); {
			case durable == 1 && g.list(0) == "a=1@2" && step == "frozen":
			case durable == 3 && g.list(0) == "a=2@3 b=1@4 c=1@4" && step != "frozen":
			default:
				t.Fatalf("durable to %d with %q", durable, g.list(0))
			}
			checkFile(t, g.s)
		})
	}
}

// A flush that changes very much of the index takes several transactions. One that is cut short between them leaves
// nothing that counts, and nothing that a log which lost its end would not bring again.
func TestCrashBetweenThePartsOfAFlush(t *testing.T) {
	const keys = 3000
	g := newRig(t, Options{nodes: 8})
	write := func(value string) {
		for i := range keys {
			g.put(fmt.Sprintf("key%06d", i), value)
		}
		g.do(del("key000000", ""))
		g.do(put("key000001", value), put("new"+value, ""))
	}
	write("1")
	must(t, g.s.Flush())
	want, index := g.list(0), g.index
	hash, rev, _, err := g.s.hash(0)
	must(t, err)
	for nth := 1; nth < 5; nth++ {
		g.s.opts.step = dieAt("part", nth)
		write("2")
		g.put("other", "2")
		if err := g.s.Flush(); !errors.Is(err, errDied) {
			t.Fatalf("got %v, want the death at part %d", err, nth)
		}
		g.s.crash()
		g.open()
		if got, r, _, err := g.s.hash(0); err != nil || got != hash || r != rev || g.list(0) != want || g.s.Applied() != index {
			t.Fatalf("part %d: hash %08x at %d, %v", nth, got, r, err)
		}
		if got := checkFile(t, g.s); int64(got) != rev {
			t.Errorf("part %d: %d records at revision %d", nth, got, rev)
		}
		g.index = index
	}
	// The log has lost its end and goes on otherwise.
	g.put("other", "3")
	if got := g.list(0); got != want+fmt.Sprintf(" other=3@%d", rev+1) {
		t.Error("what was cut short came back")
	}
}

func TestFailedFlushStopsTheStore(t *testing.T) {
	g := newRig(t, Options{step: dieAt("committed", 2)})
	g.put("a", "1")
	must(t, g.s.Flush())
	g.put("a", "2")
	first := g.s.Flush()
	if !errors.Is(first, errDied) || !strings.Contains(first.Error(), "reopened") {
		t.Fatalf("flush: got %v", first)
	}
	if err := g.s.Flush(); !errors.Is(err, errDied) {
		t.Errorf("the next flush: got %v, want the first failure", err)
	}
	if _, err := g.s.Apply([]Entry{{Index: 3, Command: kv.Command{Ops: []kv.Op{put("a", "3")}}}}); !errors.Is(err, errDied) {
		t.Errorf("apply: got %v, want the first failure", err)
	}
	if _, err := g.s.Snapshot(); !errors.Is(err, errDied) {
		t.Errorf("snapshot: got %v, want the first failure", err)
	}
	if g.s.Durable() != 1 {
		t.Errorf("durable to %d, want 1: what a failed flush has written does not count", g.s.Durable())
	}
	if got := g.list(0); got != "a=2@3" {
		t.Errorf("reads: got %q", got)
	}
	must(t, g.s.Close())
}

func TestAFlushOmitsOnlyWhatIsCompacted(t *testing.T) {
	g := newRig(t, Options{})
	for i := range 5 {
		g.put("a", fmt.Sprint(i))
	}
	must(t, g.s.Flush())
	if got := checkFile(t, g.s); got != 5 {
		t.Fatalf("got %d records, want all 5: nothing was compacted", got)
	}
	for i := range 5 {
		g.put("b", fmt.Sprint(i))
	}
	g.do(kv.Compact{Revision: g.s.Revision() - 1})
	must(t, g.s.Flush())
	if got := checkFile(t, g.s); got != 7 {
		t.Fatalf("got %d records, want 7: two of the new ones", got)
	}
	if got := g.list(g.s.CompactRevision()); got != "a=4@6 b=3@10" {
		t.Errorf("got %q", got)
	}
}

// Reads of every revision are the same before a flush, after it, and after a restart.
func TestHistoryStaysAcrossFlushAndRestart(t *testing.T) {
	g := newRig(t, Options{})
	var want []string
	for i := range 20 {
		if i%5 == 4 {
			g.do(del("k1", "k3"))
		} else {
			g.put(fmt.Sprint("k", i%4), fmt.Sprint(i))
		}
		want = append(want, g.list(0))
		if i%7 == 0 {
			must(t, g.s.Flush())
		}
	}
	check := func(when string) {
		t.Helper()
		for i, w := range want {
			if got := g.list(int64(i + 2)); got != w {
				t.Errorf("%s: revision %d: got %q, want %q", when, i+2, got, w)
			}
		}
	}
	check("before")
	must(t, g.s.Flush())
	check("flushed")
	must(t, g.s.Close())
	g.open()
	check("restarted")
}

func TestApplyFlushesItselfAtTheHardBound(t *testing.T) {
	g := newRig(t, Options{FlushBytes: 16 << 10, HardBytes: 32 << 10})
	var entries []Entry
	for i := range 400 {
		entries = append(entries, Entry{uint64(i + 1), kv.Command{Ops: []kv.Op{put(fmt.Sprint(i), strings.Repeat("v", 1000))}}})
	}
	if _, err := g.s.Apply(entries); err != nil {
		t.Fatal(err)
	}
	st := g.s.Stats()
	if st.OverlayBytes > 33<<10 || st.Stalls < 10 || st.Flushes != st.Stalls {
		t.Errorf("got %+v, want the overlay within its bound", st)
	}
	if page, err := g.s.Read(kv.Query{Ops: []kv.Op{scan("\x00", "\x00")}}); err != nil || page.Ops[0].Count != 400 {
		t.Errorf("got %d keys, %v", page.Ops[0].Count, err)
	}
}

// Raft's own entries are no reason to write, but a flush that is asked for knows of them.
func TestAdvanceIsDurableOnlyWithAFlush(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	must(t, g.s.Flush())
	g.s.Advance(9)
	if g.s.Applied() != 9 || g.s.Durable() != 1 {
		t.Fatalf("applied %d, durable %d", g.s.Applied(), g.s.Durable())
	}
	must(t, g.s.flush(false))
	if g.s.Durable() != 1 {
		t.Fatal("a flush in the background wrote the index alone")
	}
	must(t, g.s.Flush())
	g.s.crash()
	g.open()
	if g.s.Applied() != 9 {
		t.Fatalf("applied %d after a restart, want 9", g.s.Applied())
	}
}

func TestRunFlushesBySizeAndTimeAndNotWhenIdle(t *testing.T) {
	var flushes atomic.Int64
	g := newRig(t, Options{FlushBytes: 64 << 10, FlushEvery: 2 * time.Millisecond, step: func(name string) error {
		if name == "dropped" {
			flushes.Add(1)
		}
		return nil
	}})
	runStore(t, g.s)
	g.put("a", strings.Repeat("v", 2<<10))
	eventually(t, "a flush by time", func() bool { return g.s.Durable() == 1 })
	g.put("a", strings.Repeat("v", 128<<10))
	eventually(t, "a flush by size", func() bool { return g.s.Durable() == 2 })
	g.put("a", "little")
	eventually(t, "a flush of a little", func() bool { return g.s.Durable() == 3 && flushes.Load() == 3 })
	before, size := flushes.Load(), fileTime(t, g.path)
	for range 30 {
		g.s.Advance(g.s.Applied() + 1)
		time.Sleep(time.Millisecond)
	}
	if got := flushes.Load(); got != before || fileTime(t, g.path) != size {
		t.Errorf("%d flushes of an idle store", got-before)
	}
}

func fileTime(t *testing.T, path string) time.Time {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.ModTime()
}

// runStore runs the background work until the test ends.
func runStore(t *testing.T, s *Store) {
	ctx, cancel := context.WithCancel(context.WithoutCancel(t.Context())) // ended by Cleanup
	done := make(chan error, 1)
	go func() { done <- s.Run(ctx) }()
	t.Cleanup(func() {
		cancel()
		if err := <-done; err != nil {
			t.Errorf("run: %v", err)
		}
	})
}

func eventually(t *testing.T, what string, ok func() bool) {
	t.Helper()
	for end := time.Now().Add(20 * time.Second); !ok(); time.Sleep(time.Millisecond) {
		if time.Now().After(end) {
			t.Fatalf("no %s within 20 s", what)
		}
	}
}

func TestAnEmptyStoreIsSmall(t *testing.T) {
	g := newRig(t, Options{})
	info, err := os.Stat(g.path)
	must(t, err)
	if info.Size() > 32<<10 {
		t.Errorf("an empty store has %d bytes", info.Size())
	}
	must(t, g.s.Close())
	before := fileTime(t, g.path)
	g.open()
	must(t, g.s.Close())
	if fileTime(t, g.path) != before {
		t.Error("opening and closing wrote to the file")
	}
}
