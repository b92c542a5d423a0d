package apitest

import (
	"context"
	"slices"

	"holdfast/kv"
)

// grants is ops for grants only.
func grants(name string, edit func(g *kv.LeaseGrant), wants ...string) fault {
	return ops(name, func(op kv.Op) kv.Op {
		if g, ok := op.(kv.LeaseGrant); ok {
			edit(&g)
			return g
		}
		return op
	}, wants...)
}

// revoking is a fault in what is done before a lease is revoked, to its keys.
func revoking(name string, edit func(m *Memory, key kv.KeyValue), wants ...string) fault {
	return fault{name, wants, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			if op, ok := c.Ops[0].(kv.LeaseRevoke); ok && len(c.Ops) == 1 {
				all := kv.Query{Ops: []kv.Op{kv.Range{Key: kv.FromKey(), End: kv.FromKey()}}}
				p, err := f.Memory.Read(ctx, all)
				if err != nil {
					return kv.Result{}, err
				}
				for _, v := range p.Ops[0].KVs {
					if v.Lease == op.ID {
						edit(f.Memory, v)
					}
				}
			}
			return f.Memory.Do(ctx, c)
		}
	}}
}

var leaseFaults = []fault{
	answers("leases have no ids", func(_ kv.Op, r *kv.OpResult) {
		r.Leases = slices.Clone(r.Leases)
		for i := range r.Leases {
			r.Leases[i].ID = 0
		}
	}, "lease/is granted under an id of the node's, for the time asked for, and moves no revision"),
	grants("another id is granted than was asked for", func(g *kv.LeaseGrant) { g.ID = 0 }, "lease/is granted under the id asked for, once",
		"lease/may be used by the command that grants it, from there on"),
	grants("any time is granted", func(g *kv.LeaseGrant) { g.TTL = min(g.TTL, leaseTTLMax) }, "lease/is granted for 9,000,000,000 s at most"),
	answers("the time asked for is told, not the one granted", func(op kv.Op, r *kv.OpResult) {
		if g, ok := op.(kv.LeaseGrant); ok && len(r.Leases) > 0 {
			r.Leases = []kv.Lease{{ID: r.Leases[0].ID, TTL: g.TTL, Granted: g.TTL}}
		}
	}, "lease/asked for too short a time is granted the least there is, and says so"),
	revoking("revoked leases leave their keys", func(m *Memory, v kv.KeyValue) {
		_, _ = m.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Put{Key: v.Key, IgnoreValue: true}}})
	}, "lease/that is revoked takes its keys along, in order and at one revision", "lease/holds what was put under it last, and nothing that has left it"),
	revoking("keys are deleted one by one", func(m *Memory, v kv.KeyValue) {
		_, _ = m.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Delete{Key: v.Key}}})
	}, "lease/that is revoked takes its keys along, in order and at one revision"),
	results("leases that are gone are as good as others", func(_ *faulty, _ kv.Command, r *kv.Result, err error) error {
		if kv.CodeOf(err) == kv.LeaseNotFound {
			r.Ops = []kv.OpResult{{Leases: []kv.Lease{{TTL: 5}}}}
			return nil
		}
		return err
	}, "lease/that is gone is known to be"),
	answers("nobody hears of a lease's keys", func(op kv.Op, r *kv.OpResult) {
		if _, ok := op.(kv.LeaseTTL); ok {
			r.KVs = nil
		}
	}, "lease/says what it has left, and which keys it has", "lease/holds what was put under it last, and nothing that has left it"),
	answers("no lease is listed", func(op kv.Op, r *kv.OpResult) {
		if _, ok := op.(kv.LeaseList); ok {
			r.Leases = nil
		}
	}, "lease/is listed while it is there"),
	change("keys never leave a lease", func(m *Memory, c kv.Command) kv.Command {
		c.Ops = slices.Clone(c.Ops)
		for i, op := range c.Ops {
			p, ok := op.(kv.Put)
			if !ok || p.Lease != 0 {
				continue
			}
			if _, err := m.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Put{Key: p.Key, IgnoreValue: true, IgnoreLease: true}}}); err == nil {
				p.IgnoreLease = true
				c.Ops[i] = p
			}
		}
		return c
	}, "lease/holds what was put under it last, and nothing that has left it"),
	ops("leases are not compared", func(op kv.Op) kv.Op {
		if t, ok := op.(kv.Txn); ok {
			t.Compares = slices.DeleteFunc(slices.Clone(t.Compares), func(c kv.Compare) bool { return c.Target == kv.TargetLease })
			return t
		}
		return op
	}, "lease/is compared, by its id"),
	grants("leases never end", func(g *kv.LeaseGrant) { g.TTL = longTTL }, "expiry/deletes the keys of a lease when its time is over, and not before"),
	grants("leases end early", func(g *kv.LeaseGrant) { g.TTL /= 2 }, "expiry/deletes the keys of a lease when its time is over, and not before"),
	{"renewals are not done", []string{"expiry/waits for a lease that is renewed"}, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			if op, ok := c.Ops[0].(kv.LeaseKeepAlive); ok {
				return kv.Result{Ops: []kv.OpResult{{Leases: []kv.Lease{{ID: op.ID, TTL: longTTL, Granted: longTTL}}}}}, nil
			}
			return f.Memory.Do(ctx, c)
		}
	}},
}
