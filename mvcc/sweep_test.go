package mvcc

import (
	"context"
	"errors"
	"fmt"
	"testing"

	"holdfast/kv"
)

func (g *rig) sweep() {
	g.t.Helper()
	must(g.t, g.s.Sweep(context.Background(), g.s.CompactRevision()))
}

func (g *rig) compact(rev int64) {
	g.t.Helper()
	g.do(kv.Compact{Revision: rev})
}

// A deletion at the compact revision itself stays for watches, and goes with the next compaction.
func TestSweepFreesADeletionOnceItIsBeforeTheCompactRevision(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	g.do(del("a", ""))
	must(t, g.s.Flush())
	g.compact(g.s.Revision())
	g.sweep()
	if got := checkFile(t, g.s); got != 1 {
		t.Fatalf("got %d records, want the deletion alone", got)
	}
	g.compact(g.put("b", "1"))
	g.sweep()
	if got := checkFile(t, g.s); got != 1 {
		t.Fatalf("got %d records, want b alone", got)
	}
	if st := g.s.Stats(); st.Freed != 2 || st.Swept != 4 {
		t.Errorf("got %+v", st)
	}
}

// Space of deleted keys is reused: a store that is overwritten for ever stays as large as what it holds.
func TestSweptSpaceIsReused(t *testing.T) {
	g := newRig(t, Options{})
	var size int64
	for round := range 30 {
		for i := range 100 {
			g.put(fmt.Sprint("key", i), fmt.Sprintf("%0500d", round))
		}
		g.compact(g.s.Revision())
		g.sweep()
		if round == 5 {
			size = g.s.Stats().FileBytes
		}
	}
	if got := g.s.Stats().FileBytes; got > size*3/2 {
		t.Errorf("the file went from %d to %d bytes", size, got)
	}
	if got := checkFile(t, g.s); got != 100 {
		t.Errorf("got %d records, want 100", got)
	}
}

// A large sweep takes several transactions, and a crash between them loses nothing but time.
func TestCrashInTheMiddleOfASweep(t *testing.T) {
	const keys, rounds = 1000, 4
	for nth := 1; nth <= 3; nth++ {
		g := newRig(t, Options{})
		for round := range rounds {
			var ops []kv.Op
			for i := range keys {
				ops = append(ops, put(fmt.Sprint("key", i), fmt.Sprint(round)))
			}
			g.do(ops...)
		}
		must(t, g.s.Flush())
		g.compact(g.s.Revision())
		want, _, _, err := g.s.hash(0)
		must(t, err)
		must(t, g.s.Flush())
		g.s.opts.step = dieAt("sweep", nth)
		if err := g.s.Sweep(t.Context(), g.s.CompactRevision()); !errors.Is(err, errDied) {
			t.Fatalf("sweep: got %v, want the death", err)
		}
		g.s.crash()
		g.open()
		if got := checkFile(t, g.s); got >= keys*rounds && nth > 1 || got <= keys {
			t.Fatalf("got %d records in the middle of the sweep", got)
		}
		g.sweep()
		if got := checkFile(t, g.s); got != keys {
			t.Fatalf("got %d records, want %d", got, keys)
		}
		if got, _, _, err := g.s.hash(0); err != nil || got != want {
			t.Errorf("hash: got %08x %v, want %08x", got, err, want)
		}
	}
}

// A compaction that is only in memory must not free anything: after a crash the store promises the older history.
func TestSweepWaitsForTheCompactionToBeDurable(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	g.put("a", "2")
	must(t, g.s.Flush())
	g.compact(3)
	must(t, g.s.sweepUp(t.Context()))
	g.s.crash()
	g.open()
	if got := g.list(2); got != "a=1@2" {
		t.Errorf("got %q", got)
	}
}

func TestSweepOfWhatIsNotCompactedIsRefused(t *testing.T) {
	g := newRig(t, Options{})
	rev := g.put("a", "1")
	if err := g.s.Sweep(t.Context(), rev); kv.CodeOf(err) != kv.FutureRevision {
		t.Errorf("got %v", err)
	}
}

func TestRunSweepsAfterACompaction(t *testing.T) {
	g := newRig(t, Options{})
	runStore(t, g.s)
	g.put("a", "1")
	g.put("a", "2")
	g.compact(3)
	must(t, g.s.Flush())
	eventually(t, "sweep", func() bool { return g.s.Stats().Swept == 3 })
	g.s.crash()
	g.open()
	if got := checkFile(t, g.s); got != 1 {
		t.Errorf("got %d records, want 1", got)
	}
}

// A scan that takes several transactions of bbolt notices that its revision was given up between two of them; it must
// not answer with holes.
func TestCompactionDuringAScanIsNoticed(t *testing.T) {
	const keys = 3 * readEntriesMax
	g := newRig(t, Options{})
	var ops []kv.Op
	for i := range keys {
		ops = append(ops, put(fmt.Sprintf("key%06d", i), "1"))
	}
	g.do(ops...)
	rev := g.s.Revision()
	must(t, g.s.Flush())
	for _, sweepToo := range []bool{false, true} {
		r, _ := g.s.now()
		r.floor = rev
		n := 0
		err := r.scan([]byte("k"), []byte("l"), rev, func(*version) (bool, error) {
			if n++; n == 100 {
				g.do(del("key", "kez"))
				g.compact(g.put("other", "1"))
				if sweepToo {
					g.sweep()
				}
			}
			return true, nil
		})
		r.close()
		if !errors.Is(err, errPassed) {
			t.Errorf("sweep %v: got %v after %d keys, want the scan to notice", sweepToo, err, n)
		}
		for i := range ops {
			ops[i] = put(fmt.Sprintf("key%06d", i), "2")
		}
		g.do(ops...)
		rev = g.s.Revision()
		must(t, g.s.Flush())
	}
}

// The same, seen from outside: a query at the newest revision begins anew, one at a given revision is refused.
func TestReadsBesideCompactionsAreWholeOrRefused(t *testing.T) {
	const keys = readEntriesMax + 100
	g := newRig(t, Options{})
	write := func(round int) {
		ops := make([]kv.Op, keys)
		for i := range ops {
			ops[i] = put(fmt.Sprintf("key%06d", i), fmt.Sprint(round))
		}
		g.do(ops...)
	}
	write(0)
	stop := make(chan struct{})
	done := make(chan error, 2)
	reader := func(historical bool) {
		done <- func() error {
			for n := 0; ; n++ {
				select {
				case <-stop:
					return nil
				default:
				}
				op := scan("k", "l")
				if historical {
					op.Revision = g.s.Revision()
				}
				page, err := g.s.Read(kv.Query{Ops: []kv.Op{op}})
				if historical && kv.CodeOf(err) == kv.Compacted {
					continue
				}
				if err != nil {
					return err
				}
				for _, p := range page.Ops[0].KVs {
					if p.ModRevision != page.Ops[0].KVs[0].ModRevision {
						return fmt.Errorf("revisions %d and %d in one answer", p.ModRevision, page.Ops[0].KVs[0].ModRevision)
					}
				}
				if got := len(page.Ops[0].KVs); got != keys {
					return fmt.Errorf("got %d keys, want %d", got, keys)
				}
			}
		}()
	}
	go reader(false)
	go reader(true)
	for round := range 15 {
		write(round + 1)
		g.compact(g.s.Revision())
		g.sweep()
	}
	close(stop)
	for range 2 {
		must(t, <-done)
	}
}
