package mvcc

import (
	"bytes"
	"slices"

	"holdfast/kv"
)

// txnDepthMax is how deep transactions may nest.
const txnDepthMax = 64

// Check reports what is wrong with a command whatever the store holds, nil if nothing is. A door calls it before it
// sends a command on; Apply calls it again, and what it refuses there is refused on every replica.
func Check(c kv.Command) *kv.Error {
	for _, g := range c.Guards {
		if err := checkCompare(g.Compare); err != nil {
			return err
		}
		if !g.Or.IsZero() {
			return kv.Errorf(kv.Unsupported, "a guard that allows for an earlier queued write is not supported by this version")
		}
	}
	if len(c.Ops) == 1 {
		// The common commands have nothing that could overlap.
		switch op := c.Ops[0].(type) {
		case kv.Put:
			return checkPut(op)
		case kv.Delete:
			return checkKey(op.Key)
		}
	}
	_, err := checkOps(c.Ops, 0)
	return err
}

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
	puts []string   // sorted
	dels []delRange // sorted by key, overlapping ones joined
}

type delRange struct {
	key, end string // half-open
	open     bool   // no upper bound
}

func (d delRange) contains(k string) bool { return k >= d.key && (d.open || k < d.end) }

// checkOps checks a list, and that no key is put twice by it, or put and deleted: a command changes a key once at most.
// The branches of a transaction exclude each other and may write the same key. (etcd draws the line here too, but for a
// delete in a nested transaction after a put in an earlier one, which it lets through.)
func checkOps(ops []kv.Op, depth int) (touched, *kv.Error) {
	if depth > txnDepthMax {
		return touched{}, kv.Errorf(kv.TooManyOps, "transactions are nested deeper than %d", txnDepthMax)
	}
	var t touched
	for _, op := range ops {
		var o touched
		var err *kv.Error
		switch op := op.(type) {
		case kv.Put:
			err = checkPut(op)
			o.puts = []string{string(op.Key)}
		case kv.Delete:
			err = checkKey(op.Key)
			o.dels = []delRange{newDelRange(op.Key, op.End)}
		case kv.Range:
			err = checkRange(op)
		case kv.Txn:
			o, err = checkTxn(op, depth)
		case kv.Compact, kv.LeaderTerm, kv.OpenEpoch, kv.LeaseGrant, kv.LeaseRevoke:
			if depth > 0 {
				err = kv.Errorf(kv.Invalid, "%T cannot be part of a transaction", op)
			}
		case kv.LeaseKeepAlive, kv.LeaseTTL, kv.LeaseList:
		default:
			err = kv.Errorf(kv.Unsupported, "this version does not know the operation %T", op)
		}
		if err == nil {
			err = t.add(o)
		}
		if err != nil {
			return touched{}, err
		}
	}
	return t, nil
}

func checkTxn(op kv.Txn, depth int) (touched, *kv.Error) {
	for _, c := range op.Compares {
		if err := checkCompare(c); err != nil {
			return touched{}, err
		}
	}
	then, err := checkOps(op.Then, depth+1)
	if err != nil {
		return touched{}, err
	}
	other, err := checkOps(op.Else, depth+1)
	if err != nil {
		return touched{}, err
	}
	then.join(other)
	return then, nil
}

// add joins what a later op touches, and refuses what was touched before. Deletes may overlap: the second finds
// nothing left.
func (t *touched) add(o touched) *kv.Error {
	for _, k := range o.puts {
		if _, dup := slices.BinarySearch(t.puts, k); dup || t.deletes(k) {
			return kv.Errorf(kv.DuplicateKey, "key %q is written more than once by one command", k)
		}
	}
	for _, d := range o.dels {
		i, _ := slices.BinarySearch(t.puts, d.key)
		if i < len(t.puts) && d.contains(t.puts[i]) {
			return kv.Errorf(kv.DuplicateKey, "key %q is written more than once by one command", t.puts[i])
		}
	}
	t.join(o)
	return nil
}

// join makes t the union of both.
func (t *touched) join(o touched) {
	if len(o.puts) > 0 {
		t.puts = append(t.puts, o.puts...)
		slices.Sort(t.puts)
		t.puts = slices.Compact(t.puts)
	}
	if len(o.dels) == 0 {
		return
	}
	all := append(t.dels, o.dels...)
	slices.SortFunc(all, func(a, b delRange) int { return bytes.Compare([]byte(a.key), []byte(b.key)) })
	t.dels = all[:0:0]
	for _, d := range all {
		if n := len(t.dels); n > 0 && (t.dels[n-1].open || d.key < t.dels[n-1].end) {
			p := &t.dels[n-1]
			p.open = p.open || d.open
			p.end = max(p.end, d.end)
			continue
		}
		t.dels = append(t.dels, d)
	}
}

func (t *touched) deletes(k string) bool {
	i, found := slices.BinarySearchFunc(t.dels, k, func(d delRange, k string) int {
		return bytes.Compare([]byte(d.key), []byte(k))
	})
	if found {
		return t.dels[i].contains(k)
	}
	return i > 0 && t.dels[i-1].contains(k)
}

func newDelRange(key, end []byte) delRange {
	switch {
	case len(end) == 0:
		return delRange{key: string(key), end: string(key) + "\x00"}
	case !bounded(end):
		return delRange{key: string(key), open: true}
	default:
		return delRange{key: string(key), end: string(end)}
	}
}

func checkKey(key []byte) *kv.Error {
	if len(key) == 0 {
		return kv.Errorf(kv.Invalid, "the key is empty")
	}
	return nil
}

func checkPut(op kv.Put) *kv.Error {
	switch {
	case len(op.Key) == 0:
		return kv.Errorf(kv.Invalid, "the key is empty")
	case len(op.Key) > MaxKeyBytes:
		return kv.Errorf(kv.TooLarge, "the key has %d bytes, the limit is %d", len(op.Key), MaxKeyBytes)
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
