package mvcc

import (
	"bytes"
	"encoding/binary"
	"slices"

	"holdfast/kv"
)

// The bounds of a lease's time to live, in seconds. They are part of the replicated history.
const (
	// MinLeaseTTL is what a shorter TTL is raised to: one and a half election timeouts, rounded up to seconds, as etcd
	// computes it. The ticks of a cluster never change, so neither does this.
	MinLeaseTTL = 2
	// MaxLeaseTTL is the longest, some 285 years, as in etcd.
	MaxLeaseTTL = 9_000_000_000
)

// MaxLeaseKeyBytes is the longest key that is put under a lease: beside the lease's id it has to fit into a key of bbolt.
const MaxLeaseKeyBytes = MaxKeyBytes - 1 - 8

// A lease is two kinds of entries of the side table: itself, and each key that lives under it. So a lease costs no
// memory here, and what a revocation deletes is found without a look at other keys. No clock is read: a lease ends when
// the log says so.
const (
	sideLease    = 'l' // | id(8) -> TTL in seconds (uvarint)
	sideLeaseKey = 'k' // | id(8), key -> nothing
)

func leaseName(id int64) string {
	return string(binary.BigEndian.AppendUint64([]byte{sideLease}, uint64(id)))
}

// leaseKeyPrefix is what the entries of a lease's keys begin with.
func leaseKeyPrefix(id int64) []byte {
	return binary.BigEndian.AppendUint64([]byte{sideLeaseKey}, uint64(id))
}

func leaseNotFound(id int64) *kv.Error {
	return kv.Errorf(kv.LeaseNotFound, "there is no lease %016x, or it has expired", uint64(id))
}

func checkGrant(op kv.LeaseGrant, depth int) *kv.Error {
	switch {
	case depth > 0:
		return kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
	case op.ID == 0:
		return kv.Errorf(kv.Invalid, "the lease has no id")
	case op.TTL > MaxLeaseTTL:
		return kv.Errorf(kv.LeaseTTLTooLarge, "a time to live of %d s is asked for, the limit is %d s", op.TTL, int64(MaxLeaseTTL))
	}
	return nil
}

// asksLeases reports whether ops, nested ones included, ask about leases. The log does not know how long one has left.
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

// granted is the TTL of a lease as the command has left it so far, 0 if there is no such lease.
func (x *exec) granted(id int64) (ttl int64, err error) {
	b, err := x.staged(leaseName(id))
	if err != nil || b == nil {
		return 0, err
	}
	return parseTTL(id, b)
}

func parseTTL(id int64, b []byte) (int64, error) {
	n, w := binary.Uvarint(b)
	if w != len(b) || n < MinLeaseTTL || n > MaxLeaseTTL {
		return 0, corruptf("the lease %016x is malformed", uint64(id))
	}
	return int64(n), nil
}

// grant stages a new lease.
func (x *exec) grant(op kv.LeaseGrant) (res kv.OpResult, err error) {
	has, err := x.granted(op.ID)
	if err != nil {
		return res, err
	}
	if has != 0 {
		return res, kv.Errorf(kv.LeaseExists, "the lease %016x exists already", uint64(op.ID))
	}
	ttl := max(op.TTL, MinLeaseTTL)
	x.stageSide(leaseName(op.ID), binary.AppendUvarint(nil, uint64(ttl)))
	x.leases = append(x.leases, kv.Lease{ID: op.ID, TTL: ttl, Granted: ttl})
	res.Leases = []kv.Lease{{ID: op.ID, TTL: ttl, Granted: ttl}}
	return res, nil
}

// revoke ends a lease and deletes its keys in order, all at one revision. One whose term is not the leader's any more
// does nothing. It is the only op of its command, so nothing is staged yet.
func (x *exec) revoke(op kv.LeaseRevoke) error {
	if op.Term != 0 && op.Term != x.control.term {
		return nil
	}
	ttl, err := x.granted(op.ID)
	if err != nil {
		return err
	}
	if ttl == 0 {
		return leaseNotFound(op.ID)
	}
	keys, err := x.r.leaseKeys(op.ID)
	if err != nil {
		return err
	}
	gone := make([]*record, 0, len(keys))
	for _, k := range keys {
		if !k.there {
			continue
		}
		if err := x.r.refresh(); err != nil {
			return err
		}
		v, err := x.r.get([]byte(k.key), x.now())
		if err != nil {
			return err
		}
		if v == nil || v.deleted || v.lease != op.ID {
			return corruptf("the key %q is listed under the lease %016x and does not live under it", k.key, uint64(op.ID))
		}
		rec := &record{deleted: true, prev: v.rev, sub: uint32(len(gone))}
		rec.Key, rec.ModRevision = []byte(k.key), x.base+1
		gone = append(gone, rec)
		x.move(k.key, op.ID, 0)
	}
	x.change(gone...)
	x.stageSide(leaseName(op.ID), nil)
	x.leases = append(x.leases, kv.Lease{ID: op.ID})
	return nil
}

// move stages that a key, which lived under the lease was, now lives under another; 0 is none.
func (x *exec) move(key string, was, now int64) {
	if was == now {
		return
	}
	if was != 0 {
		x.moved = append(x.moved, leaseKey{was, key, false})
	}
	if now != 0 {
		x.moved = append(x.moved, leaseKey{now, key, true})
	}
}

// leaseTTL answers kv.LeaseTTL, with the whole TTL as what is left: who keeps the time knows better.
func (x *exec) leaseTTL(op kv.LeaseTTL) (res kv.OpResult, err error) {
	ttl, err := x.granted(op.ID)
	if err != nil {
		return res, err
	}
	if ttl == 0 {
		res.Leases = []kv.Lease{{ID: op.ID, TTL: -1}}
		return res, nil
	}
	res.Leases = []kv.Lease{{ID: op.ID, TTL: ttl, Granted: ttl}}
	if !op.Keys {
		return res, nil
	}
	keys, err := x.r.leaseKeys(op.ID)
	if err != nil {
		return res, err
	}
	if x.r.s.layers.Load().active != x.r.l.active {
		return res, errPassed // what has left the lease since may be in the file already
	}
	for _, k := range keys {
		if err := x.r.refresh(); err != nil {
			return res, err
		}
		v, err := x.r.get([]byte(k.key), x.now())
		if err != nil {
			return res, err
		}
		if v != nil && !v.deleted && v.lease == op.ID {
			res.KVs = append(res.KVs, kv.KeyValue{Key: []byte(k.key)})
		}
	}
	res.Count = int64(len(res.KVs))
	return res, nil
}

// leaseList answers kv.LeaseList.
func (x *exec) leaseList() (res kv.OpResult, err error) {
	names, values, err := x.r.sidesUnder(string(sideLease))
	if err != nil {
		return res, err
	}
	for i, name := range names {
		if len(name) != 1+8 {
			return res, corruptf("a lease has the name %q", name)
		}
		id := int64(binary.BigEndian.Uint64([]byte(name[1:])))
		ttl, err := parseTTL(id, values[i])
		if err != nil {
			return res, err
		}
		res.Leases = append(res.Leases, kv.Lease{ID: id, TTL: ttl, Granted: ttl})
	}
	res.Count = int64(len(res.Leases))
	return res, nil
}

// leaseKeys returns, in order, the keys that live under a lease, and those that have left it since the file was written,
// with There false: a reader of an earlier revision may find them under it still.
func (r *reader) leaseKeys(id int64) ([]leaseKey, error) {
	all := map[string]bool{}
	if err := r.open(); err != nil {
		return nil, err
	}
	prefix := leaseKeyPrefix(id)
	if b := r.tx.Bucket(bucketSide); b != nil {
		c := b.Cursor()
		for k, v := c.Seek(prefix); k != nil && bytes.HasPrefix(k, prefix); k, v = c.Next() {
			r.entries++
			if _, err := openSide(k, v); err != nil {
				return nil, err
			}
			all[string(k[len(prefix):])] = true
		}
	}
	for _, o := range [2]*overlay{r.l.flushing, r.l.active} { // the newer one last
		if o != nil {
			o.leased.collect(id, all)
		}
	}
	keys := make([]leaseKey, 0, len(all))
	for k, there := range all {
		keys = append(keys, leaseKey{id, k, there})
	}
	slices.SortFunc(keys, leaseKey.compare)
	return keys, nil
}
