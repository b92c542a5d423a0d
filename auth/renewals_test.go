package auth

import (
	"context"
	"testing"

	"holdfast/kv"
)

// keeper is a node that renews what it is asked to.
type keeper struct {
	*node
	got [][]int64
}

func (k *keeper) Do(_ context.Context, c kv.Command) (kv.Result, error) {
	var ids []int64
	var outs []kv.Outcome
	for _, one := range kv.Renewals(&c) {
		id := one.Ops[0].(kv.LeaseKeepAlive).ID
		ids = append(ids, id)
		outs = append(outs, kv.Outcome{Result: kv.Result{Ops: []kv.OpResult{{Leases: []kv.Lease{{ID: id}}}}}})
	}
	k.got = append(k.got, ids)
	return kv.Result{Ops: []kv.OpResult{{Each: outs}}}, nil
}

// A batch of renewals does not reach apply, which judges other batches: each is judged before.
func TestEachRenewalOfABatchIsJudged(t *testing.T) {
	p := shop(t)
	k := &keeper{node: newNode(p)}
	leases := func(id int64) ([][]byte, error) {
		return [][]byte{[]byte(map[int64]string{7: "z", 8: "b"}[id])}, nil
	}
	g := NewGuard(k, func() Source {
		src := k.source()
		src.Leases = leases
		return src
	}, Options{})
	batch := func(ids ...int64) kv.Command {
		var each kv.Each
		for _, id := range ids {
			by := by(p, "writer")
			by.Node = testNode
			each.Commands = append(each.Commands, kv.Command{By: by, Ops: []kv.Op{kv.LeaseKeepAlive{ID: id}}})
		}
		return kv.Command{Ops: []kv.Op{each}}
	}
	res, err := g.Do(t.Context(), batch(8, 7, 8))
	if err != nil || len(res.Ops) != 1 || len(res.Ops[0].Each) != 3 {
		t.Fatalf("got %+v, %v", res, err)
	}
	for i, want := range []kv.Code{kv.OK, kv.PermissionDenied, kv.OK} {
		out := res.Ops[0].Each[i]
		if (want == kv.OK) != (out.Err == nil) || out.Err != nil && out.Err.Code != want {
			t.Errorf("renewal %d: %v, want %v", i, out.Err, want)
		}
	}
	if len(k.got) != 1 || len(k.got[0]) != 2 {
		t.Errorf("passed on %v, want the two that are allowed", k.got)
	}
	if res, err := g.Do(t.Context(), batch(7)); err != nil || res.Ops[0].Each[0].Err == nil || len(k.got) != 1 {
		t.Errorf("one that is refused: %+v, %v; passed on %v", res, err, k.got)
	}
}
