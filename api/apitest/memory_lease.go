package apitest

import (
	"context"
	"errors"
	"math/rand/v2"
	"slices"
	"time"

	"holdfast/kv"
)

// The bounds of a lease's time, in seconds.
const (
	leaseTTLMin = 2
	leaseTTLMax = 9_000_000_000
)

// lease is one that has not ended.
type lease struct {
	ttl   int64
	ends  time.Time
	timer *time.Timer
}

// validateLeases refuses what leases may not be asked: what stands with others that must stand alone, and questions in
// what changes something.
func validateLeases(c kv.Command) error {
	if asksLeases(c.Ops) && (len(c.Guards) > 0 || !kv.ReadOnly(c.Ops)) {
		return kv.Errorf(kv.Invalid, "a command that changes something does not ask about leases")
	}
	return leasesStand(c.Ops, 0, len(c.Guards) > 0)
}

func leasesStand(ops []kv.Op, depth int, guarded bool) error {
	for _, op := range ops {
		switch op := op.(type) {
		case kv.LeaseGrant:
			if depth > 0 {
				return kv.Errorf(kv.Invalid, "a grant is not part of a transaction")
			}
			if op.TTL > leaseTTLMax {
				return kv.Errorf(kv.LeaseTTLTooLarge, "%d s are more than %d", op.TTL, int64(leaseTTLMax))
			}
		case kv.LeaseRevoke:
			if depth > 0 || len(ops) > 1 || op.Term != 0 {
				return kv.Errorf(kv.Invalid, "a revocation is the only op of its command")
			}
		case kv.LeaseKeepAlive:
			if depth > 0 || len(ops) > 1 || guarded {
				return kv.Errorf(kv.Invalid, "a renewal is the only op of its command")
			}
		case kv.Txn:
			for _, branch := range [][]kv.Op{op.Then, op.Else} {
				if err := leasesStand(branch, depth+1, guarded); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

func asksLeases(ops []kv.Op) bool {
	return slices.ContainsFunc(ops, func(op kv.Op) bool {
		switch op := op.(type) {
		case kv.LeaseTTL, kv.LeaseList:
			return true
		case kv.Txn:
			return asksLeases(op.Then) || asksLeases(op.Else)
		}
		return false
	})
}

// leaseTTL is the time that a lease was granted, 0 if there is none.
func (t *transaction) leaseTTL(id int64) int64 {
	if ttl, ok := t.granted[id]; ok {
		return ttl
	}
	if l := t.m.leases[id]; l != nil {
		return l.ttl
	}
	return 0
}

func errNoLease(id int64) *kv.Error { return kv.Errorf(kv.LeaseNotFound, "there is no lease %d", id) }

func (t *transaction) grant(op kv.LeaseGrant) (kv.OpResult, error) {
	for op.ID == 0 {
		op.ID = rand.Int64() //nolint:gosec // any will do
	}
	if t.leaseTTL(op.ID) != 0 {
		return kv.OpResult{}, kv.Errorf(kv.LeaseExists, "the lease %d exists", op.ID)
	}
	ttl := max(op.TTL, leaseTTLMin)
	if t.granted == nil {
		t.granted = map[int64]int64{}
	}
	t.granted[op.ID] = ttl
	t.then = append(t.then, func() { t.m.begin(op.ID, ttl) })
	return kv.OpResult{Leases: []kv.Lease{{ID: op.ID, TTL: ttl, Granted: ttl}}}, nil
}

// begin makes a lease; m.mu is held, as it is for the following ones.
func (m *Memory) begin(id, ttl int64) {
	if m.leases == nil {
		m.leases = map[int64]*lease{}
	}
	l := &lease{ttl: ttl, ends: time.Now().Add(m.time(ttl))}
	l.timer = time.AfterFunc(m.time(ttl), func() { m.expire(id, l) })
	m.leases[id] = l
}

// time is how long so many seconds of a lease take.
func (m *Memory) time(seconds int64) time.Duration {
	second := m.second
	if second == 0 {
		second = time.Second
	}
	return time.Duration(seconds) * second
}

func (m *Memory) end(id int64) {
	m.leases[id].timer.Stop()
	delete(m.leases, id)
}

// expire is what a lease's timer does.
func (m *Memory) expire(id int64, l *lease) {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.leases[id] != l {
		return // revoked meanwhile
	}
	if left := time.Until(l.ends); left > 0 {
		l.timer.Reset(left) // renewed meanwhile
		return
	}
	t := &transaction{m: m, writes: map[string]version{}}
	t.deleteLeased(id)
	t.commit()
}

func (t *transaction) revoke(op kv.LeaseRevoke) error {
	if t.leaseTTL(op.ID) == 0 {
		return errNoLease(op.ID)
	}
	t.deleteLeased(op.ID)
	return nil
}

// deleteLeased ends a lease and deletes its keys, in order.
func (t *transaction) deleteLeased(id int64) {
	for _, old := range t.within(kv.FromKey(), kv.FromKey(), 0) {
		if old.Lease == id {
			t.write(version{kv.KeyValue{Key: old.Key, ModRevision: t.m.revision + 1}, true}, old, true)
		}
	}
	t.then = append(t.then, func() { t.m.end(id) })
}

// renewEach renews the leases of a batch, each by itself.
func (m *Memory) renewEach(ctx context.Context, batch kv.Each) (kv.Result, error) {
	var res kv.Result
	outs := make([]kv.Outcome, len(batch.Commands))
	for i, one := range batch.Commands {
		var err error
		if outs[i].Result, err = m.Do(ctx, one); err != nil {
			outs[i].Err, _ = errors.AsType[*kv.Error](err)
		} else {
			res.Header = outs[i].Result.Header
		}
	}
	res.Ops = []kv.OpResult{{Each: outs}}
	return res, nil
}

func (t *transaction) keepAlive(op kv.LeaseKeepAlive) (kv.OpResult, error) {
	l := t.m.leases[op.ID]
	if l == nil {
		return kv.OpResult{}, errNoLease(op.ID)
	}
	l.ends = time.Now().Add(t.m.time(l.ttl))
	return kv.OpResult{Leases: []kv.Lease{{ID: op.ID, TTL: l.ttl, Granted: l.ttl}}}, nil
}

func (t *transaction) timeLeft(op kv.LeaseTTL) (result kv.OpResult) {
	l := t.m.leases[op.ID]
	if l == nil {
		return kv.OpResult{Leases: []kv.Lease{{ID: op.ID, TTL: -1}}}
	}
	left := max(time.Until(l.ends)/t.m.time(1), 0)
	result.Leases = []kv.Lease{{ID: op.ID, TTL: int64(left), Granted: l.ttl}}
	if op.Keys {
		for _, v := range t.within(kv.FromKey(), kv.FromKey(), 0) {
			if v.Lease == op.ID {
				result.KVs = append(result.KVs, kv.KeyValue{Key: v.Key})
			}
		}
		result.Count = int64(len(result.KVs))
	}
	return result
}

func (t *transaction) listLeases() (result kv.OpResult) {
	for id, l := range t.m.leases {
		result.Leases = append(result.Leases, kv.Lease{ID: id, TTL: l.ttl, Granted: l.ttl})
	}
	slices.SortFunc(result.Leases, byLease)
	result.Count = int64(len(result.Leases))
	return result
}
