package auth

import (
	"bytes"
	"testing"

	"pgregory.net/rapid"

	"holdfast/kv"
)

func TestRightsAreJudgedAsByEtcd(t *testing.T) {
	p := shop(t)
	put := func(key string) kv.Put { return kv.Put{Key: []byte(key)} }
	del := func(key, end string) kv.Delete { return kv.Delete{Key: []byte(key), End: []byte(end)} }
	get := func(key, end string) kv.Range { return kv.Range{Key: []byte(key), End: []byte(end)} }
	leases := func(id int64) ([][]byte, error) {
		if id == 7 {
			return [][]byte{[]byte("a1"), []byte("z")}, nil
		}
		return [][]byte{[]byte("a1")}, nil
	}
	for _, c := range []struct {
		name string
		who  string
		op   kv.Op
		want kv.Code
	}{
		{"nobody", "", put("a"), kv.UserEmpty},
		{"who is not there", "x", put("a"), kv.PermissionDenied},
		{"root", "root", put("zzz"), kv.OK},
		{"reader reads", "reader", get("a", ""), kv.OK},
		{"reader reads its range", "reader", get("a", "c"), kv.OK},
		{"reader reads more", "reader", get("a", "d"), kv.PermissionDenied},
		{"reader reads from a key on", "reader", get("b", "\x00"), kv.PermissionDenied},
		{"reader writes", "reader", put("a"), kv.PermissionDenied},
		{"writer writes", "writer", put("a"), kv.OK},
		{"writer reads", "writer", get("a", ""), kv.PermissionDenied},
		{"writer asks for what was there", "writer", kv.Put{Key: []byte("a"), PrevKV: true}, kv.PermissionDenied},
		{"both ask for it", "both", kv.Put{Key: []byte("a"), PrevKV: true}, kv.OK},
		{"writer deletes its range", "writer", del("a", "c"), kv.OK},
		{"writer deletes more", "writer", del("a", "c\x00"), kv.PermissionDenied},
		{"writer deletes and looks", "writer", kv.Delete{Key: []byte("a"), PrevKV: true}, kv.PermissionDenied},
		{"writer compares", "writer", kv.Txn{Compares: []kv.Compare{{Key: []byte("a")}}, Then: []kv.Op{put("a")}}, kv.PermissionDenied},
		{"both compare", "both", kv.Txn{Compares: []kv.Compare{{Key: []byte("a")}}, Then: []kv.Op{put("a")}}, kv.OK},
		{"the branch that is not taken", "both", kv.Txn{Then: []kv.Op{put("a")}, Else: []kv.Op{get("z", "")}}, kv.PermissionDenied},
		{"a nested transaction", "both", kv.Txn{Then: []kv.Op{kv.Txn{Else: []kv.Op{put("z")}}}}, kv.PermissionDenied},
		{"a lease with others' keys", "writer", kv.Put{Key: []byte("a"), Lease: 7}, kv.PermissionDenied},
		{"a lease with its keys", "writer", kv.Put{Key: []byte("a"), Lease: 8}, kv.OK},
		{"revoke others'", "writer", kv.LeaseRevoke{ID: 7}, kv.PermissionDenied},
		{"revoke", "writer", kv.LeaseRevoke{ID: 8}, kv.OK},
		{"root revokes", "root", kv.LeaseRevoke{ID: 7}, kv.OK},
		{"keep others' alive", "writer", kv.LeaseKeepAlive{ID: 7}, kv.PermissionDenied},
		{"grant a lease", "stranger", kv.LeaseGrant{ID: 1, TTL: 5}, kv.OK},
		{"nobody grants a lease", "", kv.LeaseGrant{ID: 1, TTL: 5}, kv.UserEmpty},
		{"compact", "both", kv.Compact{Revision: 2}, kv.PermissionDenied},
		{"root compacts", "root", kv.Compact{Revision: 2}, kv.OK},
		{"who is not there compacts", "x", kv.Compact{Revision: 2}, kv.UserNotFound},
		{"the leader compacts", "", kv.Compact{Revision: 2, Term: 5}, kv.OK},
		{"the leader revokes", "", kv.LeaseRevoke{ID: 7, Term: 5}, kv.OK},
		{"records", "", kv.SetRecord{Name: []byte("x")}, kv.OK},
		{"a change of users", "both", addUser("y"), kv.PermissionDenied},
		{"nobody's change of users", "", addUser("y"), kv.UserEmpty},
		{"a device token", "both", kv.SetDevice{ID: "y"}, kv.PermissionDenied},
		{"device writes", "device:d1", put("site/42/a"), kv.OK},
		{"device reads", "device:d1", get("site/42/", "site/420"), kv.OK},
		{"device reads beyond", "device:d1", get("site/42/", "site/421"), kv.PermissionDenied},
		{"device deletes", "device:d1", del("site/42/a", ""), kv.PermissionDenied},
		{"device elsewhere", "device:d1", put("site/43/a"), kv.PermissionDenied},
		{"device that was revoked", "device:d2", put("site/42/a"), kv.Unauthenticated},
		{"device administers", "device:d1", addUser("y"), kv.PermissionDenied},
		{"node without a node", "node:" + testNode, get("a", ""), kv.PermissionDenied},
	} {
		t.Run(c.name, func(t *testing.T) {
			cmd := kv.Command{By: by(p, c.who), Ops: []kv.Op{c.op}}
			if got := p.Permits(&cmd, leases); kv.CodeOf(got) != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// A node is trusted with what its scope says and no more, whoever it says it speaks for.
func TestNodesSpeakWithinTheirScope(t *testing.T) {
	base := shop(t)
	scoped := func(s kv.NodeScope) *Policy {
		p, _, err := base.Change(kv.SetScope{Node: testNode, Scope: &s})
		if err != nil {
			t.Fatal(err)
		}
		return p
	}
	put := kv.Put{Key: []byte("a")}
	for _, c := range []struct {
		name string
		p    *Policy
		who  string
		op   kv.Op
		want kv.Code
	}{
		{"a user", base, "writer", put, kv.OK},
		{"root", base, "root", put, kv.PermissionDenied},
		{"itself, reading", base, "node:" + testNode, kv.Range{Key: []byte("z")}, kv.OK},
		{"itself, writing", base, "node:" + testNode, put, kv.PermissionDenied},
		{"as another node", base, "node:ff", kv.Range{Key: []byte("z")}, kv.PermissionDenied},
		{"roles it may speak for", scoped(kv.NodeScope{Roles: []string{"w"}}), "writer", put, kv.OK},
		{"roles it may not", scoped(kv.NodeScope{Roles: []string{"w"}}), "both", put, kv.PermissionDenied},
		{"root, allowed", scoped(kv.NodeScope{Roles: []string{"root"}}), "root", put, kv.OK},
		{"root, still not an administrator", scoped(kv.NodeScope{Roles: []string{"root"}}), "root", addUser("y"), kv.PermissionDenied},
		{"within its prefix", scoped(kv.NodeScope{Prefixes: []string{"a"}}), "writer", put, kv.OK},
		{"outside", scoped(kv.NodeScope{Prefixes: []string{"b"}}), "writer", put, kv.PermissionDenied},
		{"no prefix at all", scoped(kv.NodeScope{Prefixes: []string{}}), "writer", put, kv.PermissionDenied},
		{"a device", base, "device:d1", kv.Put{Key: []byte("site/42/x")}, kv.OK},
	} {
		t.Run(c.name, func(t *testing.T) {
			who := by(c.p, c.who)
			who.Node = testNode
			cmd := kv.Command{By: who, Ops: []kv.Op{c.op}}
			if got := c.p.Permits(&cmd, nil); kv.CodeOf(got) != c.want {
				t.Errorf("got %v, want %v", got, c.want)
			}
		})
	}
}

// Who was deleted and made again is another one, and who has another password has to say so, but for what was queued.
func TestWhoHasChangedAsksAgain(t *testing.T) {
	p := shop(t)
	old := by(p, "writer")
	other, _, err := p.Change(addUser("unrelated"))
	if err != nil {
		t.Fatal(err)
	}
	changed, _, err := p.Change(kv.SetAuth{Do: kv.AuthSetPassword, User: "writer"})
	if err != nil {
		t.Fatal(err)
	}
	again := p
	for _, op := range []kv.SetAuth{{Do: kv.AuthDeleteUser, User: "writer"}, addUser("writer"), grantRole("writer", "w")} {
		if again, _, err = again.Change(op); err != nil {
			t.Fatal(err)
		}
	}
	queued := kv.ID{Seq: kv.Seq{N: 1}}
	for _, c := range []struct {
		name string
		p    *Policy
		id   kv.ID
		want kv.Code
	}{
		{"another user was made", other, kv.ID{}, kv.OK},
		{"another password", changed, kv.ID{}, kv.AuthOldRevision},
		{"another password, queued", changed, queued, kv.OK},
		{"made again", again, kv.ID{}, kv.AuthOldRevision},
		{"made again, queued", again, queued, kv.AuthOldRevision},
	} {
		cmd := kv.Command{ID: c.id, By: old, Ops: []kv.Op{kv.Put{Key: []byte("a")}}}
		if got := c.p.Permits(&cmd, nil); kv.CodeOf(got) != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}

// A guard shows no more than a refusal does, so one who may write may have it: a queue adds guards by itself.
func TestGuardsNeedAnyRight(t *testing.T) {
	p := shop(t)
	cmd := kv.Command{By: by(p, "writer"), Guards: []kv.Guard{{Compare: kv.Compare{Key: []byte("a"), Target: kv.TargetMod}}}, Ops: []kv.Op{kv.Put{Key: []byte("a")}}}
	if err := p.Permits(&cmd, nil); err != nil {
		t.Error(err)
	}
	cmd.Guards[0].Key = []byte("z")
	if err := p.Permits(&cmd, nil); kv.CodeOf(err) != kv.PermissionDenied {
		t.Errorf("a guard elsewhere: %v", err)
	}
}

// The model asks key by key.
func TestSpansCoverWhatTheirKeysDo(t *testing.T) {
	var all []string // every key of up to two letters of a small alphabet, in order
	letters := []string{"\x00", "a", "b", "\xff"}
	for _, x := range letters {
		all = append(all, x)
		for _, y := range letters {
			all = append(all, x+y)
		}
	}
	key := rapid.SampledFrom(all)
	end := rapid.SampledFrom(append([]string{"", "\x00"}, all...))
	rapid.Check(t, func(t *rapid.T) {
		var some []span
		type pair struct{ key, end []byte }
		var perms []pair
		for range rapid.IntRange(0, 5).Draw(t, "spans") {
			p := pair{[]byte(key.Draw(t, "key")), []byte(end.Draw(t, "end"))}
			if validRange(p.key, p.end) {
				perms = append(perms, p)
				some = append(some, newSpan(p.key, p.end))
			}
		}
		k, e := []byte(key.Draw(t, "asked key")), []byte(end.Draw(t, "asked end"))
		if len(e) > 0 && !bytes.Equal(e, kv.FromKey()) && bytes.Compare(k, e) >= 0 {
			e = nil // holds no key: judged by its first
		}
		want := true
		holds := func(x string) bool {
			for _, p := range perms {
				if kv.Contains(p.key, p.end, []byte(x)) {
					return true
				}
			}
			return false
		}
		probes := append([]string{}, all...)
		for _, x := range all { // and what lies right behind each
			probes = append(probes, x+"\x00", x+"\xff\xff\xff")
		}
		for _, x := range append(probes, "\xff\xff\xff\xff") {
			if kv.Contains(k, e, []byte(x)) && !holds(x) {
				want = false
			}
		}
		if got := join(some).cover(k, e); got != want {
			t.Fatalf("%q cover [%q, %q): %v, want %v", perms, k, e, got, want)
		}
	})
}

func BenchmarkPermitsPut(b *testing.B) {
	p := shop(b)
	for name, policy := range map[string]*Policy{"off": nil, "on": p} {
		b.Run(name, func(b *testing.B) {
			c := kv.Command{By: by(p, "writer"), Ops: []kv.Op{kv.Put{Key: []byte("a1"), Value: []byte("v")}}}
			b.ReportAllocs()
			for b.Loop() {
				if err := policy.Permits(&c, nil); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}
