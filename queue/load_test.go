package queue

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"strings"
	"testing"
	"time"

	"holdfast/kv"
)

// backlog writes n ops of 100 B down, each on a key of its own.
func backlog(t testing.TB, o Options, n int) {
	t.Helper()
	q, err := Open(newCluster(), o)
	if err != nil {
		t.Fatal(err)
	}
	for i := 0; i < n; {
		var recs []record
		for range min(1000, n-i) {
			i++
			op := &op{lane: q.lanes[kv.LaneNormal], n: uint64(i), key: fmt.Sprintf("q/sensor/%07d", i), at: time.Now().UnixMilli(), guard: GuardSeen,
				owner: &owner{payer: payer{name: "192.0.2.7"}}}
			recs = append(recs, op.records(encoded(op.key, strings.Repeat("v", 100)))...)
		}
		if err := q.log.append(recs, nil); err != nil {
			t.Fatal(err)
		}
	}
	if err := q.log.close(); err != nil {
		t.Fatal(err)
	}
}

// heap is what lives in memory.
func heap() int64 {
	var m runtime.MemStats
	runtime.GC()
	runtime.ReadMemStats(&m)
	return int64(m.HeapAlloc)
}

// What is counted against queue.max-bytes is no less than what the ops take in memory.
func TestTheBoundOfTheQueueBoundsItsMemoryToo(t *testing.T) {
	const ops = 50_000
	o := options(t.TempDir())
	backlog(t, o, ops)
	before := heap()
	q, err := Open(newCluster(), o)
	if err != nil {
		t.Fatal(err)
	}
	took := heap() - before
	s := q.Status()
	if s.Depth != ops || took > s.Bytes || took > s.Memory*12/10 || s.Memory > took*12/10 {
		t.Errorf("%d ops take %d B of memory; %d B are reported and %d B counted", s.Depth, took, s.Memory, s.Bytes)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// A device's share of the queue is not had anew by a restart, nor lost with the segment that it was written to.
func TestADevicesShareIsKeptOverARestart(t *testing.T) {
	c := newCluster()
	c.set(false, false)
	o := options(t.TempDir())
	o.DeviceBytes = 3 * (opOverhead + 40)
	b := start(t, c, o)
	write := func(device string, i int) error {
		_, err := b.Do(t.Context(), kv.Command{Write: kv.WriteQueue, Device: device, Ops: []kv.Op{kv.Put{Key: fmt.Appendf(nil, "q/%d", i), Value: []byte(value("v"))}}})
		return err
	}
	for i := range 3 {
		if err := write("greedy", i); err != nil {
			t.Fatal(err)
		}
	}
	if err := write("modest", 3); err != nil {
		t.Fatal(err)
	}
	move := func() { // all there is into a segment of its own, as tidy does
		b.log.mu.Lock()
		seg := b.log.segments[0]
		b.log.mu.Unlock()
		for _, o := range b.lanes[kv.LaneNormal].pending {
			if !o.skip {
				if err := b.move(o, seg); err != nil {
					t.Fatal(err)
				}
			}
		}
	}
	for life, between := range []func(){func() {}, move, func() {}} {
		between()
		b.crash()
		b = start(t, c, o)
		if err := write("greedy", 9); kv.CodeOf(err) != kv.RateLimited {
			t.Errorf("life %d: beyond its share: %v, want rate-limited", life, err)
		}
		if err := write("modest", 4+life); life < 2 && err != nil {
			t.Errorf("life %d: another device: %v", life, err)
		}
	}
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if len(b.devices) != 0 {
		t.Errorf("accounts are left: %v", b.devices)
	}
	if err := write("greedy", 0); err != nil {
		t.Errorf("once its writes are sent: %v", err)
	}
}

// Whoever wrote an op is known by what it shows, and to nobody who comes from an address of that name: while it waits, once it
// has ended, over a restart, a move into another segment, and when it is filed anew.
func TestAnAuthorFindsItsOwnWrites(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.DeviceBytes = 2 * opOverhead
	b := start(t, c, o)
	b.commit("q/a", "base")
	c.set(false, false)
	write := func(key, principal, device string) string {
		t.Helper()
		res, err := b.Do(t.Context(), kv.Command{Write: kv.WriteQueue, Device: device, By: kv.By{Principal: principal}, Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte("v")}}})
		if err != nil || res.Queued == nil {
			t.Fatalf("%+v, %v", res, err)
		}
		return res.Queued.ID
	}
	mine := write("q/a", "10.0.0.7", "10.0.0.7")
	write("q/a2", "", "10.0.0.7")
	write("q/a3", "other", "other")
	others := func(when string, ended bool, want string) {
		t.Helper()
		found, err := b.ListOf("10.0.0.7", -1, "q/", "")
		if err != nil || len(found) != 1 || found[0].ID != want || found[0].State.Ended() != ended || found[0].Author != "10.0.0.7" {
			t.Errorf("%s: listed %+v, %v, want %s alone, ended: %v", when, found, err, want, ended)
		}
		if all := b.List(-1, "q/"); len(all) != 3 {
			t.Errorf("%s: %d are listed for everybody, want 3", when, len(all))
		}
	}
	move := func(list []*op) {
		b.log.mu.Lock()
		seg := b.log.segments[0]
		b.log.mu.Unlock()
		for _, o := range list {
			if err := b.move(o, seg); err != nil {
				t.Fatal(err)
			}
		}
	}
	others("waiting", false, mine)
	b.crash()
	b = start(t, c, o)
	others("after a restart", false, mine)
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	c.mu.Lock()
	c.rev++
	for _, key := range []string{"q/a", "q/a2", "q/a3"} {
		c.keys[key] = &stored{value: "theirs", mod: c.rev}
	}
	c.mu.Unlock()
	c.set(true, false)
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	others("in conflict", true, mine)
	if err := b.flushEnds(); err != nil {
		t.Fatal(err)
	}
	move(b.kept)
	b.crash()
	b = start(t, c, o)
	others("in conflict, moved, after a restart", true, mine)
	if i, _, err := b.Get(mine); err != nil || i.Author != "10.0.0.7" {
		t.Errorf("got %+v, %v", i, err)
	}
	c.set(false, false)
	again, _, err := b.Retry(t.Context(), mine)
	if err != nil {
		t.Fatal(err)
	}
	others("filed anew", false, again)
}

// Segments are read side by side, but until those before it are known to be whole nothing of one is changed.
func TestADamagedQueueIsRefusedAsItIs(t *testing.T) {
	c := newCluster()
	c.set(false, false)
	o := options(t.TempDir())
	b := start(t, c, o)
	for range 3 * segmentBytes >> 20 {
		b.mustQueue("q/none/k", strings.Repeat("v", 1<<20))
	}
	size := b.log.last().size
	b.crash()
	paths, _ := filepath.Glob(filepath.Join(o.Dir, "*.seg"))
	if len(paths) < 3 {
		t.Fatalf("%d segments, want 3", len(paths))
	}
	first, last := paths[0], paths[len(paths)-1]
	whole, err := os.ReadFile(first)
	if err != nil {
		t.Fatal(err)
	}
	bad := slices.Clone(whole)
	bad[len(bad)/2] ^= 1
	end, err := os.ReadFile(last)
	if err != nil {
		t.Fatal(err)
	}
	torn := append(slices.Clone(end[:size]), 1, 2, 3)
	if err := errors.Join(os.WriteFile(first, bad, 0o600), os.WriteFile(last, torn, 0o600)); err != nil {
		t.Fatal(err)
	}
	if _, err := Open(c, o); kv.CodeOf(err) != kv.Corrupt || !strings.Contains(err.Error(), first) {
		t.Errorf("got %v, want corrupt, naming %s", err, first)
	}
	if is, err := os.ReadFile(last); err != nil || !bytes.Equal(is, torn) {
		t.Errorf("the last segment was changed, %v: %d bytes, there were %d", err, len(is), len(torn))
	}
	if err := os.WriteFile(first, whole, 0o600); err != nil {
		t.Fatal(err)
	}
	q, err := Open(c, o)
	if err != nil {
		t.Fatal(err)
	}
	if d := q.Status().Depth; d != 3*segmentBytes>>20 {
		t.Errorf("depth %d, want %d", d, 3*segmentBytes>>20)
	}
	if err := q.Close(); err != nil {
		t.Error(err)
	}
}

// A version without notes passes over them: they are ends of an op that there never is.
func TestANoteIsTheEndOfNoOp(t *testing.T) {
	n := note(1, payer{name: "192.0.2.7"})
	r, rest, err := nextRecord(appendRecord(nil, &n))
	if err != nil || len(rest) > 0 || r.kind != recordEnd || r.n != 0 || !r.state.Ended() {
		t.Errorf("got %+v, %v", r, err)
	}
}

func BenchmarkAMillionQueuedOps(b *testing.B) {
	o := options(b.TempDir())
	o.MaxBytes = 1 << 30
	backlog(b, o, 1_000_000)
	before := heap()
	for b.Loop() {
		q, err := Open(newCluster(), o)
		if err != nil {
			b.Fatal(err)
		}
		if d := q.Status().Depth; d != 1_000_000 {
			b.Fatal(d)
		}
		b.StopTimer()
		b.ReportMetric(float64(heap()-before)/1e6, "MB-heap")
		b.ReportMetric(float64(q.Status().Memory)/1e6, "MB-reported")
		if err := q.Close(); err != nil {
			b.Fatal(err)
		}
		b.StartTimer()
	}
}
