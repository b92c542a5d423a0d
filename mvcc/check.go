package mvcc

import (
	"cmp"
	"slices"
	"strings"

	"holdfast/kv"
)

// txnDepthMax is how deep transactions may nest. What is sent is bounded by internal/wire already.
const txnDepthMax = 128

// Check reports what is wrong with a command whatever the store holds, nil if nothing is. A door calls it before it
// sends a command on; Apply calls it again, and what it refuses there is refused on every replica.
func Check(c kv.Command) *kv.Error {
	for _, g := range c.Guards {
		if err := checkCompare(g.Compare); err != nil {
			return err
		}
		if !g.Or.IsZero() && len(g.End) > 0 {
			return kv.Errorf(kv.Invalid, "a guard that allows for an earlier queued write is for one key")
		}
	}
	if len(c.Ops) == 1 {
		// The common commands have nothing that could overlap.
		switch op := c.Ops[0].(type) {
		case kv.Put:
			return checkPut(op)
		case kv.Delete:
			return checkKey(op.Key)
		case kv.Each, kv.Skip:
			return checkQueued(c)
		}
	}
	_, err := checkOps(c.Ops, 0)
	if err == nil && asksLeases(c.Ops) {
		err = kv.Errorf(kv.Invalid, "a command cannot ask about leases: ask in a query")
	}
	return err
}

// checkQueued checks what a queue sends. The commands in a batch are checked each by itself, when it is its turn: one
// that is refused holds up no other.
func checkQueued(c kv.Command) *kv.Error {
	each, ok := batch(c)
	switch {
	case !ok && (c.ID.Seq.IsZero() || len(c.Guards) > 0):
		return kv.Errorf(kv.Invalid, "a skip needs a sequence, and no guards")
	case !ok:
		return nil
	case !c.ID.IsZero() || len(c.Guards) > 0:
		return kv.Errorf(kv.Invalid, "a batch has no id and no guards: its commands have")
	case len(each.Commands) > MaxEach:
		return kv.Errorf(kv.TooManyOps, "a batch has %d commands, the limit is %d", len(each.Commands), MaxEach)
	}
	for _, one := range each.Commands {
		if _, nested := batch(one); nested {
			return kv.Errorf(kv.Invalid, "a batch cannot hold another")
		}
	}
	return nil
}

// MaxEach is the most commands in a batch.
const MaxEach = 4096

// CheckQuery is Check for the ops of a query.
func CheckQuery(q kv.Query) *kv.Error {
	if !kv.ReadOnly(q.Ops) {
		return kv.Errorf(kv.Invalid, "a query may only read")
	}
	_, err := checkOps(q.Ops, 0)
	return err
}

// CheckWatch is Check for a watch.
func CheckWatch(w kv.Watch) *kv.Error {
	if w.From < 0 {
		return kv.Errorf(kv.Invalid, "a watch cannot start from revision %d", w.From)
	}
	return checkKey(w.Key)
}

// touched is what a list of ops may write, whichever branches its transactions take.
type touched struct {
	puts []touchedKey
	dels []touchedRange
}

type touchedKey struct {
	key string
	op  int // place in the list of the op that writes it
}

type touchedRange struct {
	key, end string // half-open
	open     bool   // no upper bound
	op       int
}

func (d touchedRange) reaches(k string) bool { return d.open || k < d.end }

// checkOps checks a list, and that no key is put twice by it, or put and deleted: a command changes a key once at most.
// The branches of a transaction exclude each other and may write the same key. (etcd draws the line here too, but for a
// delete in a nested transaction after a put in an earlier one, which it lets through.)
func checkOps(ops []kv.Op, depth int) (t touched, err *kv.Error) {
	if depth > txnDepthMax {
		return t, kv.Errorf(kv.TooManyOps, "transactions are nested deeper than %d", txnDepthMax)
	}
	for i, op := range ops {
		switch op := op.(type) {
		case kv.Put:
			err = checkPut(op)
			t.puts = append(t.puts, touchedKey{string(op.Key), i})
		case kv.Delete:
			err = checkKey(op.Key)
			t.dels = append(t.dels, newTouchedRange(op.Key, op.End, i))
		case kv.Range:
			err = checkRange(op)
		case kv.Txn:
			err = t.addTxn(op, i, depth)
		case kv.LeaseGrant:
			err = checkGrant(op, depth)
		case kv.LeaseRevoke, kv.LeaseKeepAlive:
			if depth > 0 || len(ops) > 1 {
				err = kv.Errorf(kv.Invalid, "%T has to be the only op of its command", op)
			}
		case kv.Compact, kv.LeaderTerm, kv.OpenEpoch:
			if depth > 0 {
				err = kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
			}
		case kv.SetRecord:
			err = checkRecord(op, depth)
		case kv.OpenQueue:
			if depth > 0 {
				err = kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
			}
		case kv.SetAlarm:
			err = checkAlarm(op, depth)
		case kv.SetAuth, kv.SetDevice, kv.SetScope, kv.ReadAuth:
			if depth > 0 || len(ops) > 1 {
				err = kv.Errorf(kv.Invalid, "%T has to be the only op of its command or query", op)
			}
		case kv.Authenticate:
			err = kv.Errorf(kv.Invalid, "%T is answered by the door of a member, as the only op of a query", op)
		case kv.SetFeature, kv.Audit:
			if depth > 0 {
				err = kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
			}
		case kv.LeaseTTL, kv.LeaseList, kv.Records, kv.Alarms:
		case kv.Each, kv.Skip:
			err = kv.Errorf(kv.Invalid, "%T has to be the only op of its command", op)
		default:
			err = kv.Errorf(kv.Unsupported, "this version does not know the operation %T", op)
		}
		if err != nil {
			return t, err
		}
	}
	err = t.overlap()
	return t, err
}

// addTxn adds what a transaction, the ith op, may write.
func (t *touched) addTxn(op kv.Txn, i, depth int) *kv.Error {
	for _, c := range op.Compares {
		if err := checkCompare(c); err != nil {
			return err
		}
	}
	for _, branch := range [2][]kv.Op{op.Then, op.Else} {
		b, err := checkOps(branch, depth+1)
		if err != nil {
			return err
		}
		for _, p := range b.puts {
			t.puts = append(t.puts, touchedKey{p.key, i})
		}
		for _, d := range b.dels {
			d.op = i
			t.dels = append(t.dels, d)
		}
	}
	return nil
}

// overlap reports a key that two ops write. It sorts what is touched, and joins what one op touches twice. Deletes of
// two ops may overlap: the second finds nothing left.
func (t *touched) overlap() *kv.Error {
	slices.SortFunc(t.puts, func(a, b touchedKey) int {
		return cmp.Or(strings.Compare(a.key, b.key), cmp.Compare(a.op, b.op))
	})
	t.puts = slices.Compact(t.puts)
	for i := 1; i < len(t.puts); i++ {
		if t.puts[i].key == t.puts[i-1].key {
			return duplicate(t.puts[i].key)
		}
	}
	slices.SortFunc(t.dels, func(a, b touchedRange) int {
		return cmp.Or(cmp.Compare(a.op, b.op), strings.Compare(a.key, b.key))
	})
	joined := t.dels[:0]
	for _, d := range t.dels {
		if n := len(joined); n > 0 && joined[n-1].op == d.op && joined[n-1].reaches(d.key) {
			p := &joined[n-1]
			p.open, p.end = p.open || d.open, max(p.end, d.end)
			continue
		}
		joined = append(joined, d)
	}
	t.dels = joined
	for _, d := range t.dels {
		// The ranges of one op are apart from each other now, so all these walks together pass a put once.
		i, _ := slices.BinarySearchFunc(t.puts, d.key, func(p touchedKey, k string) int { return strings.Compare(p.key, k) })
		for ; i < len(t.puts) && d.reaches(t.puts[i].key); i++ {
			if t.puts[i].op != d.op {
				return duplicate(t.puts[i].key)
			}
		}
	}
	return nil
}

func duplicate(key string) *kv.Error {
	return kv.Errorf(kv.DuplicateKey, "key %q is written more than once by one command", key)
}

func newTouchedRange(key, end []byte, op int) touchedRange {
	switch {
	case len(end) == 0:
		return touchedRange{op: op, key: string(key), end: string(key) + "\x00"}
	case !bounded(end):
		return touchedRange{op: op, key: string(key), open: true}
	default:
		return touchedRange{op: op, key: string(key), end: string(end)}
	}
}

func checkKey(key []byte) *kv.Error {
	if len(key) == 0 {
		return kv.Errorf(kv.Invalid, "the key is empty")
	}
	return nil
}

func checkRecord(op kv.SetRecord, depth int) *kv.Error {
	switch {
	case depth > 0:
		return kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
	case len(op.Name) == 0 || len(op.Name) > MaxRecordName:
		return kv.Errorf(kv.Invalid, "the name of a record has %d bytes, 1 to %d are allowed", len(op.Name), MaxRecordName)
	}
	return nil
}

func checkAlarm(op kv.SetAlarm, depth int) *kv.Error {
	switch {
	case depth > 0:
		return kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
	case op.Alarm.Kind != kv.AlarmNoSpace && op.Alarm.Kind != kv.AlarmCorrupt:
		return kv.Errorf(kv.Invalid, "there is no alarm %d", op.Alarm.Kind)
	}
	return nil
}

func checkPut(op kv.Put) *kv.Error {
	switch {
	case len(op.Key) == 0:
		return kv.Errorf(kv.Invalid, "the key is empty")
	case len(op.Key) > MaxKeyBytes:
		return kv.Errorf(kv.TooLarge, "the key has %d bytes, the limit is %d", len(op.Key), MaxKeyBytes)
	case op.Lease != 0 && len(op.Key) > MaxLeaseKeyBytes:
		return kv.Errorf(kv.TooLarge, "the key has %d bytes, under a lease the limit is %d", len(op.Key), MaxLeaseKeyBytes)
	case op.IgnoreValue && len(op.Value) > 0:
		return kv.Errorf(kv.Invalid, "a value is given that is to be ignored")
	case op.IgnoreLease && op.Lease != 0:
		return kv.Errorf(kv.Invalid, "a lease is given that is to be ignored")
	}
	return nil
}

func checkRange(op kv.Range) *kv.Error {
	switch {
	case len(op.Key) == 0:
		return kv.Errorf(kv.Invalid, "the key is empty")
	case op.Sort > kv.TargetValue:
		return kv.Errorf(kv.Invalid, "there is no sort target %d", op.Sort)
	case op.Order > kv.OrderDescend:
		return kv.Errorf(kv.Invalid, "there is no sort order %d", op.Order)
	}
	return nil
}

func checkCompare(c kv.Compare) *kv.Error {
	switch {
	case len(c.Key) == 0:
		return kv.Errorf(kv.Invalid, "the key of a comparison is empty")
	case c.Target == kv.TargetKey || c.Target > kv.TargetLease:
		return kv.Errorf(kv.Invalid, "there is no comparison target %d", c.Target)
	case c.Relation > kv.NotEqual:
		return kv.Errorf(kv.Invalid, "there is no comparison %d", c.Relation)
	}
	return nil
}
