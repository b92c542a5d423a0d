package apitest

import (
	"bytes"
	"context"
	"slices"
	"sync"
	"sync/atomic"
	"time"

	"holdfast/api"
	"holdfast/kv"
)

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
