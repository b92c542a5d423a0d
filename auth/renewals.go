package auth

import (
	"context"
	"errors"

	"holdfast/kv"
)

func alone(c *kv.Command) bool {
	_, ok := c.Ops[0].(kv.LeaseKeepAlive)
	return ok
}

// renewals judges a batch of renewals of leases, each by itself, and passes on those that are allowed. They never reach
// apply, which judges the commands of other batches.
func (g *Guard) renewals(ctx context.Context, src *Source, all []kv.Command) (kv.Result, error) {
	outs := make([]kv.Outcome, len(all))
	var allowed []kv.Command
	var places []int
	for i, one := range all {
		if err := g.command(ctx, src, &one); err != nil {
			outs[i].Err = refusal(g.counted(err))
			continue
		}
		allowed, places = append(allowed, one), append(places, i)
	}
	if len(allowed) == 0 {
		return kv.Result{Ops: []kv.OpResult{{Each: outs}}}, nil
	}
	res, err := g.next.Do(ctx, kv.Command{Ops: []kv.Op{kv.Each{Commands: allowed}}})
	if err != nil {
		return res, err
	}
	if len(res.Ops) != 1 || len(res.Ops[0].Each) != len(allowed) {
		return kv.Result{}, kv.Errorf(kv.Internal, "the answer to %d renewals has another shape", len(allowed))
	}
	for i, out := range res.Ops[0].Each {
		outs[places[i]] = out
	}
	res.Ops = []kv.OpResult{{Each: outs}}
	return res, nil
}

func refusal(err error) *kv.Error {
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e
	}
	return kv.Errorf(kv.Internal, "%w", err)
}
