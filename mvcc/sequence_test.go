package mvcc

import (
	"bytes"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"testing"

	"holdfast/kv"
)

var origin = [16]byte{1, 2, 3}

// queued is a put by a queue at a place of its lane.
func queued(epoch, n uint64, key, value string) kv.Command {
	return kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin, Epoch: epoch, Lane: kv.LaneNormal, N: n}},
		Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}}
}

func each(cmds ...kv.Command) kv.Command { return kv.Command{Ops: []kv.Op{kv.Each{Commands: cmds}}} }

func openQueue(have uint64) kv.Command {
	return kv.Command{Ops: []kv.Op{kv.OpenQueue{Origin: origin, Have: have}}}
}

// sequenceStore applies commands to a store at path, and can be cut off and opened again.
type sequenceStore struct {
	t    *testing.T
	path string
	s    *Store
	log  []Entry
}

func newSequenceStore(t *testing.T) *sequenceStore {
	r := &sequenceStore{t: t, path: filepath.Join(t.TempDir(), "s.db")}
	r.open()
	return r
}

func (r *sequenceStore) open() {
	r.t.Helper()
	if r.s != nil { // the file as a crash leaves it: nothing is closed
		b, err := os.ReadFile(r.path)
		if err != nil {
			r.t.Fatal(err)
		}
		r.path = filepath.Join(r.t.TempDir(), "s.db")
		if err := os.WriteFile(r.path, b, 0o600); err != nil {
			r.t.Fatal(err)
		}
	}
	s, err := Open(r.path, Options{})
	if err != nil {
		r.t.Fatal(err)
	}
	r.s = s
	r.t.Cleanup(func() { _ = s.Close() })
	for _, e := range r.log {
		if e.Index > s.Applied() {
			if _, err := s.Apply([]Entry{e}); err != nil {
				r.t.Fatal(err)
			}
		}
	}
}

func (r *sequenceStore) apply(c kv.Command) kv.Outcome {
	r.t.Helper()
	e := Entry{Index: uint64(len(r.log) + 1), Command: c}
	r.log = append(r.log, e)
	out, err := r.s.Apply([]Entry{e})
	if err != nil {
		r.t.Fatal(err)
	}
	return out[0]
}

func (r *sequenceStore) value(key string) string {
	r.t.Helper()
	page, err := r.s.Read(kv.Query{Ops: []kv.Op{kv.Range{Key: []byte(key)}}})
	if err != nil {
		r.t.Fatal(err)
	}
	if len(page.Ops[0].KVs) == 0 {
		return ""
	}
	return string(page.Ops[0].KVs[0].Value)
}

func codeIn(o kv.Outcome) kv.Code {
	if o.Err == nil {
		return kv.OK
	}
	return o.Err.Code
}

func TestAQueuedCommandAppliesOnceHoweverOftenItComes(t *testing.T) {
	r := newSequenceStore(t)
	if out := r.apply(openQueue(0)); out.Result.Ops[0].Count != 1 {
		t.Fatalf("queue epoch %+v, want 1", out)
	}
	first := r.apply(queued(1, 1, "k", "one"))
	r.apply(queued(1, 2, "k", "two"))
	rev := r.s.Revision()
	for _, flush := range []bool{false, true} {
		if flush {
			if err := r.s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		again := r.apply(queued(1, 1, "k", "one"))
		if again.Err != nil || again.Result.Revision != first.Result.Revision || r.s.Revision() != rev || r.value("k") != "two" {
			t.Errorf("flushed %v: again %+v, store at %d with %q", flush, again, r.s.Revision(), r.value("k"))
		}
		if got := codeIn(r.apply(queued(1, 2, "k", "another"))); got != kv.OriginConflict {
			t.Errorf("flushed %v: another command under a used sequence: %v", flush, got)
		}
		if out := r.apply(queued(1, 4, "k", "four")); codeIn(out) != kv.SequenceGap || out.Err.Revision != 2 {
			t.Errorf("flushed %v: ahead of its turn: %+v", flush, out)
		}
		if got := codeIn(r.apply(queued(2, 3, "k", "x"))); got != kv.OriginConflict {
			t.Errorf("flushed %v: an epoch that nobody granted: %v", flush, got)
		}
	}
	r.open() // what a restart reads from the file is the same
	if got := codeIn(r.apply(queued(1, 2, "k", "two"))); got != kv.OK || r.value("k") != "two" {
		t.Errorf("after a restart: %v, %q", got, r.value("k"))
	}
	for n := uint64(3); n <= 2+kv.OutcomeRing; n++ {
		r.apply(queued(1, n, "k", fmt.Sprint(n)))
	}
	if got := codeIn(r.apply(queued(1, 1, "k", "one"))); got != kv.OutcomeUnknown {
		t.Errorf("below the ring: %v, want its outcome unknown, never committed", got)
	}
}

// A command that comes again is answered by what it did, not by what others did to the same key, also at the same revision and in
// the same batch; with a retry key also once a compaction has passed it.
func TestAQueuedCommandThatComesAgainIsAnsweredByWhatItDid(t *testing.T) {
	for _, keyed := range []bool{false, true} {
		r := newSequenceStore(t)
		r.apply(openQueue(0))
		n := uint64(0)
		next := func(op kv.Op) (c kv.Command) {
			n++
			c = kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin, Epoch: 1, Lane: kv.LaneNormal, N: n}}, Ops: []kv.Op{op}}
			if keyed {
				c.ID.Key[0] = byte(n)
			}
			return c
		}
		put, del := kv.Op(kv.Put{Key: []byte("k"), Value: []byte("v")}), kv.Op(kv.Delete{Key: []byte("k")})
		cmds := []kv.Command{next(del), next(put), next(put), next(put), next(del), next(del), next(put)}
		refused := &cmds[1]
		refused.Guards = []kv.Guard{{Compare: kv.Compare{Key: []byte("k"), Target: kv.TargetMod, Num: 77}}}
		told := func(out kv.Outcome) (s []string) {
			for _, one := range out.Result.Ops[0].Each {
				if one.Err != nil {
					s = append(s, one.Err.Code.String())
					continue
				}
				s = append(s, fmt.Sprintf("%d created %v deleted %d", one.Result.Revision, one.Result.Ops[0].Created, one.Result.Ops[0].Count))
			}
			return s
		}
		first := r.apply(each(cmds...))
		want := told(first)
		if first.Result.Ops[0].Each[1].Err == nil || first.Result.Ops[0].Each[4].Result.Ops[0].Count != 1 || !first.Result.Ops[0].Each[2].Result.Ops[0].Created {
			t.Fatalf("first: %q", want)
		}
		again := func(when string) {
			t.Helper()
			if got := told(r.apply(each(append([]kv.Command{*refused}, cmds...)...))); !slices.Equal(got[1:], want) {
				t.Errorf("keyed %v, %s: %q, want %q", keyed, when, got[1:], want)
			}
		}
		again("at once")
		if err := r.s.Flush(); err != nil {
			t.Fatal(err)
		}
		again("from the file")
		r.open()
		again("after a crash")
		if !keyed {
			continue
		}
		if out := r.apply(kv.Command{Ops: []kv.Op{kv.Compact{Revision: r.s.Revision()}}}); out.Err != nil {
			t.Fatal(out.Err)
		}
		again("compacted")
	}
}

func TestACommandInABatchStandsAlone(t *testing.T) {
	r := newSequenceStore(t)
	r.apply(openQueue(0))
	guarded := queued(1, 2, "b", "no")
	guarded.Guards = []kv.Guard{{Compare: kv.Compare{Key: []byte("b"), Target: kv.TargetMod, Num: 7}}}
	out := r.apply(each(queued(1, 1, "a", "1"), guarded, queued(1, 3, "", "malformed"), queued(1, 4, "c", "3"), queued(1, 6, "d", "gap")))
	var codes []kv.Code
	for _, one := range out.Result.Ops[0].Each {
		codes = append(codes, codeIn(one))
	}
	want := []kv.Code{kv.OK, kv.PreconditionFailed, kv.Invalid, kv.OK, kv.SequenceGap}
	if fmt.Sprint(codes) != fmt.Sprint(want) {
		t.Fatalf("got %v, want %v", codes, want)
	}
	if a, c := r.value("a"), r.value("c"); a != "1" || c != "3" || r.s.Revision() != 3 {
		t.Errorf("a %q, c %q, revision %d, want each at its own revision", a, c, r.s.Revision())
	}
	if got := codeIn(r.apply(each(guarded)).Result.Ops[0].Each[0]); got != kv.PreconditionFailed {
		t.Errorf("a refusal that comes again: %v", got)
	}
}

func TestASkipGivesSequencesUpAndNoOtherCommandTakesThem(t *testing.T) {
	r := newSequenceStore(t)
	r.apply(openQueue(0))
	r.apply(queued(1, 1, "k", "one"))
	skip := kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin, Epoch: 1, Lane: kv.LaneNormal, N: 5}}, Ops: []kv.Op{kv.Skip{From: 1}}}
	for range 2 {
		if got := codeIn(r.apply(skip)); got != kv.OK {
			t.Fatalf("skip: %v", got)
		}
	}
	if got := codeIn(r.apply(queued(1, 3, "k", "late"))); got != kv.OriginConflict {
		t.Errorf("a command for a skipped sequence: %v", got)
	}
	if got := codeIn(r.apply(queued(1, 6, "k", "six"))); got != kv.OK || r.value("k") != "six" {
		t.Errorf("behind the skip: %v, %q", got, r.value("k"))
	}
}

func TestASkipTellsWhatBecameOfItsSequence(t *testing.T) {
	r := newSequenceStore(t)
	r.apply(openQueue(0))
	applied := r.apply(queued(1, 1, "k", "one"))
	lost := queued(1, 2, "k", "two")
	lost.Guards = []kv.Guard{{Compare: kv.Compare{Key: []byte("k"), Target: kv.TargetMod}}}
	r.apply(lost)
	skip := func(n uint64) kv.Outcome {
		return r.apply(kv.Command{ID: kv.ID{Seq: kv.Seq{Origin: origin, Epoch: 1, Lane: kv.LaneNormal, N: n}}, Ops: []kv.Op{kv.Skip{From: n}}})
	}
	if got := skip(1); got.Err != nil || got.Result.Ops[0].Count != 1 || got.Result.Revision != applied.Result.Revision {
		t.Errorf("of one that was applied: %+v", got)
	}
	if got := skip(2); codeIn(got) != kv.PreconditionFailed {
		t.Errorf("of a conflict: %+v", got)
	}
	for range 2 {
		if got := skip(3); got.Err != nil || !got.Result.Ops[0].Succeeded || got.Result.Ops[0].Count != 0 {
			t.Errorf("of one that is given up: %+v", got)
		}
	}
	if got := skip(5); codeIn(got) != kv.SequenceGap {
		t.Errorf("beyond the next: %+v", got)
	}
	for n := range uint64(kv.OutcomeRing) {
		r.apply(queued(1, 4+n, "k", "more"))
	}
	if got := skip(1); codeIn(got) != kv.OutcomeUnknown {
		t.Errorf("of one that is forgotten: %+v", got)
	}
}

func TestAGuardHoldsIfThePredecessorWroteTheKeyLast(t *testing.T) {
	for _, flush := range []bool{false, true} {
		r := newSequenceStore(t)
		r.apply(openQueue(0))
		r.apply(queued(1, 1, "k", "mine"))
		if flush {
			if err := r.s.Flush(); err != nil {
				t.Fatal(err)
			}
		}
		after := func(n, pred uint64, v string) kv.Command {
			c := queued(1, n, "k", v)
			c.Guards = []kv.Guard{{Compare: kv.Compare{Key: []byte("k"), Target: kv.TargetMod}, Or: queued(1, pred, "", "").ID.Seq}}
			return c
		}
		if got := codeIn(r.apply(after(2, 1, "mine too"))); got != kv.OK {
			t.Errorf("flushed %v: behind its predecessor: %v", flush, got)
		}
		r.apply(kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: []byte("theirs")}}})
		if got := codeIn(r.apply(after(3, 2, "again"))); got != kv.PreconditionFailed || r.value("k") != "theirs" {
			t.Errorf("flushed %v: after somebody else: %v, %q", flush, got, r.value("k"))
		}
	}
}

func TestRecordsAreComparedAndSetAndMoveNoRevision(t *testing.T) {
	r := newSequenceStore(t)
	set := func(name, value string, have int64) kv.Outcome {
		op := kv.SetRecord{Name: []byte(name), Have: have}
		if value != "" {
			op.Value = []byte(value)
		}
		return r.apply(kv.Command{Ops: []kv.Op{op}})
	}
	list := func(prefix string) (all []string) {
		page, err := r.s.Read(kv.Query{Ops: []kv.Op{kv.Records{Prefix: []byte(prefix)}}})
		if err != nil {
			t.Fatal(err)
		}
		for _, v := range page.Ops[0].KVs {
			all = append(all, fmt.Sprintf("%s=%s@%d", v.Key, v.Value, v.Version))
		}
		return all
	}
	set("t/a", "1", 0)
	set("t/b", "1", 0)
	set("u/c", "1", -1)
	if out := set("t/a", "2", 0); codeIn(out) != kv.PreconditionFailed || out.Err.Revision != 1 {
		t.Errorf("a stale version: %+v", out)
	}
	if err := r.s.Flush(); err != nil {
		t.Fatal(err)
	}
	set("t/a", "2", 1)
	set("t/b", "", 1)
	want := "[t/a=2@2]"
	if got := fmt.Sprint(list("t/")); got != want || r.s.Revision() != 1 {
		t.Errorf("got %v at revision %d, want %v at 1", got, r.s.Revision(), want)
	}
	r.open() // a crash: the log brings back what was not flushed
	if got := fmt.Sprint(list("t/")); got != want {
		t.Errorf("after a restart %v, want %v", got, want)
	}
	var b bytes.Buffer
	sn, err := r.s.Snapshot()
	if err != nil {
		t.Fatal(err)
	}
	if err := sn.WriteTo(&b, nil); err != nil {
		t.Fatal(err)
	}
	if err := sn.Close(); err != nil {
		t.Fatal(err)
	}
	other := newSequenceStore(t)
	if err := other.s.Restore(&b, nil); err != nil {
		t.Fatal(err)
	}
	r = other
	if got := fmt.Sprint(list("")); got != "[t/a=2@2 u/c=1@1]" {
		t.Errorf("in a replica made of a snapshot: %v", got)
	}
}

// A record that a leader sets is set while it leads, and never by one that has been deposed.
func TestARecordOfALeaderIsVoidUnderAnother(t *testing.T) {
	r := newSequenceStore(t)
	r.apply(kv.Command{Ops: []kv.Op{kv.LeaderTerm{Nonce: 7}}})
	set := func(term uint64) kv.Code {
		return codeIn(r.apply(kv.Command{Ops: []kv.Op{kv.SetRecord{Name: []byte("r"), Value: []byte("v"), Have: -1, Term: term}}}))
	}
	if got := set(7); got != kv.OK {
		t.Errorf("by the leader: %v", got)
	}
	r.apply(kv.Command{Ops: []kv.Op{kv.LeaderTerm{Nonce: 8}}})
	if got := set(7); got != kv.NoLeader {
		t.Errorf("by the former leader: %v", got)
	}
	page, err := r.s.Read(kv.Query{Ops: []kv.Op{kv.Records{Prefix: []byte("r")}}})
	if err != nil || len(page.Ops[0].KVs) != 1 || page.Ops[0].KVs[0].Version != 1 {
		t.Errorf("the record is %+v, %v, want version 1", page.Ops[0].KVs, err)
	}
}
