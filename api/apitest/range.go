package apitest

import (
	"context"
	"fmt"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/kv"
)

// fill puts keys a to e, so that orders by version, creation, change and value all differ from that by key.
func (n *node) fill() {
	for _, name := range []string{"c", "a", "e", "b", "d"} {
		n.put(name, "0")
	}
	for i, name := range []string{"d", "a", "d", "b", "d", "b"} {
		n.put(name, fmt.Sprint(9-i))
	}
	// by creation c a e b d; by change c e a d b; versions c1 e1 a2 b3 d4; values c0 e0 b4 d5 a8
}

var rangeClaims = []claim{
	{name: "of one key finds it or nothing", test: func(n *node) {
		n.put("k", "v")
		n.put("k/1", "v")
		r := n.query(kv.Range{Key: n.key("k")})
		n.wantKeys(r.KVs, "k")
		if r.Count != 1 || r.More {
			n.Errorf("%+v, want the key", r)
		}
		if r := n.query(kv.Range{Key: n.key("k/")}); r.Count != 0 || len(r.KVs) != 0 {
			n.Errorf("%+v, want nothing", r)
		}
	}},
	{name: "is half open and in order", test: func(n *node) {
		for _, name := range []string{"b", "a", "d", "c", "b\x00"} {
			n.put(name, name)
		}
		n.wantKeys(n.query(kv.Range{Key: n.key("a"), End: n.key("c")}).KVs, "a", "b", "b\x00")
		n.wantKeys(n.query(kv.Range{Key: n.key("b"), End: n.key("b\x00")}).KVs, "b")
		n.wantKeys(n.query(kv.Range{Key: n.key("c"), End: n.key("a")}).KVs)
	}},
	{name: "of a prefix finds what begins with it", test: func(n *node) {
		for _, name := range []string{"p", "p/", "p/1", "p\xff", "p\xff\xff", "o", "q"} {
			n.put(name, "")
		}
		key, end := kv.PrefixRange(n.key("p"))
		n.wantKeys(n.query(kv.Range{Key: key, End: end}).KVs, "p", "p/", "p/1", "p\xff", "p\xff\xff")
		key, end = kv.PrefixRange(n.key("p\xff"))
		n.wantKeys(n.query(kv.Range{Key: key, End: end}).KVs, "p\xff", "p\xff\xff")
	}},
	{name: "without upper end goes to the last key", fresh: true, test: func(n *node) {
		n.prefix = ""
		for _, name := range []string{"a", "b", "\xff\xff\xff", "\x00"} {
			n.put(name, "")
		}
		n.wantKeys(n.query(kv.Range{Key: []byte("b"), End: kv.FromKey()}).KVs, "b", "\xff\xff\xff")
		n.wantKeys(n.query(kv.Range{Key: kv.FromKey(), End: kv.FromKey()}).KVs, "\x00", "a", "b", "\xff\xff\xff")
	}},
	{name: "is cut at its limit and says so", test: func(n *node) {
		n.fill()
		all := n.all()
		for limit, want := range map[int64][]string{
			1: {"a"}, 4: {"a", "b", "c", "d"}, 5: {"a", "b", "c", "d", "e"}, 6: {"a", "b", "c", "d", "e"}, 0: {"a", "b", "c", "d", "e"},
		} {
			all.Limit = limit
			r := n.query(all)
			n.wantKeys(r.KVs, want...)
			if r.Count != 5 || r.More != (len(want) < 5) {
				n.Errorf("limit %d: count %d, more %v; want 5 and %v", limit, r.Count, r.More, len(want) < 5)
			}
		}
	}},
	{name: "of keys only leaves the values out", test: func(n *node) {
		r := n.put("k", "v")
		all := n.all()
		all.KeysOnly = true
		kvs := n.query(all).KVs
		n.wantKeys(kvs, "k")
		n.wantKV(first(kv.OpResult{KVs: kvs}), kv.KeyValue{Key: n.key("k"), CreateRevision: r.Revision, ModRevision: r.Revision, Version: 1})
	}},
	{name: "that only counts brings no keys", test: func(n *node) {
		n.fill()
		all := n.all()
		all.CountOnly = true
		if r := n.query(all); r.Count != 5 || len(r.KVs) != 0 {
			n.Errorf("count %d with %d keys, want 5 with none", r.Count, len(r.KVs))
		}
	}},
	{name: "sorts by every target, both ways", test: func(n *node) {
		n.fill()
		for _, c := range []struct {
			by   kv.Target
			want []string
		}{
			{kv.TargetKey, []string{"a", "b", "c", "d", "e"}},
			{kv.TargetVersion, []string{"", "", "a", "b", "d"}},
			{kv.TargetCreate, []string{"c", "a", "e", "b", "d"}},
			{kv.TargetMod, []string{"c", "e", "a", "d", "b"}},
			{kv.TargetValue, []string{"", "", "b", "d", "a"}},
		} {
			for _, order := range []kv.Order{kv.OrderNone, kv.OrderAscend, kv.OrderDescend} {
				all := n.all()
				all.Sort, all.Order = c.by, order
				want := slices.Clone(c.want)
				if order == kv.OrderDescend {
					slices.Reverse(want)
				}
				got := n.query(all).KVs
				if len(got) != len(want) {
					n.Fatalf("%d keys, want %d", len(got), len(want))
				}
				for i, name := range want { // "" is c or e, which are equal by version and value
					if name != "" && string(got[i].Key) != string(n.key(name)) {
						n.Errorf("by %d, order %d, place %d: %s, want %s", c.by, order, i, got[i].Key, name)
					}
				}
			}
		}
	}},
	{name: "sorts before it cuts", test: func(n *node) {
		n.fill()
		all := n.all()
		all.Sort, all.Order, all.Limit = kv.TargetMod, kv.OrderDescend, 2
		r := n.query(all)
		n.wantKeys(r.KVs, "b", "d")
		if !r.More || r.Count != 5 {
			n.Errorf("more %v, count %d; want true and 5", r.More, r.Count)
		}
		all.Order = kv.OrderNone // of a, b and c: see kv.Range.Head
		if r = n.query(all); !r.More || r.Count != 5 {
			n.Errorf("without an order: more %v, count %d; want true and 5", r.More, r.Count)
		}
		n.wantKeys(r.KVs, "c", "a")
	}},
	{name: "keeps to bounds on revisions", test: func(n *node) {
		at := map[string]int64{}
		for _, name := range []string{"a", "b", "c", "d"} {
			at[name] = n.put(name, "").Revision
		}
		at["a again"] = n.put("a", "").Revision
		for name, c := range map[string]struct {
			set  func(*kv.Range)
			want []string
		}{
			"min mod":    {func(r *kv.Range) { r.MinMod = at["d"] }, []string{"a", "d"}},
			"max mod":    {func(r *kv.Range) { r.MaxMod = at["c"] }, []string{"b", "c"}},
			"min create": {func(r *kv.Range) { r.MinCreate = at["b"] }, []string{"b", "c", "d"}},
			"max create": {func(r *kv.Range) { r.MaxCreate = at["b"] }, []string{"a", "b"}},
			"both":       {func(r *kv.Range) { r.MinMod, r.MaxMod = at["c"], at["d"] }, []string{"c", "d"}},
			"limited":    {func(r *kv.Range) { r.MinMod, r.Limit = at["c"], 2 }, []string{"a", "c"}},
		} {
			all := n.all()
			c.set(&all)
			n.Logf("%s: %+v", name, all)
			r := n.query(all)
			n.wantKeys(r.KVs, c.want...)
			if r.Count != int64(len(at)-1) { // "a" and "a again" are one key
				n.Errorf("%s: count %d, want %d: it is of the range, whatever the bounds leave", name, r.Count, len(at)-1)
			}
		}
	}},
	{name: "without a key is refused", test: func(n *node) {
		_, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{kv.Range{}}})
		n.refused(err, kv.Invalid)
	}},
}

var readClaims = []claim{
	{name: "that changes something is refused", test: func(n *node) {
		before := n.revision()
		for _, op := range []kv.Op{kv.Put{Key: n.key("k")}, kv.Delete{Key: n.key("k")}, kv.Txn{Else: []kv.Op{kv.Put{Key: n.key("k")}}}} {
			_, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{op}})
			n.refused(err, kv.Invalid)
		}
		n.unchanged(before)
	}},
	{name: "sees a write that was answered before", test: func(n *node) {
		for i := range 100 {
			r := n.put("k", fmt.Sprint(i))
			p := n.read(kv.Range{Key: n.key("k")})
			if p.Revision < r.Revision || string(first(p.Ops[0]).Value) != fmt.Sprint(i) {
				n.Fatalf("read %+v at revision %d behind a write of %d at %d", p.Ops[0].KVs, p.Revision, i, r.Revision)
			}
		}
	}},
	{name: "is of age 0 when linearizable", test: func(n *node) {
		if p := n.read(n.all()); p.Age != 0 {
			n.Errorf("age %v, want 0", p.Age)
		}
	}},
	{name: "keeps within the age it was given", test: func(n *node) {
		n.put("k", "v")
		p, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{n.all()}, MaxAge: time.Minute})
		if err != nil || p.Age < 0 || p.Age > time.Minute {
			n.Errorf("age %v, %v; want at most a minute", p.Age, err)
		}
	}},
	{name: "of local data is answered or says that it is not known", test: func(n *node) {
		n.put("k", "v")
		n.get("k")
		p, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: n.key("k")}}, MaxAge: kv.Unlimited, LocalOnly: true})
		switch {
		case kv.CodeOf(err) == kv.NotCached:
		case err != nil:
			n.Error(err)
		case p.Source == kv.SourceUpstream:
			n.Error("a local read was forwarded")
		case p.Age < 0 && p.Age != kv.AgeUnknown:
			n.Errorf("age %v", p.Age)
		}
	}},
	{name: "answers all its ranges at one revision", test: func(n *node) {
		n.do(kv.Put{Key: n.key("a"), Value: []byte("x")}, kv.Put{Key: n.key("b"), Value: []byte("x")})
		n.whileWriting(func(i int) []kv.Op {
			v := []byte(fmt.Sprint(i))
			return []kv.Op{kv.Put{Key: n.key("a"), Value: v}, kv.Put{Key: n.key("b"), Value: v}}
		}, func() {
			p := n.read(kv.Range{Key: n.key("a")}, kv.Range{Key: n.key("b")})
			a, b := first(p.Ops[0]), first(p.Ops[1])
			if string(a.Value) != string(b.Value) || a.ModRevision != b.ModRevision {
				n.Fatalf("read %s and %s, which never stood together", showKV(a), showKV(b))
			}
		})
	}},
	{name: "shows the store as of the revision it names", test: func(n *node) {
		n.put("k", "0")
		n.whileWriting(func(i int) []kv.Op {
			return []kv.Op{kv.Put{Key: n.key("k"), Value: []byte(fmt.Sprint(i))}}
		}, func() {
			p := n.read(kv.Range{Key: n.key("k")})
			then := n.query(kv.Range{Key: n.key("k"), Revision: p.Revision})
			n.wantKV(first(p.Ops[0]), first(then))
		})
	}},
	{name: "waits for the revision it needs", test: func(n *node) {
		at := n.put("k", "1").Revision
		if _, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{n.all()}, MinRevision: at}); err != nil {
			n.Fatalf("a revision that is there: %v", err)
		}
		done := make(chan error, 1)
		go func() {
			p, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: n.key("k")}}, MinRevision: at + 1, Wait: claimTimeout})
			if err == nil && (p.Revision <= at || string(first(p.Ops[0]).Value) != "2") {
				err = fmt.Errorf("read %s at revision %d, want what was put at %d", showKV(first(p.Ops[0])), p.Revision, at+1)
			}
			done <- err
		}()
		time.Sleep(20 * time.Millisecond) // whoever does not wait has answered by now
		n.put("k", "2")
		if err := <-done; err != nil {
			n.Error(err)
		}
	}},
	{name: "gives up on a revision that does not come", test: func(n *node) {
		at := n.revision()
		began := time.Now()
		_, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{n.all()}, MinRevision: at + 1000, Wait: 50 * time.Millisecond})
		n.refused(err, kv.RevisionTimeout)
		if took := time.Since(began); took < 50*time.Millisecond {
			n.Errorf("gave up after %v, want to wait 50ms", took)
		}
	}},
}

// turns is how often a step and a writer beside it must have taken turns before it is believed that they met.
const turns = 50

// whileWriting repeats step while another goroutine sends the commands that ops makes, one after the other.
func (n *node) whileWriting(ops func(i int) []kv.Op, step func()) {
	n.Helper()
	ctx, stop := context.WithCancel(n.ctx)
	var wg sync.WaitGroup
	var written atomic.Int64
	var failed error
	defer func() {
		stop()
		wg.Wait()
		if failed != nil {
			n.Errorf("the writer failed: %v", failed)
		}
	}()
	wg.Go(func() {
		defer stop()
		for i := 1; ctx.Err() == nil; i++ {
			if _, failed = n.b.Do(n.ctx, kv.Command{Ops: ops(i)}); failed != nil {
				return
			}
			written.Add(1)
		}
	})
	for taken, last := 0, int64(0); ctx.Err() == nil && taken < turns; {
		step()
		if now := written.Load(); now != last {
			taken, last = taken+1, now
		}
	}
}
