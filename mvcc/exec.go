package mvcc

import (
	"bytes"
	"errors"
	"fmt"
	"slices"

	"holdfast/auth"
	"holdfast/kv"
)

// exec runs the ops of one command or query on what a reader sees. A command's changes gather in the reader's stage,
// invisible to others, and are thrown away with it if an op is refused.
//
// Its methods return a *kv.Error for a refusal, which is a function of the log, and any other error for a fault of
// this replica: see refusal.
type exec struct {
	r       *reader
	base    int64 // revision before the command; everything is read as of it, and with the changes so far
	compact int64
	write   bool
	changes []*record
	control control
	sides   map[string][]byte // changes of the side table
	alarms  []kv.Alarm        // that stand, the changes included; in Apply only
	audit   *kv.Audit         // asked for by the command
	policy  *auth.Policy      // the changes included; in a query as of it
	leases  []kv.Lease        // granted, and with a TTL of 0 ended
	moved   []leaseKey        // keys that come under a lease, or leave one
	writer  kv.Seq            // who the changes are by, zero for nobody who is remembered
}

// control is the part of the state that a command may change beside keys.
type control struct {
	compact int64
	epoch   kv.Epoch
	term    uint64
	feature uint64
}

// refusal tells a refusal, which every replica gives, from a fault of this one.
func refusal(err error) (*kv.Error, bool) {
	e, ok := errors.AsType[*kv.Error](err)
	return e, ok && e.Code != kv.Corrupt
}

// guards checks the preconditions of a command.
func (x *exec) guards(guards []kv.Guard) error {
	for _, g := range guards {
		ok, mod, err := x.compare(g.Compare)
		if err == nil && !ok && !g.Or.IsZero() {
			ok, err = x.lastWriter(g.Key, g.Or)
		}
		if err != nil {
			return err
		}
		if !ok {
			e := kv.Errorf(kv.PreconditionFailed, "a precondition on key %q failed: its revision is %d", g.Key, mod)
			if mod == 0 {
				e = kv.Errorf(kv.PreconditionFailed, "a precondition on key %q failed: there is no such key", g.Key)
			}
			e.Revision = mod
			return e
		}
	}
	return nil
}

// lastWriter reports whether the newest change of a key, a deletion included, was made by the command at seq.
func (x *exec) lastWriter(key []byte, seq kv.Seq) (bool, error) {
	v, err := x.r.get(key, x.now())
	if err != nil || v == nil {
		return false, err
	}
	rec, err := x.r.record(v)
	return err == nil && rec.writer != nil && *rec.writer == seq, err
}

// plan evaluates the compares of all transactions on the branches that will be taken, in order, before anything is
// changed: a nested transaction compares what was there before the command.
func (x *exec) plan(ops []kv.Op, path []bool) ([]bool, error) {
	for _, op := range ops {
		t, ok := op.(kv.Txn)
		if !ok {
			continue
		}
		holds := true
		for _, c := range t.Compares {
			ok, _, err := x.compare(c)
			if err != nil {
				return nil, err
			}
			if holds = ok; !holds {
				break
			}
		}
		branch := t.Else
		if holds {
			branch = t.Then
		}
		var err error
		if path, err = x.plan(branch, append(path, holds)); err != nil {
			return nil, err
		}
	}
	return path, nil
}

// ops runs a list and returns its results and what is left of the path.
func (x *exec) ops(ops []kv.Op, path []bool) ([]kv.OpResult, []bool, error) {
	results := make([]kv.OpResult, len(ops))
	for i, op := range ops {
		var err error
		switch op := op.(type) {
		case kv.Put:
			results[i], err = x.put(op)
		case kv.Delete:
			results[i], err = x.delete(op)
		case kv.Range:
			results[i], err = x.scanRange(op)
		case kv.Txn:
			branch := op.Else
			if results[i].Succeeded = path[0]; path[0] {
				branch = op.Then
			}
			results[i].Ops, path, err = x.ops(branch, path[1:])
		case kv.Compact:
			err = x.giveUp(op)
		case kv.LeaderTerm:
			x.control.term = op.Nonce
		case kv.SetRecord:
			results[i], err = x.setRecord(op)
		case kv.Records:
			results[i], err = x.listRecords(op)
		case kv.OpenQueue:
			results[i], err = x.openQueue(op)
		case kv.SetAlarm:
			results[i], err = x.setAlarm(op)
		case kv.Alarms:
			results[i], err = x.listAlarms()
		case kv.SetFeature:
			err = x.setFeature(op)
		case kv.Audit:
			x.ask(op)
		case kv.OpenEpoch:
			if x.control.epoch.IsZero() {
				x.control.epoch = op.Epoch
			}
		case kv.SetAuth, kv.SetDevice, kv.SetScope:
			err = x.setPolicy(op)
		case kv.ReadAuth:
			results[i], err = x.policy.Answer(op)
		case kv.LeaseGrant:
			results[i], err = x.grant(op)
		case kv.LeaseRevoke:
			err = x.revoke(op)
		case kv.LeaseTTL:
			results[i], err = x.leaseTTL(op)
		case kv.LeaseList:
			results[i], err = x.leaseList()
		default:
			err = kv.Errorf(kv.Unsupported, "this version does not apply the operation %T", op)
		}
		if err != nil {
			return nil, nil, err
		}
	}
	return results, path, nil
}

// now is the main revision at which the ops read: what was there before the command, and what it has changed.
func (x *exec) now() int64 {
	if len(x.changes) > 0 {
		return x.base + 1
	}
	return x.base
}

func (x *exec) put(op kv.Put) (res kv.OpResult, err error) {
	if op.Lease != 0 {
		ttl, err := x.granted(op.Lease)
		if err != nil {
			return res, err
		}
		if ttl == 0 {
			return res, leaseNotFound(op.Lease)
		}
	}
	prev, err := x.r.get(op.Key, x.now())
	if err != nil {
		return res, err
	}
	rec := &record{sub: uint32(len(x.changes))}
	if prev != nil {
		rec.prev = prev.rev
	}
	rec.CreateRevision, rec.ModRevision, rec.Version, rec.Lease = x.base+1, x.base+1, 1, op.Lease
	value, was := op.Value, int64(0)
	if res.Created = prev == nil || prev.deleted; res.Created {
		if op.IgnoreValue || op.IgnoreLease {
			return res, kv.Errorf(kv.KeyNotFound, "key %q does not exist, so its value or lease cannot be kept", op.Key)
		}
	} else {
		rec.CreateRevision, rec.Version, was = prev.create, prev.number+1, prev.lease
		if op.IgnoreLease {
			rec.Lease = was
		}
		if op.IgnoreValue || op.PrevKV {
			old, err := x.r.record(prev)
			if err != nil {
				return res, err
			}
			if op.IgnoreValue {
				value = old.Value
			}
			if op.PrevKV {
				res.KVs = []kv.KeyValue{old.KeyValue}
			}
		}
	}
	// One allocation of our own: op belongs to the caller again when Apply has returned.
	b := make([]byte, len(op.Key)+len(value))
	n := copy(b, op.Key)
	copy(b[n:], value)
	rec.Key, rec.Value = b[:n:n], b[n:]
	if was != rec.Lease {
		x.move(string(rec.Key), was, rec.Lease)
	}
	x.change(rec)
	return res, nil
}

func (x *exec) delete(op kv.Delete) (res kv.OpResult, err error) {
	var gone []*record
	take := func(v *version) (bool, error) {
		if op.PrevKV {
			old, err := x.r.record(v)
			if err != nil {
				return false, err
			}
			res.KVs = append(res.KVs, old.KeyValue)
		}
		rec := &record{deleted: true, prev: v.rev, sub: uint32(len(x.changes) + len(gone))}
		rec.Key, rec.ModRevision = bytes.Clone(v.key), x.base+1
		if v.lease != 0 {
			x.move(string(rec.Key), v.lease, 0)
		}
		gone = append(gone, rec)
		return true, nil
	}
	if len(op.End) > 0 {
		err = x.r.scan(op.Key, op.End, x.now(), take)
	} else {
		var v *version
		if v, err = x.r.get(op.Key, x.now()); err == nil && v != nil && !v.deleted {
			_, err = take(v)
		}
	}
	if err != nil {
		return kv.OpResult{}, err
	}
	res.Count = int64(len(gone))
	x.change(gone...)
	return res, nil
}

// change adds records, in order of key, to the stage. None of their keys is in it: see checkOps.
func (x *exec) change(recs ...*record) {
	if len(recs) == 0 {
		return
	}
	if !x.writer.IsZero() {
		writer := x.writer // the exec is used again
		for _, r := range recs {
			r.writer = &writer
		}
	}
	x.changes = append(x.changes, recs...)
	st := x.r.stage
	i := st.search(recs[0].Key)
	if i == len(st.recs) || len(recs) == 1 {
		st.recs = slices.Insert(st.recs, i, recs...)
		return
	}
	st.recs = append(st.recs, recs...)
	slices.SortFunc(st.recs, func(a, b *record) int { return bytes.Compare(a.Key, b.Key) })
}

// giveUp applies a Compact. One whose term is not the leader's any more does nothing.
func (x *exec) giveUp(op kv.Compact) error {
	switch {
	case op.Term != 0 && op.Term != x.control.term:
		return nil
	case op.Revision == 0 && x.control.compact == 0: // as etcd has it: there is nothing before the first revision
		return nil
	case op.Revision <= x.control.compact:
		return compacted(op.Revision, x.control.compact)
	case op.Revision > x.base:
		return future(op.Revision, x.base)
	}
	x.control.compact = op.Revision
	return nil
}

func compacted(rev, compact int64) *kv.Error {
	e := kv.Errorf(kv.Compacted, "revision %d is given up: the history begins at %d", rev, compact)
	e.Revision = compact
	return e
}

func future(rev, current int64) *kv.Error {
	e := kv.Errorf(kv.FutureRevision, "revision %d is not there yet: the newest is %d", rev, current)
	e.Revision = current
	return e
}

// describe names a command in a fault.
func describe(e Entry) string {
	if len(e.Command.Ops) == 1 {
		return fmt.Sprintf("%T at index %d", e.Command.Ops[0], e.Index)
	}
	return fmt.Sprintf("%d ops at index %d", len(e.Command.Ops), e.Index)
}
