package wire

import (
	"time"

	"pgregory.net/rapid"

	"holdfast/kv"
)

// Generators of every value that can be encoded, in the form in which it comes back: no empty slices, times in UTC.

func genBytes() *rapid.Generator[[]byte] {
	return rapid.Custom(func(t *rapid.T) []byte {
		b := rapid.SliceOfN(rapid.Byte(), 0, 200).Draw(t, "bytes")
		if len(b) == 0 {
			return nil
		}
		return b
	})
}

func genList[T any](t *rapid.T, most int, item *rapid.Generator[T], label string) []T {
	s := rapid.SliceOfN(item, 0, most).Draw(t, label)
	if len(s) == 0 {
		return nil
	}
	return s
}

func draw[T any](t *rapid.T, g *rapid.Generator[T]) T { return g.Draw(t, "v") }

func genBool(t *rapid.T) bool     { return draw(t, rapid.Bool()) }
func genInt(t *rapid.T) int64     { return draw(t, rapid.Int64()) }
func genUint(t *rapid.T) uint64   { return draw(t, rapid.Uint64()) }
func genString(t *rapid.T) string { return string(draw(t, genBytes())) }

func gen16(t *rapid.T) (b [16]byte) {
	copy(b[:], rapid.SliceOfN(rapid.Byte(), 16, 16).Draw(t, "id"))
	return b
}

func genEnum[T ~uint8](t *rapid.T, last T) T { return T(rapid.IntRange(0, int(last)).Draw(t, "enum")) }

func maybe[T any](t *rapid.T, gen func(*rapid.T) T) *T {
	if !genBool(t) {
		return nil
	}
	v := gen(t)
	return &v
}

func genSeq(t *rapid.T) (s kv.Seq) {
	if genBool(t) {
		s = kv.Seq{Origin: gen16(t), Epoch: genUint(t), Lane: genEnum(t, kv.LaneBulk), N: genUint(t)}
	}
	return s
}

func genBy(t *rapid.T) (b kv.By) {
	if genBool(t) {
		b = kv.By{Principal: genString(t), AuthRevision: genUint(t), Node: genString(t), Token: genString(t)}
	}
	return b
}

func genCompare(t *rapid.T) kv.Compare {
	return kv.Compare{Key: draw(t, genBytes()), End: draw(t, genBytes()), Target: genEnum(t, kv.TargetLease),
		Relation: genEnum(t, kv.NotEqual), Num: genInt(t), Value: draw(t, genBytes())}
}

func genGuard(t *rapid.T) kv.Guard { return kv.Guard{Compare: genCompare(t), Or: genSeq(t)} }

func genOp(depth int) *rapid.Generator[kv.Op] {
	return rapid.Custom(func(t *rapid.T) kv.Op {
		last := 24
		if depth >= 3 {
			last = 23
		}
		switch rapid.IntRange(1, last).Draw(t, "op") {
		case 1:
			return kv.Put{Key: draw(t, genBytes()), Value: draw(t, genBytes()), Lease: genInt(t),
				PrevKV: genBool(t), IgnoreValue: genBool(t), IgnoreLease: genBool(t)}
		case 2:
			return kv.Delete{Key: draw(t, genBytes()), End: draw(t, genBytes()), PrevKV: genBool(t)}
		case 3:
			r := kv.Range{Key: draw(t, genBytes()), End: draw(t, genBytes()), Limit: genInt(t), Revision: genInt(t),
				KeysOnly: genBool(t), CountOnly: genBool(t), Uncounted: genBool(t)}
			if genBool(t) {
				r.Sort, r.Order = genEnum(t, kv.TargetLease), genEnum(t, kv.OrderDescend)
			}
			if genBool(t) {
				r.MinMod, r.MaxMod, r.MinCreate, r.MaxCreate = genInt(t), genInt(t), genInt(t), genInt(t)
			}
			return r
		case 4:
			return kv.Compact{Revision: genInt(t), Physical: genBool(t), Term: genUint(t)}
		case 5:
			return kv.LeaderTerm{Nonce: genUint(t)}
		case 6:
			return kv.OpenEpoch{Epoch: kv.Epoch{Cluster: genUint(t), Nonce: gen16(t)}}
		case 7:
			return kv.LeaseGrant{ID: genInt(t), TTL: genInt(t)}
		case 8:
			return kv.LeaseRevoke{ID: genInt(t), Term: genUint(t)}
		case 9:
			return kv.LeaseKeepAlive{ID: genInt(t)}
		case 10:
			return kv.LeaseTTL{ID: genInt(t), Keys: genBool(t)}
		case 11:
			return kv.LeaseList{}
		case 12:
			return kv.OpenQueue{Origin: gen16(t), Have: genUint(t)}
		case 13:
			o := kv.SetRecord{Name: draw(t, genBytes()), Have: genInt(t), Term: genUint(t)}
			if genBool(t) {
				o.Value = append([]byte{}, draw(t, genBytes())...)
			}
			return o
		case 14:
			return kv.Records{Prefix: draw(t, genBytes())}
		case 15:
			return kv.SetAlarm{Alarm: genAlarm(t), Raise: genBool(t)}
		case 16:
			return kv.Alarms{}
		case 17:
			return kv.SetFeature{Level: genUint(t)}
		case 18:
			return kv.Audit{Term: genUint(t), Revision: genInt(t), Compact: genInt(t), Sum: draw(t, rapid.Uint32())}
		case 19:
			return kv.SetAuth{Do: genEnum(t, kv.AuthChanges-1), User: genString(t), Role: genString(t), Key: draw(t, genBytes()), End: draw(t, genBytes()),
				Permission: genEnum(t, kv.PermitReadWrite), NoPassword: genBool(t), Secret: draw(t, genBytes())}
		case 20:
			return kv.SetDevice{ID: genString(t), Device: maybe(t, genDevice)}
		case 21:
			return kv.SetScope{Node: genString(t), Scope: maybe(t, genScope)}
		case 22:
			return kv.ReadAuth{What: genEnum(t, kv.AuthParts-1), Name: genString(t)}
		case 23:
			return kv.Authenticate{User: genString(t), Password: genString(t), From: genString(t)}
		default:
			return kv.Txn{Compares: genList(t, 3, rapid.Custom(genCompare), "compares"),
				Then: genList(t, 3, genOp(depth+1), "then"), Else: genList(t, 3, genOp(depth+1), "else")}
		}
	})
}

func genDevice(t *rapid.T) kv.Device {
	d := kv.Device{Name: genString(t), Verbs: genEnum(t, kv.VerbsAll), Prefixes: genList(t, 3, rapid.Custom(genString), "prefixes"),
		Expires: genInt(t), Rate: draw(t, rapid.Uint32()), Share: draw(t, rapid.Uint32())}
	copy(d.Hash[:], rapid.SliceOfN(rapid.Byte(), 32, 32).Draw(t, "hash"))
	return d
}

func genScope(t *rapid.T) (s kv.NodeScope) {
	if genBool(t) {
		s.Roles = append([]string{}, genList(t, 3, rapid.Custom(genString), "roles")...)
	}
	if genBool(t) {
		s.Prefixes = append([]string{}, genList(t, 3, rapid.Custom(genString), "prefixes")...)
	}
	return s
}

func genCommand(t *rapid.T) kv.Command {
	if genBool(t) {
		return genOneCommand(t)
	}
	c := genOneCommand(t)
	c.Ops = []kv.Op{kv.Each{Commands: genList(t, 3, rapid.Custom(genOneCommand), "each")}}
	return c
}

func genOneCommand(t *rapid.T) (c kv.Command) {
	c.ID.Seq = genSeq(t)
	if genBool(t) {
		c.ID.Key = gen16(t)
	}
	c.By = genBy(t)
	c.Guards = genList(t, 3, rapid.Custom(genGuard), "guards")
	if c.Ops = genList(t, 4, genOp(0), "ops"); len(c.Ops) == 0 && genBool(t) {
		c.Ops = []kv.Op{kv.Skip{From: genUint(t)}}
	}
	return c
}

func genHeader(t *rapid.T) (h kv.Header) {
	h = kv.Header{Member: genUint(t), Term: genUint(t), Revision: genInt(t)}
	if genBool(t) {
		h.Epoch = kv.Epoch{Cluster: genUint(t), Nonce: gen16(t)}
	}
	return h
}

func genKeyValue(t *rapid.T) kv.KeyValue {
	return kv.KeyValue{Key: draw(t, genBytes()), Value: draw(t, genBytes()), CreateRevision: genInt(t),
		ModRevision: genInt(t), Version: genInt(t), Lease: genInt(t)}
}

func genLease(t *rapid.T) kv.Lease {
	return kv.Lease{ID: genInt(t), TTL: genInt(t), Granted: genInt(t)}
}

func genAlarm(t *rapid.T) kv.Alarm {
	return kv.Alarm{Member: genUint(t), Kind: genEnum(t, kv.AlarmCorrupt)}
}

func genOpResult(depth int) *rapid.Generator[kv.OpResult] {
	return rapid.Custom(func(t *rapid.T) (o kv.OpResult) {
		o = kv.OpResult{Count: genInt(t), More: genBool(t), Created: genBool(t), Succeeded: genBool(t),
			KVs:    genList(t, 3, rapid.Custom(genKeyValue), "kvs"),
			Leases: genList(t, 3, rapid.Custom(genLease), "leases"),
			Alarms: genList(t, 3, rapid.Custom(genAlarm), "alarms")}
		if depth < 3 {
			o.Ops = genList(t, 3, genOpResult(depth+1), "ops")
		}
		return o
	})
}

func genError(t *rapid.T) kv.Error {
	return kv.Error{Code: genEnum(t, kv.Code(kv.Codes-1)), Detail: genString(t), Revision: genInt(t),
		RetryAfter: time.Duration(genInt(t))}
}

func genReceipt(t *rapid.T) (q kv.Receipt) {
	q.ID = genString(t)
	if genBool(t) {
		q.Expires = time.Unix(rapid.Int64Range(-1<<40, 1<<40).Draw(t, "s"), rapid.Int64Range(0, 999_999_999).Draw(t, "ns")).UTC()
	}
	return q
}

func genOutcome(t *rapid.T) kv.Outcome {
	o := genOneOutcome(t)
	if genBool(t) {
		o.Result.Ops = append(o.Result.Ops, kv.OpResult{Each: genList(t, 3, rapid.Custom(genOneOutcome), "each")})
	}
	return o
}

func genOneOutcome(t *rapid.T) kv.Outcome {
	return kv.Outcome{Err: maybe(t, genError), Result: kv.Result{Header: genHeader(t), Queued: maybe(t, genReceipt),
		Ops: genList(t, 3, genOpResult(0), "ops")}}
}

func genQuery(t *rapid.T) kv.Query {
	return kv.Query{By: genBy(t), Ops: genList(t, 4, genOp(0), "ops"), MaxAge: time.Duration(genInt(t)),
		StaleIfError: time.Duration(genInt(t)), MinRevision: genInt(t), Wait: time.Duration(genInt(t)), LocalOnly: genBool(t)}
}

func genPage(t *rapid.T) kv.Page {
	return kv.Page{Header: genHeader(t), Ops: genList(t, 3, genOpResult(0), "ops"), Source: genEnum(t, kv.SourceCache),
		Age: time.Duration(genInt(t)), Pending: draw(t, rapid.Int())}
}

func genWatch(t *rapid.T) kv.Watch {
	return kv.Watch{ID: genInt(t), Key: draw(t, genBytes()), End: draw(t, genBytes()), From: genInt(t), PrevKV: genBool(t),
		Progress: genBool(t), NoPuts: genBool(t), NoDeletes: genBool(t), Fragment: genBool(t)}
}

func genWatchSpec(t *rapid.T) kv.WatchSpec {
	return kv.WatchSpec{By: genBy(t), Watches: genList(t, 4, rapid.Custom(genWatch), "watches")}
}

func genWatchControl(t *rapid.T) kv.WatchControl {
	return kv.WatchControl{Add: maybe(t, genWatch), Cancel: genInt(t), Progress: genBool(t)}
}

func genEvent(t *rapid.T) kv.Event {
	return kv.Event{Delete: genBool(t), KV: genKeyValue(t), Prev: maybe(t, genKeyValue)}
}

func genBatch(t *rapid.T) kv.Batch {
	return kv.Batch{Header: genHeader(t), WatchID: genInt(t), Created: genBool(t), Canceled: genBool(t),
		Err: maybe(t, genError), Progress: genBool(t), Fragment: genBool(t),
		Events: genList(t, 4, rapid.Custom(genEvent), "events"), State: genEnum(t, kv.WatchResync)}
}
