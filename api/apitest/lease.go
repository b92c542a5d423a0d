package apitest

import (
	"fmt"
	"math"
	"time"

	"holdfast/kv"
)

// grant makes a lease, with keys.
func (n *node) grant(ttl int64, keys ...string) kv.Lease {
	n.Helper()
	l := n.theLease(n.do(kv.LeaseGrant{TTL: ttl}).Ops[0])
	for _, k := range keys {
		n.attach(l.ID, k)
	}
	return l
}

func (n *node) attach(id int64, name string) kv.Result {
	n.Helper()
	return n.do(kv.Put{Key: n.key(name), Value: []byte("v"), Lease: id})
}

// theLease is the one lease of an answer.
func (n *node) theLease(r kv.OpResult) kv.Lease {
	n.Helper()
	if len(r.Leases) != 1 {
		n.Fatalf("%d leases in an answer about one", len(r.Leases))
	}
	return r.Leases[0]
}

// left asks what a lease has left, and for its keys.
func (n *node) left(id int64) (kv.Lease, []kv.KeyValue) {
	n.Helper()
	r := n.read(kv.LeaseTTL{ID: id, Keys: true}).Ops[0]
	return n.theLease(r), r.KVs
}

// listed reports whether a lease is in the list of all.
func (n *node) listed(id int64) bool {
	n.Helper()
	for _, l := range n.read(kv.LeaseList{}).Ops[0].Leases {
		if l.ID == id {
			return true
		}
	}
	return false
}

// longTTL is a time in which no claim ends.
const longTTL = 100_000

var leaseClaims = []claim{
	{name: "is granted under an id of the node's, for the time asked for, and moves no revision", test: func(n *node) {
		before := n.revision()
		a, b := n.grant(longTTL), n.grant(longTTL+1)
		if a.ID == 0 || b.ID == 0 || a.ID == b.ID {
			n.Errorf("granted the ids %d and %d", a.ID, b.ID)
		}
		if a.TTL != longTTL || a.Granted != longTTL || b.TTL != longTTL+1 {
			n.Errorf("granted %+v and %+v", a, b)
		}
		n.unchanged(before)
	}},
	{name: "is granted under the id asked for, once", test: func(n *node) {
		id := n.grant(longTTL).ID
		n.do(kv.LeaseRevoke{ID: id})
		if l := n.theLease(n.do(kv.LeaseGrant{ID: id, TTL: longTTL}).Ops[0]); l.ID != id {
			n.Errorf("granted under id %d, want %d", l.ID, id)
		}
		_, err := n.try(kv.LeaseGrant{ID: id, TTL: 5})
		n.refused(err, kv.LeaseExists)
		if l, _ := n.left(id); l.Granted != longTTL {
			n.Errorf("the refused grant changed the lease: %+v", l)
		}
	}},
	{name: "is granted for 9,000,000,000 s at most", test: func(n *node) {
		n.grant(9_000_000_000)
		for _, ttl := range []int64{9_000_000_001, math.MaxInt64} {
			_, err := n.try(kv.LeaseGrant{TTL: ttl})
			n.refused(err, kv.LeaseTTLTooLarge)
		}
	}},
	{name: "asked for too short a time is granted the least there is, and says so", test: func(n *node) {
		least := n.grant(1).TTL
		for _, ttl := range []int64{0, -1, math.MinInt64} {
			if l := n.grant(ttl); l.TTL != least || l.Granted != least || least < 1 {
				n.Errorf("for %d s granted %+v, want %d s", ttl, l, least)
			}
		}
	}},
	{name: "that is revoked takes its keys along, in order and at one revision", test: func(n *node) {
		id := n.grant(longTTL, "c", "a", "b").ID
		n.put("other", "v")
		w := n.watch(n.watchAll(0))
		before := n.revision()
		if r := n.do(kv.LeaseRevoke{ID: id}); r.Revision != before+1 {
			n.Errorf("revoked at revision %d, want %d", r.Revision, before+1)
		}
		for i, e := range w.events(0, 3) {
			if want := n.key(string(rune('a' + i))); !e.Delete || string(e.KV.Key) != string(want) || e.KV.ModRevision != before+1 {
				n.Errorf("event %d is%s, want the deletion of %q at revision %d", i, showEvents([]kv.Event{e}), want, before+1)
			}
		}
		n.wantKeys(n.query(n.all()).KVs, "other")
	}},
	{name: "that is revoked without keys moves no revision", test: func(n *node) {
		id := n.grant(longTTL).ID
		before := n.revision()
		n.do(kv.LeaseRevoke{ID: id})
		n.unchanged(before)
	}},
	{name: "that is gone is known to be", test: func(n *node) {
		id := n.grant(longTTL).ID
		n.do(kv.LeaseRevoke{ID: id})
		before := n.revision()
		_, err := n.try(kv.LeaseRevoke{ID: id})
		n.refused(err, kv.LeaseNotFound)
		_, err = n.try(kv.LeaseKeepAlive{ID: id})
		n.refused(err, kv.LeaseNotFound)
		_, err = n.try(kv.Put{Key: n.key("k"), Lease: id})
		n.refused(err, kv.LeaseNotFound)
		if l, keys := n.left(id); l.ID != id || l.TTL != -1 || len(keys) > 0 {
			n.Errorf("it has left %+v, with %d keys", l, len(keys))
		}
		n.unchanged(before)
	}},
	{name: "says what it has left, and which keys it has", test: func(n *node) {
		id := n.grant(longTTL, "b", "a").ID
		n.put("other", "v")
		l, keys := n.left(id)
		if l.ID != id || l.Granted != longTTL || l.TTL > longTTL || l.TTL < longTTL-longTTL/10 {
			n.Errorf("it has left %+v", l)
		}
		n.wantKeys(keys, "a", "b")
		if r := n.read(kv.LeaseTTL{ID: id}).Ops[0]; len(r.KVs) > 0 {
			n.Errorf("%d keys though none were asked for", len(r.KVs))
		}
	}},
	{name: "is listed while it is there", test: func(n *node) {
		id := n.grant(longTTL).ID
		if !n.listed(id) {
			n.Error("not listed")
		}
		n.do(kv.LeaseRevoke{ID: id})
		if n.listed(id) {
			n.Error("listed though it is gone")
		}
	}},
	{name: "holds what was put under it last, and nothing that has left it", test: func(n *node) {
		a, b := n.grant(longTTL, "stays", "moves", "kept", "freed", "deleted", "deleted and made").ID, n.grant(longTTL).ID
		n.attach(b, "moves")
		n.attach(a, "stays")
		n.do(kv.Put{Key: n.key("kept"), Value: []byte("2"), IgnoreLease: true})
		n.put("freed", "2")
		n.delete("deleted")
		n.delete("deleted and made")
		n.do(kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("deleted and made")}, kv.Put{Key: n.key("in a txn"), Lease: a}}})
		for name, want := range map[string]int64{"stays": a, "moves": b, "kept": a, "freed": 0, "deleted and made": 0, "in a txn": a} {
			if got := n.get(name); got.Lease != want {
				n.Errorf("%s lives under %d, want %d", name, got.Lease, want)
			}
		}
		_, keys := n.left(a)
		n.wantKeys(keys, "in a txn", "kept", "stays")
		n.do(kv.LeaseRevoke{ID: a})
		n.wantKeys(n.query(n.all()).KVs, "deleted and made", "freed", "moves")
		n.do(kv.LeaseRevoke{ID: b})
		n.wantKeys(n.query(n.all()).KVs, "deleted and made", "freed")
	}},
	{name: "that does not exist applies nothing of the command that names it", test: func(n *node) {
		id := n.grant(longTTL).ID
		n.do(kv.LeaseRevoke{ID: id})
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("a")}, kv.Txn{Then: []kv.Op{kv.Put{Key: n.key("b")}, kv.Put{Key: n.key("c"), Lease: id}}})
		n.refused(err, kv.LeaseNotFound)
		n.unchanged(before)
	}},
	{name: "may be used by the command that grants it, from there on", test: func(n *node) {
		id := n.grant(longTTL).ID
		n.do(kv.LeaseRevoke{ID: id})
		n.do(kv.LeaseGrant{ID: id, TTL: longTTL}, kv.Put{Key: n.key("k"), Lease: id})
		if got := n.get("k"); got.Lease != id {
			n.Errorf("%s, want it under %d", showKV(got), id)
		}
		n.do(kv.LeaseRevoke{ID: id})
		before := n.revision()
		_, err := n.try(kv.Put{Key: n.key("k"), Lease: id}, kv.LeaseGrant{ID: id, TTL: longTTL})
		n.refused(err, kv.LeaseNotFound)
		n.unchanged(before)
	}},
	{name: "is not asked for beside what changes something", test: func(n *node) {
		id := n.grant(longTTL, "k").ID
		before := n.revision()
		other := kv.Put{Key: n.key("other")}
		for name, ops := range map[string][]kv.Op{
			"revoke":         {kv.LeaseRevoke{ID: id}, other},
			"renew":          {kv.LeaseKeepAlive{ID: id}, other},
			"ask":            {other, kv.LeaseTTL{ID: id}},
			"list":           {kv.Txn{Then: []kv.Op{other, kv.LeaseList{}}}},
			"grant in a txn": {kv.Txn{Then: []kv.Op{kv.LeaseGrant{TTL: longTTL}}}},
		} {
			if _, err := n.try(ops...); kv.CodeOf(err) != kv.Invalid {
				n.Errorf("%s: %v, want invalid", name, err)
			}
		}
		n.unchanged(before)
	}},
	{name: "that is renewed has its whole time, and moves no revision", test: func(n *node) {
		id := n.grant(longTTL, "k").ID
		before := n.revision()
		if l := n.theLease(n.do(kv.LeaseKeepAlive{ID: id}).Ops[0]); l.ID != id || l.TTL != longTTL || l.Granted != longTTL {
			n.Errorf("renewed: %+v", l)
		}
		n.unchanged(before)
	}},
	{name: "is renewed in a batch, and answered as if alone", test: func(n *node) {
		id := n.grant(longTTL, "k").ID
		before := n.revision()
		var batch kv.Each
		for _, one := range []int64{id, id + 1, id} {
			batch.Commands = append(batch.Commands, kv.Command{Ops: []kv.Op{kv.LeaseKeepAlive{ID: one}}})
		}
		outs := n.do(batch).Ops[0].Each
		if len(outs) != 3 || outs[0].Err != nil || outs[2].Err != nil || outs[1].Err == nil || outs[1].Err.Code != kv.LeaseNotFound {
			n.Fatalf("a lease, none, and the lease again: %+v", outs)
		}
		for _, out := range []kv.Outcome{outs[0], outs[2]} {
			if l := n.theLease(out.Result.Ops[0]); l.ID != id || l.TTL != longTTL || l.Granted != longTTL {
				n.Errorf("renewed: %+v", l)
			}
		}
		n.unchanged(before)
	}},
	{name: "is compared, by its id", test: func(n *node) {
		id := n.grant(longTTL, "k").ID
		n.put("free", "v")
		for _, c := range []struct {
			name string
			kv.Relation
			num   int64
			holds bool
		}{
			{"k", kv.Equal, id, true}, {"k", kv.Equal, 0, false}, {"k", kv.NotEqual, id, false}, {"k", kv.NotEqual, 0, true},
			{"k", kv.Greater, id - 1, true}, {"k", kv.Less, id, false}, {"free", kv.Equal, 0, true}, {"free", kv.Equal, id, false},
		} {
			r := n.do(kv.Txn{Compares: []kv.Compare{{Key: n.key(c.name), Target: kv.TargetLease, Relation: c.Relation, Num: c.num}}})
			if r.Ops[0].Succeeded != c.holds {
				n.Errorf("%s, relation %d to %d: %t, want %t", c.name, c.Relation, c.num, r.Ops[0].Succeeded, c.holds)
			}
		}
	}},
}

// shortTTL is the time of leases that are to end.
const shortTTL = 4

var expiryClaims = []claim{
	{name: "deletes the keys of a lease when its time is over, and not before", test: func(n *node) {
		for n.expire() {
			n.Logf("the machine was too slow to use a lease within its time")
		}
	}},
	{name: "waits for a lease that is renewed", test: func(n *node) {
		for try := 0; ; try++ {
			late, err := n.keep(fmt.Sprint("k", try))
			switch {
			case err == nil:
				return
			case !late:
				n.Fatalf("a lease that was renewed in time is gone: %v", err)
			}
			n.Logf("the machine was too slow to renew a lease in time")
		}
	}},
}

// expire has a lease with two keys end. Late says that its time may have been over before all was ready to see that, so that
// nothing was seen; then it has ended, and its keys are gone.
func (n *node) expire() (late bool) {
	n.Helper()
	w := n.watch(n.watchAll(0))
	defer w.cancel()
	began := time.Now()
	id, at := n.grant(shortTTL).ID, int64(0)
	_, err := n.try(kv.Put{Key: n.key("b"), Value: []byte("v"), Lease: id}, kv.Put{Key: n.key("a"), Value: []byte("v"), Lease: id})
	if err == nil {
		n.put("other", "v")
		w.events(0, 3)
		at = n.revision() + 1
	}
	switch {
	case time.Since(began) >= shortTTL*n.h.Second:
		for n.listed(id) || len(n.query(kv.Range{Key: n.key("a"), End: n.key("c")}).KVs) > 0 {
			time.Sleep(time.Millisecond)
		}
		return true
	case err != nil:
		n.Fatalf("keys of a lease: %v", err)
	}
	for i, e := range w.events(0, 2) {
		if want := n.key(string(rune('a' + i))); !e.Delete || string(e.KV.Key) != string(want) || e.KV.ModRevision != at {
			n.Errorf("event %d is%s, want the deletion of %q at revision %d", i, showEvents([]kv.Event{e}), want, at)
		}
	}
	if took := time.Since(began); took < shortTTL*n.h.Second {
		n.Errorf("it took %v, its time is %v", took, shortTTL*n.h.Second)
	}
	n.wantKeys(n.query(n.all()).KVs, "other")
	_, err = n.try(kv.LeaseKeepAlive{ID: id})
	n.refused(err, kv.LeaseNotFound)
	if l, _ := n.left(id); l.TTL != -1 || n.listed(id) {
		n.Errorf("it is over and has left %+v", l)
	}
	return false
}

// keep renews a lease with a key for longer than its time, and reports when it was gone and whether it was renewed too
// late.
func (n *node) keep(key string) (late bool, err error) {
	n.Helper()
	last := time.Now()
	id := n.grant(shortTTL, key).ID
	for end := last.Add(3 * shortTTL * n.h.Second / 2); time.Now().Before(end); {
		time.Sleep(n.h.Second / 2)
		asked := time.Now()
		_, err := n.try(kv.LeaseKeepAlive{ID: id})
		if err == nil && n.get(key).Lease != id {
			err = fmt.Errorf("the key %q is gone", key)
		}
		if err != nil {
			return time.Since(last) > shortTTL*n.h.Second, err
		}
		last = asked
	}
	_, err = n.try(kv.LeaseRevoke{ID: id}) // or it ends beside other claims, and moves the revision that they go by
	if kv.CodeOf(err) == kv.LeaseNotFound {
		err = nil
	}
	return false, err
}
