package wire

import (
	"fmt"

	"holdfast/kv"
)

// opTag names the kind of an op. Append only: the numbers are in logs and queues.
type opTag byte

const (
	tagPut opTag = 1 + iota
	tagDelete
	tagRange
	tagTxn
	tagCompact
	tagLeaderTerm
	tagOpenEpoch
	tagLeaseGrant
	tagLeaseRevoke
	tagLeaseKeepAlive
	tagLeaseTTL
	tagLeaseList
	tagEach
	tagSkip
	tagOpenQueue
	tagSetRecord
	tagRecords
	tagSetAlarm
	tagAlarms
	tagSetFeature
	tagAudit
	tagSetAuth
	tagSetDevice
	tagSetScope
	tagReadAuth
	tagAuthenticate
	tagEnd // one beyond the last
)

const (
	putPrevKV byte = 1 << iota
	putIgnoreValue
	putIgnoreLease
	putFlags = putPrevKV | putIgnoreValue | putIgnoreLease
)

const (
	rangeKeysOnly byte = 1 << iota
	rangeCountOnly
	rangeSort   // target and order follow
	rangeBounds // the four bounds follow
	rangeUncounted
	rangeFlags = rangeKeysOnly | rangeCountOnly | rangeSort | rangeBounds | rangeUncounted
)

const (
	deletePrevKV    byte = 1
	compactPhysical byte = 1
	leaseKeys       byte = 1
	alarmRaise      byte = 1

	recordValue byte = 1 // a value follows, perhaps an empty one; else the record is removed
	recordTerm  byte = 2 // a term follows
)

func appendOp(dst []byte, o *kv.Op) []byte {
	if put, ok := (*o).(kv.Put); ok { // nearly all are: without the stack that the others take together
		return appendPut(append(dst, byte(tagPut)), &put)
	}
	return appendOther(dst, *o)
}

func appendPut(dst []byte, o *kv.Put) []byte {
	dst = append(dst, bit(o.PrevKV, putPrevKV)|bit(o.IgnoreValue, putIgnoreValue)|bit(o.IgnoreLease, putIgnoreLease))
	dst = appendBytes(dst, o.Key)
	dst = appendBytes(dst, o.Value)
	return appendInt(dst, o.Lease)
}

func appendOther(dst []byte, o kv.Op) []byte {
	switch o := o.(type) {
	case kv.Delete:
		dst = append(dst, byte(tagDelete), bit(o.PrevKV, deletePrevKV))
		dst = appendBytes(dst, o.Key)
		return appendBytes(dst, o.End)
	case kv.Range:
		return appendRange(append(dst, byte(tagRange)), &o)
	case kv.Txn:
		dst = appendList(append(dst, byte(tagTxn)), o.Compares, appendCompare)
		dst = appendList(dst, o.Then, appendOp)
		return appendList(dst, o.Else, appendOp)
	case kv.Compact:
		dst = append(dst, byte(tagCompact), bit(o.Physical, compactPhysical))
		return appendUint(appendInt(dst, o.Revision), o.Term)
	case kv.LeaderTerm:
		return appendFixed64(append(dst, byte(tagLeaderTerm)), o.Nonce)
	case kv.OpenEpoch:
		return appendEpoch(append(dst, byte(tagOpenEpoch)), o.Epoch)
	case kv.LeaseGrant:
		return appendInt(appendInt(append(dst, byte(tagLeaseGrant)), o.ID), o.TTL)
	case kv.LeaseRevoke:
		return appendUint(appendInt(append(dst, byte(tagLeaseRevoke)), o.ID), o.Term)
	case kv.LeaseKeepAlive:
		return appendInt(append(dst, byte(tagLeaseKeepAlive)), o.ID)
	case kv.LeaseTTL:
		return appendInt(append(dst, byte(tagLeaseTTL), bit(o.Keys, leaseKeys)), o.ID)
	case kv.LeaseList:
		return append(dst, byte(tagLeaseList))
	case kv.Each:
		return appendList(append(dst, byte(tagEach)), o.Commands, appendCommandBody)
	case kv.Skip:
		return appendUint(append(dst, byte(tagSkip)), o.From)
	case kv.OpenQueue:
		return appendUint(append(append(dst, byte(tagOpenQueue)), o.Origin[:]...), o.Have)
	case kv.SetRecord:
		dst = append(dst, byte(tagSetRecord), bit(o.Value != nil, recordValue)|bit(o.Term != 0, recordTerm))
		dst = appendBytes(dst, o.Name)
		if o.Value != nil {
			dst = appendBytes(dst, o.Value)
		}
		dst = appendInt(dst, o.Have)
		if o.Term != 0 {
			dst = appendUint(dst, o.Term)
		}
		return dst
	case kv.Records:
		return appendBytes(append(dst, byte(tagRecords)), o.Prefix)
	case kv.SetAlarm:
		return appendAlarm(append(dst, byte(tagSetAlarm), bit(o.Raise, alarmRaise)), &o.Alarm)
	case kv.Alarms:
		return append(dst, byte(tagAlarms))
	case kv.SetFeature:
		return appendUint(append(dst, byte(tagSetFeature)), o.Level)
	case kv.Audit:
		dst = appendFixed64(append(dst, byte(tagAudit)), o.Term)
		return appendUint(appendInt(appendInt(dst, o.Revision), o.Compact), uint64(o.Sum))
	case kv.SetAuth, kv.SetDevice, kv.SetScope, kv.ReadAuth, kv.Authenticate:
		return appendAuthOp(dst, o)
	default:
		panic(fmt.Sprintf("wire: an op is a %T, which has no tag", o))
	}
}

func op(r *reader) kv.Op {
	switch t := opTag(r.byte("op")); t {
	case 0:
		r.fail(ErrMalformed, "op kind 0")
		return nil
	case tagPut:
		f := r.flags(putFlags, "put")
		return kv.Put{Key: r.bytes("key"), Value: r.bytes("value"), Lease: r.int("lease"),
			PrevKV: f&putPrevKV != 0, IgnoreValue: f&putIgnoreValue != 0, IgnoreLease: f&putIgnoreLease != 0}
	case tagDelete:
		f := r.flags(deletePrevKV, "delete")
		return kv.Delete{Key: r.bytes("key"), End: r.bytes("end of range"), PrevKV: f != 0}
	case tagRange:
		return rangeOp(r)
	case tagTxn:
		return txn(r)
	case tagCompact:
		f := r.flags(compactPhysical, "compaction")
		return kv.Compact{Revision: r.int("revision"), Term: r.uint("term"), Physical: f != 0}
	case tagLeaderTerm:
		return kv.LeaderTerm{Nonce: r.fixed64("nonce")}
	case tagOpenEpoch:
		return kv.OpenEpoch{Epoch: epoch(r)}
	case tagLeaseGrant:
		return kv.LeaseGrant{ID: r.int("lease"), TTL: r.int("time to live")}
	case tagLeaseRevoke:
		return kv.LeaseRevoke{ID: r.int("lease"), Term: r.uint("term")}
	case tagLeaseKeepAlive:
		return kv.LeaseKeepAlive{ID: r.int("lease")}
	case tagLeaseTTL:
		f := r.flags(leaseKeys, "lease query")
		return kv.LeaseTTL{ID: r.int("lease"), Keys: f != 0}
	case tagLeaseList:
		return kv.LeaseList{}
	case tagEach:
		r.onlyOfCommand()
		return each(r)
	case tagSkip:
		r.onlyOfCommand()
		return kv.Skip{From: r.uint("first sequence")}
	case tagOpenQueue:
		var o kv.OpenQueue
		r.fixed(o.Origin[:], "origin")
		o.Have = r.uint("queue epoch")
		return o
	case tagSetRecord:
		f := r.flags(recordValue|recordTerm, "record")
		o := kv.SetRecord{Name: r.bytes("name")}
		if f&recordValue != 0 {
			if o.Value = r.bytes("value"); o.Value == nil {
				o.Value = []byte{}
			}
		}
		o.Have = r.int("version")
		if f&recordTerm != 0 {
			o.Term = r.uint("term")
			r.present(o.Term == 0, "term")
		}
		return o
	case tagRecords:
		return kv.Records{Prefix: r.bytes("prefix")}
	case tagSetAlarm:
		f := r.flags(alarmRaise, "alarm")
		return kv.SetAlarm{Alarm: alarm(r), Raise: f != 0}
	case tagAlarms:
		return kv.Alarms{}
	case tagSetFeature:
		return kv.SetFeature{Level: r.uint("feature level")}
	case tagAudit:
		return kv.Audit{Term: r.fixed64("term"), Revision: r.int("revision"), Compact: r.int("compact revision"), Sum: r.uint32("sum")}
	case tagSetAuth, tagSetDevice, tagSetScope, tagReadAuth, tagAuthenticate:
		return authOp(r, t)
	default:
		r.fail(ErrNewer, "unknown kind of op %d", byte(t))
		return nil
	}
}

// onlyOfCommand refuses an op inside another, or in a query.
func (r *reader) onlyOfCommand() {
	if r.depth > 0 || r.kind != kindCommand {
		r.fail(ErrMalformed, "an op has to be the only one of its command and is part of another")
	}
}

// each reads a batch of commands. Commands in it may not hold another.
func each(r *reader) (e kv.Each) {
	if r.inEach {
		r.fail(ErrMalformed, "a batch in a batch")
		return e
	}
	r.inEach = true
	e.Commands = list(r, 3, "commands", command)
	r.inEach = false
	return e
}

func txn(r *reader) (t kv.Txn) {
	r.descend()
	t.Compares = list(r, 6, "compares", compare)
	t.Then = list(r, 1, "ops of then", op)
	t.Else = list(r, 1, "ops of else", op)
	r.ascend()
	return t
}

func appendRange(dst []byte, o *kv.Range) []byte {
	sorted := o.Sort != 0 || o.Order != 0
	bounded := o.MinMod != 0 || o.MaxMod != 0 || o.MinCreate != 0 || o.MaxCreate != 0
	dst = append(dst, bit(o.KeysOnly, rangeKeysOnly)|bit(o.CountOnly, rangeCountOnly)|
		bit(sorted, rangeSort)|bit(bounded, rangeBounds)|bit(o.Uncounted, rangeUncounted))
	dst = appendBytes(dst, o.Key)
	dst = appendBytes(dst, o.End)
	dst = appendInt(dst, o.Limit)
	dst = appendInt(dst, o.Revision)
	if sorted {
		dst = append(dst, byte(o.Sort), byte(o.Order))
	}
	if bounded {
		dst = appendInt(appendInt(dst, o.MinMod), o.MaxMod)
		dst = appendInt(appendInt(dst, o.MinCreate), o.MaxCreate)
	}
	return dst
}

func rangeOp(r *reader) (o kv.Range) {
	f := r.flags(rangeFlags, "range")
	o.KeysOnly, o.CountOnly, o.Uncounted = f&rangeKeysOnly != 0, f&rangeCountOnly != 0, f&rangeUncounted != 0
	o.Key = r.bytes("key")
	o.End = r.bytes("end of range")
	o.Limit = r.int("limit")
	o.Revision = r.int("revision")
	if f&rangeSort != 0 {
		o.Sort = enum(r, kv.TargetLease, "sort target")
		o.Order = enum(r, kv.OrderDescend, "sort order")
		r.present(o.Sort == 0 && o.Order == 0, "sorting")
	}
	if f&rangeBounds != 0 {
		o.MinMod, o.MaxMod = r.int("revision bound"), r.int("revision bound")
		o.MinCreate, o.MaxCreate = r.int("revision bound"), r.int("revision bound")
		r.present(o.MinMod == 0 && o.MaxMod == 0 && o.MinCreate == 0 && o.MaxCreate == 0, "revision bounds")
	}
	return o
}
