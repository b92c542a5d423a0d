package member

import (
	"bytes"
	"errors"
	"strings"
	"testing"
	"time"

	"github.com/lni/dragonboat/v4/raftio"

	"holdfast/kv"
)

func leaderUpdate(l leaderInfo) raftio.LeaderInfo {
	return raftio.LeaderInfo{ShardID: shardID, ReplicaID: 1, LeaderID: l.replica, Term: l.term}
}

func TestDoorRefusesWhatMustNotReachTheLog(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	rev, applied := m.Header().Revision, m.store.Applied()
	for _, c := range []struct {
		name string
		op   kv.Op
		want kv.Code
	}{
		{"empty key", kv.Put{}, kv.Invalid},
		{"too large", kv.Put{Key: []byte("k"), Value: make([]byte, DefaultRequestBytes)}, kv.TooLarge},
		{"a leader's", kv.LeaderTerm{Nonce: 7}, kv.Invalid},
		{"a founder's", kv.OpenEpoch{Epoch: kv.Epoch{Cluster: 1}}, kv.Invalid},
		{"time driven", kv.Compact{Revision: 1, Term: 7}, kv.Invalid},
		{"time driven", kv.LeaseRevoke{ID: 1, Term: 7}, kv.Invalid},
		{"a leader's, in a batch", kv.Each{Commands: []kv.Command{{Ops: []kv.Op{kv.Compact{Revision: 1, Term: 7}}}}}, kv.Invalid},
		{"a renewal, in a batch with others", kv.Each{Commands: []kv.Command{{Ops: []kv.Op{kv.LeaseKeepAlive{ID: 1}}},
			{Ops: []kv.Op{kv.Put{Key: []byte("k")}}}}}, kv.Invalid},
		{"a renewal, beside another", kv.Each{Commands: []kv.Command{{Ops: []kv.Op{kv.LeaseKeepAlive{ID: 1}, kv.LeaseKeepAlive{ID: 2}}}}}, kv.Invalid},
		{"no op", nil, kv.Unsupported},
	} {
		_, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{c.op}})
		if got := kv.CodeOf(err); got != c.want && (got == kv.OK || c.want != kv.Unsupported) {
			t.Errorf("%s: %v, want %s", c.name, err, c.want)
		}
	}
	if m.Header().Revision != rev {
		t.Error("something was stored")
	}
	if m.store.Applied() != applied {
		t.Logf("the log went from %d to %d", applied, m.store.Applied())
	}
}

func TestLargestRequestPasses(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	value := bytes.Repeat([]byte("v"), DefaultRequestBytes-64)
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("k"), Value: value}}}); err != nil {
		t.Fatal(err)
	}
	if got, _ := m.get("k"); got != string(value) {
		t.Errorf("%d bytes came back of %d", len(got), len(value))
	}
}

func TestRefusalOfTheHistoryIsAnsweredWithItsRevision(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	rev := m.put("k", "v")
	c := put("k", "w")
	c.Guards = []kv.Guard{{Compare: kv.Compare{Key: []byte("k"), Target: kv.TargetMod, Num: rev + 5}}}
	_, err := m.Do(t.Context(), c)
	if e, ok := errors.AsType[*kv.Error](err); !ok || e.Code != kv.PreconditionFailed || e.Revision != rev {
		t.Errorf("%v, want a failed precondition at %d", err, rev)
	}
}

func TestOneSyncPerPutOfALoneClient(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("k", "v")
	const n = 300
	before := m.fs.syncs.Load()
	for range n {
		m.put("k", strings.Repeat("v", 128))
	}
	if got := m.fs.syncs.Load() - before; got != n {
		t.Errorf("%d syncs for %d puts", got, n)
	}
}

func TestIdleMemberWritesNothing(t *testing.T) {
	m := start(t, t.TempDir(), quiet, func(c *Config) {
		c.FlushEvery = 20 * time.Millisecond
		c.History = 100 * time.Millisecond
	})
	m.put("k", "v")
	m.put("k", "w")
	within(t, 10*time.Second, "what was changed is compacted and flushed", func() bool {
		return m.store.CompactRevision() == 3 && m.store.Durable() == m.store.Applied()
	})
	// What follows from that, e.g. freeing the space, takes as long as the machine is slow; but it has an end.
	type counts struct {
		syncs, written, applied uint64
		flushes                 int64
	}
	count := func() counts {
		return counts{m.fs.syncs.Load(), m.fs.written.Load(), m.store.Applied(), m.store.Stats().Flushes}
	}
	var before, after counts
	for range 10 {
		before = count()
		time.Sleep(time.Second)
		if after = count(); after == before {
			return
		}
	}
	t.Errorf("in each of ten idle seconds something was written, from %+v to %+v in the last", before, after)
}

func TestHistoryIsKeptForAsLongAsAsked(t *testing.T) {
	var samples []sample
	var due int64
	at := func(s int, rev int64) int64 {
		samples, due = sampleHistory(samples, sample{time.Duration(s) * time.Second, rev}, 10*time.Second)
		return due
	}
	for _, c := range []struct {
		second    int
		rev, want int64
	}{
		{0, 5, 0},   // when 5 came is not known, only that it was there at 0
		{1, 6, 0},   //
		{9, 6, 0},   //
		{10, 6, 5},  // 5 was the newest at 0: what it superseded is at least 10 s old
		{11, 9, 6},  //
		{20, 9, 6},  // 9 came at 11
		{21, 9, 9},  //
		{500, 9, 9}, //
		{501, 12, 9},
		{510, 12, 9},
		{511, 12, 12},
	} {
		if got := at(c.second, c.rev); got != c.want {
			t.Errorf("second %d, revision %d: %d is due, want %d", c.second, c.rev, got, c.want)
		}
		if len(samples) > 12 {
			t.Errorf("second %d: %d samples", c.second, len(samples))
		}
	}
}

func TestHistoryIsCompactedByTheLeader(t *testing.T) {
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.History = 50 * time.Millisecond })
	for range 10 {
		m.put("k", "v")
	}
	within(t, 10*time.Second, "revision 11 is the oldest", func() bool { return m.store.CompactRevision() == 11 })
	if m.store.LeaderTerm() != m.nonce.Load() || m.nonce.Load() == 0 {
		t.Errorf("the log has term %x, the leader %x", m.store.LeaderTerm(), m.nonce.Load())
	}
}

func TestEveryElectionCommitsANewTerm(t *testing.T) {
	dir := t.TempDir()
	seen := make(map[uint64]bool)
	for range 3 {
		m := start(t, dir, quiet)
		within(t, 10*time.Second, "the leader's term is committed", func() bool { return m.nonce.Load() != 0 })
		if n := m.store.LeaderTerm(); n == 0 || seen[n] || n != m.nonce.Load() {
			t.Errorf("term %x, seen before: %t, the leader's: %x", n, seen[n], m.nonce.Load())
		}
		seen[m.store.LeaderTerm()] = true
		m.close()
	}
}
