package auth

import (
	"testing"

	"holdfast/kv"
)

// policyOf makes a policy of changes that have to go well.
func policyOf(t testing.TB, ops ...kv.Op) *Policy {
	t.Helper()
	var p *Policy
	for _, op := range ops {
		var err *kv.Error
		if p, _, err = p.Change(op); err != nil {
			t.Fatalf("%+v: %v", op, err)
		}
	}
	return p
}

func addUser(name string) kv.SetAuth {
	return kv.SetAuth{Do: kv.AuthAddUser, User: name, Secret: []byte("hash of " + name)}
}
func addRole(name string) kv.SetAuth { return kv.SetAuth{Do: kv.AuthAddRole, Role: name} }
func grantRole(user, role string) kv.SetAuth {
	return kv.SetAuth{Do: kv.AuthGrantRole, User: user, Role: role}
}
func permit(role, key, end string, kind kv.Permission) kv.SetAuth {
	return kv.SetAuth{Do: kv.AuthGrantPermission, Role: role, Key: []byte(key), End: []byte(end), Permission: kind}
}

var (
	testSeed = []byte("0123456789abcdef0123456789abcdef")
	enable   = kv.SetAuth{Do: kv.AuthEnable, Secret: testSeed}
	withRoot = []kv.Op{addUser("root"), grantRole("root", "root")}
)

const testNode = "00112233445566778899aabbccddeeff"

// shop is a policy with somebody of each kind.
func shop(t testing.TB) *Policy {
	t.Helper()
	return policyOf(t, append(withRoot,
		addUser("reader"), addRole("r"), permit("r", "a", "c", kv.PermitRead), grantRole("reader", "r"),
		addUser("writer"), addRole("w"), permit("w", "a", "c", kv.PermitWrite), grantRole("writer", "w"),
		addUser("both"), grantRole("both", "r"), grantRole("both", "w"),
		addUser("stranger"),
		kv.SetDevice{ID: "d1", Device: &kv.Device{Name: "pump", Verbs: kv.VerbGet | kv.VerbPut, Prefixes: []string{"site/42/"}}},
		enable)...)
}

func by(p *Policy, name string) kv.By { return kv.By{Principal: name, AuthRevision: p.Revision()} }
