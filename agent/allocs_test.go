package agent

import (
	"context"
	"testing"

	"holdfast/api"
	"holdfast/auth"
	"holdfast/kv"
)

// promptNode answers reads at once.
type promptNode struct{ slowNode }

func (promptNode) Read(context.Context, kv.Query) (kv.Page, error) { return kv.Page{}, nil }

// What stands between the doors and the node makes no objects for a request that has no rights to be judged.
func TestTheWayToTheNodeMakesNoObjects(t *testing.T) {
	g := newGate()
	g.ledger = testLedger(25, 0)
	g.open(auth.NewGuard(promptNode{}, func() auth.Source {
		return auth.Source{Policy: func() (*auth.Policy, bool) { return nil, true }}
	}, auth.Options{}))
	c := from("192.0.2.1")
	if err := g.ledger.take(c, useConnection); err != nil { // it has one open
		t.Fatal(err)
	}
	ctx := api.WithCaller(t.Context(), c)
	b := api.Signed(g)
	q := kv.Query{MaxAge: kv.Unlimited, Ops: []kv.Op{kv.Range{Key: []byte("k")}}}
	if n := testing.AllocsPerRun(1000, func() {
		if _, err := b.Read(ctx, q); err != nil {
			t.Fatal(err)
		}
	}); n != 0 {
		t.Errorf("%v objects for a read, want none", n)
	}
}
