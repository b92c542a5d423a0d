package mvcc

import (
	"fmt"
	"testing"

	"holdfast/kv"
)

func TestTxnSeesItsEarlierOps(t *testing.T) {
	g := newRig(t, Options{})
	g.put("b", "old")
	res := g.do(kv.Txn{Then: []kv.Op{scan("a", "z"), put("a", "1"), scan("a", "z"), del("b", ""), scan("a", "z")}})
	for i, want := range map[int]string{0: "b=old@2", 2: "a=1@3 b=old@2", 4: "a=1@3"} {
		if got := show(res[0].Ops[i].KVs); got != want {
			t.Errorf("op %d: got %q, want %q", i, got, want)
		}
	}
	if g.s.Revision() != 3 {
		t.Errorf("got revision %d, want 3: one for the whole command", g.s.Revision())
	}
}

func TestNestedTxnComparesWhatWasThereBefore(t *testing.T) {
	g := newRig(t, Options{})
	absent := kv.Compare{Key: []byte("a"), Target: kv.TargetCreate}
	res := g.do(kv.Txn{Then: []kv.Op{
		put("a", "1"),
		kv.Txn{Compares: []kv.Compare{absent}, Then: []kv.Op{get("a"), put("b", "absent")}, Else: []kv.Op{put("b", "present")}},
	}})
	inner := res[0].Ops[1]
	if !inner.Succeeded || show(inner.Ops[0].KVs) != "a=1@2" {
		t.Errorf("got %+v, want the compare to hold and the range to see the put", inner)
	}
	if got := g.list(0); got != "a=1@2 b=absent@2" {
		t.Errorf("got %q", got)
	}
}

func TestCommandIsAtomic(t *testing.T) {
	g := newRig(t, Options{})
	g.put("x", "1")
	keep := kv.Put{Key: []byte("missing"), IgnoreValue: true}
	_ = g.refuse(kv.KeyNotFound, put("a", "1"), del("x", ""), keep)
	_ = g.refuse(kv.KeyNotFound, kv.Txn{Then: []kv.Op{put("a", "1"), kv.Txn{Then: []kv.Op{keep}}}})
	_ = g.refuse(kv.LeaseNotFound, put("a", "1"), kv.Put{Key: []byte("b"), Lease: 9})
	_ = g.refuse(kv.LeaseExists, kv.LeaseGrant{ID: 1, TTL: 1}, put("a", "1"), kv.LeaseGrant{ID: 1, TTL: 1})
	_ = g.refuse(kv.FutureRevision, kv.LeaderTerm{Nonce: 5}, put("a", "1"), kv.Compact{Revision: 3})
	_ = g.refuse(kv.FutureRevision, kv.Txn{Then: []kv.Op{put("a", "1"), kv.Range{Key: []byte("a"), Revision: 3}}})
	if got := g.list(0); got != "x=1@2" {
		t.Errorf("got %q, want what was there before", got)
	}
	if g.s.LeaderTerm() != 0 || g.s.CompactRevision() != 0 {
		t.Errorf("a refused command left term %d and compact revision %d", g.s.LeaderTerm(), g.s.CompactRevision())
	}
}

func TestWhatChangesNothingDoesNotMoveTheRevision(t *testing.T) {
	g := newRig(t, Options{})
	rev := g.put("a", "1")
	g.do(del("b", ""))
	g.do(del("b", "c"))
	g.do(kv.Txn{Then: []kv.Op{get("a")}})
	g.do(kv.LeaderTerm{Nonce: 7})
	g.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1}})
	g.do(kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 2}})
	g.do(kv.Compact{Revision: rev})
	g.do()
	if g.s.Revision() != rev {
		t.Errorf("got revision %d, want %d", g.s.Revision(), rev)
	}
	if g.s.Epoch().Cluster != 1 || g.s.LeaderTerm() != 7 {
		t.Errorf("got epoch %v and term %d", g.s.Epoch(), g.s.LeaderTerm())
	}
}

func TestGuardNamesTheRevisionItFailedOn(t *testing.T) {
	g := newRig(t, Options{})
	rev := g.put("a", "1")
	for name, c := range map[string]struct {
		compare kv.Compare
		rev     int64
	}{
		"another revision": {kv.Compare{Key: []byte("a"), Target: kv.TargetMod, Num: 99}, rev},
		"must be absent":   {kv.Compare{Key: []byte("a"), Target: kv.TargetCreate}, rev},
		"absent":           {kv.Compare{Key: []byte("b"), Target: kv.TargetMod, Num: 2}, 0},
		"value of absent":  {kv.Compare{Key: []byte("b"), Target: kv.TargetValue, Relation: kv.NotEqual}, 0},
		"in a range":       {kv.Compare{Key: []byte("a"), End: []byte("b"), Target: kv.TargetVersion, Num: 2}, rev},
	} {
		out := g.command(kv.Command{Guards: []kv.Guard{{Compare: c.compare}}, Ops: []kv.Op{put("a", "2")}})
		if out.Err == nil || out.Err.Code != kv.PreconditionFailed || out.Err.Revision != c.rev || out.Err.Detail == "" {
			t.Errorf("%s: got %+v, want a failed precondition at revision %d", name, out.Err, c.rev)
		}
	}
	out := g.command(kv.Command{
		Guards: []kv.Guard{{Compare: kv.Compare{Key: []byte("a"), Target: kv.TargetMod, Num: rev}}},
		Ops:    []kv.Op{put("a", "2")},
	})
	if out.Err != nil || g.s.Revision() != rev+1 {
		t.Errorf("a guard that holds: got %v at revision %d", out.Err, g.s.Revision())
	}
}

// As in etcd, an empty range is compared like one absent key.
func TestCompareOfAnEmptyRange(t *testing.T) {
	g := newRig(t, Options{})
	for name, c := range map[string]struct {
		compare kv.Compare
		want    bool
	}{
		"version is 0":      {kv.Compare{Target: kv.TargetVersion}, true},
		"created after 0":   {kv.Compare{Target: kv.TargetCreate, Relation: kv.Greater}, false},
		"value is not this": {kv.Compare{Target: kv.TargetValue, Relation: kv.NotEqual, Value: []byte("x")}, false},
	} {
		c.compare.Key, c.compare.End = []byte("a"), []byte("b")
		if got := g.do(kv.Txn{Compares: []kv.Compare{c.compare}})[0].Succeeded; got != c.want {
			t.Errorf("%s: got %v, want %v", name, got, c.want)
		}
	}
}

func TestCompactionIsFencedByTheLeaderTerm(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	rev := g.put("a", "2")
	g.do(kv.LeaderTerm{Nonce: 8})
	g.do(kv.Compact{Revision: rev, Term: 7})
	if got := g.s.CompactRevision(); got != 0 {
		t.Fatalf("a deposed leader compacted to %d", got)
	}
	g.do(kv.Compact{Revision: rev, Term: 8})
	if got := g.s.CompactRevision(); got != rev {
		t.Fatalf("got compact revision %d, want %d", got, rev)
	}
	if e := g.refuse(kv.Compacted, kv.Compact{Revision: rev}); e.Revision != rev {
		t.Errorf("got revision %d, want %d", e.Revision, rev)
	}
	if e := g.refuse(kv.FutureRevision, kv.Compact{Revision: rev + 1}); e.Revision != rev {
		t.Errorf("got revision %d, want %d", e.Revision, rev)
	}
}

func TestEntriesAreAppliedOnce(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", "1")
	for _, entries := range [][]Entry{
		{{Index: 1, Command: kv.Command{Ops: []kv.Op{put("a", "2")}}}},
		{{Index: 2, Command: kv.Command{Ops: []kv.Op{put("a", "2")}}}, {Index: 2, Command: kv.Command{Ops: []kv.Op{put("a", "3")}}}},
	} {
		if out, err := g.s.Apply(entries); err == nil {
			t.Errorf("entries %+v were applied: %+v", entries, out)
		}
	}
	if got := g.list(0); got != "a=1@2" || g.s.Applied() != 1 {
		t.Errorf("got %q at index %d, want nothing changed", got, g.s.Applied())
	}
}

// The caller gets its buffers back when Apply returns.
func TestApplyKeepsNothingOfTheCommand(t *testing.T) {
	g := newRig(t, Options{})
	p := put("key", "value")
	g.do(p)
	copy(p.Key, "XXX")
	copy(p.Value, "YYYYY")
	if got := g.list(0); got != "key=value@2" {
		t.Errorf("got %q", got)
	}
}

// What asks not to be counted is answered as if it did, and reads no further than it has to.
func TestAnUncountedRangeEndsWhenItKnowsThatThereIsMore(t *testing.T) {
	g := newRig(t, Options{})
	for i := range 50 {
		g.put(fmt.Sprintf("k%02d", i), "v")
	}
	for _, op := range []kv.Range{
		{Limit: 7}, {Limit: 50}, {Limit: 51}, {}, {Limit: 3, MinMod: 20}, {Limit: 3, Sort: kv.TargetMod, Order: kv.OrderDescend}, {CountOnly: true},
	} {
		op.Key, op.End = []byte("k"), []byte("l")
		counted := g.do(op)[0]
		op.Uncounted = true
		got := g.do(op)[0]
		seen := got.Count
		got.Count = counted.Count
		sameResults(t, []kv.Op{op}, []kv.OpResult{got}, []kv.OpResult{counted})
		if op.Limit == 7 && seen != 8 {
			t.Errorf("%+v: %d keys were looked at, want 8", op, seen)
		}
	}
}
