package mvcc

import (
	"bytes"
	"fmt"
	"io"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"holdfast/kv"
)

func keyed(key string, ops ...kv.Op) (c kv.Command) {
	copy(c.ID.Key[:], key)
	c.Ops = ops
	return c
}

// twice applies a command again and checks that it is answered as it was, and that nothing changes.
func (g *rig) twice(c kv.Command, want kv.Outcome) {
	g.t.Helper()
	before := g.s.Revision()
	got := g.command(c)
	sameOutcome(g.t, Entry{g.index, c}, got, want)
	if g.s.Revision() != before {
		g.t.Errorf("%+v was applied again", c)
	}
}

func TestAWriteWithARetryKeyAppliesOnce(t *testing.T) {
	g := newRig(t, Options{})
	g.put("there", "1")
	commands := []kv.Command{
		keyed("put", kv.Put{Key: []byte("a"), Value: []byte("1"), PrevKV: true}),
		keyed("replace", kv.Put{Key: []byte("there"), Value: []byte("2"), PrevKV: true}),
		keyed("delete", kv.Delete{Key: []byte("there"), PrevKV: true}),
		keyed("nothing", del("none", "")),
		keyed("txn", kv.Txn{Then: []kv.Op{put("b", "1"), scan("a", "z"), kv.Txn{Else: []kv.Op{put("c", "1")}}}}),
		keyed("lease", kv.LeaseGrant{ID: 7, TTL: 30}, kv.Put{Key: []byte("leased"), Lease: 7}),
		keyed("refused", kv.Put{Key: []byte("x"), Lease: 99}),
		{ID: keyed("guarded").ID, Guards: []kv.Guard{{Compare: kv.Compare{Key: []byte("a"), Target: kv.TargetMod, Num: 99}}}, Ops: []kv.Op{put("a", "never")}},
	}
	var outcomes []kv.Outcome
	for _, c := range commands {
		outcomes = append(outcomes, g.command(c))
	}
	if outcomes[6].Err == nil || outcomes[7].Err == nil || outcomes[0].Err != nil {
		t.Fatalf("%+v", outcomes)
	}
	again := func(g *rig) {
		t.Helper()
		for i, c := range commands {
			g.twice(c, outcomes[i])
		}
	}
	g.put("a", "another's")
	again(g)
	must(t, g.s.Flush())
	again(g)
	g.s.crash()
	g.open()
	g.index = g.s.Applied()
	again(g)

	b, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	other := newRig(t, Options{})
	must(t, other.s.Restore(bytes.NewReader(b), nil))
	other.index = other.s.Applied()
	again(other)
	if got := other.command(keyed("put", put("a", "other"))); got.Err == nil || got.Err.Code != kv.Reused {
		t.Errorf("another command with the key: %+v", got)
	}
	if got := other.list(0); !strings.Contains(got, "a=another's") {
		t.Errorf("it was applied again: %s", got)
	}
}

func TestAWriteThatAnAlarmRefusedMayComeAgain(t *testing.T) {
	g := newRig(t, Options{})
	alarm := kv.Alarm{Member: 1, Kind: kv.AlarmNoSpace}
	g.do(kv.SetAlarm{Alarm: alarm, Raise: true})
	c := keyed("k", put("a", "1"))
	if got := g.command(c); got.Err == nil || got.Err.Code != kv.NoSpace {
		t.Fatalf("%+v", got)
	}
	g.do(kv.SetAlarm{Alarm: alarm})
	if got := g.command(c); got.Err != nil || g.s.Revision() != 2 {
		t.Errorf("%+v at revision %d", got, g.s.Revision())
	}
}

func TestOfALargeAnswerTheRevisionIsKept(t *testing.T) {
	g := newRig(t, Options{})
	g.put("a", strings.Repeat("v", retryAnswerMax))
	c := keyed("k", kv.Put{Key: []byte("a"), PrevKV: true})
	first := g.command(c)
	if first.Err != nil || len(first.Result.Ops[0].KVs) != 1 {
		t.Fatalf("%+v", first)
	}
	got := g.command(c)
	if got.Err == nil || got.Err.Code != kv.OutcomeUnknown || got.Err.Revision != 3 || !strings.Contains(got.Err.Detail, "applied at revision 3") || g.s.Revision() != 3 {
		t.Errorf("%+v at revision %d", got, g.s.Revision())
	}
}

// A queued write that its device sends twice has two places in the queue, and one retry key.
func TestAQueuedWriteWithARetryKeyAppliesOnce(t *testing.T) {
	r := newSequenceStore(t)
	r.apply(openQueue(0))
	first, again := queued(1, 1, "k", "one"), queued(1, 2, "k", "one")
	first.ID.Key, again.ID.Key = [16]byte{1}, [16]byte{1}
	a := r.apply(first)
	r.apply(kv.Command{Ops: []kv.Op{put("k", "another's")}})
	b := r.apply(again)
	if a.Err != nil || b.Err != nil || a.Result.Revision != b.Result.Revision || r.value("k") != "another's" {
		t.Errorf("%+v, %+v, %q", a, b, r.value("k"))
	}
	if got := r.apply(queued(1, 3, "k", "three")); got.Err != nil {
		t.Errorf("the place behind it: %+v", got)
	}
}

func TestTheNewestRetryKeysAreKept(t *testing.T) {
	g := newRig(t, Options{})
	var entries []Entry
	for i := range RetriesKept + 10 {
		g.index++
		entries = append(entries, Entry{g.index, keyed(fmt.Sprint("key ", i), put("a", ""))})
	}
	_, err := g.s.Apply(entries)
	must(t, err)
	must(t, g.s.Flush())
	for _, i := range []int{10, RetriesKept + 9, 9} {
		before := g.s.Revision()
		out := g.command(keyed(fmt.Sprint("key ", i), put("a", "")))
		if kept := i > 9; out.Err != nil || (g.s.Revision() == before) != kept {
			t.Errorf("key %d: revision %d after %d, %+v", i, g.s.Revision(), before, out)
		}
	}
	r := g.s.reader(1 << 40)
	defer r.close()
	for _, kind := range []byte{sideRetry, sideRetrySlot} {
		keys, _, err := r.sidesUnder(string(kind))
		must(t, err)
		if len(keys) != RetriesKept {
			t.Errorf("%d entries of kind %q, want %d", len(keys), kind, RetriesKept)
		}
	}
}

// The third format has writes with a retry key. A file has it from the first on, and so has its snapshot.
func TestFormat3IsRead(t *testing.T) {
	if *writeFixtures {
		writeFormat3(t)
	}
	g := &rig{replica: &replica{t: t, path: filepath.Join(t.TempDir(), "store")}}
	must(t, os.WriteFile(g.path, gunzip(t, "testdata/format3.db.gz"), 0o600))
	g.open()
	t.Cleanup(func() { g.s.crash() })
	restored := newRig(t, Options{})
	snapshot := gunzip(t, "testdata/snapshot3.gz")
	must(t, restored.s.Restore(bytes.NewReader(snapshot), nil))
	for _, g := range []*rig{g, restored} {
		checkFile(t, g.s)
		if again, err := io.ReadAll(dump(t, g.s)); err != nil || !bytes.Equal(again, snapshot) {
			t.Errorf("the snapshot of the fixture has %d bytes, it had %d (%v)", len(again), len(snapshot), err)
		}
		g.index = g.s.Applied()
		out := g.command(keyed("k", put("a", "1")))
		if out.Err != nil || !out.Result.Ops[0].Created || out.Result.Revision != 2 || g.s.Revision() != 3 {
			t.Errorf("%+v at revision %d", out, g.s.Revision())
		}
		if out := g.command(keyed("refused", kv.Put{Key: []byte("a"), Lease: 9})); out.Err == nil || out.Err.Code != kv.LeaseNotFound {
			t.Errorf("%+v", out)
		}
	}
}

func writeFormat3(t *testing.T) {
	t.Helper()
	g := newRig(t, Options{})
	g.command(keyed("k", put("a", "1")))
	g.command(keyed("refused", kv.Put{Key: []byte("a"), Lease: 9}))
	g.put("a", "2")
	snapshot, err := io.ReadAll(dump(t, g.s))
	must(t, err)
	gzipTo(t, "testdata/snapshot3.gz", snapshot)
	must(t, g.s.Close())
	b, err := os.ReadFile(g.path)
	must(t, err)
	gzipTo(t, "testdata/format3.db.gz", b)
}
