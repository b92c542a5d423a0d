package apitest

import (
	"bytes"
	"cmp"
	"slices"

	"holdfast/kv"
)

// transaction is one command or query being carried out: writes are kept aside until all of it has succeeded.
type transaction struct {
	m        *Memory
	writes   map[string]version
	events   []kv.Event
	branches []bool          // of each Txn, in the order of walking: whether its compares hold
	then     []func()        // changes of what is not a key
	granted  map[int64]int64 // leases, by id, with their TTL
}

// get returns a key as it stands: revision 0 is now, this transaction's own writes included.
func (t *transaction) get(key []byte, revision int64) (kv.KeyValue, bool) {
	if revision == 0 {
		if w, ok := t.writes[string(key)]; ok {
			return w.KeyValue, !w.deleted
		}
		revision = t.m.revision
	}
	i, found := t.m.find(key)
	if !found {
		return kv.KeyValue{}, false
	}
	v, exists := t.m.keys[i].at(revision)
	if !exists {
		return kv.KeyValue{}, false
	}
	return v, true
}

// within returns the keys of a range that exist, in order.
func (t *transaction) within(key, end []byte, revision int64) []kv.KeyValue {
	if len(end) == 0 {
		if v, ok := t.get(key, revision); ok {
			return []kv.KeyValue{v}
		}
		return nil
	}
	var names [][]byte
	first, _ := t.m.find(key)
	for _, h := range t.m.keys[first:] {
		if !kv.Contains(key, end, h.key) {
			break
		}
		names = append(names, h.key)
	}
	for name := range t.writes {
		if kv.Contains(key, end, []byte(name)) {
			names = append(names, []byte(name))
		}
	}
	slices.SortFunc(names, bytes.Compare)
	var out []kv.KeyValue
	for _, name := range slices.CompactFunc(names, bytes.Equal) {
		if v, ok := t.get(name, revision); ok {
			out = append(out, v)
		}
	}
	return out
}

// holds evaluates a compare against what is there.
func (t *transaction) holds(c kv.Compare) bool {
	found := t.within(c.Key, c.End, 0)
	if len(found) == 0 { // as in etcd, a range without keys is like a key that is absent
		if c.Target == kv.TargetValue {
			return false
		}
		found = []kv.KeyValue{{}}
	}
	return !slices.ContainsFunc(found, func(v kv.KeyValue) bool { return !relates(v, c) })
}

func relates(v kv.KeyValue, c kv.Compare) bool {
	var order int
	switch c.Target {
	case kv.TargetVersion:
		order = cmp.Compare(v.Version, c.Num)
	case kv.TargetCreate:
		order = cmp.Compare(v.CreateRevision, c.Num)
	case kv.TargetMod:
		order = cmp.Compare(v.ModRevision, c.Num)
	case kv.TargetLease:
		order = cmp.Compare(v.Lease, c.Num)
	case kv.TargetValue:
		order = bytes.Compare(v.Value, c.Value)
	}
	switch c.Relation {
	case kv.Equal:
		return order == 0
	case kv.Greater:
		return order > 0
	case kv.Less:
		return order < 0
	default:
		return order != 0
	}
}

// decide chooses the branch of every Txn that will be walked, before anything is written: as in etcd, a nested Txn
// compares with what stood before the command.
func (t *transaction) decide(ops []kv.Op) {
	for _, op := range ops {
		if op, ok := op.(kv.Txn); ok {
			holds := !slices.ContainsFunc(op.Compares, func(c kv.Compare) bool { return !t.holds(c) })
			t.branches = append(t.branches, holds)
			t.decide(branch(op, holds))
		}
	}
}

func branch(op kv.Txn, holds bool) []kv.Op {
	if holds {
		return op.Then
	}
	return op.Else
}

func (t *transaction) run(ops []kv.Op) ([]kv.OpResult, error) {
	results := make([]kv.OpResult, 0, len(ops))
	for _, op := range ops {
		r, err := t.op(op)
		if err != nil {
			return nil, err
		}
		results = append(results, r)
	}
	return results, nil
}

func (t *transaction) op(op kv.Op) (kv.OpResult, error) {
	switch op := op.(type) {
	case kv.Put:
		return t.put(op)
	case kv.Delete:
		return t.delete(op), nil
	case kv.Range:
		return t.query(op)
	case kv.Txn:
		holds := t.branches[0]
		t.branches = t.branches[1:]
		results, err := t.run(branch(op, holds))
		return kv.OpResult{Succeeded: holds, Ops: results}, err
	case kv.Compact:
		return kv.OpResult{}, t.compact(op)
	case kv.LeaseGrant:
		return t.grant(op)
	case kv.LeaseRevoke:
		return kv.OpResult{}, t.revoke(op)
	case kv.LeaseKeepAlive:
		return t.keepAlive(op)
	case kv.LeaseTTL:
		return t.timeLeft(op), nil
	case kv.LeaseList:
		return t.listLeases(), nil
	case kv.ReadAuth:
		return kv.OpResult{Succeeded: op.What == kv.AuthRoot || op.What == kv.AuthSomeone}, nil // authentication is off, and everybody may
	case kv.LeaderTerm:
		t.then = append(t.then, func() { t.m.term = op.Nonce })
		return kv.OpResult{}, nil
	case kv.OpenEpoch:
		return kv.OpResult{}, nil // NewMemory has set one
	default:
		return kv.OpResult{}, kv.Errorf(kv.Unsupported, "%T is not served from memory", op)
	}
}

func (t *transaction) compact(op kv.Compact) error {
	switch {
	case op.Term != 0 && op.Term != t.m.term: // void
	case op.Revision > t.m.revision:
		return t.m.errFuture(op.Revision)
	case op.Revision <= t.m.compacted:
		if op.Revision == 0 && t.m.compacted == 0 {
			return nil
		}
		return t.m.errCompacted(op.Revision)
	default:
		t.then = append(t.then, func() { t.m.compact(op) })
	}
	return nil
}

func (t *transaction) put(op kv.Put) (kv.OpResult, error) {
	old, existed := t.get(op.Key, 0)
	switch {
	case op.Lease != 0 && t.leaseTTL(op.Lease) == 0:
		return kv.OpResult{}, errNoLease(op.Lease)
	case (op.IgnoreValue || op.IgnoreLease) && !existed:
		return kv.OpResult{}, kv.Errorf(kv.KeyNotFound, "the key %q does not exist", op.Key)
	}
	revision := t.m.revision + 1
	fresh := kv.KeyValue{Key: op.Key, Value: op.Value, CreateRevision: revision, ModRevision: revision, Version: 1, Lease: op.Lease}
	if existed {
		fresh.CreateRevision, fresh.Version = old.CreateRevision, old.Version+1
		if op.IgnoreValue {
			fresh.Value = old.Value
		}
		if op.IgnoreLease {
			fresh.Lease = old.Lease
		}
	}
	t.write(version{KeyValue: fresh}, old, existed)
	result := kv.OpResult{Created: !existed}
	if op.PrevKV && existed {
		result.KVs = []kv.KeyValue{old}
	}
	return result, nil
}

func (t *transaction) delete(op kv.Delete) kv.OpResult {
	gone := t.within(op.Key, op.End, 0)
	for _, old := range gone {
		t.write(version{kv.KeyValue{Key: old.Key, ModRevision: t.m.revision + 1}, true}, old, true)
	}
	result := kv.OpResult{Count: int64(len(gone))}
	if op.PrevKV {
		result.KVs = gone
	}
	return result
}

func (t *transaction) write(v version, old kv.KeyValue, existed bool) {
	t.writes[string(v.Key)] = v
	e := kv.Event{Delete: v.deleted, KV: v.KeyValue}
	if existed {
		e.Prev = &old
	}
	t.events = append(t.events, e)
}

func (t *transaction) query(op kv.Range) (kv.OpResult, error) {
	switch {
	case op.Revision > t.m.revision:
		return kv.OpResult{}, t.m.errFuture(op.Revision)
	case op.Revision > 0 && op.Revision < t.m.compacted:
		return kv.OpResult{}, t.m.errCompacted(op.Revision)
	}
	found := t.within(op.Key, op.End, op.Revision)
	result := kv.OpResult{Count: int64(len(found))} // whatever the bounds leave, as etcd has it
	if op.CountOnly {
		return result, nil
	}
	found = slices.DeleteFunc(found, func(v kv.KeyValue) bool {
		return op.MinMod > 0 && v.ModRevision < op.MinMod || op.MaxMod > 0 && v.ModRevision > op.MaxMod ||
			op.MinCreate > 0 && v.CreateRevision < op.MinCreate || op.MaxCreate > 0 && v.CreateRevision > op.MaxCreate
	})
	if n := op.Head(); n > 0 && int64(len(found)) > n {
		found = found[:n]
	}
	order(found, op.Sort, op.Order)
	if op.Limit > 0 && int64(len(found)) > op.Limit {
		found, result.More = found[:op.Limit], true
	}
	if op.KeysOnly {
		for i := range found {
			found[i].Value = nil
		}
	}
	result.KVs = found
	return result, nil
}

// order sorts what is in order of the key; equals stay in that order.
func order(kvs []kv.KeyValue, by kv.Target, direction kv.Order) {
	if direction == kv.OrderNone && by == kv.TargetKey {
		return
	}
	slices.SortStableFunc(kvs, func(a, b kv.KeyValue) int {
		var c int
		switch by {
		case kv.TargetVersion:
			c = cmp.Compare(a.Version, b.Version)
		case kv.TargetCreate:
			c = cmp.Compare(a.CreateRevision, b.CreateRevision)
		case kv.TargetMod:
			c = cmp.Compare(a.ModRevision, b.ModRevision)
		case kv.TargetValue:
			c = bytes.Compare(a.Value, b.Value)
		default:
			c = bytes.Compare(a.Key, b.Key)
		}
		if direction == kv.OrderDescend {
			return -c
		}
		return c
	})
}

// commit makes the writes part of the store, all at the next revision.
func (t *transaction) commit() {
	for _, f := range t.then {
		f()
	}
	if len(t.events) == 0 {
		return
	}
	for name, v := range t.writes {
		i, found := t.m.find([]byte(name))
		if !found {
			t.m.keys = slices.Insert(t.m.keys, i, history{key: []byte(name)})
		}
		t.m.keys[i].versions = append(t.m.keys[i].versions, v)
	}
	t.m.events = append(t.m.events, t.events...)
	t.m.revision++
	t.m.announce()
}
