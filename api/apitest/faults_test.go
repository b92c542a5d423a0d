package apitest

import (
	"bytes"
	"context"
	"iter"
	"path"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/api"
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

var readFaults = []fault{
	ranges("limits are ignored", func(r *kv.Range) { r.Limit = 0 }, "range/is cut at its limit and says so", "range/sorts before it cuts", "history/counts and cuts in the past as in the present"),
	answers("nobody hears of more", func(_ kv.Op, r *kv.OpResult) { r.More = false }, "range/is cut at its limit and says so"),
	answers("only what is answered is counted", func(op kv.Op, r *kv.OpResult) {
		if q, ok := op.(kv.Range); ok && !q.CountOnly {
			r.Count = int64(len(r.KVs))
		}
	}, "range/is cut at its limit and says so", "history/counts and cuts in the past as in the present"),
	ranges("values are always answered", func(r *kv.Range) { r.KeysOnly = false }, "range/of keys only leaves the values out"),
	ranges("keys are always answered", func(r *kv.Range) { r.CountOnly = false }, "range/that only counts brings no keys"),
	ranges("everything is in order of the key", func(r *kv.Range) { r.Sort = kv.TargetKey }, "range/sorts by every target, both ways"),
	ranges("everything is ascending", func(r *kv.Range) { r.Order = kv.OrderAscend }, "range/sorts by every target, both ways"),
	ranges("bounds are ignored", func(r *kv.Range) { r.MinMod, r.MaxMod, r.MinCreate, r.MaxCreate = 0, 0, 0, 0 }, "range/keeps to bounds on revisions"),
	ranges("ranges have their end in them", func(r *kv.Range) {
		if len(r.End) > 1 {
			r.End = append(slices.Clone(r.End), 0)
		}
	}, "range/is half open and in order"),
	ranges("one key stands for all that begin with it", func(r *kv.Range) {
		if len(r.End) == 0 && len(r.Key) > 0 {
			r.End = kv.PrefixEnd(r.Key)
		}
	}, "range/of one key finds it or nothing"),
	ranges("prefixes do not reach 0xff", func(r *kv.Range) {
		if len(r.End) > 0 && bytes.HasSuffix(r.Key, []byte{0xff}) {
			r.End = append(slices.Clone(r.Key), 0xff)
		}
		if bytes.HasSuffix(r.Key, []byte("p")) && len(r.End) > 0 {
			r.End = append(slices.Clone(r.Key), 0xff, 0xff)
		}
	}, "range/of a prefix finds what begins with it"),
	ranges("there is no range without an end", func(r *kv.Range) {
		if bytes.Equal(r.End, kv.FromKey()) {
			r.End = []byte{0xff}
		}
	}, "range/without upper end goes to the last key"),
	{"queries may write", []string{"read/that changes something is refused"}, func(f *faulty) {
		f.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			if kv.ReadOnly(q.Ops) {
				return f.Memory.Read(ctx, q)
			}
			r, err := f.Memory.Do(ctx, kv.Command{Ops: q.Ops})
			return kv.Page{Header: r.Header, Ops: r.Ops}, err
		}
	}},
	pages("reads lag one revision", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		q.Ops = slices.Clone(q.Ops)
		p, err := f.Memory.Read(ctx, q)
		for i, op := range q.Ops {
			if r, ok := op.(kv.Range); ok && r.Revision == 0 && err == nil && p.Revision > 1 {
				r.Revision = p.Revision - 1
				q.Ops[i] = r
			}
		}
		if err == nil {
			return f.Memory.Read(ctx, q)
		}
		return p, err
	}, "read/sees a write that was answered before", "concurrent/writes and reads are linearizable", "read/shows the store as of the revision it names"),
	pages("ages are made up", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		p, err := f.Memory.Read(ctx, q)
		if p.Age = time.Second; q.MaxAge > 0 {
			p.Age = 2 * q.MaxAge
		}
		return p, err
	}, "read/is of age 0 when linearizable", "read/keeps within the age it was given"),
	pages("everything is forwarded", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		p, err := f.Memory.Read(ctx, q)
		p.Source = kv.SourceUpstream
		return p, err
	}, "read/of local data is answered or says that it is not known"),
	pages("ranges are read one by one", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		var out kv.Page
		for _, op := range q.Ops {
			p, err := f.Memory.Read(ctx, kv.Query{Ops: []kv.Op{op}, MinRevision: q.MinRevision, Wait: q.Wait})
			if err != nil {
				return p, err
			}
			time.Sleep(10 * time.Microsecond)
			out.Header, out.Ops = p.Header, append(out.Ops, p.Ops...)
		}
		return out, nil
	}, "read/answers all its ranges at one revision"),
	pages("the revision is taken before the read", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		head, _ := f.Memory.Read(ctx, q)
		time.Sleep(100 * time.Microsecond)
		p, err := f.Memory.Read(ctx, q)
		p.Header = head.Header
		return p, err
	}, "read/shows the store as of the revision it names"),
	pages("nothing is waited for", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		q.MinRevision = 0
		return f.Memory.Read(ctx, q)
	}, "read/gives up on a revision that does not come"),
	pages("nothing is waited for long enough", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		q.Wait = 0
		return f.Memory.Read(ctx, q)
	}, "read/waits for the revision it needs", "read/gives up on a revision that does not come"),
	pages("refused queries name no revision", func(f *faulty, ctx context.Context, q kv.Query) (kv.Page, error) {
		p, err := f.Memory.Read(ctx, q)
		if e, ok := asError(err); ok {
			err = &kv.Error{Code: e.Code}
		}
		return p, err
	}, "history/before a compaction is gone, from there on it stays", "restart/leaves compacted what was compacted"),
	ranges("the past is the present", func(r *kv.Range) { r.Revision = 0 }, "history/shows every revision as it was", "history/has no future", "restart/leaves compacted what was compacted"),
	change("nothing is compacted", func(_ *Memory, c kv.Command) kv.Command {
		if k, ok := c.Ops[0].(kv.Compact); ok {
			c.Ops = []kv.Op{kv.Compact{Revision: k.Revision, Term: 99}}
		}
		return c
	}, "history/before a compaction is gone, from there on it stays", "history/can be compacted up to the present, not beyond and not twice",
		"watch/from before a compaction is refused, from there on it is not"),
	results("compaction takes live keys", func(f *faulty, c kv.Command, _ *kv.Result, err error) error {
		if k, ok := c.Ops[0].(kv.Compact); ok && err == nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.keys = slices.DeleteFunc(f.keys, func(h history) bool { return h.versions[len(h.versions)-1].ModRevision < k.Revision-1 })
		}
		return err
	}, "history/keeps live keys through many compactions"),
	results("compaction takes the revision it names", func(f *faulty, c kv.Command, _ *kv.Result, err error) error {
		if k, ok := c.Ops[0].(kv.Compact); ok && err == nil {
			f.mu.Lock()
			defer f.mu.Unlock()
			f.compacted++
			f.events = slices.DeleteFunc(f.events, func(e kv.Event) bool { return e.KV.ModRevision <= k.Revision })
		}
		return err
	}, "history/before a compaction is gone, from there on it stays", "watch/from before a compaction is refused, from there on it is not"),
}

var watchFaults = []fault{
	batches("watches are not confirmed", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		b.Created = false
		return []kv.Batch{b}
	}, "watch/is confirmed before anything else, with where it stands"),
	batches("deletes look like puts", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		for i := range b.Events {
			b.Events[i].Delete = false
		}
		return []kv.Batch{b}
	}, "watch/shows puts and deletes as they are", "watch/sees each key of a range delete, in order", "watch/shows the past from the revision asked for"),
	specs("the past is shown to all", func(m *Memory, w *kv.Watch) {
		if w.From == 0 {
			w.From = max(1, m.compacted)
		}
	}, "watch/does not show what was before it"),
	specs("the past is shown to nobody", func(_ *Memory, w *kv.Watch) { w.From = 0 }, "watch/shows the past from the revision asked for",
		"watch/goes from the past to the present without gap or double", "watch/from a later revision waits for it",
		"watch/from before a compaction is refused, from there on it is not", "watch/keeps a delete at the compacted revision"),
	specs("a watch of a key is one of a prefix", func(_ *Memory, w *kv.Watch) {
		if len(w.End) == 0 {
			w.End = kv.PrefixEnd(w.Key)
		}
	}, "watch/keeps to its key"),
	specs("a range has its end in it", func(_ *Memory, w *kv.Watch) {
		if len(w.End) > 1 {
			w.End = append(slices.Clone(w.End), 0)
		}
	}, "watch/keeps to its range"),
	batches("revisions are torn apart", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		if len(b.Events) < 2 {
			return []kv.Batch{b}
		}
		var out []kv.Batch
		for _, e := range b.Events {
			one := b
			one.Events = []kv.Event{e}
			out = append(out, one)
		}
		return out
	}, "watch/gets one revision in one batch, in the order of its ops"),
	batches("changes are in order of the key", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		slices.SortStableFunc(b.Events, func(x, y kv.Event) int { return bytes.Compare(x.KV.Key, y.KV.Key) })
		return []kv.Batch{b}
	}, "watch/gets one revision in one batch, in the order of its ops"),
	batches("range deletes are out of order", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		slices.Reverse(b.Events)
		return []kv.Batch{b}
	}, "watch/sees each key of a range delete, in order"),
	batches("events come twice", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		if len(b.Events) > 0 {
			return []kv.Batch{b, b}
		}
		return []kv.Batch{b}
	}, "watch/goes from the past to the present without gap or double"),
	batches("every seventh event is lost", func() func(kv.WatchSpec, kv.Batch) []kv.Batch {
		var n atomic.Int64
		return func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
			b.Events = slices.DeleteFunc(b.Events, func(kv.Event) bool { return n.Add(1)%7 == 0 })
			return []kv.Batch{b}
		}
	}(), "watch/goes from the past to the present without gap or double", "stream/whose consumer is slow loses nothing and holds nobody up",
		"stream/is one of many that all see everything", "concurrent/a watch replays into what a read shows", "model/any commands are answered as the model answers them"),
	specs("nobody hears what was replaced", func(_ *Memory, w *kv.Watch) { w.PrevKV = false }, "watch/brings what was replaced when asked"),
	specs("all hear what was replaced", func(_ *Memory, w *kv.Watch) { w.PrevKV = true }, "watch/shows puts and deletes as they are"),
	specs("wishes are ignored", func(_ *Memory, w *kv.Watch) { w.NoPuts, w.NoDeletes = false, false }, "watch/leaves out what it does not want"),
	streams("compaction ends every watch", func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		for b, err := range f.Memory.Watch(ctx, spec) {
			f.mu.Lock()
			compacted := f.compacted > 0 && !b.Created
			f.mu.Unlock()
			if compacted {
				b = kv.Batch{Header: b.Header, Canceled: true, Err: f.errCompacted(1)}
			}
			if !yield(b, err) || compacted {
				return
			}
		}
	}, "watch/that is up to date survives a compaction"),
	batches("all watches have one id", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		b.WatchID = 1000
		return []kv.Batch{b}
	}, "stream/carries many watches and tells them apart"),
	batches("overlapping watches share their events", func(spec kv.WatchSpec, b kv.Batch) []kv.Batch {
		if len(spec.Watches) == 2 && b.WatchID == spec.Watches[1].ID {
			b.Events = nil
		}
		return []kv.Batch{b}
	}, "stream/brings an event to every watch that covers it"),
	streams("nothing is added to a stream that runs", func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		spec.Control = control(ctx, spec.Control, func(c kv.WatchControl) bool { return c.Add == nil })
		f.Memory.Watch(ctx, spec)(yield)
	}, "stream/takes watches while it runs"),
	streams("nothing is taken from a stream that runs", func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		spec.Control = control(ctx, spec.Control, func(c kv.WatchControl) bool { return c.Add != nil || c.Progress })
		f.Memory.Watch(ctx, spec)(yield)
	}, "stream/ends one watch and keeps the others"),
	batches("a wish to end is an error", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		if b.Canceled && b.Err == nil {
			b.Err = &kv.Error{Code: kv.Internal}
		}
		return []kv.Batch{b}
	}, "stream/ends one watch and keeps the others"),
	batches("progress is told too early", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		if b.Progress {
			b.Revision += 3
		}
		return []kv.Batch{b}
	}, "stream/never says it is further than it is"),
	streams("progress goes before events", func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		var held []kv.Batch
		f.Memory.Watch(ctx, spec)(func(b kv.Batch, err error) bool {
			if len(b.Events) > 0 {
				held = append(held, b)
				return true
			}
			return yield(b, err)
		})
	}, "stream/says how far it is when asked, behind the events"),
	batches("progress lags", func(_ kv.WatchSpec, b kv.Batch) []kv.Batch {
		if b.Progress {
			b.Revision--
		}
		return []kv.Batch{b}
	}, "stream/says how far it is when asked, behind the events"),
	streams("streams outlive their context", func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		f.Memory.Watch(ctx, spec)(yield)
		time.Sleep(time.Second)
	}, "stream/ends with its context", "stream/ends when its consumer stops", "stream/ends when its last watch is gone and no more can come"),
	streams("streams end with their control", func(f *faulty, ctx context.Context, spec kv.WatchSpec, yield func(kv.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		defer cancel()
		to := make(chan kv.WatchControl)
		go func(from <-chan kv.WatchControl) {
			for c := range from {
				select {
				case to <- c:
				case <-ctx.Done():
					return
				}
			}
			cancel()
		}(spec.Control)
		spec.Control = to
		f.Memory.Watch(ctx, spec)(yield)
	}, "stream/goes on without control while a watch is left"),
}

// control passes on the messages that are wanted.
func control(ctx context.Context, from <-chan kv.WatchControl, wanted func(kv.WatchControl) bool) <-chan kv.WatchControl {
	to := make(chan kv.WatchControl)
	go func() {
		defer close(to)
		for {
			select {
			case <-ctx.Done():
				return
			case c, ok := <-from:
				if !ok {
					return
				}
				if !wanted(c) {
					continue
				}
				select {
				case to <- c:
				case <-ctx.Done():
					return
				}
			}
		}
	}()
	return to
}

var otherFaults = []fault{
	{"an ended context is not looked at", []string{"cancel/before a read refuses it", "cancel/ends a read that waits", "cancel/before a write refuses it, and what is refused is not there"}, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			return f.Memory.Do(context.WithoutCancel(ctx), c)
		}
		f.read = func(ctx context.Context, q kv.Query) (kv.Page, error) {
			return f.Memory.Read(context.WithoutCancel(ctx), q)
		}
	}},
	{"what is refused is applied", []string{"cancel/before a write refuses it, and what is refused is not there", "cancel/at any moment leaves a write that is honest about its outcome"}, func(f *faulty) {
		f.do = func(ctx context.Context, c kv.Command) (kv.Result, error) {
			r, err := f.Memory.Do(context.WithoutCancel(ctx), c)
			if ctx.Err() != nil {
				return kv.Result{}, &kv.Error{Code: kv.NoLeader}
			}
			return r, err
		}
	}},
	results("revisions of writes are shared", func(_ *faulty, c kv.Command, r *kv.Result, err error) error {
		r.Revision &^= 1
		return err
	}, "concurrent/writes get revisions of their own, in order"),
	change("IDs are ignored", func(_ *Memory, c kv.Command) kv.Command {
		c.ID = kv.ID{}
		return c
	}, "id/makes a command apply once, however often it is sent", "id/stands for one command only"),
	{"a restart empties the node", []string{"restart/loses nothing: keys, history, revision, epoch", "restart/leaves compacted what was compacted"}, func(*faulty) {}},
	{"an isolated node takes itself for fresh", []string{"isolated/a node says so, promptly and honestly, and recovers"}, func(*faulty) {}},
	{"an isolated node goes on", []string{"isolated/a node says so, promptly and honestly, and recovers"}, func(*faulty) {}},
}

// errIsolated is what a node that is cut off answers.
var errIsolated = &kv.Error{Code: kv.NoLeader, Detail: "there is no leader at present"}

// cuttable is a node that can be isolated.
type cuttable struct {
	api.Backend
	fresh bool // a fault: says that its data is of age 0
	mu    sync.Mutex
	cut   bool
}

func (c *cuttable) isolated() bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	return c.cut
}

func (c *cuttable) set(cut bool) {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.cut = cut
}

func (c *cuttable) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	if c.isolated() {
		return kv.Result{}, errIsolated
	}
	return c.Backend.Do(ctx, cmd)
}

func (c *cuttable) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if !c.isolated() {
		return c.Backend.Read(ctx, q)
	}
	if !q.LocalOnly {
		return kv.Page{}, errIsolated
	}
	p, err := c.Backend.Read(ctx, q)
	if !c.fresh {
		p.Age = kv.AgeUnknown
	}
	return p, err
}
