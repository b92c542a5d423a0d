package mvcc

import (
	"bytes"
	"cmp"
	"maps"
	"reflect"
	"slices"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// model is the store as simply as it can be said: every change ever made, in a list per key. It is written against the
// documented behaviour, not against the store, and keeps what compaction gives up.
type model struct {
	rev, compact int64
	epoch        kv.Epoch
	term         uint64
	keys         map[string][]change // oldest first
	leases       map[int64]int64     // to their TTL
	retries      map[[16]byte]answered
}

// answered is a command with a retry key, and how it ended.
type answered struct {
	ops []kv.Op
	out kv.Outcome
}

// change is one change of one key, with the place it had among those of its revision.
type change struct {
	kv.KeyValue
	deleted bool
	sub     int
}

func newModel() *model {
	return &model{rev: 1, keys: map[string][]change{}, leases: map[int64]int64{}, retries: map[[16]byte]answered{}}
}

func (m *model) clone() *model {
	c := *m
	c.keys, c.leases = maps.Clone(m.keys), maps.Clone(m.leases)
	for k, v := range c.keys {
		c.keys[k] = slices.Clip(v)
	}
	return &c
}

func (m *model) at(key string, rev int64) (kv.KeyValue, bool) {
	var found change
	for _, c := range m.keys[key] {
		if c.ModRevision <= rev {
			found = c
		}
	}
	return found.KeyValue, found.ModRevision > 0 && !found.deleted
}

func (m *model) list(key, end []byte, rev int64) (kvs []kv.KeyValue) {
	for _, k := range slices.Sorted(maps.Keys(m.keys)) {
		if !kv.Contains(key, end, []byte(k)) {
			continue
		}
		if pair, ok := m.at(k, rev); ok {
			kvs = append(kvs, pair)
		}
	}
	return kvs
}

// events lists the changes of a range in the revisions from to upTo.
func (m *model) events(w kv.Watch, upTo int64) (events []kv.Event) {
	var all []change
	for k, cs := range m.keys {
		if kv.Contains(w.Key, w.End, []byte(k)) {
			all = append(all, cs...)
		}
	}
	slices.SortFunc(all, func(a, b change) int {
		return cmp.Or(cmp.Compare(a.ModRevision, b.ModRevision), cmp.Compare(a.sub, b.sub))
	})
	for _, c := range all {
		if c.ModRevision < w.From || c.ModRevision > upTo || c.deleted && w.NoDeletes || !c.deleted && w.NoPuts {
			continue
		}
		e := kv.Event{Delete: c.deleted, KV: c.KeyValue}
		if c.deleted {
			e.KV = kv.KeyValue{Key: c.Key, ModRevision: c.ModRevision}
		}
		if w.PrevKV && c.ModRevision-1 >= m.compact {
			if prev, ok := m.at(string(c.Key), c.ModRevision-1); ok {
				e.Prev = &prev
			}
		}
		events = append(events, e)
	}
	return events
}

// retained counts the changes that are left when everything compacted is gone.
func (m *model) retained() (n int) {
	for _, cs := range m.keys {
		for i, c := range cs {
			superseded := i+1 < len(cs) && cs[i+1].ModRevision <= m.compact
			if !superseded && (!c.deleted || c.ModRevision >= m.compact) {
				n++
			}
		}
	}
	return n
}

// run is a command in the model: it works on a copy that replaces the model if all goes well.
type run struct {
	before *model
	m      *model
	subs   int
}

func (m *model) apply(c kv.Command) kv.Outcome {
	past, again := m.retries[c.ID.Key]
	switch {
	case again && !reflect.DeepEqual(past.ops, c.Ops):
		return kv.Outcome{Err: &kv.Error{Code: kv.Reused}}
	case again && past.out.Err == nil && len(wire.AppendOutcome(nil, past.out))+17 > retryAnswerMax:
		return kv.Outcome{Err: &kv.Error{Code: kv.OutcomeUnknown, Revision: past.out.Result.Revision}}
	case again:
		return past.out
	}
	out := m.try(c)
	out.Result.Epoch, out.Result.Revision = m.epoch, m.rev
	if c.ID.Key != [16]byte{} {
		m.retries[c.ID.Key] = answered{c.Ops, out}
	}
	return out
}

func (m *model) try(c kv.Command) kv.Outcome {
	if err := Check(c); err != nil {
		return kv.Outcome{Err: err}
	}
	for _, g := range c.Guards {
		if !m.holds(g.Compare) {
			e := &kv.Error{Code: kv.PreconditionFailed}
			for _, pair := range m.list(g.Key, g.End, m.rev) {
				if !compareOne(g.Compare, pair, true) {
					e.Revision = pair.ModRevision
					break
				}
			}
			return kv.Outcome{Err: e}
		}
	}
	r := &run{before: m, m: m.clone()}
	ops, err := r.ops(c.Ops)
	if err != nil {
		return kv.Outcome{Err: err}
	}
	if r.subs > 0 {
		r.m.rev++
	}
	*m = *r.m
	return kv.Outcome{Result: kv.Result{Ops: ops}}
}

func (r *run) ops(ops []kv.Op) (results []kv.OpResult, err *kv.Error) {
	for _, op := range ops {
		var res kv.OpResult
		switch op := op.(type) {
		case kv.Put:
			res, err = r.put(op)
		case kv.Delete:
			res = r.delete(op)
		case kv.Range:
			res, err = r.m.scan(op, r.before.rev, r.before.rev+min(1, int64(r.subs)), r.before.compact)
		case kv.Txn:
			res.Succeeded = true
			for _, c := range op.Compares {
				res.Succeeded = res.Succeeded && r.before.holds(c)
			}
			branch := op.Else
			if res.Succeeded {
				branch = op.Then
			}
			res.Ops, err = r.ops(branch)
		case kv.Compact:
			switch {
			case op.Term != 0 && op.Term != r.m.term:
			case op.Revision == 0 && r.m.compact == 0:
			case op.Revision <= r.m.compact:
				err = &kv.Error{Code: kv.Compacted, Revision: r.m.compact}
			case op.Revision > r.before.rev:
				err = &kv.Error{Code: kv.FutureRevision, Revision: r.before.rev}
			default:
				r.m.compact = op.Revision
			}
		case kv.LeaseGrant:
			if r.m.leases[op.ID] != 0 {
				err = &kv.Error{Code: kv.LeaseExists}
				break
			}
			r.m.leases[op.ID] = max(op.TTL, 2)
			res.Leases = []kv.Lease{{ID: op.ID, TTL: max(op.TTL, 2), Granted: max(op.TTL, 2)}}
		case kv.LeaseRevoke:
			err = r.revoke(op)
		case kv.LeaseTTL:
			res = r.m.leaseTTL(op)
		case kv.LeaseList:
			for _, id := range slices.Sorted(maps.Keys(r.m.leases)) {
				res.Leases = append(res.Leases, kv.Lease{ID: id, TTL: r.m.leases[id], Granted: r.m.leases[id]})
			}
			res.Count = int64(len(res.Leases))
		case kv.LeaderTerm:
			r.m.term = op.Nonce
		case kv.OpenEpoch:
			if r.m.epoch.IsZero() {
				r.m.epoch = op.Epoch
			}
		default:
			err = &kv.Error{Code: kv.Unsupported}
		}
		if err != nil {
			return nil, err
		}
		results = append(results, res)
	}
	return results, nil
}

func (r *run) put(op kv.Put) (res kv.OpResult, err *kv.Error) {
	if op.Lease != 0 && r.m.leases[op.Lease] == 0 {
		return res, &kv.Error{Code: kv.LeaseNotFound}
	}
	now := r.before.rev + 1
	old, there := r.m.at(string(op.Key), now)
	if !there && (op.IgnoreValue || op.IgnoreLease) {
		return res, &kv.Error{Code: kv.KeyNotFound}
	}
	pair := kv.KeyValue{Key: op.Key, Value: op.Value, CreateRevision: now, ModRevision: now, Version: 1, Lease: op.Lease}
	if there {
		pair.CreateRevision, pair.Version = old.CreateRevision, old.Version+1
		if op.IgnoreValue {
			pair.Value = old.Value
		}
		if op.IgnoreLease {
			pair.Lease = old.Lease
		}
		if op.PrevKV {
			res.KVs = []kv.KeyValue{old}
		}
	}
	res.Created = !there
	r.add(change{KeyValue: pair})
	return res, nil
}

func (r *run) delete(op kv.Delete) (res kv.OpResult) {
	now := r.before.rev + 1
	for _, old := range r.m.list(op.Key, op.End, now) {
		res.Count++
		if op.PrevKV {
			res.KVs = append(res.KVs, old)
		}
		r.add(change{KeyValue: kv.KeyValue{Key: old.Key, ModRevision: now}, deleted: true})
	}
	return res
}

func (r *run) revoke(op kv.LeaseRevoke) *kv.Error {
	switch {
	case op.Term != 0 && op.Term != r.m.term:
		return nil
	case r.m.leases[op.ID] == 0:
		return &kv.Error{Code: kv.LeaseNotFound}
	}
	delete(r.m.leases, op.ID)
	for _, p := range r.m.list([]byte{0}, []byte{0}, r.before.rev) {
		if p.Lease == op.ID {
			r.add(change{KeyValue: kv.KeyValue{Key: p.Key, ModRevision: r.before.rev + 1}, deleted: true})
		}
	}
	return nil
}

func (m *model) leaseTTL(op kv.LeaseTTL) (res kv.OpResult) {
	ttl := m.leases[op.ID]
	if ttl == 0 {
		res.Leases = []kv.Lease{{ID: op.ID, TTL: -1}}
		return res
	}
	res.Leases = []kv.Lease{{ID: op.ID, TTL: ttl, Granted: ttl}}
	for _, p := range m.list([]byte{0}, []byte{0}, m.rev) {
		if op.Keys && p.Lease == op.ID {
			res.KVs = append(res.KVs, kv.KeyValue{Key: p.Key})
		}
	}
	res.Count = int64(len(res.KVs))
	return res
}

func (r *run) add(c change) {
	c.sub = r.subs
	r.subs++
	r.m.keys[string(c.Key)] = append(slices.Clip(r.m.keys[string(c.Key)]), c)
}

// scan is a Range; now is what it sees if it names no revision.
func (m *model) scan(op kv.Range, base, now, compact int64) (res kv.OpResult, err *kv.Error) {
	at := now
	if op.Revision > 0 {
		at = op.Revision
		if at > base {
			return res, &kv.Error{Code: kv.FutureRevision, Revision: base}
		}
		if at < compact {
			return res, &kv.Error{Code: kv.Compacted, Revision: compact}
		}
	}
	kvs := m.list(op.Key, op.End, at)
	res.Count = int64(len(kvs))
	if op.CountOnly {
		return res, nil
	}
	kvs = slices.DeleteFunc(kvs, func(p kv.KeyValue) bool {
		return op.MinMod != 0 && p.ModRevision < op.MinMod || op.MaxMod != 0 && p.ModRevision > op.MaxMod ||
			op.MinCreate != 0 && p.CreateRevision < op.MinCreate || op.MaxCreate != 0 && p.CreateRevision > op.MaxCreate
	})
	if unbounded := op.MinMod|op.MaxMod|op.MinCreate|op.MaxCreate == 0; unbounded && op.Order == kv.OrderNone && op.Limit > 0 {
		kvs = kvs[:min(int64(len(kvs)), op.Limit+1)] // as etcd reads it: no order, no more than may be shown
	}
	sign := 1
	if op.Order == kv.OrderDescend {
		sign = -1
	}
	slices.SortStableFunc(kvs, func(a, b kv.KeyValue) int {
		switch op.Sort {
		case kv.TargetVersion:
			return sign * cmp.Compare(a.Version, b.Version)
		case kv.TargetCreate:
			return sign * cmp.Compare(a.CreateRevision, b.CreateRevision)
		case kv.TargetMod:
			return sign * cmp.Compare(a.ModRevision, b.ModRevision)
		case kv.TargetValue:
			return sign * bytes.Compare(a.Value, b.Value)
		default:
			return sign * bytes.Compare(a.Key, b.Key)
		}
	})
	if op.Limit > 0 && int64(len(kvs)) > op.Limit {
		kvs, res.More = kvs[:op.Limit], true
	}
	for _, p := range kvs {
		if op.KeysOnly {
			p.Value = nil
		}
		res.KVs = append(res.KVs, p)
	}
	return res, nil
}

func (m *model) holds(c kv.Compare) bool {
	kvs := m.list(c.Key, c.End, m.rev)
	if len(kvs) == 0 {
		return compareOne(c, kv.KeyValue{}, false)
	}
	for _, p := range kvs {
		if !compareOne(c, p, true) {
			return false
		}
	}
	return true
}

func compareOne(c kv.Compare, p kv.KeyValue, there bool) bool {
	n := 0
	switch c.Target {
	case kv.TargetVersion:
		n = cmp.Compare(p.Version, c.Num)
	case kv.TargetCreate:
		n = cmp.Compare(p.CreateRevision, c.Num)
	case kv.TargetMod:
		n = cmp.Compare(p.ModRevision, c.Num)
	case kv.TargetLease:
		n = cmp.Compare(p.Lease, c.Num)
	case kv.TargetValue:
		if !there {
			return false
		}
		n = bytes.Compare(p.Value, c.Value)
	}
	switch c.Relation {
	case kv.Equal:
		return n == 0
	case kv.Greater:
		return n > 0
	case kv.Less:
		return n < 0
	default:
		return n != 0
	}
}
