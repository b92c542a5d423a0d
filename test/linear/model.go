package linear

import (
	"fmt"

	"github.com/anishathalye/porcupine"
)

// register is a key as the model knows it. The revision of a write without an answer is not known until somebody reads
// it; until then anything above floor will do.
type register struct {
	value    string
	revision int64 // mod revision, 0 for an absent key, -1 if it is not known
	floor    int64 // no later revision is this or less
}

const revisionUnknown = -1

// at returns the register if its mod revision may be revision, with what is learnt from that.
func (r register) at(revision int64) (register, bool) {
	if r.revision == revisionUnknown && revision > r.floor {
		r.revision, r.floor = revision, revision
		return r, true
	}
	return r, r.revision == revision
}

func (r register) write(value string, revision int64) []any {
	if revision <= r.floor {
		return nil
	}
	return []any{register{value: value, revision: revision, floor: revision}}
}

func (r register) writeUnknown(value string) []any {
	return []any{register{value: value, revision: revisionUnknown, floor: r.floor}}
}

// step returns the registers that r may be after op was answered with a; none if that answer cannot be.
func (r register) step(op Op, a Answer) []any {
	switch op.Kind {
	case KindGet:
		return r.get(a)
	case KindPut:
		if a.unknown {
			return r.writeUnknown(op.Value)
		}
		return r.write(op.Value, a.revision)
	case KindDelete:
		return r.remove(a)
	case KindCAS:
		return r.cas(op, a)
	}
	return nil
}

func (r register) get(a Answer) []any {
	if !a.found {
		return only(r, r.revision == 0)
	}
	learnt, ok := r.at(a.revision)
	return only(learnt, ok && r.revision != 0 && r.value == a.value)
}

func (r register) remove(a Answer) []any {
	switch {
	case a.unknown:
		return []any{register{floor: r.floor}}
	case !a.found:
		return only(r, r.revision == 0)
	case r.revision == 0 || a.revision <= r.floor:
		return nil
	default:
		return []any{register{floor: a.revision}}
	}
}

func (r register) cas(op Op, a Answer) []any {
	held, ok := r.at(op.Revision)
	switch {
	case a.unknown && ok && r.revision == revisionUnknown:
		return append(held.writeUnknown(op.Value), r)
	case a.unknown && ok:
		return held.writeUnknown(op.Value)
	case a.unknown:
		return []any{r}
	case a.found && ok:
		return held.write(op.Value, a.revision)
	case a.found:
		return nil
	default:
		found, ok := r.at(a.revision)
		return only(found, ok && a.revision != op.Revision)
	}
}

func only(r register, possible bool) []any {
	if !possible {
		return nil
	}
	return []any{r}
}

// model is the search's view of all that, each key for itself.
func model() porcupine.Model {
	m := porcupine.NondeterministicModel{
		Partition: byKey,
		Init:      func() []any { return []any{register{}} },
		Step: func(state, input, output any) []any {
			return state.(register).step(input.(Op), output.(Answer))
		},
		DescribeOperation: func(input, output any) string { return describe(input.(Op), output.(Answer)) },
		DescribeState:     func(state any) string { return fmt.Sprintf("%+v", state) },
	}
	return m.ToModel()
}

func byKey(ops []porcupine.Operation) [][]porcupine.Operation {
	index := map[string]int{}
	var parts [][]porcupine.Operation
	for _, o := range ops {
		key := o.Input.(Op).Key
		i, seen := index[key]
		if !seen {
			i = len(parts)
			index[key] = i
			parts = append(parts, nil)
		}
		parts[i] = append(parts[i], o)
	}
	return parts
}

func describe(op Op, a Answer) string {
	answer := fmt.Sprintf("%q at %d", a.value, a.revision)
	switch {
	case a.unknown:
		answer = "?"
	case !a.found && op.Kind == KindCAS:
		answer = fmt.Sprintf("found %d", a.revision)
	case !a.found:
		answer = "absent"
	case op.Kind != KindGet:
		answer = fmt.Sprintf("at %d", a.revision)
	}
	switch op.Kind {
	case KindPut:
		return fmt.Sprintf("put(%s, %q) -> %s", op.Key, op.Value, answer)
	case KindDelete:
		return fmt.Sprintf("delete(%s) -> %s", op.Key, answer)
	case KindCAS:
		return fmt.Sprintf("cas(%s, %q if %d) -> %s", op.Key, op.Value, op.Revision, answer)
	default:
		return fmt.Sprintf("get(%s) -> %s", op.Key, answer)
	}
}
