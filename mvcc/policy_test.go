package mvcc

import (
	"bytes"
	"io"
	"reflect"
	"testing"

	"holdfast/kv"
)

// locked makes users and turns authentication on. The user writer may write keys that begin with a.
func locked(g *rig) {
	g.t.Helper()
	for _, op := range []kv.Op{
		kv.SetAuth{Do: kv.AuthAddUser, User: "root", Secret: []byte("h")},
		kv.SetAuth{Do: kv.AuthGrantRole, User: "root", Role: "root"},
		kv.SetAuth{Do: kv.AuthAddUser, User: "writer", Secret: []byte("h")},
		kv.SetAuth{Do: kv.AuthAddRole, Role: "w"},
		kv.SetAuth{Do: kv.AuthGrantPermission, Role: "w", Key: []byte("a"), End: []byte("b"), Permission: kv.PermitWrite},
		kv.SetAuth{Do: kv.AuthGrantRole, User: "writer", Role: "w"},
		kv.SetDevice{ID: "d1", Device: &kv.Device{Verbs: kv.VerbPut, Prefixes: []string{"a"}}},
		kv.SetAuth{Do: kv.AuthEnable, Secret: bytes.Repeat([]byte{7}, 32)},
	} {
		g.do(op)
	}
}

// as applies ops for somebody and returns the code of the outcome.
func as(g *rig, who string, id kv.ID, ops ...kv.Op) kv.Code {
	g.t.Helper()
	g.index++
	out, err := g.s.Apply([]Entry{{g.index, kv.Command{ID: id, By: kv.By{Principal: who, AuthRevision: g.s.Policy().Revision()}, Ops: ops}}})
	must(g.t, err)
	if out[0].Err != nil {
		return out[0].Err.Code
	}
	return kv.OK
}

func TestApplyJudgesByThePolicyAtItsPlace(t *testing.T) {
	g := newRig(t, Options{})
	if got := as(g, "", kv.ID{}, put("z", "1")); got != kv.OK {
		t.Errorf("before it is on: %v", got)
	}
	rev := g.s.Revision()
	locked(g)
	if g.s.Revision() != rev {
		t.Errorf("the policy moved the revision from %d to %d", rev, g.s.Revision())
	}
	for _, c := range []struct {
		who  string
		op   kv.Op
		want kv.Code
	}{
		{"", put("a1", "1"), kv.UserEmpty},
		{"writer", put("a1", "1"), kv.OK},
		{"writer", put("z", "1"), kv.PermissionDenied},
		{"device:d1", put("a2", "1"), kv.OK},
		{"root", put("z", "1"), kv.OK},
		{"writer", kv.SetAuth{Do: kv.AuthDisable}, kv.PermissionDenied},
		{"", kv.SetRecord{Name: []byte("own"), Value: []byte("x"), Have: -1}, kv.OK},
		{"root", kv.LeaseGrant{ID: 9, TTL: 60}, kv.OK},
		{"root", kv.Put{Key: []byte("z"), Lease: 9}, kv.OK},
		{"writer", kv.Put{Key: []byte("a3"), Lease: 9}, kv.PermissionDenied},
		{"writer", kv.LeaseRevoke{ID: 9}, kv.PermissionDenied},
		{"root", kv.SetAuth{Do: kv.AuthRevokePermission, Role: "w", Key: []byte("a"), End: []byte("b")}, kv.OK},
		{"writer", put("a1", "2"), kv.PermissionDenied},
	} {
		if got := as(g, c.who, kv.ID{}, c.op); got != c.want {
			t.Errorf("%q %+v: %v, want %v", c.who, c.op, got, c.want)
		}
	}
}

// A batch is judged command by command, and one that is refused uses up its place in the queue.
func TestAQueuedWriteIsJudgedWhenItIsApplied(t *testing.T) {
	g := newRig(t, Options{})
	origin := [16]byte{1}
	g.do(kv.OpenQueue{Origin: origin})
	locked(g)
	cmd := func(n uint64, who, key string) kv.Command {
		return kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin, Epoch: 1, N: n}}, By: kv.By{Principal: who, AuthRevision: 5, Node: ""}, Ops: []kv.Op{put(key, "1")}}
	}
	g.index++
	out, err := g.s.Apply([]Entry{{g.index, kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{
		cmd(1, "writer", "a1"), cmd(2, "writer", "z"), cmd(3, "", "a2"), cmd(4, "writer", "a3")}}}}}})
	must(t, err)
	var got []kv.Code
	for _, o := range out[0].Result.Ops[0].Each {
		if o.Err != nil {
			got = append(got, o.Err.Code)
		} else {
			got = append(got, kv.OK)
		}
	}
	if want := []kv.Code{kv.OK, kv.PermissionDenied, kv.UserEmpty, kv.OK}; !reflect.DeepEqual(got, want) {
		t.Errorf("got %v, want %v", got, want)
	}
}

// A retry key is no way to see what another was answered.
func TestARetryIsJudgedToo(t *testing.T) {
	g := newRig(t, Options{})
	locked(g)
	id := kv.ID{Key: [16]byte{5}}
	op := kv.Put{Key: []byte("z"), Value: []byte("1")}
	if got := as(g, "root", id, op); got != kv.OK {
		t.Fatal(got)
	}
	if got := as(g, "writer", id, op); got != kv.PermissionDenied {
		t.Errorf("another's: %v", got)
	}
	if got := as(g, "root", id, op); got != kv.OK {
		t.Errorf("its own: %v", got)
	}
}

// Whatever becomes of the file, the policy is a function of the log: after a crash between a change and its flush the log
// is replayed; a snapshot carries it; two replicas have the same.
func TestThePolicySurvives(t *testing.T) {
	g := newRig(t, Options{})
	locked(g)
	want := g.s.Policy().Entries(true)
	if len(want) == 0 {
		t.Fatal("there is no policy")
	}
	twin := newRig(t, Options{})
	locked(twin)
	if got := twin.s.Policy().Entries(true); !reflect.DeepEqual(got, want) {
		t.Errorf("a second replica has %v, want %v", got, want)
	}
	must(t, g.s.Flush())
	if got := as(g, "root", kv.ID{}, kv.SetAuth{Do: kv.AuthDeleteUser, User: "writer"}); got != kv.OK {
		t.Fatal(got)
	}
	if got := as(g, "writer", kv.ID{}, put("a9", "1")); got != kv.PermissionDenied {
		t.Fatal(got)
	}
	dumped, err := io.ReadAll(dump(t, g.s)) // flushes
	must(t, err)
	want = g.s.Policy().Entries(true)
	other := newRig(t, Options{})
	must(t, other.s.Restore(bytes.NewReader(dumped), nil))
	if got := other.s.Policy().Entries(true); !reflect.DeepEqual(got, want) {
		t.Errorf("a replica that got a snapshot has %v, want %v", got, want)
	}
	if h, o := g.s.Policy().Revision(), other.s.Policy().Revision(); h != o || !other.s.Policy().Enabled() {
		t.Errorf("revision %d, want %d", o, h)
	}
}

func TestWhoWaitsForThePolicyIsWoken(t *testing.T) {
	g := newRig(t, Options{})
	changed := g.s.PolicyChanged()
	g.put("a", "1")
	select {
	case <-changed:
		t.Error("woken by a put")
	default:
	}
	locked(g)
	select {
	case <-changed:
	default:
		t.Error("not woken")
	}
}

// A crash between a change and its flush loses nothing: the file has the policy that belongs to its index, and the log
// brings the rest.
func TestACrashBeforeTheFlushReplaysThePolicy(t *testing.T) {
	g := newRig(t, Options{})
	locked(g)
	must(t, g.s.Flush())
	before := g.s.Policy().Entries(true)
	late := Entry{g.index + 1, kv.Command{By: kv.By{Principal: "root", AuthRevision: g.s.Policy().Revision()},
		Ops: []kv.Op{kv.SetAuth{Do: kv.AuthDeleteUser, User: "writer"}}}}
	write := Entry{g.index + 2, kv.Command{By: kv.By{Principal: "writer", AuthRevision: g.s.Policy().Revision()}, Ops: []kv.Op{put("a1", "1")}}}
	play := func() (codes []kv.Code) {
		out, err := g.s.Apply([]Entry{late, write})
		must(t, err)
		for _, o := range out {
			if o.Err != nil {
				codes = append(codes, o.Err.Code)
			} else {
				codes = append(codes, kv.OK)
			}
		}
		return codes
	}
	first := play()
	after := g.s.Policy().Entries(true)
	g.s.crash()
	g.open()
	if got := g.s.Policy().Entries(true); !reflect.DeepEqual(got, before) {
		t.Errorf("the file has %v, want %v", got, before)
	}
	if again := play(); !reflect.DeepEqual(again, first) || first[1] != kv.PermissionDenied {
		t.Errorf("replayed %v, at first %v", again, first)
	}
	if got := g.s.Policy().Entries(true); !reflect.DeepEqual(got, after) {
		t.Errorf("replayed to %v, want %v", got, after)
	}
}
