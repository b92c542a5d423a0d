package rest

import "holdfast/kv"

// value reads "value", which is text, or "value_base64", if name is one of them.
func (d *opDecoder) value(value *[]byte, name string) (mine bool, err error) {
	if name != "value" && name != "value_base64" {
		return false, nil
	}
	if *value != nil {
		return true, d.errorf("give value or value_base64, not both")
	}
	if *value, err = d.bytes(name == "value"); err != nil {
		return true, err
	}
	if *value == nil {
		*value = []byte{}
	}
	if len(*value) > d.limits.ValueMax {
		return true, d.refuse(kv.TooLarge, "the value is longer than %d bytes, the limit (limits.value)", d.limits.ValueMax)
	}
	return true, nil
}

// put reads what is behind "put". full is with what only a transaction can do.
func (d *opDecoder) put(full bool) (kv.Op, error) {
	var s span
	var op kv.Put
	members := keyMembers + ", value, value_base64, lease"
	if full {
		members += ", prev_kv, ignore_value, ignore_lease"
	}
	err := d.object(func(name string) error {
		if mine, err := d.span(&s, name, false); mine {
			return err
		}
		if mine, err := d.value(&op.Value, name); mine {
			return err
		}
		var err error
		switch {
		case name == "lease":
			op.Lease, err = d.lease()
		case full && name == "prev_kv":
			op.PrevKV, err = d.flag()
		case full && name == "ignore_value":
			op.IgnoreValue, err = d.flag()
		case full && name == "ignore_lease":
			op.IgnoreLease, err = d.flag()
		default:
			err = d.errUnknown(members)
		}
		return err
	})
	if err == nil {
		err = d.spanned(&s)
	}
	switch {
	case err != nil:
	case op.Value == nil && !op.IgnoreValue:
		err = d.errorf("the value is missing: give value, or value_base64; an empty one is a value, too")
	case op.Value != nil && op.IgnoreValue:
		err = d.errorf("a value is given, and to be ignored; leave one of the two out")
	case op.Lease != 0 && op.IgnoreLease:
		err = d.errorf("a lease is given, and to be ignored; leave one of the two out")
	}
	op.Key = s.key
	return op, err
}

// lease reads the id of a lease.
func (d *opDecoder) lease() (int64, error) {
	s, err := d.text()
	if err != nil {
		return 0, err
	}
	id, ok := parseLeaseID(s)
	if !ok {
		return 0, d.errorf("the id of a lease is up to 16 hexadecimal digits, and not 0")
	}
	return id, nil
}

func (d *opDecoder) delete(full bool) (kv.Op, error) {
	var s span
	var op kv.Delete
	members := keyMembers
	if full {
		members = spanMembers + ", prev_kv"
	}
	err := d.object(func(name string) (err error) {
		if mine, err := d.span(&s, name, full); mine {
			return err
		}
		if !full || name != "prev_kv" {
			return d.errUnknown(members)
		}
		op.PrevKV, err = d.flag()
		return err
	})
	if err == nil {
		err = d.spanned(&s)
	}
	op.Key, op.End = s.key, s.end
	return op, err
}

// get reads what is behind "get". It answers with listKeysMax keys at most.
func (d *opDecoder) get() (kv.Op, error) {
	const members = spanMembers + ", limit, revision, keys_only, count_only, sort, order, " +
		"min_mod_revision, max_mod_revision, min_create_revision, max_create_revision"
	var s span
	op := kv.Range{Limit: listKeysMax}
	err := d.object(func(name string) (err error) {
		if mine, err := d.span(&s, name, true); mine {
			return err
		}
		switch name {
		case "limit":
			op.Limit, err = d.number(1)
			op.Limit = min(op.Limit, listKeysMax)
		case "revision":
			op.Revision, err = d.number(1)
		case "keys_only":
			op.KeysOnly, err = d.flag()
		case "count_only":
			op.CountOnly, err = d.flag()
		case "sort":
			op.Sort, err = oneOf(d, sorts)
		case "order":
			op.Order, err = oneOf(d, orders)
		case "min_mod_revision":
			op.MinMod, err = d.number(1)
		case "max_mod_revision":
			op.MaxMod, err = d.number(1)
		case "min_create_revision":
			op.MinCreate, err = d.number(1)
		case "max_create_revision":
			op.MaxCreate, err = d.number(1)
		default:
			err = d.errUnknown(members)
		}
		return err
	})
	if err == nil {
		err = d.spanned(&s)
	}
	op.Key, op.End = s.key, s.end
	return op, err
}

// word is a name in a request and what it stands for.
type word[T any] struct {
	name  string
	value T
}

var (
	sorts = []word[kv.Target]{{"key", kv.TargetKey}, {"version", kv.TargetVersion}, {"create_revision", kv.TargetCreate},
		{"mod_revision", kv.TargetMod}, {"value", kv.TargetValue}}
	orders    = []word[kv.Order]{{"ascending", kv.OrderAscend}, {"descending", kv.OrderDescend}}
	relations = []word[kv.Relation]{{"equal", kv.Equal}, {"greater", kv.Greater}, {"less", kv.Less}, {"not_equal", kv.NotEqual}}
)

func oneOf[T any](d *opDecoder, words []word[T]) (v T, err error) {
	s, err := d.text()
	if err != nil {
		return v, err
	}
	known := ""
	for _, w := range words {
		if w.name == s {
			return w.value, nil
		}
		known += " " + w.name
	}
	return v, d.errorf("%q is none of%s", shortened(s), known)
}

// compare reads a condition: a key or a range, what of it is looked at, and how it has to relate, which is to be equal
// unless "is" says otherwise. {"key": "a", "mod_revision": 7} holds if a's mod_revision is 7.
func (d *opDecoder) compare() (c kv.Compare, err error) {
	const members = spanMembers + ", is, and one of version, create_revision, mod_revision, lease, value, value_base64"
	if d.tests++; d.tests > d.limits.OpsMax {
		return c, d.refuse(kv.TooManyOps, "more than %d conditions in a transaction, those of nested ones included (limits.txn-ops)", d.limits.OpsMax)
	}
	var s span
	err = d.object(func(name string) (err error) {
		if mine, err := d.span(&s, name, true); mine {
			return err
		}
		if name == "is" {
			c.Relation, err = oneOf(d, relations)
			return err
		}
		if c.Target != kv.TargetKey {
			return d.errorf("a condition looks at one thing; look at this in one of its own")
		}
		if mine, err := d.value(&c.Value, name); mine {
			c.Target = kv.TargetValue
			return err
		}
		switch name {
		case "version":
			c.Target = kv.TargetVersion
		case "create_revision":
			c.Target = kv.TargetCreate
		case "mod_revision":
			c.Target = kv.TargetMod
		case "lease":
			c.Target = kv.TargetLease
			c.Num, err = d.leaseOrNone()
			return err
		default:
			return d.errUnknown(members)
		}
		c.Num, err = d.number(0)
		return err
	})
	if err == nil {
		err = d.spanned(&s)
	}
	if err == nil && c.Target == kv.TargetKey {
		err = d.errorf("it does not say what of the key is compared: give one of version, create_revision, mod_revision, lease, value, value_base64")
	}
	c.Key, c.End = s.key, s.end
	return c, err
}

// leaseOrNone reads the id of a lease, "0" being none.
func (d *opDecoder) leaseOrNone() (int64, error) {
	s, err := d.text()
	if err != nil || s == "0" {
		return 0, err
	}
	id, ok := parseLeaseID(s)
	if !ok {
		return 0, d.errorf(`the id of a lease is up to 16 hexadecimal digits; "0" is none`)
	}
	return id, nil
}
