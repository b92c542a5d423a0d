package apitest

import (
	"fmt"

	"holdfast/kv"
)

var historyClaims = []claim{
	{name: "shows every revision as it was", test: func(n *node) {
		states := map[int64][]kv.KeyValue{} // by revision: others may write to the cluster, which moves it too
		for i := range 20 {
			var res kv.Result
			switch i % 5 {
			case 4:
				res = n.delete(fmt.Sprintf("k%d", (i/5)%3))
			default:
				res = n.put(fmt.Sprintf("k%d", i%3), fmt.Sprint(i))
			}
			states[res.Revision] = n.query(n.all()).KVs
		}
		if len(states) != 20 {
			n.Errorf("20 writes had %d revisions", len(states))
		}
		for revision, want := range states {
			all := n.all()
			all.Revision = revision
			if got := n.query(all).KVs; !sameKVs(got, want) {
				n.Errorf("revision %d shows %d keys %v, want %d %v", revision, len(got), got, len(want), want)
			}
		}
	}},
	{name: "counts and cuts in the past as in the present", test: func(n *node) {
		n.fill()
		all := n.all()
		all.Revision, all.Limit = n.revision(), 2
		n.do(kv.Delete{Key: all.Key, End: all.End})
		r := n.query(all)
		n.wantKeys(r.KVs, "a", "b")
		if r.Count != 5 || !r.More {
			n.Errorf("count %d, more %v; want 5 and true", r.Count, r.More)
		}
	}},
	{name: "has no future", test: func(n *node) {
		all := n.all()
		all.Revision = n.revision() + 100
		_, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{all}})
		n.refused(err, kv.FutureRevision)
	}},
	{name: "before a compaction is gone, from there on it stays", fresh: true, test: func(n *node) {
		n.put("a", "1")
		n.put("gone", "x")
		n.delete("gone")
		n.put("a", "2")
		cut := n.put("b", "1").Revision
		n.put("a", "3")
		var states []kv.OpResult
		last := n.revision()
		for r := cut; r <= last; r++ {
			all := n.all()
			all.Revision = r
			states = append(states, n.query(all))
		}
		if r := n.do(kv.Compact{Revision: cut}); r.Revision != last {
			n.Errorf("a compaction moved the store from revision %d to %d", last, r.Revision)
		}
		n.unchanged(last)
		all := n.all()
		all.Revision = cut - 1
		_, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{all}})
		n.refusedAt(err, kv.Compacted, cut)
		for i, want := range states {
			all.Revision = cut + int64(i)
			if got := n.query(all); !sameOp(got, want) {
				n.Errorf("revision %d: %v, want %v as before", all.Revision, got.KVs, want.KVs)
			}
		}
		n.wantKeys(n.query(n.all()).KVs, "a", "b")
	}},
	{name: "can be compacted up to the present, not beyond and not twice", fresh: true, test: func(n *node) {
		n.put("k", "1")
		n.delete("k")
		last := n.put("k", "2").Revision
		_, err := n.try(kv.Compact{Revision: last + 1})
		n.refused(err, kv.FutureRevision)
		n.do(kv.Compact{Revision: last})
		_, err = n.try(kv.Compact{Revision: last})
		n.refused(err, kv.Compacted)
		_, err = n.try(kv.Compact{Revision: last - 1})
		n.refused(err, kv.Compacted)
		n.wantKV(n.get("k"), kv.KeyValue{Key: n.key("k"), Value: []byte("2"), CreateRevision: last, ModRevision: last, Version: 1})
		if r := n.put("k", "3"); r.Revision != last+1 {
			n.Errorf("the write after it is revision %d, want %d", r.Revision, last+1)
		}
	}},
	{name: "keeps live keys through many compactions", fresh: true, test: func(n *node) {
		old := n.put("old", "never touched again").Revision
		for i := range 30 {
			n.put("k", fmt.Sprint(i))
			n.do(kv.Compact{Revision: n.revision()})
		}
		n.wantKV(n.get("old"), kv.KeyValue{Key: n.key("old"), Value: []byte("never touched again"), CreateRevision: old, ModRevision: old, Version: 1})
		if got := n.get("k"); got.Version != 30 {
			n.Errorf("%s, want version 30", showKV(got))
		}
	}},
}
