package apitest

import (
	"bytes"

	"holdfast/kv"
)

var putClaims = []claim{
	{name: "creates a key and says so", test: func(n *node) {
		before := n.revision()
		r := n.put("k", "v")
		if !r.Ops[0].Created {
			n.Error("Created is false for a new key")
		}
		if r.Revision != before+1 {
			n.Errorf("revision %d, want the next one, %d", r.Revision, before+1)
		}
		n.wantKV(n.get("k"), kv.KeyValue{Key: n.key("k"), Value: []byte("v"), CreateRevision: r.Revision, ModRevision: r.Revision, Version: 1})
	}},
	{name: "replaces a value and counts its versions", test: func(n *node) {
		made := n.put("k", "1")
		n.put("k", "2")
		r := n.put("k", "3")
		if r.Ops[0].Created {
			n.Error("Created is true for a key that was there")
		}
		n.wantKV(n.get("k"), kv.KeyValue{Key: n.key("k"), Value: []byte("3"), CreateRevision: made.Revision, ModRevision: r.Revision, Version: 3})
	}},
	{name: "of the same value is a change", test: func(n *node) {
		first := n.put("k", "v")
		if second := n.put("k", "v"); second.Revision != first.Revision+1 {
			n.Errorf("revision %d after %d, want the next one", second.Revision, first.Revision)
		}
	}},
	{name: "of an empty value is a value", test: func(n *node) {
		r := n.put("k", "")
		n.wantKV(n.get("k"), kv.KeyValue{Key: n.key("k"), CreateRevision: r.Revision, ModRevision: r.Revision, Version: 1})
	}},
	{name: "takes any bytes as a key", test: func(n *node) {
		names := []string{"\x00", "\xff\xff", "/", "//", "..", "../", "a/./b", "ü", "\xc3\x28", "a b+c%20", "\n"}
		for _, name := range names {
			n.put(name, "value of "+name)
		}
		for _, name := range names {
			if got := n.get(name); string(got.Value) != "value of "+name {
				n.Errorf("key %q: %s", name, showKV(got))
			}
		}
	}},
	{name: "takes a large value whole", test: func(n *node) {
		value := bytes.Repeat([]byte("0123456789abcdef"), 1<<16) // 1 MiB, the limit of the REST door
		n.do(kv.Put{Key: n.key("k"), Value: value})
		if got := n.get("k"); !bytes.Equal(got.Value, value) {
			n.Errorf("%d bytes came back, want the %d put", len(got.Value), len(value))
		}
	}},
	{name: "answers with the value it replaced when asked", test: func(n *node) {
		if r := n.do(kv.Put{Key: n.key("k"), Value: []byte("1"), PrevKV: true}); len(r.Ops[0].KVs) != 0 {
			n.Errorf("previous value of a new key: %s", showKV(r.Ops[0].KVs[0]))
		}
		old := n.get("k")
		r := n.do(kv.Put{Key: n.key("k"), Value: []byte("2"), PrevKV: true})
		if len(r.Ops[0].KVs) != 1 {
			n.Fatalf("%d previous values, want 1", len(r.Ops[0].KVs))
		}
		n.wantKV(r.Ops[0].KVs[0], old)
		if r := n.put("k", "3"); len(r.Ops[0].KVs) != 0 {
			n.Error("a previous value though none was asked for")
		}
	}},
	{name: "may keep the value that is there", test: func(n *node) {
		made := n.put("k", "v")
		r := n.do(kv.Put{Key: n.key("k"), IgnoreValue: true})
		n.wantKV(n.get("k"), kv.KeyValue{Key: n.key("k"), Value: []byte("v"), CreateRevision: made.Revision, ModRevision: r.Revision, Version: 2})
	}},
	{name: "cannot keep a value or lease that is not there", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("k"), IgnoreValue: true})
		n.refused(err, kv.KeyNotFound)
		_, err = n.try(kv.Put{Key: n.key("k"), Value: []byte("v"), IgnoreLease: true})
		n.refused(err, kv.KeyNotFound)
		n.unchanged(before)
	}},
	{name: "without a key is refused", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Put{Value: []byte("v")})
		n.refused(err, kv.Invalid)
		n.unchanged(before)
	}},
	{name: "under a lease that does not exist is refused", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("k"), Lease: 1<<40 + 7})
		n.refused(err, kv.LeaseNotFound)
		n.unchanged(before)
	}},
}

var deleteClaims = []claim{
	{name: "removes a key at the next revision", test: func(n *node) {
		before := n.put("k", "v").Revision
		r := n.delete("k")
		if r.Ops[0].Count != 1 || r.Revision != before+1 {
			n.Errorf("removed %d at revision %d, want 1 at %d", r.Ops[0].Count, r.Revision, before+1)
		}
		if got := n.get("k"); got.ModRevision != 0 {
			n.Errorf("still there: %s", showKV(got))
		}
	}},
	{name: "of nothing changes nothing", test: func(n *node) {
		before := n.revision()
		r := n.delete("k")
		if r.Ops[0].Count != 0 || r.Revision != before {
			n.Errorf("removed %d at revision %d, want 0 at %d", r.Ops[0].Count, r.Revision, before)
		}
		n.unchanged(before)
	}},
	{name: "of a range removes exactly its keys", test: func(n *node) {
		for _, name := range []string{"a", "b", "b/1", "c", "d"} {
			n.put(name, name)
		}
		r := n.do(kv.Delete{Key: n.key("b"), End: n.key("d")})
		if r.Ops[0].Count != 3 {
			n.Errorf("removed %d keys, want 3", r.Ops[0].Count)
		}
		n.wantKeys(n.query(n.all()).KVs, "a", "d")
	}},
	{name: "answers with what it removed when asked", test: func(n *node) {
		n.put("b", "2")
		n.put("a", "1")
		all := n.all()
		there := n.query(all).KVs
		r := n.do(kv.Delete{Key: all.Key, End: all.End, PrevKV: true})
		if !sameKVs(r.Ops[0].KVs, there) {
			n.Errorf("answered with %d keys that are not the %d removed, in order", len(r.Ops[0].KVs), len(there))
		}
	}},
	{name: "lets a key begin anew", test: func(n *node) {
		n.put("k", "1")
		n.put("k", "2")
		n.delete("k")
		r := n.put("k", "3")
		if !r.Ops[0].Created {
			n.Error("Created is false for a key that was deleted")
		}
		n.wantKV(n.get("k"), kv.KeyValue{Key: n.key("k"), Value: []byte("3"), CreateRevision: r.Revision, ModRevision: r.Revision, Version: 1})
	}},
	{name: "without a key is refused", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Delete{})
		n.refused(err, kv.Invalid)
		n.unchanged(before)
	}},
}

var commandClaims = []claim{
	{name: "meets a fresh store at revision 1", fresh: true, test: func(n *node) {
		p := n.read(kv.Range{Key: kv.FromKey(), End: kv.FromKey()})
		if p.Revision != 1 || p.Ops[0].Count != 0 {
			n.Errorf("a fresh store is at revision %d with %d keys, want 1 with none", p.Revision, p.Ops[0].Count)
		}
		if r := n.put("k", "v"); r.Revision != 2 {
			n.Errorf("the first write is revision %d, want 2", r.Revision)
		}
	}},
	{name: "is answered with epoch and revision", test: func(n *node) {
		r := n.put("k", "v")
		p := n.read(kv.Range{Key: n.key("k")})
		if r.Epoch.IsZero() || r.Epoch != p.Epoch {
			n.Errorf("epoch %v of a write, %v of a read: want one that is not zero", r.Epoch, p.Epoch)
		}
		if p.Revision < r.Revision {
			n.Errorf("a read is at revision %d after a write at %d", p.Revision, r.Revision)
		}
	}},
	{name: "applies all its ops at one revision", test: func(n *node) {
		n.put("gone", "x")
		before := n.revision()
		r := n.do(
			kv.Put{Key: n.key("a"), Value: []byte("1")},
			kv.Put{Key: n.key("b"), Value: []byte("2")},
			kv.Delete{Key: n.key("gone")},
		)
		if r.Revision != before+1 {
			n.Errorf("revision %d, want %d", r.Revision, before+1)
		}
		for _, name := range []string{"a", "b"} {
			if got := n.get(name); got.ModRevision != r.Revision {
				n.Errorf("%s: mod revision %d, want %d", name, got.ModRevision, r.Revision)
			}
		}
		if n.get("gone").ModRevision != 0 {
			n.Error("the delete was left out")
		}
	}},
	{name: "is answered op by op", test: func(n *node) {
		n.put("b", "old")
		r := n.do(
			kv.Put{Key: n.key("a")},
			kv.Put{Key: n.key("b"), PrevKV: true},
			kv.Delete{Key: n.key("c")},
			kv.Range{Key: n.key("b")},
		)
		if !r.Ops[0].Created || r.Ops[1].Created || len(r.Ops[1].KVs) != 1 || r.Ops[2].Count != 0 || r.Ops[3].Count != 1 {
			n.Errorf("answers %+v do not fit the ops", r.Ops)
		}
	}},
	{name: "reads its own writes", test: func(n *node) {
		r := n.do(kv.Put{Key: n.key("k"), Value: []byte("new")}, kv.Range{Key: n.key("k")})
		if kvs := r.Ops[1].KVs; len(kvs) != 1 || string(kvs[0].Value) != "new" || kvs[0].ModRevision != r.Revision {
			n.Errorf("a range behind a put found %+v, want what was put, at revision %d", kvs, r.Revision)
		}
	}},
	{name: "that puts a key twice is refused whole", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("a")}, kv.Put{Key: n.key("k")}, kv.Put{Key: n.key("k")})
		n.refused(err, kv.DuplicateKey)
		n.unchanged(before)
	}},
	{name: "that is refused in its last op changes nothing", test: func(n *node) {
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("a")}, kv.Put{Key: n.key("missing"), IgnoreValue: true})
		n.refused(err, kv.KeyNotFound)
		n.unchanged(before)
		if got := n.get("a"); got.ModRevision != 0 {
			n.Errorf("half applied: %s", showKV(got))
		}
	}},
	{name: "that may be queued is committed while the node can", test: func(n *node) {
		r, err := n.b.Do(n.ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: n.key("k")}}, Write: kv.WriteAuto, Wait: claimTimeout})
		if err != nil || r.Queued != nil || len(r.Ops) != 1 {
			n.Errorf("%+v, %v: want a committed answer", r, err)
		}
	}},
	{name: "that must be queued is refused without a queue", needs: func(h Harness) bool { return !h.Queue }, test: func(n *node) {
		before := n.revision()
		_, err := n.b.Do(n.ctx, kv.Command{Ops: []kv.Op{kv.Put{Key: n.key("k")}}, Write: kv.WriteQueue})
		n.refused(err, kv.Invalid)
		n.unchanged(before)
	}},
	{name: "that only reads moves no revision", test: func(n *node) {
		before := n.put("k", "v").Revision
		if r := n.do(kv.Range{Key: n.key("k")}); r.Revision != before || r.Ops[0].Count != 1 {
			n.Errorf("revision %d with %d keys, want %d with 1", r.Revision, r.Ops[0].Count, before)
		}
	}},
}
