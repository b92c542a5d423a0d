package mvcc

import (
	"bytes"
	"cmp"
	"slices"

	"holdfast/kv"
)

// scanRange answers a Range as etcd does: Count is of the keys in the range, whatever Limit and the filters leave of
// them.
func (x *exec) scanRange(op kv.Range) (kv.OpResult, error) {
	at, err := x.revisionFor(op.Revision)
	if err != nil {
		return kv.OpResult{}, err
	}
	if len(op.End) == 0 {
		return x.one(op, at)
	}
	if sorted(op) {
		return x.sortedRange(op, at)
	}
	var res kv.OpResult
	err = x.r.scan(op.Key, op.End, at, func(v *version) (bool, error) {
		res.Count++
		if op.CountOnly || res.More || !passes(op, v) {
			return true, nil
		}
		if res.More = op.Limit > 0 && int64(len(res.KVs)) == op.Limit; res.More {
			return !op.Uncounted, nil
		}
		pair, err := x.pair(op, v)
		if err != nil {
			return false, err
		}
		res.KVs = append(res.KVs, pair)
		return true, nil
	})
	return res, err
}

// revisionFor is where a Range that names a revision reads, 0 for none. It arms the reader against a compaction that
// overtakes it.
func (x *exec) revisionFor(rev int64) (int64, error) {
	if rev <= 0 {
		if !x.write {
			x.r.floor = x.base
			if x.r.s.compact.Load() > x.base {
				return 0, errPassed
			}
		}
		return x.now(), nil
	}
	compact := x.compact
	if !x.write {
		x.r.floor = rev
		compact = max(compact, x.r.s.compact.Load())
	}
	switch {
	case rev > x.base:
		return 0, future(rev, x.base)
	case rev < compact:
		return 0, compacted(rev, compact)
	}
	return rev, nil
}

// one answers a Range for a single key.
func (x *exec) one(op kv.Range, at int64) (res kv.OpResult, err error) {
	v, err := x.r.get(op.Key, at)
	if err != nil || v == nil || v.deleted {
		return res, err
	}
	res.Count = 1
	if op.CountOnly || !passes(op, v) {
		return res, nil
	}
	pair, err := x.pair(op, v)
	if err != nil {
		return kv.OpResult{}, err
	}
	res.KVs = []kv.KeyValue{pair}
	return res, nil
}

// pair is a version as the Range wants it. Without values it is answered from the index alone.
func (x *exec) pair(op kv.Range, v *version) (kv.KeyValue, error) {
	if op.KeysOnly {
		key := v.key
		if v.rec == nil {
			key = bytes.Clone(key)
		}
		return kv.KeyValue{
			Key: key, CreateRevision: v.create, ModRevision: v.rev.main, Version: v.number, Lease: v.lease,
		}, nil
	}
	rec, err := x.r.record(v)
	if err != nil {
		return kv.KeyValue{}, err
	}
	return rec.KeyValue, nil
}

func passes(op kv.Range, v *version) bool {
	return (op.MinMod == 0 || v.rev.main >= op.MinMod) && (op.MaxMod == 0 || v.rev.main <= op.MaxMod) &&
		(op.MinCreate == 0 || v.create >= op.MinCreate) && (op.MaxCreate == 0 || v.create <= op.MaxCreate)
}

// sorted reports whether the order asked for is another than that of the keys.
func sorted(op kv.Range) bool {
	return !op.CountOnly && (op.Sort != kv.TargetKey || op.Order == kv.OrderDescend)
}

// sortedRange looks at the whole range before it answers with the first Limit keys. Unless it sorts by value it holds
// index entries meanwhile, and reads the values of the answer only.
func (x *exec) sortedRange(op kv.Range, at int64) (res kv.OpResult, err error) {
	var found []version
	head := op.Head()
	err = x.r.scan(op.Key, op.End, at, func(v *version) (bool, error) {
		res.Count++
		if !passes(op, v) || head > 0 && int64(len(found)) == head {
			return true, nil
		}
		keep := *v
		if v.rec == nil {
			keep.key = bytes.Clone(v.key)
		}
		if op.Sort == kv.TargetValue {
			rec, err := x.r.record(v)
			if err != nil {
				return false, err
			}
			keep.rec, keep.key = rec, rec.Key
		}
		found = append(found, keep)
		return true, nil
	})
	if err != nil {
		return kv.OpResult{}, err
	}
	slices.SortStableFunc(found, order(op))
	if op.Limit > 0 && int64(len(found)) > op.Limit {
		found, res.More = found[:op.Limit], true
	}
	for i := range found {
		if err := x.r.refresh(); err != nil {
			return kv.OpResult{}, err
		}
		pair, err := x.pair(op, &found[i])
		if err != nil {
			return kv.OpResult{}, err
		}
		res.KVs = append(res.KVs, pair)
	}
	return res, nil
}

// order compares by the sort target; keys that are equal in it stay in order of key, in both directions.
func order(op kv.Range) func(a, b version) int {
	by := map[kv.Target]func(a, b version) int{
		kv.TargetKey:     func(a, b version) int { return bytes.Compare(a.key, b.key) },
		kv.TargetVersion: func(a, b version) int { return cmp.Compare(a.number, b.number) },
		kv.TargetCreate:  func(a, b version) int { return cmp.Compare(a.create, b.create) },
		kv.TargetMod:     func(a, b version) int { return cmp.Compare(a.rev.main, b.rev.main) },
		kv.TargetValue:   func(a, b version) int { return bytes.Compare(a.rec.Value, b.rec.Value) },
	}[op.Sort]
	if op.Order == kv.OrderDescend {
		return func(a, b version) int { return by(b, a) }
	}
	return by
}

// compare evaluates a Compare on what was there before the command. Where it fails, mod is the revision of the key that
// it fails on, 0 for an absent one.
//
// As in etcd, a range without any key is compared like one absent key.
func (x *exec) compare(c kv.Compare) (ok bool, mod int64, err error) {
	if len(c.End) == 0 {
		v, err := x.r.get(c.Key, x.base)
		if err != nil {
			return false, 0, err
		}
		if v == nil || v.deleted {
			return absent(c), 0, nil
		}
		ok, err = x.relates(c, v)
		return ok, v.rev.main, err
	}
	none := true
	ok = true
	err = x.r.scan(c.Key, c.End, x.base, func(v *version) (bool, error) {
		none = false
		var err error
		ok, err = x.relates(c, v)
		mod = v.rev.main
		return ok, err
	})
	if none && err == nil {
		return absent(c), 0, nil
	}
	return ok, mod, err
}

func absent(c kv.Compare) bool {
	return c.Target != kv.TargetValue && holds(c.Relation, cmp.Compare(0, c.Num))
}

func (x *exec) relates(c kv.Compare, v *version) (bool, error) {
	var n int64
	switch c.Target {
	case kv.TargetValue:
		rec, err := x.r.record(v)
		if err != nil {
			return false, err
		}
		return holds(c.Relation, bytes.Compare(rec.Value, c.Value)), nil
	case kv.TargetVersion:
		n = v.number
	case kv.TargetCreate:
		n = v.create
	case kv.TargetMod:
		n = v.rev.main
	case kv.TargetLease:
		n = v.lease
	}
	return holds(c.Relation, cmp.Compare(n, c.Num)), nil
}

// holds reports whether a comparison, as of bytes.Compare, is the one asked for.
func holds(r kv.Relation, c int) bool {
	switch r {
	case kv.Equal:
		return c == 0
	case kv.Greater:
		return c > 0
	case kv.Less:
		return c < 0
	default:
		return c != 0
	}
}
