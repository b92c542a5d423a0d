package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"strings"
	"sync"
	"testing"

	"go.etcd.io/bbolt"

	"holdfast/kv"
)

// holed is a store whose file has far more pages than it needs, some changes in memory, and side entries.
func holed(t *testing.T, opts Options) *rig {
	t.Helper()
	g := newRig(t, opts)
	g.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1, Nonce: [16]byte{2}}}, kv.LeaderTerm{Nonce: 3})
	g.do(kv.SetFeature{Level: kv.FeatureNewest}, kv.SetRecord{Name: []byte("r"), Value: []byte("v"), Have: -1})
	for i := range 200 {
		g.put(fmt.Sprintf("key%03d", i), strings.Repeat("x", 8<<10))
	}
	must(t, g.s.Flush())
	g.do(del("key000", "key190"))
	must(t, g.s.Flush())
	g.compact(g.s.Revision())
	g.sweep()
	must(t, g.s.Flush())
	g.put("late", "1")
	return g
}

func fileSize(t *testing.T, path string) int64 {
	t.Helper()
	info, err := os.Stat(path)
	must(t, err)
	return info.Size()
}

func noTemp(t *testing.T, g *rig) {
	t.Helper()
	if _, err := os.Stat(defragPath(g.path)); !errors.Is(err, os.ErrNotExist) {
		t.Errorf("the unfinished copy is still there: %v", err)
	}
}

func TestDefragmentGivesSpaceBackAndChangesNothing(t *testing.T) {
	g := holed(t, Options{})
	want, wantSum := g.list(0), digest(t, g)
	before := fileSize(t, g.path)
	must(t, g.s.Defragment(t.Context()))
	after := fileSize(t, g.path)
	if after > before/4 || after > 200<<10 {
		t.Errorf("the file has %d bytes, it had %d", after, before)
	}
	if st := g.s.Stats(); st.FileBytes > after || st.FreeBytes > st.FileBytes/2 {
		t.Errorf("stats: %d bytes, %d free; the file has %d", st.FileBytes, st.FreeBytes, after)
	}
	noTemp(t, g)
	for range 2 {
		if got := g.list(0); got != want {
			t.Errorf("got %q, want %q", got, want)
		}
		if got := digest(t, g); got != wantSum {
			t.Errorf("hash %+v, want %+v", got, wantSum)
		}
		if res := g.do(kv.Records{}); len(res[0].KVs) != 1 || g.s.Feature() != kv.FeatureNewest {
			t.Errorf("records %+v, level %d", res[0].KVs, g.s.Feature())
		}
		checkFile(t, g.s)
		must(t, g.s.Close())
		g.open()
	}
	g.index = g.s.Applied()
	g.put("goes", "on")
}

func digest(t *testing.T, g *rig) kv.Hash {
	t.Helper()
	h, err := g.s.Hash(t.Context(), 0)
	must(t, err)
	return h
}

// during runs fn when a step is passed, each time or the first times only.
func during(name string, fn func(nth int)) func(string) error {
	n := 0
	return func(at string) error {
		if at == name {
			n++
			fn(n)
		}
		return nil
	}
}

// What is written while it copies is in the new file too, what is flushed and what is not.
func TestWritesDuringADefragmentationAreKept(t *testing.T) {
	g := holed(t, Options{catchUp: 32 << 10})
	last, rounds := "", 0
	g.s.opts.step = during("copied", func(nth int) {
		if rounds = nth; nth > 3 {
			g.put("memory", fmt.Sprint(nth)) // flushed by the next catching up, or not at all
			return
		}
		for i := range 40 {
			last = fmt.Sprint(nth, ".", i)
			g.put(fmt.Sprintf("key%03d", 180+i), last+strings.Repeat("y", 2<<10))
		}
		g.do(del("key195", ""))
		g.do(kv.SetRecord{Name: fmt.Append(nil, "r", nth), Value: []byte("v"), Have: -1}, kv.SetRecord{Name: []byte("r"), Have: -1})
		if nth < 3 {
			must(t, g.s.Flush())
		}
		g.compact(g.s.Revision() - 3)
	})
	must(t, g.s.Defragment(t.Context()))
	if rounds < 2 {
		t.Errorf("it caught up %d times", rounds)
	}
	other := newRig(t, Options{})
	must(t, other.s.Restore(dump(t, g.s), nil))
	for _, s := range []*rig{g, other} {
		if got := s.do2(get("key219")); !strings.HasPrefix(got, last) {
			t.Errorf("key219 begins with %.20q, want %q", got, last)
		}
		if got := s.do2(get("key195")); got != "" {
			t.Errorf("a deleted key is there: %.20q", got)
		}
	}
	if got := len(g.do(kv.Records{})[0].KVs); got != 3 {
		t.Errorf("%d records, want 3", got)
	}
	checkFile(t, g.s)
	want := digest(t, g)
	g.sweep()
	checkFile(t, g.s)
	must(t, g.s.Flush())
	g.s.crash()
	g.open()
	if got := digest(t, g); got.Sum != want.Sum {
		t.Errorf("after a crash: %+v, want %+v", got, want)
	}
}

// do2 reads one value.
func (g *rig) do2(r kv.Range) string {
	g.t.Helper()
	page, err := g.s.Read(kv.Query{Ops: []kv.Op{r}})
	must(g.t, err)
	if len(page.Ops[0].KVs) == 0 {
		return ""
	}
	return string(page.Ops[0].KVs[0].Value)
}

// A defragmentation that dies at any step leaves a file that opens and holds everything, and the next Open cleans up.
func TestCrashBetweenAnyTwoStepsOfADefragmentation(t *testing.T) {
	for _, step := range []string{"copying", "copied", "complete", "synced", "moved", "swapped"} {
		g := holed(t, Options{})
		want := digest(t, g)
		big := fileSize(t, g.path)
		g.s.opts.step = dieAt(step, 1)
		if err := g.s.Defragment(t.Context()); !errors.Is(err, errDied) {
			t.Fatalf("%s: got %v, want the death", step, err)
		}
		moved := step == "moved" || step == "swapped"
		if step != "moved" { // the store has not failed and goes on
			if got := digest(t, g); got.Sum != want.Sum {
				t.Errorf("%s: hash %+v, want %+v", step, got, want)
			}
			g.put("late", "1")
			must(t, g.s.Flush())
			want = digest(t, g)
			noTemp(t, g)
		}
		g.s.crash()
		// As a kill leaves it, the unfinished copy too.
		must(t, os.WriteFile(defragPath(g.path), []byte("half a copy"), 0o600))
		g.open()
		noTemp(t, g)
		if got := digest(t, g); got.Sum != want.Sum {
			t.Errorf("%s: after a restart: %+v, want %+v", step, got, want)
		}
		if got := fileSize(t, g.path); moved != (got < big/2) {
			t.Errorf("%s: the file has %d bytes, it had %d", step, got, big)
		}
		checkFile(t, g.s)
	}
}

// A reader, a watch and Apply see nothing of it.
func TestReadsWatchesAndWritesGoOnDuringADefragmentation(t *testing.T) {
	g := holed(t, Options{FlushBytes: 64 << 10})
	ctx, cancel := context.WithCancel(t.Context())
	var wg, watching sync.WaitGroup
	from := g.s.Revision() + 1
	const writes = 600
	seen := int64(0)
	watching.Go(func() {
		spec := kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte("w"), From: from, PrevKV: true}}}
		for b, err := range g.s.Watch(ctx, spec) {
			if err != nil || b.Canceled {
				t.Errorf("watch: %v %v", err, b.Err)
				return
			}
			for _, e := range b.Events {
				if e.KV.Version != seen+1 || (e.Prev == nil) != (e.KV.Version == 1) {
					t.Errorf("event %d comes after %d, with prev %v", e.KV.Version, seen, e.Prev != nil)
				}
				if seen = e.KV.Version; seen == writes {
					return
				}
			}
		}
	})
	wg.Go(func() {
		for ctx.Err() == nil {
			page, err := g.s.Read(kv.Query{Ops: []kv.Op{scan("key", "kez")}})
			if err != nil || len(page.Ops[0].KVs) != 10 {
				t.Errorf("read: %d keys, %v", len(page.Ops[0].KVs), err)
				return
			}
		}
	})
	stop := make(chan struct{})
	var runs int
	wg.Go(func() {
		for ; ; runs++ {
			select {
			case <-stop:
				return
			default:
			}
			if err := g.s.Defragment(ctx); err != nil && kv.CodeOf(err) != kv.Busy && ctx.Err() == nil {
				t.Errorf("defragment: %v", err)
				return
			}
		}
	})
	for i := range writes {
		g.put("w", fmt.Sprint(i))
		if i%50 == 49 {
			must(t, g.s.Flush())
		}
	}
	watching.Wait()
	close(stop)
	cancel()
	wg.Wait()
	if seen != writes || runs == 0 {
		t.Errorf("the watch saw %d of %d changes, %d defragmentations", seen, writes, runs)
	}
	checkFile(t, g.s)
}

func TestSweepWaitsForADefragmentation(t *testing.T) {
	g := holed(t, Options{})
	g.put("a", "1")
	g.put("a", "2")
	g.compact(g.s.Revision())
	swept := make(chan error, 1)
	g.s.opts.step = during("copied", func(nth int) {
		if nth > 1 {
			return
		}
		go func() { swept <- g.s.Sweep(t.Context(), g.s.CompactRevision()) }()
		if more, err := g.s.sweepBatch(); more || err != nil {
			t.Errorf("a sweep ran: %v", err)
		}
	})
	must(t, g.s.Defragment(t.Context()))
	must(t, <-swept)
	if st := g.s.Stats(); st.Swept < st.Compact {
		t.Errorf("swept up to %d, compacted at %d", st.Swept, st.Compact)
	}
	checkFile(t, g.s)
}

func TestDefragmentationRefusesWhatItCannotDo(t *testing.T) {
	g := holed(t, Options{catchUp: 32 << 10})
	g.s.opts.step = during("copied", func(nth int) {
		if nth == 1 {
			if err := g.s.Defragment(t.Context()); kv.CodeOf(err) != kv.Busy {
				t.Errorf("a second one: %v", err)
			}
		}
		g.put("fast", strings.Repeat("z", 32<<10))
	})
	if err := g.s.Defragment(t.Context()); kv.CodeOf(err) != kv.Busy || !strings.Contains(err.Error(), "quieter") {
		t.Errorf("outrun: %v", err)
	}
	noTemp(t, g)

	snapshot := dump(t, filled(t, Options{}).s)
	g.s.opts.step = during("copied", func(int) { must(t, g.s.Restore(snapshot, nil)) })
	if err := g.s.Defragment(t.Context()); kv.CodeOf(err) != kv.Busy {
		t.Errorf("restored meanwhile: %v", err)
	}
	noTemp(t, g)

	ctx, cancel := context.WithCancel(t.Context())
	g.s.opts.step = during("copied", func(int) { cancel() })
	if err := g.s.Defragment(ctx); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("stopped: %v", err)
	}
	noTemp(t, g)
	g.s.opts.step = nil
	checkFile(t, g.s)
	must(t, g.s.Close())
	if err := g.s.Defragment(t.Context()); kv.CodeOf(err) != kv.Stopping {
		t.Errorf("closed: %v", err)
	}
}

// A damaged file is not copied into one that looks sound.
func TestDefragmentationNoticesDamage(t *testing.T) {
	g := holed(t, Options{})
	must(t, g.s.Flush())
	must(t, g.s.layers.Load().file.db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket(bucketRev)
		k, v := b.Cursor().Last()
		v = bytes.Clone(v)
		v[len(v)-1] ^= 1
		return b.Put(bytes.Clone(k), v)
	}))
	if err := g.s.Defragment(t.Context()); kv.CodeOf(err) != kv.Corrupt {
		t.Errorf("got %v", err)
	}
	noTemp(t, g)
}
