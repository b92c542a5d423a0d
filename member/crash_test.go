package member

import (
	"context"
	"fmt"
	"log/slog"
	"math/rand/v2"
	"os"
	"strings"
	"sync"
	"testing"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

const crashWriters = 4

// childWrites stores keys of its own from several goroutines and says which were acknowledged, until it is killed.
func childWrites(m *Member) {
	var wg sync.WaitGroup
	for range crashWriters {
		wg.Go(func() {
			for {
				key := fmt.Sprintf("k/%016x", rand.Uint64())
				if _, err := m.Do(context.Background(), put(key, "value of "+key)); err != nil {
					fmt.Println("error:", err)
					return
				}
				fmt.Println(key) // one write to a pipe, so lines do not mix
			}
		})
	}
	wg.Wait()
}

func TestTwelveKillsLoseNothingAcknowledged(t *testing.T) {
	dir := t.TempDir()
	seed := rand.Uint64()
	t.Logf("seed %d", seed)
	rng := rand.New(rand.NewPCG(seed, 0))
	acked := make(map[string]bool)
	for round := range 12 {
		p := startChild(t, "write", dir)
		// From the first acknowledgement on it lives for a moment.
		var kill *time.Timer
		for p.out.Scan() {
			line := p.out.Text()
			if !strings.HasPrefix(line, "k/") {
				t.Fatalf("round %d: %s\n%s", round, line, p.err)
			}
			if len(line) == len("k/")+16 { // the kill may cut a line
				acked[line] = true
			}
			if kill == nil {
				kill = time.AfterFunc(time.Duration(rng.IntN(200))*time.Millisecond, func() { _ = p.Process.Kill() })
			}
		}
		_ = p.Wait() // it was killed, or says itself how it ended
		if kill == nil {
			t.Fatalf("round %d: nothing was acknowledged\n%s", round, p.err)
		}
		if round%3 != 2 {
			continue // crash upon crash
		}
		m := start(t, dir, quiet)
		for key := range acked {
			if got, _ := m.get(key); got != "value of "+key {
				t.Fatalf("round %d: %s was acknowledged and is %q", round, key, got)
			}
		}
		m.close()
	}
	t.Logf("%d writes were acknowledged", len(acked))
}

func quiet(c *Config) { c.Log = slog.New(slog.DiscardHandler) }

// crashCopy returns a copy of a running member's dir, which is what a kill would leave.
func crashCopy(t *testing.T, m *testMember) string {
	t.Helper()
	for {
		dir := t.TempDir()
		if err := os.CopyFS(dir, os.DirFS(m.cfg.Dir)); err == nil {
			return dir
		} else if !os.IsNotExist(err) {
			t.Fatal(err)
		}
	}
}

func TestReplayBringsBackWhatWasNotFlushed(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	const n = 9000 // fewer than a snapshot is taken after
	m.putMany(n)
	m.put("long", strings.Repeat("packed", packFrom))
	if d := m.store.Durable(); d > 100 {
		t.Fatalf("the state file holds the log up to %d already", d)
	}
	dir, hash := crashCopy(t, m), m.hash()
	m.close()
	m = start(t, dir, quiet)
	if got := m.hash(); got != hash {
		t.Errorf("the store has hash %x after the replay, want %x", got, hash)
	}
	if got, _ := m.get("many/008999"); got != "8999" {
		t.Errorf("the last key is %q", got)
	}
}

// putMany stores n keys from 64 goroutines.
func (m *testMember) putMany(n int) {
	m.t.Helper()
	var wg sync.WaitGroup
	next := make(chan int)
	for range 64 {
		wg.Go(func() {
			for i := range next {
				if _, err := m.Do(context.Background(), put(fmt.Sprintf("many/%06d", i%100_000), fmt.Sprint(i))); err != nil {
					m.t.Errorf("put %d: %v", i, err)
				}
			}
		})
	}
	for i := range n {
		next <- i
	}
	close(next)
	wg.Wait()
}

func (m *testMember) hash() uint32 {
	m.t.Helper()
	h, err := m.store.Hash(m.t.Context(), 0)
	if err != nil {
		m.t.Fatal(err)
	}
	return h.Sum
}

func TestLogIsCutAndStaysBounded(t *testing.T) {
	if testing.Short() {
		t.Skip("50,000 writes")
	}
	m := start(t, t.TempDir(), quiet)
	m.putMany(50_000)
	within(t, 20*time.Second, "the log is cut behind a snapshot", func() bool {
		return m.store.Durable() > 40_000
	})
	dir := crashCopy(t, m)
	hash := m.hash()
	m.close()
	size, err := dirSize(dir + "/raft")
	if err != nil || size > 80<<20 {
		t.Errorf("the raft log takes %d bytes after 50,000 small writes, %v", size, err)
	}
	m = start(t, dir, quiet)
	if got := m.hash(); got != hash {
		t.Errorf("the store has hash %x after a crash, want %x", got, hash)
	}
}

// childRuins puts something into the log that this version does not know, as a newer one might, and says how Run ends.
func childRuins(m *Member, done <-chan error) {
	before := m.store.Revision()
	b := wire.AppendCommand(nil, put("k", "v"))
	b[0]++ // of a newer version
	_, err := m.propose(context.Background(), b)
	fmt.Println("outcome:", kv.CodeOf(err))
	_, err = m.Do(context.Background(), put("later", "v"))
	fmt.Println("later:", kv.CodeOf(err))
	select {
	case err := <-done:
		fmt.Println("run:", err)
	case <-time.After(20 * time.Second):
		fmt.Println("it goes on")
	}
	fmt.Println("revision moved:", m.store.Revision() != before)
}

func TestEntryOfANewerVersionStopsTheReplicaWithoutAnswer(t *testing.T) {
	dir := t.TempDir()
	for range 2 { // and again at the next start
		p := startChild(t, "ruin", dir)
		var lines []string
		for p.out.Scan() {
			lines = append(lines, p.out.Text())
		}
		_ = p.Wait() // it was killed, or says itself how it ended
		out := strings.Join(lines, "\n")
		if !strings.Contains(out, "run:") || !strings.Contains(out, "written by a newer version") {
			t.Fatalf("the child said\n%s\n%s", out, p.err)
		}
		if strings.Contains(out, "panic") || strings.Contains(p.err.String(), "panic") {
			t.Errorf("it panicked\n%s\n%s", out, p.err)
		}
		if strings.Contains(out, "outcome:") && (!strings.Contains(out, "outcome: outcome-unknown") ||
			!strings.Contains(out, "revision moved: false")) {
			t.Errorf("the child said\n%s", out)
		}
	}
}

func TestSnapshotIsTakenWhenTheLogIsLarge(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.putMany(50)
	db := m.logs.db
	db.mu.Lock()
	db.bytes = snapshotLogBytes // as if the 50 had been large
	db.mu.Unlock()
	m.put("one", "more")
	within(t, 20*time.Second, "a snapshot is in the log, and what it covers in the state file", func() bool {
		ss, err := db.GetSnapshot(shardID, m.id.Replica)
		return err == nil && ss.Index > 50 && m.store.Durable() >= ss.OnDiskIndex
	})
	within(t, 20*time.Second, "bytes are counted anew", func() bool {
		db.mu.Lock()
		defer db.mu.Unlock()
		return db.bytes < 1<<20
	})
}

func TestSnapshotKeepsNoMoreBytesThanAllowed(t *testing.T) {
	for _, c := range []struct{ entries, bytes, want uint64 }{
		{0, 0, keepEntries},
		{100_000, 10 << 20, keepEntries},
		{256, 256 << 20, 128}, // 1 MiB each
		{1, 512 << 20, 1},
	} {
		l := newLogDB(nil, newHalt())
		l.begin(c.entries, c.bytes, c.entries)
		if got := l.overhead(); got != c.want {
			t.Errorf("%d entries of %d bytes: %d are kept, want %d", c.entries, c.bytes, got, c.want)
		}
		if large := len(l.large) == 1; large != (c.bytes >= snapshotLogBytes) {
			t.Errorf("%d bytes: a snapshot is asked for: %t", c.bytes, large)
		}
	}
}
