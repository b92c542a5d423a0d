package mvcc

import (
	"fmt"
	"math/rand/v2"
	"testing"
	"time"

	"holdfast/kv"
)

// hashReplica applies a log in its own time: it flushes, sweeps, defragments and crashes when it likes.
type hashReplica struct {
	*rig
	rnd *rand.Rand
	log *[]Entry
}

// step does something to the file that no reader may notice.
func (r *hashReplica) step() {
	r.t.Helper()
	switch r.rnd.IntN(12) {
	case 0, 1:
		must(r.t, r.s.Flush())
	case 2:
		must(r.t, r.s.Flush())
		if _, err := r.s.sweepBatch(); err != nil {
			r.t.Fatalf("sweep: %v", err)
		}
	case 3:
		must(r.t, r.s.sweepUp(r.t.(*testing.T).Context()))
	case 4:
		must(r.t, r.s.Defragment(r.t.(*testing.T).Context()))
	case 5:
		r.s.crash()
		r.open()
		r.replay()
	}
}

// replay applies what the store does not have of the log.
func (r *hashReplica) replay() {
	r.t.Helper()
	for _, e := range *r.log {
		if e.Index > r.s.Applied() {
			if _, err := r.s.Apply([]Entry{e}); err != nil {
				r.t.Fatalf("apply: %v", err)
			}
		}
	}
}

// The same log gives the same digest at the same revision and compact revision, whenever each store has flushed, swept,
// defragmented or crashed: after each compaction, at its revision, at the newest and in between.
func TestHashIsAFunctionOfTheLogAlone(t *testing.T) {
	seed := uint64(time.Now().UnixNano())
	t.Logf("seed %d", seed)
	rnd := rand.New(rand.NewPCG(seed, 0))
	var log []Entry
	var replicas []*hashReplica
	for i := range uint64(4) {
		replicas = append(replicas, &hashReplica{rig: newRig(t, Options{}), rnd: rand.New(rand.NewPCG(seed, i+1)), log: &log})
	}
	compared, compact, rev := 0, int64(0), int64(1)
	for n := range 400 {
		var op kv.Op
		switch k := rnd.IntN(20); {
		case k < 12:
			op = put(fmt.Sprint("k", rnd.IntN(12)), fmt.Sprint("v", n))
		case k < 16:
			op = del(fmt.Sprint("k", rnd.IntN(12)), "")
		case k < 18:
			op = kv.Txn{Then: []kv.Op{put("a", fmt.Sprint(n)), del("k1", "k3")}}
		default:
			op = kv.Compact{Revision: compact + 1 + rnd.Int64N(rev-compact+1)}
		}
		log = append(log, Entry{uint64(n + 1), kv.Command{Ops: []kv.Op{op}}})
		for _, r := range replicas {
			r.replay()
			r.step()
		}
		rev, compact = replicas[0].s.Revision(), replicas[0].s.CompactRevision()
		if n%20 != 19 {
			continue
		}
		at := max(compact, 1) + rnd.Int64N(rev-max(compact, 1)+1)
		for _, at := range []int64{at, rev, max(compact, 1)} {
			var first kv.Hash
			for i, r := range replicas {
				if i == 0 || r.rnd.IntN(2) == 0 { // the others go on without the flush that a digest makes
					got, err := r.s.Hash(t.Context(), at)
					must(t, err)
					if i == 0 {
						first = got
					}
					if compared++; got != first || got.Revision != at || got.Compact != compact {
						t.Fatalf("entry %d, store %d: %+v, want %+v", n, i, got, first)
					}
				}
			}
		}
	}
	if compared < 90 {
		t.Errorf("%d digests compared", compared)
	}
	checkFile(t, replicas[0].s)
}

// Each part of a change is in the digest, and so is each change that is readable.
func TestHashTellsHistoriesApart(t *testing.T) {
	base := []kv.Op{put("a", "1"), put("b", "1"), put("a", "2"), del("b", "")}
	variants := [][]kv.Op{
		base,
		{put("a", "1"), put("b", "1"), put("a", "3"), del("b", "")},
		{put("a", "1"), put("c", "1"), put("a", "2"), del("c", "")},
		{put("b", "1"), put("a", "1"), put("a", "2"), del("b", "")},
		{put("a", "1"), put("b", "1"), put("a", "2"), put("b", "")},
		{put("a", "0"), put("b", "1"), put("a", "2"), del("b", "")},
		{put("a", "1"), put("b", "1"), del("b", ""), put("a", "2")},
		{put("a", "1"), put("b", "1"), put("a", "2"), del("b", ""), put("d", "")},
	}
	seen := map[uint32]int{}
	for i, ops := range variants {
		g := newRig(t, Options{})
		for _, op := range ops {
			g.do(op)
		}
		h := digest(t, g)
		if other, twice := seen[h.Sum]; twice {
			t.Errorf("histories %d and %d have the digest %08x", other, i, h.Sum)
		}
		seen[h.Sum] = i
	}
	// What a compaction gives up no longer counts: these two have the same keys since.
	one, two := newRig(t, Options{}), newRig(t, Options{})
	for i, op := range base {
		one.do(op)
		two.do(variants[5][i])
	}
	one.compact(5)
	two.compact(5)
	if a, b := digest(t, one), digest(t, two); a != b {
		t.Errorf("%+v and %+v", a, b)
	}
}

// A digest reads what it holds on to: what is compacted and swept meanwhile does not disturb it, and it is that of its
// moment.
func TestHashIsNotDisturbedByWhatComesMeanwhile(t *testing.T) {
	g := filled(t, Options{})
	want := digest(t, g)
	sn, err := g.s.Snapshot()
	must(t, err)
	for i := range 50 {
		g.put("key1", fmt.Sprint(i))
	}
	g.compact(g.s.Revision())
	g.sweep()
	must(t, g.s.Defragment(t.Context()))
	got, err := sn.Hash(t.Context(), want.Revision)
	must(t, err)
	must(t, sn.Close())
	if got != want {
		t.Errorf("got %+v, want %+v", got, want)
	}
	_, err = g.s.Hash(t.Context(), want.Revision)
	if kv.CodeOf(err) != kv.Compacted {
		t.Errorf("got %v", err)
	}
	_, err = g.s.Hash(t.Context(), g.s.Revision()+1)
	if kv.CodeOf(err) != kv.FutureRevision {
		t.Errorf("got %v", err)
	}
}
