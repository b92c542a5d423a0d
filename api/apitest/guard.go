package apitest

import (
	"fmt"

	"holdfast/kv"
)

func (n *node) guarded(op kv.Op, guards ...kv.Compare) (kv.Result, error) {
	c := kv.Command{Ops: []kv.Op{op}}
	for _, g := range guards {
		c.Guards = append(c.Guards, kv.Guard{Compare: g})
	}
	return n.b.Do(n.ctx, c)
}

func (n *node) modIs(name string, revision int64) kv.Compare {
	return kv.Compare{Key: n.key(name), Target: kv.TargetMod, Relation: kv.Equal, Num: revision}
}

var guardClaims = []claim{
	{name: "that holds lets a command pass", test: func(n *node) {
		at := n.put("k", "1").Revision
		if _, err := n.guarded(kv.Put{Key: n.key("k"), Value: []byte("2")}, n.modIs("k", at)); err != nil {
			n.Fatal(err)
		}
		if got := n.get("k"); string(got.Value) != "2" {
			n.Errorf("not applied: %s", showKV(got))
		}
	}},
	{name: "that fails applies nothing and names the current revision", test: func(n *node) {
		at := n.put("k", "1").Revision
		_, err := n.guarded(kv.Put{Key: n.key("k"), Value: []byte("2")}, n.modIs("k", at-1))
		n.refusedAt(err, kv.PreconditionFailed, at)
		n.unchanged(at)
		if got := n.get("k"); string(got.Value) != "1" {
			n.Errorf("applied all the same: %s", showKV(got))
		}
	}},
	{name: "takes an absent key for revision 0", test: func(n *node) {
		_, err := n.guarded(kv.Put{Key: n.key("k")}, n.modIs("k", 5))
		n.refusedAt(err, kv.PreconditionFailed, 0)
		if _, err := n.guarded(kv.Put{Key: n.key("k")}, n.modIs("k", 0)); err != nil {
			n.Fatalf("create if absent: %v", err)
		}
		_, err = n.guarded(kv.Put{Key: n.key("k")}, n.modIs("k", 0))
		n.refused(err, kv.PreconditionFailed)
	}},
	{name: "takes a deleted key for absent", test: func(n *node) {
		n.put("k", "v")
		n.delete("k")
		if _, err := n.guarded(kv.Put{Key: n.key("k")}, n.modIs("k", 0)); err != nil {
			n.Error(err)
		}
	}},
	{name: "must hold with all others", test: func(n *node) {
		a, b := n.put("a", "1").Revision, n.put("b", "1").Revision
		_, err := n.guarded(kv.Put{Key: n.key("c")}, n.modIs("a", a), n.modIs("b", a))
		n.refused(err, kv.PreconditionFailed)
		if _, err := n.guarded(kv.Put{Key: n.key("c")}, n.modIs("a", a), n.modIs("b", b)); err != nil {
			n.Error(err)
		}
	}},
	{name: "guards a delete", test: func(n *node) {
		at := n.put("k", "v").Revision
		_, err := n.guarded(kv.Delete{Key: n.key("k")}, n.modIs("k", at+1))
		n.refused(err, kv.PreconditionFailed)
		if r, err := n.guarded(kv.Delete{Key: n.key("k")}, n.modIs("k", at)); err != nil || r.Ops[0].Count != 1 {
			n.Errorf("removed %+v, %v", r.Ops, err)
		}
	}},
	{name: "compares as a transaction does", test: func(n *node) {
		for _, c := range n.compares() {
			_, err := n.guarded(kv.Range{Key: n.key("k")}, c.Compare)
			if c.holds && err != nil {
				n.Errorf("%s: refused, want it to hold: %v", c.name, err)
			}
			if !c.holds && kv.CodeOf(err) != kv.PreconditionFailed {
				n.Errorf("%s: %v, want it to fail", c.name, err)
			}
		}
	}},
}

type comparison struct {
	kv.Compare
	name  string
	holds bool
}

// compares returns every target under every relation, on a key put twice, an absent one and ranges.
func (n *node) compares() []comparison {
	n.Helper()
	made := n.put("k", "b").Revision
	n.put("r/1", "x")
	changed := n.put("k", "m").Revision
	n.put("r/2", "x")
	var out []comparison
	add := func(holds bool, c kv.Compare) {
		name := fmt.Sprintf("%q..%q target %d relation %d num %d value %q", c.Key, c.End, c.Target, c.Relation, c.Num, c.Value)
		out = append(out, comparison{c, name, holds})
	}
	relations := func(key string, target kv.Target, is int64) {
		for _, num := range []int64{is - 1, is, is + 1} {
			add(is == num, kv.Compare{Key: n.key(key), Target: target, Relation: kv.Equal, Num: num})
			add(is > num, kv.Compare{Key: n.key(key), Target: target, Relation: kv.Greater, Num: num})
			add(is < num, kv.Compare{Key: n.key(key), Target: target, Relation: kv.Less, Num: num})
			add(is != num, kv.Compare{Key: n.key(key), Target: target, Relation: kv.NotEqual, Num: num})
		}
	}
	relations("k", kv.TargetVersion, 2)
	relations("k", kv.TargetCreate, made)
	relations("k", kv.TargetMod, changed)
	relations("k", kv.TargetLease, 0)
	relations("absent", kv.TargetVersion, 0)
	relations("absent", kv.TargetCreate, 0)
	relations("absent", kv.TargetMod, 0)
	relations("absent", kv.TargetLease, 0)
	for value, order := range map[string]int{"l": 1, "m": 0, "n": -1} {
		add(order == 0, kv.Compare{Key: n.key("k"), Target: kv.TargetValue, Relation: kv.Equal, Value: []byte(value)})
		add(order > 0, kv.Compare{Key: n.key("k"), Target: kv.TargetValue, Relation: kv.Greater, Value: []byte(value)})
		add(order < 0, kv.Compare{Key: n.key("k"), Target: kv.TargetValue, Relation: kv.Less, Value: []byte(value)})
		add(order != 0, kv.Compare{Key: n.key("k"), Target: kv.TargetValue, Relation: kv.NotEqual, Value: []byte(value)})
	}
	for relation := kv.Equal; relation <= kv.NotEqual; relation++ {
		add(false, kv.Compare{Key: n.key("absent"), Target: kv.TargetValue, Relation: relation})
	}
	one := kv.Compare{Key: n.key("r/"), End: n.key("r0"), Target: kv.TargetVersion, Relation: kv.Equal, Num: 1}
	add(true, one)
	one.End = kv.PrefixEnd([]byte(n.prefix)) // the same range, nothing follows r/2
	add(true, one)
	one.Key = n.key("") // now "k" is in it, of version 2
	add(false, one)
	// A range without any key is compared like one key that is absent.
	add(true, kv.Compare{Key: n.key("x"), End: n.key("y"), Target: kv.TargetVersion, Relation: kv.Equal, Num: 0})
	add(false, kv.Compare{Key: n.key("x"), End: n.key("y"), Target: kv.TargetVersion, Relation: kv.Greater, Num: 0})
	add(false, kv.Compare{Key: n.key("x"), End: n.key("y"), Target: kv.TargetValue, Relation: kv.NotEqual, Value: []byte("v")})
	return out
}
