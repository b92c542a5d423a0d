package mvcc

import (
	"fmt"
	"sync"
	"sync/atomic"
	"testing"
	"time"

	"holdfast/kv"
)

// Readers beside Apply, flushes, sweeps and restarts of transactions: every command writes all keys, so every answer
// must hold one value everywhere, and revisions never go back.
func TestReadersSeeWholeCommandsOnly(t *testing.T) {
	const keys = 8
	g := newRig(t, Options{FlushBytes: 16 << 10, HardBytes: 64 << 10, FlushEvery: time.Millisecond, RingBytes: 4 << 10})
	runStore(t, g.s)
	write := func(n int) {
		var ops []kv.Op
		for i := range keys {
			ops = append(ops, put(fmt.Sprint("key", i), fmt.Sprint(n)))
		}
		g.do(ops...)
	}
	write(0)
	stop := make(chan struct{})
	var wg sync.WaitGroup
	check := func(read func(last int64) (int64, error)) {
		wg.Go(func() {
			for last := int64(0); ; {
				select {
				case <-stop:
					return
				default:
				}
				rev, err := read(last)
				if err == nil && rev < last {
					err = fmt.Errorf("revision %d after %d", rev, last)
				}
				if err != nil {
					t.Error(err)
					return
				}
				last = rev
			}
		})
	}
	whole := func(page kv.Page) error {
		kvs := page.Ops[0].KVs
		if len(kvs) != keys {
			return fmt.Errorf("got %d keys at revision %d", len(kvs), page.Revision)
		}
		for _, p := range kvs {
			if string(p.Value) != string(kvs[0].Value) || p.ModRevision > page.Revision {
				return fmt.Errorf("got %s at revision %d", show(kvs), page.Revision)
			}
		}
		return nil
	}
	check(func(int64) (int64, error) {
		page, err := g.s.Read(kv.Query{Ops: []kv.Op{scan("key", "l")}})
		if err != nil {
			return 0, err
		}
		return page.Revision, whole(page)
	})
	check(func(last int64) (int64, error) {
		op := scan("key", "l")
		op.Revision = max(last, g.s.CompactRevision())
		page, err := g.s.Read(kv.Query{Ops: []kv.Op{op}})
		if kv.CodeOf(err) == kv.Compacted {
			return last, nil
		}
		if err != nil {
			return 0, err
		}
		return page.Revision, whole(page)
	})
	check(func(int64) (int64, error) {
		page, err := g.s.Read(kv.Query{Ops: []kv.Op{get("key1"), get("key7")}})
		if err != nil {
			return 0, err
		}
		if a, b := page.Ops[0].KVs[0], page.Ops[1].KVs[0]; a.ModRevision != b.ModRevision {
			return 0, fmt.Errorf("two ops of one query at revisions %d and %d", a.ModRevision, b.ModRevision)
		}
		return page.Revision, nil
	})
	check(func(last int64) (int64, error) {
		_, rev, _, err := g.s.hash(0)
		if kv.CodeOf(err) == kv.Busy { // compactions come one after the other here
			return last, nil
		}
		return rev, err
	})
	for n := range 1500 {
		write(n + 1)
		if n%50 == 49 {
			g.compact(g.s.Revision() - 20)
		}
	}
	close(stop)
	wg.Wait()
	if st := g.s.Stats(); st.Flushes == 0 || st.Freed == 0 {
		t.Errorf("nothing happened beside the readers: %+v", st)
	}
}

// An overlay is read while it is written: what was inserted before a search began is found, and nothing newer than was
// asked for, though newer versions come in right where the search is.
func TestOverlayIsReadableWhileWritten(t *testing.T) {
	const n = 300_000
	o := newOverlay()
	key := []byte("key")
	var published atomic.Int64
	var wg sync.WaitGroup
	wg.Go(func() {
		for i := range int64(n) {
			r := &record{}
			r.Key, r.ModRevision = key, i+1
			o.insert(r)
			published.Store(i + 1)
		}
	})
	for gets := 0; ; gets++ {
		rev := published.Load()
		if r := o.get(key, rev); rev > 0 && (r == nil || r.ModRevision != rev) {
			t.Errorf("revision %d: got %+v", rev, r)
			break
		}
		if gets%100_000 == 0 {
			seen, last := int64(0), int64(n+1)
			for r := range o.all {
				if r.ModRevision >= last {
					t.Fatalf("revision %d comes after %d", r.ModRevision, last)
				}
				last = r.ModRevision
				seen++
			}
			if seen < rev {
				t.Fatalf("found %d records of %d", seen, rev)
			}
		}
		if rev == n {
			break
		}
	}
	wg.Wait()
}
