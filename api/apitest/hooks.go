package apitest

import (
	"fmt"
	"time"

	"holdfast/kv"
)

// idClaims hold where commands with an ID apply once.
var idClaims = []claim{
	{name: "makes a command apply once, however often it is sent", needs: hasIDs, test: func(n *node) {
		c := kv.Command{ID: kv.ID{Key: retryKey(n, 1)}, Ops: []kv.Op{kv.Put{Key: n.key("k"), Value: []byte("v")}}}
		first, err := n.b.Do(n.ctx, c)
		if err != nil {
			n.Fatal(err)
		}
		n.put("k", "another's")
		again, err := n.b.Do(n.ctx, c)
		if err != nil || again.Revision != first.Revision || !sameOp(again.Ops[0], first.Ops[0]) {
			n.Errorf("sent again: %+v, %v; want the first answer, %+v", again, err, first)
		}
		if got := n.get("k"); string(got.Value) != "another's" {
			n.Errorf("applied again: %s", showKV(got))
		}
	}},
	{name: "stands for one command only", needs: hasIDs, test: func(n *node) {
		id := kv.ID{Key: retryKey(n, 2)}
		if _, err := n.b.Do(n.ctx, kv.Command{ID: id, Ops: []kv.Op{kv.Put{Key: n.key("k")}}}); err != nil {
			n.Fatal(err)
		}
		at := n.revision()
		_, err := n.b.Do(n.ctx, kv.Command{ID: id, Ops: []kv.Op{kv.Put{Key: n.key("other")}}})
		n.refused(err, kv.Reused)
		n.unchanged(at)
	}},
}

func hasIDs(h Harness) bool { return h.IDs }

func retryKey(n *node, i byte) (key [16]byte) {
	copy(key[:], n.prefix)
	key[15] = i
	return key
}

var restartClaims = []claim{
	{name: "loses nothing: keys, history, revision, epoch", fresh: true, needs: canRestart, test: func(n *node) {
		for i := range 50 {
			n.put(fmt.Sprintf("k%d", i%7), fmt.Sprint(i))
		}
		n.delete("k3")
		before := n.read(n.all())
		past := n.all()
		past.Revision = before.Revision - 20
		then := n.query(past)

		n.b = n.h.Restart(n.T, n.b)
		after := n.read(n.all())
		if after.Revision != before.Revision || after.Epoch != before.Epoch {
			n.Errorf("at revision %d of %v, want %d of %v", after.Revision, after.Epoch, before.Revision, before.Epoch)
		}
		if !sameOp(after.Ops[0], before.Ops[0]) {
			n.Errorf("shows %+v, want %+v", after.Ops[0], before.Ops[0])
		}
		if got := n.query(past); !sameOp(got, then) {
			n.Errorf("revision %d shows %+v, want %+v", past.Revision, got, then)
		}
		if r := n.put("k", "v"); r.Revision != before.Revision+1 {
			n.Errorf("the next write is revision %d, want %d", r.Revision, before.Revision+1)
		}
		events := n.watch(n.watchAll(2)).events(0, 52)
		for i, e := range events[:50] {
			if string(e.KV.Value) != fmt.Sprint(i) {
				n.Fatalf("event %d shows %s", i, showKV(e.KV))
			}
		}
		if !events[50].Delete {
			n.Errorf("event 50 is no delete")
		}
	}},
	{name: "leaves compacted what was compacted", fresh: true, needs: canRestart, test: func(n *node) {
		for i := range 5 {
			n.put("k", fmt.Sprint(i))
		}
		cut := n.revision()
		n.do(kv.Compact{Revision: cut})
		n.b = n.h.Restart(n.T, n.b)
		all := n.all()
		all.Revision = cut - 1
		_, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{all}})
		n.refusedAt(err, kv.Compacted, cut)
		if got := n.get("k"); string(got.Value) != "4" {
			n.Errorf("%s, want value 4", showKV(got))
		}
	}},
}

func canRestart(h Harness) bool { return h.Restart != nil }

var isolatedClaims = []claim{
	{name: "a node says so, promptly and honestly, and recovers", fresh: true, needs: func(h Harness) bool { return h.Isolate != nil }, test: func(n *node) {
		n.put("k", "before")
		w := n.watch(n.watchAll(0))
		heal := n.h.Isolate(n.T, n.b)
		began := time.Now()
		_, err := n.try(kv.Put{Key: n.key("isolated")})
		code := kv.CodeOf(err)
		switch code {
		case kv.NoLeader, kv.UpstreamUnavailable, kv.OutcomeUnknown, kv.Busy:
		default:
			n.Errorf("a write is answered with %v (%v)", err, code)
		}
		if p, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{n.all()}}); err == nil {
			n.Errorf("a linearizable read is answered, at revision %d", p.Revision)
		}
		if took := time.Since(began); took > n.h.patience {
			n.Errorf("both took %v", took)
		}
		p, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: n.key("k")}}, MaxAge: kv.Unlimited, LocalOnly: true})
		if err != nil && kv.CodeOf(err) != kv.NotCached {
			n.Errorf("a local read: %v", err)
		}
		if err == nil && p.Age == 0 {
			n.Error("a local read of an isolated node claims to be of age 0")
		}
		heal()
		deadline := time.Now().Add(n.h.patience)
		for {
			_, err := n.try(kv.Put{Key: n.key("k"), Value: []byte("after")})
			if err == nil {
				break
			}
			if time.Now().After(deadline) {
				n.Fatalf("still refused %v after it was healed: %v", n.h.patience, err)
			}
			time.Sleep(10 * time.Millisecond)
		}
		if there := n.get("isolated").ModRevision != 0; there && code != kv.OutcomeUnknown {
			n.Errorf("the write refused as %v is there", code)
		}
		for seen := false; !seen; {
			seen = string(w.events(0, 1)[0].KV.Value) == "after"
		}
	}},
}
