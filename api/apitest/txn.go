package apitest

import (
	"holdfast/kv"
)

var txnClaims = []claim{
	{name: "takes one branch and says which", test: func(n *node) {
		txn := kv.Txn{
			Compares: []kv.Compare{n.modIs("k", 0)},
			Then:     []kv.Op{kv.Put{Key: n.key("k"), Value: []byte("then")}},
			Else:     []kv.Op{kv.Range{Key: n.key("k")}, kv.Put{Key: n.key("else")}},
		}
		r := n.do(txn)
		if op := r.Ops[0]; !op.Succeeded || len(op.Ops) != 1 || !op.Ops[0].Created {
			n.Errorf("first time: %+v, want the put of Then", op)
		}
		if n.get("else").ModRevision != 0 {
			n.Error("both branches were taken")
		}
		r = n.do(txn)
		if op := r.Ops[0]; op.Succeeded || len(op.Ops) != 2 || op.Ops[0].Count != 1 {
			n.Errorf("second time: %+v, want the range and put of Else", op)
		}
		if got := n.get("else"); got.ModRevision != r.Revision {
			n.Errorf("Else was not applied at revision %d: %s", r.Revision, showKV(got))
		}
	}},
	{name: "without compares succeeds", test: func(n *node) {
		if r := n.do(kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("k")}}}); !r.Ops[0].Succeeded || n.get("k").ModRevision != r.Revision {
			n.Errorf("%+v", r)
		}
	}},
	{name: "needs all compares to hold", test: func(n *node) {
		at := n.put("k", "v").Revision
		if r := n.do(kv.Txn{Compares: []kv.Compare{n.modIs("k", at), n.modIs("k", at+1)}}); r.Ops[0].Succeeded {
			n.Error("succeeded though one compare fails")
		}
		if r := n.do(kv.Txn{Compares: []kv.Compare{n.modIs("k", at), n.modIs("other", 0)}}); !r.Ops[0].Succeeded {
			n.Error("failed though all compares hold")
		}
	}},
	{name: "compares every target under every relation", test: func(n *node) {
		for _, c := range n.compares() {
			if r := n.do(kv.Txn{Compares: []kv.Compare{c.Compare}}); r.Ops[0].Succeeded != c.holds {
				n.Errorf("%s: %v, want %v", c.name, r.Ops[0].Succeeded, c.holds)
			}
		}
	}},
	{name: "whose branch is empty changes nothing", test: func(n *node) {
		before := n.revision()
		if r := n.do(kv.Txn{Then: nil, Else: []kv.Op{kv.Put{Key: n.key("k")}}}); r.Revision != before || len(r.Ops[0].Ops) != 0 {
			n.Errorf("revision %d with %d answers, want %d with none", r.Revision, len(r.Ops[0].Ops), before)
		}
		n.unchanged(before)
	}},
	{name: "nests and applies at one revision", test: func(n *node) {
		before := n.put("k", "v").Revision
		r := n.do(kv.Txn{
			Compares: []kv.Compare{n.modIs("k", before)},
			Then: []kv.Op{
				kv.Put{Key: n.key("a")},
				kv.Txn{
					Compares: []kv.Compare{n.modIs("absent", 7)},
					Then:     []kv.Op{kv.Put{Key: n.key("wrong")}},
					Else: []kv.Op{
						kv.Delete{Key: n.key("k")},
						kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("b")}, kv.Range{Key: n.key("a")}}},
					},
				},
			},
		})
		if r.Revision != before+1 {
			n.Errorf("revision %d, want %d", r.Revision, before+1)
		}
		outer := r.Ops[0]
		if !outer.Succeeded || len(outer.Ops) != 2 || outer.Ops[1].Succeeded || len(outer.Ops[1].Ops) != 2 ||
			outer.Ops[1].Ops[0].Count != 1 || !outer.Ops[1].Ops[1].Succeeded || len(outer.Ops[1].Ops[1].Ops) != 2 ||
			outer.Ops[1].Ops[1].Ops[1].Count != 1 {
			n.Fatalf("the answer has another shape than the command: %+v", outer)
		}
		n.wantKeys(n.query(n.all()).KVs, "a", "b")
	}},
	{name: "compares, nested too, with what stood before the command", test: func(n *node) {
		r := n.do(
			kv.Put{Key: n.key("k"), Value: []byte("new")},
			kv.Txn{Compares: []kv.Compare{n.modIs("k", 0)}, Then: []kv.Op{kv.Txn{Compares: []kv.Compare{n.modIs("k", 0)}}}},
		)
		if !r.Ops[1].Succeeded || !r.Ops[1].Ops[0].Succeeded {
			n.Errorf("a compare saw a put of its own command: %+v", r.Ops[1])
		}
	}},
	{name: "that is refused in one branch taken changes nothing", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("a")}, kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("b")}, kv.Put{Key: n.key("c"), IgnoreValue: true}}})
		n.refused(err, kv.KeyNotFound)
		n.unchanged(before)
	}},
	{name: "that puts a key twice, in itself or below, is refused", test: func(n *node) {
		before := n.revision()
		twice := []kv.Op{kv.Put{Key: n.key("k")}, kv.Put{Key: n.key("k")}}
		for name, op := range map[string]kv.Op{
			"then":   kv.Txn{Then: twice},
			"else":   kv.Txn{Else: twice},
			"nested": kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("k")}, kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("k")}}}}},
		} {
			if _, err := n.try(op); kv.CodeOf(err) != kv.DuplicateKey {
				n.Errorf("%s: %v, want duplicate-key", name, err)
			}
		}
		n.unchanged(before)
		// The branches exclude each other.
		n.do(kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("k")}}, Else: []kv.Op{kv.Put{Key: n.key("k")}}})
	}},
	{name: "that only reads is a query", test: func(n *node) {
		at := n.put("k", "v").Revision
		p := n.read(kv.Txn{
			Compares: []kv.Compare{n.modIs("k", at)},
			Then:     []kv.Op{kv.Range{Key: n.key("k")}},
			Else:     []kv.Op{kv.Range{Key: n.key("other")}},
		})
		if op := p.Ops[0]; !op.Succeeded || len(op.Ops) != 1 || op.Ops[0].Count != 1 {
			n.Errorf("%+v, want the range of Then", op)
		}
	}},
}
