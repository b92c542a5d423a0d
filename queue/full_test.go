package queue

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

func narrow(dir string, f OnFull, ops int64) Options {
	o := options(dir)
	o.Rules = []Rule{{Prefix: []byte("q/"), OnFull: f}, {Prefix: []byte("r/")}}
	o.MaxBytes = ops * (opOverhead + 20)
	return o
}

// value is padded so that every op of these tests is about the same size, on disk too.
func value(name string) string { return (name + "................")[:16] }

func TestAFullQueueThatCoalescesKeepsTheNewestOfEachKeyAndItsBase(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // or a busy machine tries to send meanwhile, and what may have been sent is not given up
		c := newCluster()
		dir := t.TempDir()
		o := narrow(dir, OnFullCoalesce, 10)
		b := start(t, c, o)
		b.commit("q/a", "before")
		c.set(false, false)
		for i := range 60 {
			b.mustQueue(fmt.Sprint("q/", string(rune('a'+i%3))), value(fmt.Sprint(i, " ")))
		}
		listed := b.List(int(Superseded), "q/")
		if len(listed) == 0 || listed[0].Err == nil || !strings.Contains(listed[0].Err.Error(), "coalesce") {
			t.Fatalf("what was given up is listed as %+v", listed)
		}
		if err := b.flushEnds(); err != nil {
			t.Fatal(err)
		}
		b.crash()
		b = start(t, c, o)
		c.set(true, false)
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		for i, k := range []string{"q/a", "q/b", "q/c"} {
			if got, want := c.keys[k].value, value(fmt.Sprint(57+i, " ")); got != want {
				t.Errorf("%s is %q, want the newest, %q", k, got, want)
			}
		}
		if kept := b.List(int(Conflict), ""); len(kept) > 0 {
			t.Errorf("a coalesced write lost its base: %+v", kept)
		}
		order := c.log()
		if len(order) > 20 {
			t.Errorf("%d were applied, of 60 that did not fit", len(order))
		}
	})
}

func TestAFullQueueThatDropsGivesUpTheOldestOfItsOwnPrefix(t *testing.T) {
	synctest.Test(t, func(t *testing.T) { // or a busy machine tries to send meanwhile, and what may have been sent is not given up
		c := newCluster()
		o := narrow(t.TempDir(), OnFullDropOldest, 10)
		b := start(t, c, o)
		c.set(false, false)
		b.mustQueue("r/other", value("r"))
		for i := range 50 {
			b.mustQueue(fmt.Sprint("q/", i%2), value(fmt.Sprint("v", i, " ")))
		}
		if n := len(b.lanes[kv.LaneHigh].pending); n > 14 {
			t.Errorf("%d places in line for 10 ops: what is given up leaves one each", n)
		}
		if n := len(b.List(int(Discarded), "")); n != 41 {
			t.Errorf("%d given up are listed, want 41", n)
		}
		c.set(true, false)
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		want := []string{value("r")}
		for i := 41; i < 50; i++ {
			want = append(want, value(fmt.Sprint("v", i, " ")))
		}
		got := c.log()
		if !slices.Equal(got, want) {
			t.Errorf("applied\n%q\nwant\n%q", got, want)
		}
		if kept := b.List(int(Conflict), ""); len(kept) > 0 {
			t.Errorf("a write conflicts with one that was given up: %+v", kept)
		}
	})
}

// What was acknowledged is not given up for a write that is refused all the same.
func TestNothingIsGivenUpForAWriteThatDoesNotFitEvenThen(t *testing.T) {
	for name, bound := range map[string]func(o *Options){
		"the queue's bound":  func(*Options) {},
		"the prefix's bound": func(o *Options) { o.Rules[0].MaxBytes, o.MaxBytes = o.MaxBytes, maxBytesDefault },
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				o := narrow(t.TempDir(), OnFullDropOldest, 10)
				most := int(o.MaxBytes)
				bound(&o)
				b := start(t, c, o)
				c.set(false, false)
				for i := range 10 {
					b.mustQueue(fmt.Sprint("q/", i), value(fmt.Sprint(i, " ")))
				}
				depth := b.Status().Depth
				eventually(t, "the loss is noticed", func() bool { return b.Status().Down != "" }) // nothing is on its way
				if _, err := b.put("q/large", strings.Repeat("v", most), kv.WriteQueue); kv.CodeOf(err) != kv.NoSpace {
					t.Errorf("larger than all there is: %v", err)
				}
				if s := b.Status(); s.Depth != depth || len(b.List(int(Discarded), "")) != 10-depth {
					t.Errorf("%d wait, %d are given up; want %d as before", s.Depth, len(b.List(int(Discarded), "")), depth)
				}
				b.mustQueue("q/large", strings.Repeat("v", most/2))
				if s := b.Status(); s.Depth < 3 || s.Depth > 6 || s.Bytes > int64(most) {
					t.Errorf("for one that takes half of it: %+v", s)
				}
			})
		})
	}
}

// What comes behind a write that was given up goes by what that one went by, also when an earlier one was applied, and
// over a restart.
func TestAWriteBehindADiscardedOneIsNoConflict(t *testing.T) {
	for _, restart := range []bool{false, true} {
		c := newCluster()
		dir := t.TempDir()
		b := start(t, c, options(dir))
		c.set(false, false)
		b.mustQueue("q/a", "first")
		gone := b.mustQueue("q/a", "second")
		b.mustQueue("q/a", "third")
		eventually(t, "the loss is noticed", func() bool { return b.Status().Down != "" })
		eventually(t, "discarded", func() bool {
			ok, err := b.Discard(gone)
			if err != nil {
				t.Fatal(err)
			}
			return ok
		})
		if restart {
			b.crash()
			b = start(t, c, options(dir))
		}
		b.mustQueue("q/a", "fourth")
		c.set(true, false)
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		if got := c.log(); !slices.Equal(got, []string{"first", "third", "fourth"}) {
			t.Errorf("restart %v: applied %q; listed %+v", restart, got, b.List(int(Conflict), ""))
		}
	}
}

func TestAPrefixHasABoundOfItsOwnAndADeviceAShare(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Rules = []Rule{{Prefix: []byte("q/"), MaxBytes: 5 * (opOverhead + 20)}, {Prefix: []byte("r/")}}
	o.DeviceBytes = 3 * (opOverhead + 20)
	b := start(t, c, o)
	c.set(false, false)
	write := func(device, key string) error {
		_, err := b.Do(t.Context(), kv.Command{Write: kv.WriteQueue, Device: device, Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value("v"))}}})
		return err
	}
	for i := range 3 {
		if err := write("greedy", fmt.Sprint("q/", i)); err != nil {
			t.Fatal(err)
		}
	}
	if err := write("greedy", "q/x"); kv.CodeOf(err) != kv.RateLimited {
		t.Errorf("beyond its share: %v, want rate-limited", err)
	}
	for i := range 2 {
		if err := write("modest", fmt.Sprint("q/", i)); err != nil {
			t.Errorf("another device: %v", err)
		}
	}
	if err := write("third", "q/x"); kv.CodeOf(err) != kv.NoSpace || !strings.Contains(err.Error(), `"q/"`) {
		t.Errorf("beyond the prefix: %v, want no-space that names it", err)
	}
	if err := write("third", "r/x"); err != nil {
		t.Errorf("under another prefix: %v", err)
	}
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if err := write("greedy", "q/x"); err != nil {
		t.Errorf("once its writes are sent: %v", err)
	}
}

func TestAPausedQueueKeepsAndSendsNothingOverARestart(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	began := time.Now()
	res, err := b.put("q/a", "v", kv.WriteAuto)
	if err != nil || res.Queued == nil || time.Since(began) > 5*time.Second {
		t.Fatalf("while paused: %+v, %v", res, err)
	}
	if _, err := b.put("q/a", "v", kv.WriteSync); kv.CodeOf(err) != kv.UpstreamUnavailable || !strings.Contains(err.Error(), "paused") {
		t.Errorf("sync on a pending key: %v", err)
	}
	b.crash()
	b = start(t, c, options(dir))
	if s := b.Status(); !s.Paused || s.Depth != 1 {
		t.Fatalf("after a restart: %+v", s)
	}
	b.Flush() // asks for haste and does not end a pause
	time.Sleep(20 * time.Millisecond)
	if got := c.log(); len(got) > 0 {
		t.Errorf("sent while paused: %q", got)
	}
	if err := b.Resume(); err != nil {
		t.Fatal(err)
	}
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
}

func TestARetriedConflictGoesByWhatIsKnownNow(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	c.set(false, false)
	id := b.mustQueue("q/a", "mine")
	if _, found, err := b.Retry(t.Context(), id); !found || kv.CodeOf(err) != kv.Invalid {
		t.Errorf("a write that still waits is retried: %v, %v; want that it is sent by itself", found, err)
	}
	c.mu.Lock()
	c.rev++
	c.keys["q/a"] = &stored{value: "theirs", mod: c.rev}
	c.mu.Unlock()
	c.set(true, false)
	eventually(t, "conflict", func() bool { return b.Status().Kept == 1 })
	again, found, err := b.Retry(t.Context(), id)
	if err != nil || !found || again == id {
		t.Fatalf("retry: %q, %v, %v", again, found, err)
	}
	item, _, err := b.Wait(t.Context(), again)
	if err != nil || item.State != Committed || c.keys["q/a"].value != "mine" {
		t.Errorf("the retried write: %+v, %v; the key is %q", item, err, c.keys["q/a"].value)
	}
	if _, found, _ := b.Get(id); found {
		t.Error("the old one is still listed")
	}
	if _, found, _ := b.Retry(t.Context(), "normal-99999"); found {
		t.Error("a write that never was is retried")
	}
}

// A conflict that nobody looks at must not hold every segment after it.
func TestWhatHoldsTheOldestSegmentIsMoved(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	b := start(t, c, o)
	c.set(false, false)
	id := b.mustQueue("q/a", "mine")
	c.mu.Lock()
	c.rev++
	c.keys["q/a"] = &stored{value: "theirs", mod: c.rev}
	c.mu.Unlock()
	big := strings.Repeat("x", 1<<20)
	for i := range 60 {
		c.set(false, false)
		b.mustQueue(fmt.Sprint("q/none/", i), big)
		if i%10 == 9 {
			c.set(true, false)
			eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		}
	}
	eventually(t, "the log is small again", func() bool { return b.Status().Disk < tidySlack+3*segmentBytes })
	if files, _ := filepath.Glob(filepath.Join(o.Dir, "*.seg")); slices.Contains(files, filepath.Join(o.Dir, "0000000000000001.seg")) {
		t.Errorf("the first segment is still there: %q", files)
	}
	b.crash()
	b = start(t, c, o)
	item, found, err := b.Get(id)
	if err != nil || !found || item.State != Conflict || string(item.Value) != "mine" {
		t.Errorf("the conflict after it was moved and a restart: %+v, %v, %v", item, found, err)
	}
}

// The cluster was restored: what may have been sent is unknown, what was surely not sent is filed again, but not over a base
// of the old history.
func TestARestoredClusterGetsWhatItSurelyDoesNotHave(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	c.epoch = kv.Epoch{Cluster: 1, Nonce: [16]byte{1}}
	b := start(t, c, options(dir))
	b.commit("q/a", "before")
	b.crash() // a mark of its own: what comes now is surely not sent
	c.set(false, false)
	b = start(t, c, options(dir))
	seen := b.mustQueue("q/a", "goes by the old history")
	c.mu.Lock()
	c.blank = true
	c.mu.Unlock()
	newest := b.mustQueue("q/b", "goes by all that was seen in the old history")
	b.mustQueue("q/none/a", "goes by nothing")
	eventually(t, "the loss is noticed", func() bool { return b.Status().Down != "" })
	b.crash()
	c.mu.Lock() // as a backup would have it: the same numbers, another history
	c.epoch.Nonce[0] = 2
	c.keys["q/b"] = &stored{value: "written since", mod: c.rev}
	c.mu.Unlock()
	c.set(true, false)
	b = start(t, c, options(dir))
	eventually(t, "settled", func() bool { s := b.Status(); return s.Depth == 0 && s.Down == "" })
	if got := c.keys["q/none/a"]; got == nil || got.value != "goes by nothing" {
		t.Errorf("what was surely not sent is not there: %+v; listed: %+v", got, b.List(-1, ""))
	}
	item, _, err := b.Get(seen)
	if err != nil || item.State != Conflict || c.keys["q/a"].value != "before" {
		t.Errorf("a base of another history: %+v, %v, the key is %q", item, err, c.keys["q/a"].value)
	}
	if item, _, err := b.Get(newest); err != nil || item.State != Conflict || c.keys["q/b"].value != "written since" {
		t.Errorf("the newest of another history: %+v, %v, the key is %q", item, err, c.keys["q/b"].value)
	}
	if got := b.Status().Epoch; got != 2 {
		t.Errorf("queue epoch %d, want the next one, 2", got)
	}
}

// A disk that is rolled back to a moment at which writes were in line that have been applied since.
func TestARolledBackLineIsNotAppliedAgain(t *testing.T) {
	for _, later := range []int{0, 10, markStep + 100} {
		t.Run(fmt.Sprint(later), func(t *testing.T) {
			c := newCluster()
			dir, old := t.TempDir(), filepath.Join(t.TempDir(), "copy")
			b := start(t, c, options(dir))
			b.commit("q/none/a", "0")
			c.set(false, false)
			for i := range 5 {
				b.mustQueue("q/none/a", fmt.Sprint("in line ", i))
			}
			if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			c.set(true, false)
			eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
			for i := range later {
				b.commit("q/none/a", fmt.Sprint("later ", i))
			}
			b.crash()
			b = start(t, c, options(old))
			_, err := b.put("q/none/a", "after", kv.WriteQueue)
			if err != nil && kv.CodeOf(err) != kv.OutcomeUnknown {
				t.Fatal(err)
			}
			eventually(t, "settled", func() bool { s := b.Status(); return s.Depth == 0 && s.Down == "" })
			times := map[string]int{}
			for _, v := range c.log() {
				times[v]++
			}
			for i := range 5 {
				if n := times[fmt.Sprint("in line ", i)]; n != 1 {
					t.Errorf("in line %d was applied %d times", i, n)
				}
			}
			if err == nil && times["after"] != 1 {
				t.Errorf("what came after was applied %d times; listed %+v", times["after"], b.List(-1, ""))
			}
		})
	}
}

// What another life of this disk has sent is not said to have been applied by nobody: not when its time is over, not when somebody
// gives it up, and not for want of room.
func TestARolledBackLineIsNotGivenUpUnasked(t *testing.T) {
	for name, what := range map[string]func(b *box, ids []string){
		"expired": func(*box, []string) { time.Sleep(2 * time.Hour) },
		"discarded": func(b *box, ids []string) {
			eventually(b.t, "it is known that the disk was rolled back", func() bool {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.zoned()
			})
			for _, id := range ids {
				if done, err := b.Discard(id); done || err != nil {
					b.t.Errorf("discard %s: %v, %v, want the cluster asked first", id, done, err)
				}
			}
		},
		"no room": func(b *box, _ []string) {
			eventually(b.t, "it is known that the disk was rolled back", func() bool {
				b.mu.Lock()
				defer b.mu.Unlock()
				return b.zoned()
			})
			if _, err := b.put("q/none/b", strings.Repeat("v", 300), kv.WriteQueue); kv.CodeOf(err) != kv.NoSpace {
				b.t.Errorf("a write for which there is room only in the place of what may be applied: %v", err)
			}
		},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				c := newCluster()
				dir, old := t.TempDir(), filepath.Join(t.TempDir(), "copy")
				o := options(dir)
				o.MaxBytes = 3 * (opOverhead + 100)
				o.Rules = []Rule{{Prefix: []byte("q/"), Guard: GuardNone, Expires: time.Hour, OnFull: OnFullDropOldest}}
				b := start(t, c, o)
				b.commit("q/none/a", "0")
				b.crash() // a mark of its own: what comes now is surely not sent, as far as this disk knows
				c.set(false, false)
				b = start(t, c, o)
				var ids []string
				for i := range 3 {
					ids = append(ids, b.mustQueue("q/none/a", fmt.Sprint("in line ", i)))
				}
				if err := os.CopyFS(old, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				c.set(true, false)
				eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
				b.crash()
				o.Dir = old
				late := &lateNext{cluster: c, free: make(chan struct{})}
				b = start(t, late, o)
				what(b, ids)
				close(late.free)
				eventually(t, "settled", func() bool { s := b.Status(); return s.Depth == 0 && s.Down == "" })
				if got := c.log(); !slices.Equal(got, []string{"0", "in line 0", "in line 1", "in line 2"}) {
					t.Errorf("applied %q", got)
				}
				for _, id := range ids {
					if item, found, err := b.Get(id); err != nil || !found || item.State != Committed {
						t.Errorf("%s: %v, %v, %v; want it committed, as it is", id, item.State, found, err)
					}
				}
			})
		})
	}
}

// Before the cluster has been asked, nobody knows that the disk was not rolled back.
func TestADiscardSaysWhetherTheClusterWasAsked(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	b := start(t, c, o)
	b.commit("q/a", "0")
	b.crash()
	c.set(false, false)
	b = start(t, c, o)
	before := b.mustQueue("q/b", "1")
	b.crash()
	b = start(t, c, o)
	for id, unsure := range map[string]bool{before: true, b.mustQueue("q/c", "1"): false} {
		done, err := b.Discard(id)
		item, found, gerr := b.Get(id)
		if !done || err != nil || gerr != nil || !found || item.State != Discarded {
			t.Fatalf("discard %s: %v, %v; it is %v, %v, %v", id, done, err, item.State, found, gerr)
		}
		if strings.Contains(item.Err.Detail, "rolled back") != unsure {
			t.Errorf("%s, of an earlier life %v: %q", id, unsure, item.Err.Detail)
		}
	}
}

// lateNext carries up what the queue asks about its numbers, and no write before it is free.
type lateNext struct {
	*cluster
	free chan struct{}
}

func (l *lateNext) Do(ctx context.Context, cmd kv.Command) (kv.Result, error) {
	if each, ok := cmd.Ops[0].(kv.Each); ok {
		if skip, ok := each.Commands[0].Ops[0].(kv.Skip); !ok || skip.From == 1 {
			select {
			case <-l.free:
			case <-ctx.Done():
				return kv.Result{}, kv.Errorf(kv.OutcomeUnknown, "no answer in time")
			}
		}
	}
	return l.cluster.Do(ctx, cmd)
}

func TestWritersDoNotEachFindOutThatNothingComesBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		o := options(t.TempDir())
		o.Wait = 100 * time.Millisecond
		b := start(t, c, o)
		b.commit("q/none/a", "v")
		c.hang()
		if res, err := b.put("q/none/a", "v", kv.WriteAuto); err != nil || res.Queued == nil {
			t.Fatal(res, err)
		}
		began := time.Now()
		for range 20 {
			if res, err := b.put("q/none/b", "v", kv.WriteAuto); err != nil || res.Queued == nil {
				t.Fatal(res, err)
			}
		}
		if took := time.Since(began); took > 2*o.Wait { // of virtual time, in which the disk takes none
			t.Errorf("20 writes took %v", took)
		}
		c.release()
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		if res, err := b.put("q/none/c", "v", kv.WriteAuto); err != nil || res.Queued != nil {
			t.Errorf("once answers come: %+v, %v", res, err)
		}
	})
}

func TestAnExpiredWriterIsNotToldThatItsWriteWasTaken(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Rules = []Rule{{Prefix: []byte("q/"), Expires: time.Millisecond}}
	b := start(t, c, o)
	c.set(false, false)
	id := b.mustQueue("q/a", "v")
	time.Sleep(5 * time.Millisecond)
	c.set(true, false)
	eventually(t, "expired", func() bool { i, found, _ := b.Get(id); return found && i.State.Ended() })
	item, _, _ := b.Get(id)
	switch {
	case item.State == Committed: // it was sent before
	case item.State != Expired || !errors.Is(item.Err, &kv.Error{Code: kv.UpstreamUnavailable}):
		t.Errorf("%+v", item)
	}
}

func TestAFullQueueRefusesAndKeepsWhatItHas(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.MaxBytes = 10 * (opOverhead + 100)
	b := start(t, c, o)
	c.set(false, false)
	n := 0
	for ; ; n++ {
		_, err := b.put("q/none/k", strings.Repeat("v", 80), kv.WriteQueue)
		if err != nil {
			if kv.CodeOf(err) != kv.NoSpace || !strings.Contains(err.Error(), "queue.max-bytes") {
				t.Fatalf("got %v, want no-space naming the setting", err)
			}
			break
		}
	}
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := len(c.log()); got != n {
		t.Errorf("%d applied, want the %d that were acknowledged", got, n)
	}
	if _, err := b.put("q/none/k", "room again", kv.WriteQueue); err != nil {
		t.Errorf("after it drained: %v", err)
	}
}

// Below its reserve nothing is queued, and what waits goes on.
func TestBelowTheReserveOfTheDiskNothingIsQueued(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	var free atomic.Int64
	free.Store(11 << 20)
	o.Free = func() (int64, int64) { return free.Load(), 10 << 20 }
	b := start(t, c, o)
	c.set(false, false)
	b.mustQueue("q/none/a", "before")
	free.Store(9 << 20)
	for _, w := range []kv.Write{kv.WriteQueue, kv.WriteAuto} {
		_, err := b.put("q/none/a", "below", w)
		if kv.CodeOf(err) != kv.NoSpace || !strings.Contains(err.Error(), "9 MiB free") || !strings.Contains(err.Error(), "queue.disk-reserve") {
			t.Errorf("got %v, want no-space that says how much there is and names the setting", err)
		}
	}
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	free.Store(10 << 20)
	if _, err := b.put("q/none/a", "after", kv.WriteAuto); err != nil {
		t.Errorf("with room again: %v", err)
	}
	if got := c.log(); !slices.Equal(got, []string{"before", "after"}) {
		t.Errorf("applied %q", got)
	}
}
