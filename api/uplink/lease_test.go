package uplink

import (
	"testing"

	"holdfast/api/apitest"
	"holdfast/internal/wire"
	"holdfast/kv"
)

// askAs puts ops to a server in the name of a peer, as a command and as a query, and returns how each ended.
func askAs(t *testing.T, s *Server, scope []string, ops ...kv.Op) (kv.Outcome, kv.Code) {
	t.Helper()
	peer := Peer{Node: "p", Scope: scope}
	out, err := wire.DecodeOutcome(s.do(t.Context(), wire.AppendCommand(nil, kv.Command{Ops: ops}), peer))
	if err != nil {
		t.Fatal(err)
	}
	if !kv.ReadOnly(ops) {
		return out, kv.OK
	}
	b := s.read(t.Context(), wire.AppendQuery(nil, kv.Query{Ops: ops}), peer)
	if _, err := wire.DecodePage(b); err == nil {
		return out, kv.OK
	}
	refused, err := wire.DecodeError(b)
	if err != nil {
		t.Fatal(err)
	}
	return out, refused.Code
}

func TestAPeerTouchesNoKeyOutsideItsScopeByALease(t *testing.T) {
	s := New(apitest.NewMemory(), nil)
	put := func(key string, lease int64) kv.Put { return kv.Put{Key: []byte(key), Lease: lease} }
	for _, op := range []kv.Op{kv.LeaseGrant{ID: 1, TTL: 1000}, kv.LeaseGrant{ID: 2, TTL: 1000}, kv.LeaseGrant{ID: 3, TTL: 1000},
		put("a/1", 1), put("a/2", 2), put("b/1", 2)} {
		if out, _ := askAs(t, s, []string{""}, op); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	keys := func(id int64) kv.Op { return kv.LeaseTTL{ID: id, Keys: true} }
	each := func(id int64) kv.Op {
		return kv.Each{Commands: []kv.Command{{Ops: []kv.Op{kv.LeaseRevoke{ID: id}}}}}
	}
	for _, c := range []struct {
		name  string
		op    kv.Op
		scope string
		want  kv.Code
	}{
		{"keys of another", keys(2), "a/", kv.PermissionDenied},
		{"keys of another, nested", kv.Txn{Then: []kv.Op{kv.Txn{Then: []kv.Op{keys(2)}}}}, "a/", kv.PermissionDenied},
		{"keys of its own", keys(1), "a/", kv.OK},
		{"keys of another's own", keys(1), "b/", kv.PermissionDenied},
		{"time of another", kv.LeaseTTL{ID: 2}, "a/", kv.OK},
		{"renewal", kv.LeaseKeepAlive{ID: 2}, "a/", kv.OK},
		{"revocation of another", kv.LeaseRevoke{ID: 2}, "a/", kv.PermissionDenied},
		{"revocation of another, without a scope", kv.LeaseRevoke{ID: 2}, "none/", kv.PermissionDenied},
		{"revocation of its own", kv.LeaseRevoke{ID: 1}, "a/", kv.OK},
		{"revocation of nothing", kv.LeaseRevoke{ID: 3}, "a/", kv.OK},
		{"revocation of none", kv.LeaseRevoke{ID: 4}, "a/", kv.LeaseNotFound},
		{"revocation by a member", kv.LeaseRevoke{ID: 2}, "", kv.OK},
	} {
		out, read := askAs(t, s, []string{"x/", c.scope}, c.op)
		if kv.CodeOf(asErr(out.Err)) != c.want || kv.ReadOnly([]kv.Op{c.op}) && read != c.want {
			t.Errorf("%s: %v, as a query %v, want %v", c.name, out.Err, read, c.want)
		}
	}
	for _, op := range []kv.Op{kv.LeaseGrant{ID: 5, TTL: 1000}, put("b/1", 5)} {
		if out, _ := askAs(t, s, []string{""}, op); out.Err != nil {
			t.Fatal(out.Err)
		}
	}
	if out, _ := askAs(t, s, []string{"a/"}, each(5)); kv.CodeOf(asErr(out.Err)) != kv.PermissionDenied {
		t.Errorf("revocation of another in a batch: %v", out.Err)
	}
}

func asErr(e *kv.Error) error {
	if e == nil {
		return nil
	}
	return e
}
