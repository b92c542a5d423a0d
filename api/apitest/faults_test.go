package apitest

import (
	"context"
	"iter"
	"path"
	"slices"

	"holdfast/kv"
)

// faulty is a node that breaks a promise: the calls that are set stand in front of a Memory that keeps all of them.
type faulty struct {
	*Memory
	do    func(ctx context.Context, c kv.Command) (kv.Result, error)
	read  func(ctx context.Context, q kv.Query) (kv.Page, error)
	watch func(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error]
}

func (f *faulty) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	if f.do != nil {
		return f.do(ctx, c)
	}
	return f.Memory.Do(ctx, c)
}

func (f *faulty) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if f.read != nil {
		return f.read(ctx, q)
	}
	return f.Memory.Read(ctx, q)
}

func (f *faulty) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if f.watch != nil {
		return f.watch(ctx, w)
	}
	return f.Memory.Watch(ctx, w)
}

// fault is one way to break promises; wants are promises that must not be found kept.
type fault struct {
	name  string
	wants []string
	open  func(f *faulty)
}

// change returns a fault in what a command is understood as.
func change(name string, edit func(m *Memory, c kv.Command) kv.Command, wants ...string) fault {
	return fault{name, wants, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) { return f.Memory.Do(ctx, edit(f.Memory, c)) }
	}}
}

// ops is change for each op by itself, nested ones included.
func ops(name string, edit func(op kv.Op) kv.Op, wants ...string) fault {
	var all func(ops []kv.Op) []kv.Op
	all = func(ops []kv.Op) []kv.Op {
		var out []kv.Op
		for _, op := range ops {
			if t, ok := op.(kv.Txn); ok {
				t.Then, t.Else = all(t.Then), all(t.Else)
				op = t
			}
			out = append(out, edit(op))
		}
		return out
	}
	return fault{name, wants, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			c.Ops = all(c.Ops)
			return f.Memory.Do(ctx, c)
		}
		f.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			q.Ops = all(q.Ops)
			return f.Memory.Read(ctx, q)
		}
	}}
}

// ranges is ops for ranges only.
func ranges(name string, edit func(r *kv.Range), wants ...string) fault {
	return ops(name, func(op kv.Op) kv.Op {
		if r, ok := op.(kv.Range); ok {
			edit(&r)
			return r
		}
		return op
	}, wants...)
}

// answers is a fault in what is answered to each op of commands and queries, nested ones included.
func answers(name string, edit func(op kv.Op, r *kv.OpResult), wants ...string) fault {
	var all func(ops []kv.Op, rs []kv.OpResult) []kv.OpResult
	all = func(ops []kv.Op, rs []kv.OpResult) []kv.OpResult {
		rs = slices.Clone(rs)
		for i := range rs {
			rs[i].KVs = slices.Clone(rs[i].KVs)
			if t, ok := ops[i].(kv.Txn); ok {
				rs[i].Ops = all(branch(t, rs[i].Succeeded), rs[i].Ops)
			}
			edit(ops[i], &rs[i])
		}
		return rs
	}
	return fault{name, wants, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			r, err := f.Memory.Do(ctx, c)
			r.Ops = all(c.Ops, r.Ops)
			return r, err
		}
		f.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			p, err := f.Memory.Read(ctx, q)
			p.Ops = all(q.Ops, p.Ops)
			return p, err
		}
	}}
}

// results is a fault in how commands end.
func results(name string, edit func(f *faulty, c kv.Command, r *kv.Result, err error) error, wants ...string) fault {
	return fault{name, wants, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			r, err := f.Memory.Do(ctx, c)
			err = edit(f, c, &r, err)
			return r, err
		}
	}}
}

// pages is a fault in queries and their answers.
func pages(name string, edit func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error), wants ...string) fault {
	return fault{name, wants, func(f *faulty) {
		f.read = func(ctx context.Context, q kv.Query) (kv.Page, error) { return edit(f, ctx, q) }
	}}
}

// batches is a fault in the batches of a stream: each may become several or none.
func batches(name string, edit func(spec kv.WatchSpec, b kv.Batch) []kv.Batch, wants ...string) fault {
	return streams(name, func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		for b, err := range f.Memory.Watch(ctx, spec) {
			b.Events = slices.Clone(b.Events)
			for _, b := range edit(spec, b) {
				if !yield(b, err) {
					return
				}
			}
		}
	}, wants...)
}

// specs is a fault in what a stream is understood to watch.
func specs(name string, edit func(m *Memory, w *kv.Watch), wants ...string) fault {
	return streams(name, func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		spec.Watches = slices.Clone(spec.Watches)
		for i := range spec.Watches {
			edit(f.Memory, &spec.Watches[i])
		}
		f.Memory.Watch(ctx, spec)(yield)
	}, wants...)
}

func streams(name string, run func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool), wants ...string) fault {
	return fault{name, wants, func(f *faulty) {
		f.watch = func(ctx context.Context, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
			return func(yield func(kv.Batch, error) bool) { run(f, ctx, spec, yield) }
		}
	}}
}

var dummy = kv.Put{Key: []byte("~dummy")}

func isPut(op kv.Op) bool { _, ok := op.(kv.Put); return ok }

// faults are wrong in one thing each. Together they break every promise.
var faults = slices.Concat(writeFaults, txnFaults, leaseFaults, readFaults, watchFaults, otherFaults)

var writeFaults = []fault{
	answers("created is the wrong way round", func(op kv.Op, r *kv.OpResult) {
		if isPut(op) {
			r.Created = !r.Created
		}
	}, "put/creates a key and says so", "put/replaces a value and counts its versions", "delete/lets a key begin anew"),
	answers("versions are not counted", func(_ kv.Op, r *kv.OpResult) {
		for i := range r.KVs {
			r.KVs[i].Version = 1
		}
	}, "put/replaces a value and counts its versions"),
	answers("versions go on behind a delete", func(_ kv.Op, r *kv.OpResult) {
		for i := range r.KVs {
			if string(r.KVs[i].Value) == "3" {
				r.KVs[i].Version = 3
			}
		}
	}, "delete/lets a key begin anew"),
	results("a put of the same value is no change", func(f *faulty, c kv.Command, r *kv.Result, err error) error {
		if p, ok := c.Ops[0].(kv.Put); ok && string(p.Value) == "v" && !r.Ops[0].Created {
			r.Revision--
		}
		return err
	}, "put/of the same value is a change"),
	ops("an empty value deletes", func(op kv.Op) kv.Op {
		if p, ok := op.(kv.Put); ok && len(p.Value) == 0 && !p.IgnoreValue && len(p.Key) > 0 {
			return kv.Delete{Key: p.Key}
		}
		return op
	}, "put/of an empty value is a value"),
	ops("keys are cleaned like paths", func(op kv.Op) kv.Op {
		switch op := op.(type) {
		case kv.Put:
			if len(op.Key) > 0 {
				op.Key = []byte(path.Clean(string(op.Key)))
			}
			return op
		case kv.Range:
			if len(op.Key) > 0 && len(op.End) == 0 {
				op.Key = []byte(path.Clean(string(op.Key)))
			}
			return op
		}
		return op
	}, "put/takes any bytes as a key"),
	ops("values are cut", func(op kv.Op) kv.Op {
		if p, ok := op.(kv.Put); ok {
			p.Value = p.Value[:min(len(p.Value), 1<<20-1)]
			return p
		}
		return op
	}, "put/takes a large value whole"),
	ops("previous values are not answered", func(op kv.Op) kv.Op {
		switch op := op.(type) {
		case kv.Put:
			op.PrevKV = false
			return op
		case kv.Delete:
			op.PrevKV = false
			return op
		}
		return op
	}, "put/answers with the value it replaced when asked", "delete/answers with what it removed when asked"),
	ops("previous values are always answered", func(op kv.Op) kv.Op {
		if p, ok := op.(kv.Put); ok {
			p.PrevKV = true
			return p
		}
		return op
	}, "put/answers with the value it replaced when asked"),
	ops("values are never kept", func(op kv.Op) kv.Op {
		if p, ok := op.(kv.Put); ok {
			p.IgnoreValue, p.IgnoreLease = false, false
			return p
		}
		return op
	}, "put/may keep the value that is there", "put/cannot keep a value or lease that is not there",
		"command/that is refused in its last op changes nothing", "txn/that is refused in one branch taken changes nothing"),
	ops("an empty key is made up", func(op kv.Op) kv.Op {
		switch op := op.(type) {
		case kv.Put:
			if len(op.Key) == 0 {
				op.Key = []byte("~")
			}
			return op
		case kv.Delete:
			if len(op.Key) == 0 {
				op.Key = []byte("~")
			}
			return op
		case kv.Range:
			if len(op.Key) == 0 {
				op.Key = []byte("~")
			}
			return op
		}
		return op
	}, "put/without a key is refused", "delete/without a key is refused", "range/without a key is refused"),
	ops("leases are ignored", func(op kv.Op) kv.Op {
		if p, ok := op.(kv.Put); ok {
			p.Lease = 0
			return p
		}
		return op
	}, "put/under a lease that does not exist is refused", "lease/that does not exist applies nothing of the command that names it"),
	results("every command moves the revision", func(f *faulty, c kv.Command, r *kv.Result, err error) error {
		before := f.Memory.revision
		if err == nil && r.Revision == before && !slices.ContainsFunc(c.Ops, isPut) {
			moved, _ := f.Memory.Do(context.Background(), kv.Command{Ops: []kv.Op{dummy}})
			r.Revision = moved.Revision
		}
		return err
	}, "delete/of nothing changes nothing", "command/that only reads moves no revision", "txn/whose branch is empty changes nothing",
		"lease/that is revoked without keys moves no revision", "lease/that is renewed has its whole time, and moves no revision"),
	results("refused commands move the revision", func(f *faulty, c kv.Command, r *kv.Result, err error) error {
		if err != nil {
			_, _ = f.Memory.Do(context.Background(), kv.Command{Ops: []kv.Op{dummy}})
		}
		return err
	}, "command/that puts a key twice is refused whole", "guard/that fails applies nothing and names the current revision"),
	ops("ranges of deletes have their end in them", func(op kv.Op) kv.Op {
		if d, ok := op.(kv.Delete); ok && len(d.End) > 1 {
			d.End = append(slices.Clone(d.End), 0)
			return d
		}
		return op
	}, "delete/of a range removes exactly its keys"),
	results("deletes are forgotten", func(f *faulty, c kv.Command, r *kv.Result, err error) error {
		if d, ok := c.Ops[0].(kv.Delete); ok && len(d.End) == 0 && err == nil && r.Ops[0].Count > 0 {
			_, _ = f.Memory.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Put{Key: d.Key, Value: []byte("undead")}}})
		}
		return err
	}, "delete/removes a key at the next revision"),
	{"a fresh store is at revision 0", []string{"command/meets a fresh store at revision 1"}, func(f *faulty) { f.Memory.revision = 0 }},
	results("answers name no epoch", func(_ *faulty, _ kv.Command, r *kv.Result, err error) error {
		r.Epoch = kv.Epoch{}
		return err
	}, "command/is answered with epoch and revision"),
	{"ops are applied one by one", []string{"command/applies all its ops at one revision", "command/that is refused in its last op changes nothing",
		"txn/compares, nested too, with what stood before the command", "read/answers all its ranges at one revision",
		"lease/is not asked for beside what changes something"}, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			var out kv.Result
			for _, op := range c.Ops {
				r, err := f.Memory.Do(ctx, kv.Command{ID: c.ID, Guards: c.Guards, Ops: []kv.Op{op}})
				if err != nil {
					return r, err
				}
				out.Header, out.Ops = r.Header, append(out.Ops, r.Ops...)
			}
			return out, nil
		}
	}},
	results("answers come in the wrong order", func(_ *faulty, _ kv.Command, r *kv.Result, err error) error {
		slices.Reverse(r.Ops)
		return err
	}, "command/is answered op by op"),
	{"ranges of a command do not see its puts", []string{"command/reads its own writes"}, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			before := f.Memory.revision
			for i, op := range c.Ops {
				if r, ok := op.(kv.Range); ok && r.Revision == 0 && len(c.Ops) > 1 {
					r.Revision = before
					c.Ops[i] = r
				}
			}
			return f.Memory.Do(ctx, c)
		}
	}},
	change("keys put twice are put once", func(_ *Memory, c kv.Command) kv.Command {
		if validate(c.Ops) != nil {
			c.Ops = c.Ops[:1]
			if t, ok := c.Ops[0].(kv.Txn); ok {
				t.Then, t.Else = t.Then[:min(1, len(t.Then))], t.Else[:min(1, len(t.Else))]
				c.Ops[0] = t
			}
		}
		return c
	}, "command/that puts a key twice is refused whole", "txn/that puts a key twice, in itself or below, is refused"),
	results("what may be queued is", func(_ *faulty, c kv.Command, r *kv.Result, err error) error {
		if c.Write == kv.WriteAuto {
			r.Queued, r.Ops = &kv.Receipt{ID: "1"}, nil
		}
		return err
	}, "command/that may be queued is committed while the node can"),
	change("what must be queued is not", func(_ *Memory, c kv.Command) kv.Command {
		c.Write = kv.WriteSync
		return c
	}, "command/that must be queued is refused without a queue"),
}

var txnFaults = []fault{
	change("guards are ignored", func(_ *Memory, c kv.Command) kv.Command {
		c.Guards = nil
		return c
	}, "guard/that fails applies nothing and names the current revision", "guard/guards a delete", "guard/must hold with all others",
		"concurrent/guards let one of many win", "guard/compares as a transaction does"),
	change("only the first guard counts", func(_ *Memory, c kv.Command) kv.Command {
		c.Guards = c.Guards[:min(1, len(c.Guards))]
		return c
	}, "guard/must hold with all others"),
	change("no guard holds", func(_ *Memory, c kv.Command) kv.Command {
		if len(c.Guards) > 0 {
			c.Guards = []kv.Guard{{Compare: kv.Compare{Key: c.Guards[0].Key, Target: kv.TargetMod, Num: -1}}}
		}
		return c
	}, "guard/that holds lets a command pass", "guard/takes an absent key for revision 0", "guard/takes a deleted key for absent"),
	results("refusals name no revision", func(_ *faulty, _ kv.Command, _ *kv.Result, err error) error {
		if e, ok := asError(err); ok {
			return &kv.Error{Code: e.Code, Detail: e.Detail}
		}
		return err
	}, "guard/that fails applies nothing and names the current revision",
		"concurrent/writes and reads are linearizable"),
	change("deleted keys are remembered by guards", func(m *Memory, c kv.Command) kv.Command {
		if len(c.Guards) == 1 && c.Guards[0].Num == 0 {
			if _, known := m.find(c.Guards[0].Key); known {
				c.Guards[0].Num = -1
			}
		}
		return c
	}, "guard/takes a deleted key for absent"),
	ops("compares relate the wrong way round", func(op kv.Op) kv.Op {
		if t, ok := op.(kv.Txn); ok {
			t.Compares = slices.Clone(t.Compares)
			for i, c := range t.Compares {
				switch c.Relation {
				case kv.Greater:
					t.Compares[i].Relation = kv.Less
				case kv.Less:
					t.Compares[i].Relation = kv.Greater
				}
			}
			return t
		}
		return op
	}, "txn/compares every target under every relation"),
	ops("a txn needs its first compare only", func(op kv.Op) kv.Op {
		if t, ok := op.(kv.Txn); ok {
			t.Compares = t.Compares[:min(1, len(t.Compares))]
			return t
		}
		return op
	}, "txn/needs all compares to hold"),
	ops("branches are the wrong way round", func(op kv.Op) kv.Op {
		if t, ok := op.(kv.Txn); ok {
			t.Then, t.Else = t.Else, t.Then
			return t
		}
		return op
	}, "txn/takes one branch and says which", "txn/without compares succeeds", "txn/nests and applies at one revision",
		"txn/that only reads is a query", "txn/whose branch is empty changes nothing"),
	ops("nested txns are left out", func(op kv.Op) kv.Op {
		if t, ok := op.(kv.Txn); ok {
			nested := func(op kv.Op) bool { _, is := op.(kv.Txn); return is }
			t.Then, t.Else = slices.DeleteFunc(slices.Clone(t.Then), nested), slices.DeleteFunc(slices.Clone(t.Else), nested)
			return t
		}
		return op
	}, "txn/nests and applies at one revision"),
}
