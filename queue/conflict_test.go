package queue

import (
	"testing"
	"time"

	"holdfast/kv"
)

func TestWhatSomebodyElseWroteMeanwhileIsAConflictAndNotOverwritten(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	b.commit("q/a", "base")
	c.set(false, false)
	id := b.mustQueue("q/a", "mine")
	b.mustQueue("q/a", "mine too") // its predecessor conflicts, so does it
	b.mustQueue("q/b", "other")
	b.mustQueue("q/b", "other, again") // its predecessor does not
	c.mu.Lock()
	c.rev++
	c.keys["q/a"] = &stored{value: "theirs", mod: c.rev}
	c.mu.Unlock()
	c.set(true, false)
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.keys["q/a"].value; got != "theirs" {
		t.Errorf("q/a is %q, want the newer value kept", got)
	}
	if got := c.keys["q/b"].value; got != "other, again" {
		t.Errorf("q/b is %q, want the second of two", got)
	}
	conflicts := b.List(int(Conflict), "")
	if len(conflicts) != 2 {
		t.Fatalf("%d conflicts, want 2: %+v", len(conflicts), b.List(-1, ""))
	}
	item, ok, err := b.Get(id)
	if err != nil || !ok || string(item.Value) != "mine" || item.State != Conflict || item.Revision == 0 {
		t.Errorf("the conflict does not keep what was lost: %+v, %v, %v", item, ok, err)
	}
	dir := b.opts.Dir
	b.crash()
	b = start(t, c, options(dir))
	if n := len(b.List(int(Conflict), "")); n > 2 {
		t.Errorf("%d conflicts after a restart", n)
	}
}

// What was sent while its writer waited may still be on its way when the writer is given a receipt.
func TestAnAttemptThatArrivesLateOverwritesNothingNewer(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	b.commit("q/a", "base")
	c.hang()
	res, err := b.put("q/a", "mine", kv.WriteAuto)
	if err != nil || res.Queued == nil {
		t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	b.handed(2)
	c.others("q/a", "theirs")
	c.release()
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.keys["q/a"].value; got != "theirs" {
		t.Errorf("q/a is %q, want the newer value kept", got)
	}
	if item, found, err := b.Get(res.Queued.ID); err != nil || !found || item.State != Conflict || string(item.Value) != "mine" {
		t.Errorf("the write is %+v, found %v, %v, want a conflict with its value", item, found, err)
	}
}

// Who waits for a quorum writes as one without a queue does: last, whatever somebody else wrote meanwhile.
func TestAWriterThatWaitsIsTheNewerOne(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Minute
	b := start(t, c, o)
	b.commit("q/a", "base")
	c.hang()
	type answer struct {
		res kv.Result
		err error
	}
	answers := make(chan answer, 2)
	for _, v := range []string{"first", "second"} {
		n := b.lanes[kv.LaneHigh].next
		go func() {
			res, err := b.put("q/a", v, kv.WriteAuto)
			answers <- answer{res, err}
		}()
		eventually(t, "in line", func() bool {
			b.mu.Lock()
			defer b.mu.Unlock()
			return b.lanes[kv.LaneHigh].next > n
		})
	}
	b.handed(2)
	c.others("q/a", "theirs")
	c.release()
	for range 2 {
		if a := <-answers; a.err != nil || a.res.Queued != nil {
			t.Errorf("got %+v, %v, want it committed", a.res, a.err)
		}
	}
	if got := c.log(); len(got) != 3 || c.keys["q/a"].value == "theirs" {
		t.Errorf("applied %q, q/a is %q", got, c.keys["q/a"].value)
	}
	if s := b.Status(); s.Depth != 0 || s.Kept != 0 || b.pendingIn([]byte("q/a"), nil) != 0 {
		t.Errorf("left in line: %+v", s)
	}
}

func TestConflictsAreThereAfterARestartUntilDiscarded(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	c.keys["q/a"] = &stored{mod: 7}
	c.set(false, false)
	id := b.mustQueue("q/a", "mine")
	c.mu.Lock()
	c.keys["q/a"] = &stored{value: "theirs", mod: 9}
	c.mu.Unlock()
	c.set(true, false)
	eventually(t, "conflict", func() bool { return b.Status().Kept == 1 })
	if err := b.flushEnds(); err != nil {
		t.Fatal(err)
	}
	b.crash()
	b = start(t, c, options(dir))
	item, ok, err := b.Get(id)
	if err != nil || !ok || item.State != Conflict || string(item.Value) != "mine" {
		t.Fatalf("after a restart: %+v, %v, %v", item, ok, err)
	}
	if ok, err := b.Discard(id); !ok || err != nil {
		t.Fatal(ok, err)
	}
	b.crash()
	b = start(t, c, options(dir))
	if _, ok, _ := b.Get(id); ok {
		t.Error("a discarded conflict came back")
	}
}
