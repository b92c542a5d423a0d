package proxy

import (
	"bytes"
	"cmp"
	"slices"

	"holdfast/kv"
)

// evaluate answers a Range of the newest revision from the keys of the range, which are in order and shared. What it
// answers may be shared too: as it is, a part of it is the same part of the same memory.
func evaluate(r kv.Range, kvs []kv.KeyValue) (res kv.OpResult) {
	res.Count = int64(len(kvs)) // as etcd has it, before the filters
	if r.CountOnly {
		return res
	}
	mine := false // the keys are a copy
	if filters(r) {
		kvs, mine = slices.DeleteFunc(slices.Clone(kvs), func(v kv.KeyValue) bool {
			return r.MinMod > 0 && v.ModRevision < r.MinMod || r.MaxMod > 0 && v.ModRevision > r.MaxMod ||
				r.MinCreate > 0 && v.CreateRevision < r.MinCreate || r.MaxCreate > 0 && v.CreateRevision > r.MaxCreate
		}), true
	}
	if n := r.Head(); n > 0 && int64(len(kvs)) > n {
		kvs = kvs[:n:n]
	}
	if r.Sort != kv.TargetKey || r.Order == kv.OrderDescend { // keys that are equal stay in order of key
		if !mine {
			kvs, mine = slices.Clone(kvs), true
		}
		slices.SortStableFunc(kvs, func(a, b kv.KeyValue) int {
			if r.Order == kv.OrderDescend {
				a, b = b, a
			}
			return compareBy(r.Sort, a, b)
		})
	}
	if r.Limit > 0 && int64(len(kvs)) > r.Limit {
		kvs, res.More = kvs[:r.Limit:r.Limit], true
	}
	if r.KeysOnly {
		if !mine {
			kvs = slices.Clone(kvs)
		}
		for i := range kvs {
			kvs[i].Value = nil
		}
	}
	res.KVs = kvs
	return res
}

func filters(r kv.Range) bool {
	return r.MinMod > 0 || r.MaxMod > 0 || r.MinCreate > 0 || r.MaxCreate > 0
}

func compareBy(t kv.Target, a, b kv.KeyValue) int {
	switch t {
	case kv.TargetVersion:
		return cmp.Compare(a.Version, b.Version)
	case kv.TargetCreate:
		return cmp.Compare(a.CreateRevision, b.CreateRevision)
	case kv.TargetMod:
		return cmp.Compare(a.ModRevision, b.ModRevision)
	case kv.TargetValue:
		return bytes.Compare(a.Value, b.Value)
	default:
		return bytes.Compare(a.Key, b.Key)
	}
}
