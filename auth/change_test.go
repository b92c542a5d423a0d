package auth

import (
	"fmt"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"holdfast/kv"
)

// The refusals are etcd's, server/auth/store.go of 3.7.3, and so is what moves the revision.
func TestChangesAreRefusedAsByEtcd(t *testing.T) {
	on := append(append([]kv.Op{}, withRoot...), addUser("u"), addRole("r"), enable)
	off := on[:len(on)-1]
	for _, c := range []struct {
		name   string
		before []kv.Op
		op     kv.SetAuth
		want   kv.Code
		moves  uint64
	}{
		{"enable without root", nil, enable, kv.RootUserMissing, 0},
		{"enable without its role", []kv.Op{addUser("root")}, enable, kv.RootRoleMissing, 0},
		{"enable", withRoot, enable, kv.OK, 0},
		{"enable twice", on, enable, kv.OK, 0},
		{"disable", on, kv.SetAuth{Do: kv.AuthDisable}, kv.OK, 1},
		{"disable what is off", off, kv.SetAuth{Do: kv.AuthDisable}, kv.OK, 0},
		{"user without a name", nil, addUser(""), kv.UserEmpty, 0},
		{"user", nil, addUser("u"), kv.OK, 1},
		{"user twice", off, addUser("u"), kv.UserExists, 0},
		{"user like a device", nil, addUser("device:u"), kv.InvalidAuthMgmt, 0},
		{"delete nobody", off, kv.SetAuth{Do: kv.AuthDeleteUser, User: "x"}, kv.UserNotFound, 0},
		{"delete", off, kv.SetAuth{Do: kv.AuthDeleteUser, User: "u"}, kv.OK, 1},
		{"delete root", on, kv.SetAuth{Do: kv.AuthDeleteUser, User: "root"}, kv.InvalidAuthMgmt, 0},
		{"delete root while off", off, kv.SetAuth{Do: kv.AuthDeleteUser, User: "root"}, kv.OK, 1},
		{"password of nobody", off, kv.SetAuth{Do: kv.AuthSetPassword, User: "x"}, kv.UserNotFound, 0},
		{"password", off, kv.SetAuth{Do: kv.AuthSetPassword, User: "u"}, kv.OK, 1},
		{"role to nobody", off, grantRole("x", "r"), kv.UserNotFound, 0},
		{"no role", off, grantRole("u", "x"), kv.RoleNotFound, 0},
		{"role root needs not be there", off, grantRole("u", "root"), kv.OK, 1},
		{"role", off, grantRole("u", "r"), kv.OK, 1},
		{"role twice", append(off[:len(off):len(off)], grantRole("u", "r")), grantRole("u", "r"), kv.OK, 0},
		{"role from nobody", off, kv.SetAuth{Do: kv.AuthRevokeRole, User: "x", Role: "r"}, kv.UserNotFound, 0},
		{"role that is not granted", off, kv.SetAuth{Do: kv.AuthRevokeRole, User: "u", Role: "r"}, kv.RoleNotGranted, 0},
		{"role root from root", on, kv.SetAuth{Do: kv.AuthRevokeRole, User: "root", Role: "root"}, kv.InvalidAuthMgmt, 0},
		{"role without a name", nil, addRole(""), kv.RoleEmpty, 0},
		{"role there is", off, addRole("r"), kv.RoleExists, 0},
		{"delete no role", off, kv.SetAuth{Do: kv.AuthDeleteRole, Role: "x"}, kv.RoleNotFound, 0},
		{"delete role root", on, kv.SetAuth{Do: kv.AuthDeleteRole, Role: "root"}, kv.InvalidAuthMgmt, 0},
		{"delete role", off, kv.SetAuth{Do: kv.AuthDeleteRole, Role: "r"}, kv.OK, 1},
		{"permission on nothing", off, permit("r", "", "", kv.PermitRead), kv.InvalidAuthMgmt, 0},
		{"permission backwards", off, permit("r", "b", "a", kv.PermitRead), kv.InvalidAuthMgmt, 0},
		{"permission to no role", off, permit("x", "a", "b", kv.PermitRead), kv.RoleNotFound, 0},
		{"permission", off, permit("r", "a", "b", kv.PermitRead), kv.OK, 1},
		{"permission from a key on", off, permit("r", "b", "\x00", kv.PermitRead), kv.OK, 1},
		{"permission from no role", off, kv.SetAuth{Do: kv.AuthRevokePermission, Role: "x", Key: []byte("a")}, kv.RoleNotFound, 0},
		{"permission that is not granted", off, kv.SetAuth{Do: kv.AuthRevokePermission, Role: "r", Key: []byte("a")}, kv.PermissionNotGranted, 0},
	} {
		t.Run(c.name, func(t *testing.T) {
			p := policyOf(t, c.before...)
			was := p.Entries(true)
			q, entries, err := p.Change(c.op)
			if err != nil && err.Code != c.want || err == nil && c.want != kv.OK {
				t.Fatalf("got %v, want %v", err, c.want)
			}
			if got := q.Revision() - p.Revision(); got != c.moves {
				t.Errorf("the revision moved by %d, want %d", got, c.moves)
			}
			if err != nil && (q != p || len(entries) > 0) {
				t.Error("refused, and changed")
			}
			if !reflect.DeepEqual(p.Entries(true), was) {
				t.Error("the policy before has changed")
			}
		})
	}
}

// What a policy writes, entry by entry, is the policy: loading the entries gives one that writes the same and judges the
// same, and so does the mirror, but for its secrets.
func TestEntriesAreThePolicy(t *testing.T) {
	names := rapid.SampledFrom([]string{"root", "a", "b", "c", ""})
	keys := rapid.SampledFrom([]string{"a", "b", "c", "b/", "\x00", ""})
	op := rapid.Custom(func(t *rapid.T) kv.Op {
		switch rapid.IntRange(0, 9).Draw(t, "kind") {
		case 0:
			if rapid.Bool().Draw(t, "remove") {
				return kv.SetDevice{ID: "d"}
			}
			return kv.SetDevice{ID: "d", Device: &kv.Device{Verbs: kv.VerbGet, Prefixes: []string{keys.Draw(t, "prefix")}}}
		case 1:
			if rapid.Bool().Draw(t, "remove") {
				return kv.SetScope{Node: testNode}
			}
			return kv.SetScope{Node: testNode, Scope: &kv.NodeScope{Prefixes: []string{keys.Draw(t, "prefix")}}}
		}
		return kv.SetAuth{Do: kv.AuthChange(rapid.IntRange(0, int(kv.AuthChanges)-1).Draw(t, "do")), User: names.Draw(t, "user"), Role: names.Draw(t, "role"),
			Key: []byte(keys.Draw(t, "key")), End: []byte(keys.Draw(t, "end")), Permission: kv.Permission(rapid.IntRange(0, 2).Draw(t, "permission")),
			NoPassword: rapid.Bool().Draw(t, "no password"), Secret: testSeed}
	})
	rapid.Check(t, func(t *rapid.T) {
		var p *Policy
		kept := map[string][]byte{}
		for range rapid.IntRange(0, 30).Draw(t, "changes") {
			next, entries, err := p.Change(op.Draw(t, "op"))
			if err == nil {
				p = next
			}
			for _, e := range entries {
				if kept[e.Key] = e.Value; e.Value == nil {
					delete(kept, e.Key)
				}
			}
		}
		var list []Entry
		for k, v := range kept {
			list = append(list, Entry{k, v})
		}
		loaded, err := Load(list)
		if err != nil {
			t.Fatal(err)
		}
		if p != nil && loaded == nil {
			if p.Revision() != 1 || p.enabled || p.HasKey() {
				t.Fatalf("nothing was written of %+v", p)
			}
			return
		}
		if p.Enabled() != loaded.Enabled() || p.Revision() != loaded.Revision() {
			t.Fatalf("loaded %v %d, want %v %d", loaded.Enabled(), loaded.Revision(), p.Enabled(), p.Revision())
		}
		mirror, err := Decode(p.Encode())
		if err != nil {
			t.Fatal(err)
		}
		for _, q := range []*Policy{loaded, mirror} {
			for _, name := range []string{"root", "a", "b", "c", "device:d"} {
				for _, k := range []string{"a", "b", "b/x", "c", "d"} {
					c := kv.Command{By: by(p, name), Ops: []kv.Op{kv.Put{Key: []byte(k), PrevKV: true}}}
					if want, got := p.Permits(&c, nil), q.Permits(&c, nil); kv.CodeOf(got) != kv.CodeOf(want) {
						t.Fatalf("%s puts %s: %v, want %v", name, k, got, want)
					}
				}
			}
		}
		if got, want := fmt.Sprint(loaded.Entries(true)), fmt.Sprint(p.Entries(true)); p != nil && got != want {
			t.Fatalf("entries %s\nwant    %s", got, want)
		}
		for _, e := range mirror.Entries(true) {
			if e.Key == entryKey {
				t.Fatal("the mirror can sign")
			}
		}
	})
}
