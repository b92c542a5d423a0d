package apitest

import (
	"cmp"
	"errors"
	"fmt"
	"slices"
	"strconv"
	"strings"
	"sync"
	"time"

	"github.com/anishathalye/porcupine"

	"holdfast/kv"
)

var concurrentClaims = []claim{
	{name: "writes and reads are linearizable", test: linearizable},
	{name: "writes get revisions of their own, in order", test: func(n *node) {
		const writers, each = 8, 50
		var mu sync.Mutex
		var all []int64
		n.together(writers, func(w int) error {
			last := int64(0)
			for range each {
				r, err := n.try(kv.Put{Key: n.key(fmt.Sprint(w)), Value: []byte("v")})
				if err != nil {
					return err
				}
				if r.Revision <= last {
					return fmt.Errorf("revision %d behind %d of the same writer", r.Revision, last)
				}
				last = r.Revision
				mu.Lock()
				all = append(all, r.Revision)
				mu.Unlock()
			}
			return nil
		})
		slices.Sort(all)
		if unique := slices.Compact(slices.Clone(all)); len(unique) != len(all) {
			n.Errorf("%d writes share %d revisions", len(all), len(unique))
		}
	}},
	{name: "guards let one of many win", test: func(n *node) {
		const writers, rounds = 8, 20
		for range rounds {
			at := n.get("k").ModRevision
			wins := make([]bool, writers)
			n.together(writers, func(w int) error {
				_, err := n.guarded(kv.Put{Key: n.key("k"), Value: []byte(strconv.Itoa(w))}, n.modIs("k", at))
				if kv.CodeOf(err) == kv.PreconditionFailed {
					return nil
				}
				wins[w] = err == nil
				return err
			})
			winner := slices.Index(wins, true)
			if count := len(slices.DeleteFunc(slices.Clone(wins), func(won bool) bool { return !won })); count != 1 {
				n.Fatalf("%d of %d writers won, want one", count, writers)
			}
			if got := n.get("k"); string(got.Value) != strconv.Itoa(winner) || got.Version > rounds {
				n.Fatalf("writer %d won, and there is %s", winner, showKV(got))
			}
		}
	}},
	{name: "a watch replays into what a read shows", test: func(n *node) {
		w := n.watch(n.watchAll(0))
		seed := n.seed()
		changes := make([]int, 4)
		n.together(len(changes), func(g int) error {
			rnd := generate(seed, g)
			for i := range 100 {
				name := fmt.Sprintf("k%d", rnd.IntN(10))
				op := kv.Op(kv.Put{Key: n.key(name), Value: []byte(fmt.Sprintf("%d/%d", g, i))})
				if rnd.IntN(4) == 0 {
					op = kv.Delete{Key: n.key(name)}
				}
				r, err := n.try(op, kv.Put{Key: n.key(fmt.Sprintf("own%d", g)), Value: []byte(fmt.Sprint(i))})
				if err != nil {
					return err
				}
				changes[g]++
				if del, ok := op.(kv.Delete); !ok || len(del.Key) > 0 && r.Ops[0].Count > 0 {
					changes[g]++
				}
			}
			return nil
		})
		total := 0
		for _, c := range changes {
			total += c
		}
		state := map[string]kv.KeyValue{}
		last := int64(0)
		for _, e := range w.events(0, total) {
			if e.KV.ModRevision < last {
				n.Fatalf("revision %d behind %d", e.KV.ModRevision, last)
			}
			last = e.KV.ModRevision
			if e.Delete {
				delete(state, string(e.KV.Key))
			} else {
				state[string(e.KV.Key)] = e.KV
			}
		}
		w.silent()
		there := n.query(n.all()).KVs
		if len(there) != len(state) {
			n.Errorf("the events lead to %d keys, a read shows %d", len(state), len(there))
		}
		for _, item := range there {
			n.wantKV(state[string(item.Key)], item)
		}
	}},
}

// together runs body in several goroutines and fails the test with what they return.
func (n *node) together(count int, body func(i int) error) {
	n.Helper()
	errs := make([]error, count)
	var wg sync.WaitGroup
	for i := range count {
		wg.Go(func() { errs[i] = body(i) })
	}
	wg.Wait()
	if err := errors.Join(errs...); err != nil {
		n.Fatal(err)
	}
}

// step is one call of the linearizability test, on one key.
type step struct {
	kind  stepKind
	key   int
	value string
	guard int64 // compareAndSet: the mod revision expected
}

type stepKind uint8

const (
	stepGet stepKind = iota
	stepPut
	stepDelete
	stepSet // compare and set
)

// register is a key as the model has it; revision 0 is absent.
type register struct {
	value    string
	revision int64
}

// seen is what a call answered.
type seen struct {
	register
	failed  bool // the guard did not hold
	unknown bool // the outcome is not known
}

// registers is the model of one key: a register whose revision every write sets to one that is higher. The revision of a
// write is part of its answer, so that an order that contradicts the revisions is not linearizable, and the refusal of a
// guard has to name the revision that stood in its way.
var registers = porcupine.NondeterministicModel{
	Init: func() []any { return []any{register{}} },
	Step: func(state, input, output any) []any {
		now, in, out := state.(register), input.(step), output.(seen)
		if out.unknown {
			return []any{now, in.applied(now, anyRevision)}
		}
		switch in.kind {
		case stepGet:
			return when(now.matches(out.register), out.register)
		case stepSet:
			if out.failed {
				return when(now.revision == anyRevision || now.revision != in.guard && now.revision == out.revision, now)
			}
			return when(now.revision == in.guard || now.revision == anyRevision, in.applied(now, out.revision))
		default:
			return when(out.revision > now.revision || now.revision == anyRevision, in.applied(now, out.revision))
		}
	},
	Equal:             func(a, b any) bool { return a == b },
	DescribeOperation: func(input, output any) string { return fmt.Sprintf("%+v -> %+v", input, output) },
}

// anyRevision is the revision of a write that was not answered.
const anyRevision = int64(1) << 62

func (r register) matches(out register) bool {
	if r.revision == anyRevision {
		return r.value == out.value && out.revision != 0
	}
	return r == out
}

func (in step) applied(now register, revision int64) register {
	if in.kind == stepDelete {
		return register{}
	}
	if in.kind == stepGet {
		return now
	}
	return register{in.value, revision}
}

func when(ok bool, next register) []any {
	if !ok {
		return nil
	}
	return []any{next}
}

// linearizable lets goroutines put, get, delete and compare-and-set a few keys, and looks for one order that explains
// all answers.
func linearizable(n *node) {
	const clients, each, keys = 8, 60, 4
	seed := n.seed()
	began := time.Now()
	histories := make([][]porcupine.Operation, clients)
	n.together(clients, func(c int) error {
		rnd := generate(seed, c)
		last := [keys]int64{}
		for i := range each {
			in := step{kind: stepKind(rnd.IntN(4)), key: rnd.IntN(keys), value: fmt.Sprintf("%d/%d", c, i)}
			in.guard = last[in.key]
			call := time.Since(began)
			out, err := n.take(in)
			if err != nil {
				return err
			}
			if !out.unknown && in.kind != stepDelete {
				last[in.key] = out.revision
			}
			end := time.Since(began)
			if out.unknown {
				end = claimTimeout * 10 // it may still happen
			}
			histories[c] = append(histories[c], porcupine.Operation{ClientId: c, Input: in, Output: out, Call: int64(call), Return: int64(end)})
		}
		return nil
	})
	byKey := make([][]porcupine.Operation, keys)
	for _, op := range slices.Concat(histories...) {
		k := op.Input.(step).key
		byKey[k] = append(byKey[k], op)
	}
	model := registers.ToModel()
	for k, history := range byKey {
		if result := porcupine.CheckOperationsTimeout(model, history, claimTimeout/2); result != porcupine.Ok {
			n.Errorf("seed %d, key %d: %d operations are %v, want a linearizable history:%s", seed, k, len(history), result, showHistory(history))
			return
		}
	}
}

func showHistory(history []porcupine.Operation) string {
	var b strings.Builder
	slices.SortFunc(history, func(x, y porcupine.Operation) int { return cmp.Compare(x.Call, y.Call) })
	for _, op := range history {
		fmt.Fprintf(&b, "\n\t%v-%v client %d: %+v -> %+v", time.Duration(op.Call), time.Duration(op.Return), op.ClientId, op.Input, op.Output)
	}
	return b.String()
}

// take makes one call.
func (n *node) take(in step) (seen, error) {
	key := n.key(strconv.Itoa(in.key))
	var r kv.Result
	var err error
	switch in.kind {
	case stepGet:
		p, err := n.b.Read(n.ctx, kv.Query{Ops: []kv.Op{kv.Range{Key: key}}})
		if err != nil || len(p.Ops[0].KVs) == 0 {
			return seen{}, err
		}
		found := p.Ops[0].KVs[0]
		return seen{register: register{string(found.Value), found.ModRevision}}, nil
	case stepPut:
		r, err = n.try(kv.Put{Key: key, Value: []byte(in.value)})
	case stepDelete:
		r, err = n.try(kv.Delete{Key: key})
	case stepSet:
		r, err = n.guarded(kv.Put{Key: key, Value: []byte(in.value)},
			kv.Compare{Key: key, Target: kv.TargetMod, Relation: kv.Equal, Num: in.guard})
	}
	switch kv.CodeOf(err) {
	case kv.OK:
		return seen{register: register{revision: r.Revision}}, nil
	case kv.PreconditionFailed:
		e, _ := asError(err)
		return seen{failed: true, register: register{revision: e.Revision}}, nil
	case kv.OutcomeUnknown:
		return seen{unknown: true}, nil
	}
	return seen{}, err
}
