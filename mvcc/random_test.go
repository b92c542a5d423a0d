package mvcc

import (
	"bytes"
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"reflect"
	"testing"

	"pgregory.net/rapid"

	"holdfast/kv"
)

// The generators draw from few keys, so that commands meet; some of them are what an encoding could trip over.
var testKeys = []string{"a", "a\x00", "a\x00\x01", "a\x00\xff", "a\x01", "aa", "ab", "b", "\x00", "\x00\x00", "\xff", "\xff\xff", "k1", "k2", "k3"}

func genKey(t *rapid.T) []byte { return []byte(rapid.SampledFrom(testKeys).Draw(t, "key")) }

func genEnd(t *rapid.T) []byte {
	switch rapid.IntRange(0, 3).Draw(t, "end kind") {
	case 0:
		return nil
	case 1:
		return kv.FromKey()
	default:
		return genKey(t)
	}
}

func genPut(t *rapid.T) kv.Put {
	p := kv.Put{Key: genKey(t), PrevKV: rapid.Bool().Draw(t, "prev")}
	switch rapid.IntRange(0, 19).Draw(t, "put kind") {
	case 0:
		p.IgnoreValue = true
	case 1:
		p.IgnoreLease, p.Value = true, []byte("i")
	case 2:
		p.Lease = 7 // there is no such lease
	case 3:
	case 5, 6, 7, 8:
		p.Lease = genLease(t)
		p.Value = []byte("l")
	case 4:
		p.Value = bytes.Repeat([]byte{'L'}, rapid.IntRange(1000, 20000).Draw(t, "large"))
	default:
		p.Value = []byte(fmt.Sprint("v", rapid.IntRange(0, 99).Draw(t, "value")))
	}
	return p
}

func genLease(t *rapid.T) int64 { return rapid.SampledFrom([]int64{1, 2, 3, 0x6c00}).Draw(t, "lease") }

func genRevision(t *rapid.T, m *model) int64 {
	if rapid.IntRange(0, 2).Draw(t, "now") == 0 {
		return 0
	}
	return rapid.Int64Range(max(m.compact-2, 0), m.rev+1).Draw(t, "revision")
}

func genRange(t *rapid.T, m *model) kv.Range {
	r := kv.Range{
		Key: genKey(t), End: genEnd(t), Revision: genRevision(t, m),
		Limit:    rapid.SampledFrom([]int64{0, 0, 1, 2, 5}).Draw(t, "limit"),
		KeysOnly: rapid.IntRange(0, 4).Draw(t, "keys") == 0, CountOnly: rapid.IntRange(0, 4).Draw(t, "count") == 0,
		Sort:  rapid.SampledFrom([]kv.Target{0, 0, 0, kv.TargetVersion, kv.TargetCreate, kv.TargetMod, kv.TargetValue}).Draw(t, "sort"),
		Order: rapid.SampledFrom([]kv.Order{0, 0, kv.OrderAscend, kv.OrderDescend}).Draw(t, "order"),
	}
	for _, f := range []*int64{&r.MinMod, &r.MaxMod, &r.MinCreate, &r.MaxCreate} {
		if rapid.IntRange(0, 7).Draw(t, "filter") == 0 {
			*f = rapid.Int64Range(0, m.rev).Draw(t, "bound")
		}
	}
	return r
}

func genCompare(t *rapid.T, m *model) kv.Compare {
	c := kv.Compare{
		Key:      genKey(t),
		Target:   kv.Target(rapid.IntRange(int(kv.TargetVersion), int(kv.TargetLease)).Draw(t, "target")),
		Relation: kv.Relation(rapid.IntRange(0, int(kv.NotEqual)).Draw(t, "relation")),
		Num:      rapid.Int64Range(0, 3).Draw(t, "num"),
		Value:    []byte(fmt.Sprint("v", rapid.IntRange(0, 99).Draw(t, "value"))),
	}
	if rapid.IntRange(0, 3).Draw(t, "ranged") == 0 {
		c.End = genEnd(t)
	}
	if c.Target == kv.TargetMod || c.Target == kv.TargetCreate {
		c.Num = rapid.Int64Range(0, m.rev).Draw(t, "rev")
	}
	return c
}

func genOps(t *rapid.T, m *model, depth int) (ops []kv.Op) {
	for range rapid.IntRange(0, 4).Draw(t, "ops") {
		switch k := rapid.IntRange(0, 9).Draw(t, "op"); {
		case k < 4:
			ops = append(ops, genPut(t))
		case k < 6:
			ops = append(ops, kv.Delete{Key: genKey(t), End: genEnd(t), PrevKV: rapid.Bool().Draw(t, "prev")})
		case k < 8 || depth >= 3:
			ops = append(ops, genRange(t, m))
		default:
			ops = append(ops, genTxn(t, m, depth+1))
		}
	}
	return ops
}

func genTxn(t *rapid.T, m *model, depth int) kv.Txn {
	var txn kv.Txn
	for range rapid.IntRange(0, 2).Draw(t, "compares") {
		txn.Compares = append(txn.Compares, genCompare(t, m))
	}
	txn.Then, txn.Else = genOps(t, m, depth), genOps(t, m, depth)
	return txn
}

func genCommand(t *rapid.T, m *model) kv.Command {
	var c kv.Command
	if rapid.IntRange(0, 5).Draw(t, "guarded") == 0 {
		c.Guards = []kv.Guard{{Compare: genCompare(t, m)}}
	}
	switch k := rapid.IntRange(0, 35).Draw(t, "command"); {
	case k < 14:
		c.Ops = []kv.Op{genPut(t)}
	case k < 19:
		c.Ops = []kv.Op{kv.Delete{Key: genKey(t), End: genEnd(t), PrevKV: rapid.Bool().Draw(t, "prev")}}
	case k < 23:
		c.Ops = []kv.Op{genTxn(t, m, 0)}
	case k < 25:
		c.Ops = genOps(t, m, 0)
	case k < 27:
		c.Ops = []kv.Op{kv.Compact{
			Revision: rapid.Int64Range(m.compact, m.rev+1).Draw(t, "compact"),
			Term:     rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, "term"),
		}}
	case k < 28:
		c.Ops = []kv.Op{kv.LeaderTerm{Nonce: rapid.Uint64Range(1, 3).Draw(t, "nonce")}}
	case k < 29:
		c.Ops = []kv.Op{kv.OpenEpoch{Epoch: kv.Epoch{Cluster: rapid.Uint64Range(1, 9).Draw(t, "cluster")}}}
	case k < 30:
		id := genLease(t)
		p := genPut(t)
		p.Lease = id
		c.Ops = []kv.Op{kv.LeaseGrant{ID: id, TTL: 5}, p}
	case k < 34:
		c.Ops = []kv.Op{kv.LeaseGrant{ID: genLease(t), TTL: rapid.Int64Range(-1, 4).Draw(t, "ttl")}}
	default:
		c.Ops = []kv.Op{kv.LeaseRevoke{ID: genLease(t), Term: rapid.SampledFrom([]uint64{0, 0, 1, 2}).Draw(t, "term")}}
	}
	return c
}

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
	last := int64(0)
	first := true
	for b, err := range s.Watch(context.Background(), kv.WatchSpec{Watches: []kv.Watch{w}, Control: control}) {
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
// replicas that flush at different times, and compares everything they say with the model and with each other.
func TestStoreIsTheModel(t *testing.T) {
	t.Parallel()
	dir, ctx := t.TempDir(), t.Context()
	rapid.Check(t, func(rt *rapid.T) {
		dir, err := os.MkdirTemp(dir, "") //nolint:usetesting // one for each history, in the test's own
		must(rt, err)
		a := newReplica(rt, dir, "a", Options{RingBytes: 1})
		b := newReplica(rt, dir, "b", Options{FlushBytes: 4 << 10, HardBytes: 8 << 10, RingBytes: 16 << 10, nodes: 1})
		t := tb(rt)
		defer func() { a.s.crash(); b.s.crash() }()
		m, j := newModel(), &journal{}
		for range rapid.IntRange(20, 120).Draw(rt, "steps") {
			switch k := rapid.IntRange(0, 39).Draw(rt, "step"); {
			case k < 20:
				for range rapid.IntRange(1, 5).Draw(rt, "batch") {
					c := genCommand(rt, m)
					j.entries = append(j.entries, Entry{uint64(len(j.entries) + 1), c})
					j.outcomes = append(j.outcomes, m.apply(c))
				}
				j.replay(t, a.s, 3)
				j.replay(t, b.s, 100)
			case k < 27:
				readBoth(rt, t, m, a.s, b.s)
			case k < 31:
				watchBoth(rt, t, m, a.s, b.s)
			case k < 34:
				must(t, a.s.Flush())
			case k < 35:
				must(t, b.s.Flush())
			case k < 36:
				must(t, a.s.Sweep(ctx, m.compact))
			case k < 37:
				r := rapid.SampledFrom([]*replica{a, b}).Draw(rt, "crashed")
				r.s.opts.step = dieAt(rapid.SampledFrom([]string{"", "frozen", "part", "committed", "dropped", "sweep"}).Draw(rt, "at"), 1)
				if err := r.s.Flush(); err == nil {
					err = r.s.Sweep(ctx, m.compact)
					if err != nil && !errors.Is(err, errDied) {
						t.Fatalf("sweep: %v", err)
					}
				} else if !errors.Is(err, errDied) {
					t.Fatalf("flush: %v", err)
				}
				r.s.crash()
				r.open()
				checkFile(t, r.s)
				j.replay(t, r.s, 7)
			case k < 38:
				must(t, b.s.Close())
				b.open()
			case k < 39:
				var buf bytes.Buffer
				sn, err := a.s.Snapshot()
				must(t, err)
				must(t, sn.WriteTo(&buf, nil))
				must(t, sn.Close())
				must(t, b.s.Restore(&buf, nil))
			default:
				sameHash(rt, t, m, a.s, b.s)
			}
		}
		sameHash(rt, t, m, a.s, b.s)
		must(t, a.s.Flush())
		must(t, a.s.Sweep(ctx, m.compact))
		if got, want := checkFile(t, a.s), m.retained(); got != want {
			t.Errorf("after a sweep at %d there are %d records, want %d", m.compact, got, want)
		}
		checkFile(t, b.s)
	})
}

func readBoth(rt *rapid.T, t tb, m *model, stores ...*Store) {
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

func sameHash(rt *rapid.T, t tb, m *model, a, b *Store) {
	t.Helper()
	rev := rapid.Int64Range(m.compact, m.rev).Draw(rt, "hashed")
	if rev == 0 {
		rev = m.rev
	}
	ha, ra, ca, err := a.hash(rev)
	must(t, err)
	hb, rb, cb, err := b.hash(rev)
	must(t, err)
	if ha != hb || ra != rb || ca != cb {
		t.Fatalf("hash at %d: got %08x %d %d and %08x %d %d", rev, ha, ra, ca, hb, rb, cb)
	}
}
