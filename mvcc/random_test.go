package mvcc

import (
	"bytes"
	"context"
	"errors"
	"iter"
	"os"
	"path/filepath"
	"reflect"
	"strconv"
	"testing"

	"pgregory.net/rapid"

	"holdfast/kv"
)

// replica is a store under test: it can be crashed, and is given the log again then.
type replica struct {
	t    tb
	path string
	opts Options
	s    *Store
}

func newReplica(t tb, dir, name string, opts Options) *replica {
	r := &replica{t: t, path: filepath.Join(dir, name), opts: opts}
	r.open()
	return r
}

func (r *replica) open() {
	r.t.Helper()
	var err error
	if r.s, err = Open(r.path, r.opts); err != nil {
		r.t.Fatalf("open %s: %v", r.path, err)
	}
}

// crash closes the file as it is, without a flush: what a kill leaves.
func (s *Store) crash() {
	s.once.Do(func() {
		close(s.closed)
		s.flushMu.Lock()
		defer s.flushMu.Unlock()
		if s.stuck {
			_ = abandon(s.layers.Load().file.handle)
			return
		}
		_ = s.layers.Load().file.release()
	})
}

// journal is the log with the outcomes that it must have.
type journal struct {
	entries  []Entry
	outcomes []kv.Outcome
}

// replay applies what the store does not have, batch by batch, and compares.
func (j *journal) replay(t tb, s *Store, batch int) {
	t.Helper()
	next := int(s.Applied())
	for next < len(j.entries) {
		end := min(next+batch, len(j.entries))
		got, err := s.Apply(j.entries[next:end])
		if err != nil {
			t.Fatalf("apply: %v", err)
		}
		for i := range got {
			sameOutcome(t, j.entries[next+i], got[i], j.outcomes[next+i])
		}
		next = end
	}
}

func sameOutcome(t tb, e Entry, got, want kv.Outcome) {
	t.Helper()
	if (got.Err == nil) != (want.Err == nil) || got.Err != nil && (got.Err.Code != want.Err.Code || got.Err.Revision != want.Err.Revision) {
		t.Fatalf("entry %d %+v\ngot  error %+v\nwant error %+v", e.Index, e.Command, got.Err, want.Err)
	}
	if got.Result.Header != want.Result.Header {
		t.Fatalf("entry %d %+v\ngot  header %+v\nwant header %+v", e.Index, e.Command, got.Result.Header, want.Result.Header)
	}
	sameResults(t, e.Command.Ops, got.Result.Ops, want.Result.Ops)
}

func sameResults(t tb, ops []kv.Op, got, want []kv.OpResult) {
	t.Helper()
	if g, w := tidy(got), tidy(want); !reflect.DeepEqual(g, w) { //nolint:govet // the errors in them are values
		t.Fatalf("ops %+v\ngot  %+v\nwant %+v", ops, g, w)
	}
}

// tidy makes empty and missing slices the same.
func tidy(rs []kv.OpResult) []kv.OpResult {
	var out []kv.OpResult
	for _, r := range rs {
		var kvs []kv.KeyValue
		for _, p := range r.KVs {
			if len(p.Value) == 0 {
				p.Value = nil
			}
			kvs = append(kvs, p)
		}
		r.KVs, r.Ops = kvs, tidy(r.Ops)
		out = append(out, r)
	}
	return out
}

func tidyEvents(es []kv.Event) []kv.Event {
	out := make([]kv.Event, 0, len(es))
	for _, e := range es {
		if len(e.KV.Value) == 0 {
			e.KV.Value = nil
		}
		if e.Prev != nil && len(e.Prev.Value) == 0 {
			p := *e.Prev
			p.Value = nil
			e.Prev = &p
		}
		out = append(out, e)
	}
	return out
}

// watched collects the events of a watch up to the present, or the reason of its cancellation. Revisions of batches
// are checked on the way.
func watched(t tb, s *Store, w kv.Watch) (events []kv.Event, canceled *kv.Error) {
	t.Helper()
	control := make(chan kv.WatchControl, 1)
	control <- kv.WatchControl{Progress: true}
	by := func(ctx context.Context, s *Store, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
		return s.Watch(ctx, spec)
	}
	if w.From%2 == 1 {
		by = pull
	}
	last := int64(0)
	first := true
	for b, err := range by(context.Background(), s, kv.WatchSpec{Watches: []kv.Watch{w}, Control: control}) {
		if err != nil {
			t.Fatalf("watch: %v", err)
		}
		if first != b.Created {
			t.Fatalf("batch %+v: created first, and once", b)
		}
		first = false
		if b.Canceled {
			return nil, b.Err
		}
		for i, e := range b.Events {
			rev := e.KV.ModRevision
			if rev > b.Revision || rev < last || rev == last && i == 0 {
				t.Fatalf("event of revision %d in a batch of revision %d after revision %d", rev, b.Revision, last)
			}
			last = rev
		}
		events = append(events, b.Events...)
		if b.Progress {
			if b.WatchID != kv.WatchAll || b.Revision != s.Revision() {
				t.Fatalf("progress %+v at revision %d", b, s.Revision())
			}
			break
		}
	}
	return events, nil
}

// TestStoreIsTheModel runs random histories with flushes, sweeps, crashes, restarts and restores in between, on two
// replicas that flush at different times, and compares everything they say with the model and with each other. MODEL_OPS
// is how many operations there have to be at least, of longer histories then: go test ./mvcc -run Model -timeout 30m
func TestStoreIsTheModel(t *testing.T) {
	t.Parallel()
	least, longest := 5000, 120
	if text := os.Getenv("MODEL_OPS"); text != "" {
		var err error
		least, err = strconv.Atoi(text)
		must(t, err)
		longest = 600
	}
	dir := t.TempDir()
	var done tally
	for rounds := 0; done.ops() < least; rounds++ {
		if rounds > least/100 {
			t.Fatalf("only %v in %d rounds", done, rounds)
		}
		rapid.Check(t, func(rt *rapid.T) { modelHistory(t.Context(), rt, dir, longest, &done) })
		if t.Failed() {
			return
		}
	}
	t.Logf("%d operations: %+v", done.ops(), done)
}

// tally counts what was compared with the model.
type tally struct{ Commands, Reads, Watches, Flushes, Sweeps, Crashes, Restarts, Restores, Defrags, Hashes int }

func (c tally) ops() int { return c.Commands + c.Reads + c.Watches }

// pairOfReplicas are two stores of one log that flush at different times, and the model of it.
type pairOfReplicas struct {
	rt   *rapid.T
	a, b *replica
	m    *model
	j    journal
	done *tally
}

func modelHistory(ctx context.Context, rt *rapid.T, dir string, longest int, done *tally) {
	dir, err := os.MkdirTemp(dir, "") // one for each history, in the test's own
	must(rt, err)
	defer func() { _ = os.RemoveAll(dir) }()
	p := pairOfReplicas{
		rt: rt, m: newModel(), done: done,
		a: newReplica(rt, dir, "a", Options{RingBytes: 1}),
		b: newReplica(rt, dir, "b", Options{FlushBytes: 4 << 10, HardBytes: 8 << 10, RingBytes: 16 << 10, nodes: 1}),
	}
	defer func() { p.a.s.crash(); p.b.s.crash() }()
	for range rapid.IntRange(20, longest).Draw(rt, "steps") {
		p.step(ctx)
	}
	p.sameHash()
	must(rt, p.a.s.Flush())
	must(rt, p.a.s.Sweep(ctx, p.m.compact))
	if got, want := checkFile(rt, p.a.s), p.m.retained(); got != want {
		rt.Errorf("after a sweep at %d there are %d records, want %d", p.m.compact, got, want)
	}
	checkFile(rt, p.b.s)
}

func (p *pairOfReplicas) step(ctx context.Context) {
	switch k := rapid.IntRange(0, 40).Draw(p.rt, "step"); {
	case k < 20:
		p.commands()
	case k < 27:
		p.done.Reads += readBoth(p.rt, p.rt, p.m, p.a.s, p.b.s)
	case k < 31:
		watchBoth(p.rt, p.rt, p.m, p.a.s, p.b.s)
		p.done.Watches++
	case k < 34:
		must(p.rt, p.a.s.Flush())
		p.done.Flushes++
	case k < 35:
		must(p.rt, p.b.s.Flush())
		p.done.Flushes++
	case k < 36:
		must(p.rt, p.a.s.Sweep(ctx, p.m.compact))
		p.done.Sweeps++
	case k < 37:
		p.crash(ctx)
		p.done.Crashes++
	case k < 38:
		must(p.rt, p.b.s.Close())
		p.b.open()
		p.done.Restarts++
	case k < 39:
		var buf bytes.Buffer
		sn, err := p.a.s.Snapshot()
		must(p.rt, err)
		must(p.rt, sn.WriteTo(&buf, nil))
		must(p.rt, sn.Close())
		must(p.rt, p.b.s.Restore(&buf, nil))
		p.done.Restores++
	case k < 40:
		must(p.rt, rapid.SampledFrom([]*replica{p.a, p.b}).Draw(p.rt, "defragmented").s.Defragment(ctx))
		p.done.Defrags++
	default:
		p.sameHash()
	}
}

// commands adds some to the log, which the replicas take in batches of different sizes.
func (p *pairOfReplicas) commands() {
	p.rt.Helper()
	for range rapid.IntRange(1, 5).Draw(p.rt, "batch") {
		c := genCommand(p.rt, p.m)
		switch rapid.IntRange(0, 7).Draw(p.rt, "retry") {
		case 6: // one of these comes again, sometimes as another command
			c.ID.Key = [16]byte{rapid.Byte().Draw(p.rt, "retry key")}
		case 7:
			if n := len(p.j.entries); n > 0 {
				c = p.j.entries[rapid.IntRange(0, n-1).Draw(p.rt, "sent again")].Command
			}
		}
		p.j.entries = append(p.j.entries, Entry{uint64(len(p.j.entries) + 1), c})
		p.j.outcomes = append(p.j.outcomes, p.m.apply(c))
		p.done.Commands++
	}
	p.j.replay(p.rt, p.a.s, 3)
	p.j.replay(p.rt, p.b.s, 100)
}

// crash lets one replica die, at a moment inside a flush or a sweep, and gives it the log again.
func (p *pairOfReplicas) crash(ctx context.Context) {
	p.rt.Helper()
	r := rapid.SampledFrom([]*replica{p.a, p.b}).Draw(p.rt, "crashed")
	r.s.opts.step = dieAt(rapid.SampledFrom([]string{"", "frozen", "part", "committed", "dropped", "sweep"}).Draw(p.rt, "at"), 1)
	err := r.s.Flush()
	if err == nil {
		err = r.s.Sweep(ctx, p.m.compact)
	}
	if err != nil && !errors.Is(err, errDied) {
		p.rt.Fatalf("flush and sweep: %v", err)
	}
	r.s.crash()
	r.open()
	checkFile(p.rt, r.s)
	p.j.replay(p.rt, r.s, 7)
}

// readBoth reports how many ranges and other reads there were.
func readBoth(rt *rapid.T, t tb, m *model, stores ...*Store) int {
	t.Helper()
	var q kv.Query
	for range rapid.IntRange(1, 3).Draw(rt, "ranges") {
		q.Ops = append(q.Ops, genRange(rt, m))
	}
	switch rapid.IntRange(0, 5).Draw(rt, "leases") {
	case 0:
		q.Ops = append(q.Ops, kv.LeaseList{})
	case 1, 2:
		q.Ops = append(q.Ops, kv.LeaseTTL{ID: genLease(rt), Keys: rapid.IntRange(0, 3).Draw(rt, "keys") > 0})
	}
	n := len(q.Ops)
	if rapid.IntRange(0, 3).Draw(rt, "in txn") == 0 {
		q.Ops = []kv.Op{kv.Txn{Compares: []kv.Compare{genCompare(rt, m)}, Then: q.Ops}}
	}
	r := &run{before: m, m: m.clone()}
	want, werr := r.ops(q.Ops)
	for i, s := range stores {
		got, err := s.Read(q)
		if werr != nil || err != nil {
			if e, _ := errors.AsType[*kv.Error](err); e == nil || werr == nil || e.Code != werr.Code || e.Revision != werr.Revision {
				t.Fatalf("store %d: read %+v\ngot  error %v\nwant error %+v", i, q, err, werr)
			}
			continue
		}
		if got.Revision != m.rev || got.Epoch != m.epoch {
			t.Fatalf("store %d: header %+v, want revision %d of %v", i, got.Header, m.rev, m.epoch)
		}
		sameResults(t, q.Ops, got.Ops, want)
	}
	return n
}

func watchBoth(rt *rapid.T, t tb, m *model, stores ...*Store) {
	t.Helper()
	w := kv.Watch{
		ID: 3, Key: genKey(rt), End: genEnd(rt), From: max(1, genRevision(rt, m)),
		PrevKV: rapid.Bool().Draw(rt, "prev"), NoPuts: rapid.IntRange(0, 4).Draw(rt, "no puts") == 0,
		NoDeletes: rapid.IntRange(0, 4).Draw(rt, "no deletes") == 0,
	}
	want := tidyEvents(m.events(w, m.rev))
	for i, s := range stores {
		got, canceled := watched(t, s, w)
		if w.From < m.compact {
			if canceled == nil || canceled.Code != kv.Compacted || canceled.Revision != m.compact {
				t.Fatalf("store %d: watch from %d: got %+v, want compacted at %d", i, w.From, canceled, m.compact)
			}
			continue
		}
		if got := tidyEvents(got); canceled != nil || !reflect.DeepEqual(got, want) {
			t.Fatalf("store %d: watch %+v (canceled %v)\ngot  %+v\nwant %+v", i, w, canceled, got, want)
		}
	}
}

func (p *pairOfReplicas) sameHash() {
	p.rt.Helper()
	rev := rapid.Int64Range(p.m.compact, p.m.rev).Draw(p.rt, "hashed")
	if rev == 0 {
		rev = p.m.rev
	}
	ha, ra, ca, err := p.a.s.hash(rev)
	must(p.rt, err)
	hb, rb, cb, err := p.b.s.hash(rev)
	must(p.rt, err)
	if ha != hb || ra != rb || ca != cb {
		p.rt.Fatalf("hash at %d: got %08x %d %d and %08x %d %d", rev, ha, ra, ca, hb, rb, cb)
	}
	p.done.Hashes++
}
