package wire

import "holdfast/kv"

// CheckCommand reports whether c can be encoded and read back, as a kv.Error with code Invalid that says what cannot.
// It belongs at the door, before a command is encoded: what it refuses must never reach a log, where no replica could
// read it. It judges form only; empty keys, limits and permissions are for others.
func CheckCommand(c kv.Command) error {
	if c.ID.Seq.Lane > kv.LaneBulk {
		return unknown("lane", c.ID.Seq.Lane)
	}
	for i := range c.Guards {
		if c.Guards[i].Or.Lane > kv.LaneBulk {
			return unknown("lane", c.Guards[i].Or.Lane)
		}
		if err := checkCompare(&c.Guards[i].Compare); err != nil {
			return err
		}
	}
	if len(c.Ops) == 1 {
		switch op := c.Ops[0].(type) {
		case kv.Skip:
			return nil
		case kv.Each:
			return checkEach(op)
		}
	}
	return checkOps(c.Ops, 0)
}

// alone reports whether op has to be the only one of its command.
func alone(op kv.Op) bool {
	switch op.(type) {
	case kv.Each, kv.Skip:
		return true
	}
	return false
}

// checkEach checks the commands of a batch.
func checkEach(e kv.Each) error {
	for _, c := range e.Commands {
		for _, op := range c.Ops {
			if _, ok := op.(kv.Each); ok {
				return kv.Errorf(kv.Invalid, "a batch in a batch")
			}
		}
		if err := CheckCommand(c); err != nil {
			return err
		}
	}
	return nil
}

// CheckQuery is CheckCommand for a query.
func CheckQuery(q kv.Query) error { return checkOps(q.Ops, 0) }

func checkOps(ops []kv.Op, depth int) error {
	for _, op := range ops {
		if err := checkOp(op, depth); err != nil {
			return err
		}
	}
	return nil
}

func checkOp(op kv.Op, depth int) error {
	switch op := op.(type) {
	case kv.Txn:
		return checkTxn(op, depth+1)
	case kv.Range:
		if op.Sort > kv.TargetLease {
			return unknown("sort target", op.Sort)
		}
		if op.Order > kv.OrderDescend {
			return unknown("sort order", op.Order)
		}
	case kv.SetAlarm:
		if op.Alarm.Kind > kv.AlarmCorrupt {
			return unknown("kind of alarm", op.Alarm.Kind)
		}
	case kv.Each, kv.Skip:
		return kv.Errorf(kv.Invalid, "an op of type %T has to be the only one of its command", op)
	case kv.Put, kv.Delete, kv.Compact, kv.LeaderTerm, kv.OpenEpoch, kv.OpenQueue, kv.SetRecord, kv.Records, kv.LeaseGrant, kv.LeaseRevoke,
		kv.LeaseKeepAlive, kv.LeaseTTL, kv.LeaseList, kv.Alarms, kv.SetFeature, kv.Audit, kv.Authenticate:
	case kv.SetAuth, kv.SetDevice, kv.SetScope, kv.ReadAuth:
		return checkAuthOp(op)
	default:
		return kv.Errorf(kv.Invalid, "an op of type %T is not known", op)
	}
	return nil
}

func checkTxn(t kv.Txn, depth int) error {
	if depth > MaxDepth {
		return kv.Errorf(kv.Invalid, "transactions nest deeper than %d", MaxDepth)
	}
	for i := range t.Compares {
		if err := checkCompare(&t.Compares[i]); err != nil {
			return err
		}
	}
	if err := checkOps(t.Then, depth); err != nil {
		return err
	}
	return checkOps(t.Else, depth)
}

func checkCompare(c *kv.Compare) error {
	if c.Target > kv.TargetLease {
		return unknown("compare target", c.Target)
	}
	if c.Relation > kv.NotEqual {
		return unknown("compare relation", c.Relation)
	}
	return nil
}

func unknown[T ~uint8](what string, n T) error {
	return kv.Errorf(kv.Invalid, "%s %d is not known", what, byte(n))
}
