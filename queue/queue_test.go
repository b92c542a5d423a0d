package queue

import (
	"fmt"
	"slices"
	"testing"
	"time"

	"holdfast/kv"
)

func TestAWriteThatAQuorumTakesInTimeTouchesNoDisk(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Minute // what takes longer goes to the disk, and a busy machine takes long
	b := start(t, c, o)
	if _, err := b.put("q/a", "0", kv.WriteAuto); err != nil { // the first one opens the epoch and sets the mark
		t.Fatal(err)
	}
	before := b.log.commits
	for i := range 500 {
		res, err := b.put("q/a", fmt.Sprint(i), kv.WriteAuto)
		if err != nil || res.Queued != nil || res.Revision == 0 {
			t.Fatalf("put %d: got %+v, %v, want it committed", i, res, err)
		}
	}
	if b.log.commits != before {
		t.Errorf("%d commits to disk for 500 writes that a quorum took, want 0", b.log.commits-before)
	}
}

func TestQueuedWritesSurviveACrashAndApplyOnceInOrder(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	c.set(false, false)
	var want []string
	for i := range 200 {
		v := fmt.Sprint("v", i)
		b.mustQueue(fmt.Sprint("q/", i%7), v)
		want = append(want, v)
	}
	b.crash()
	if got := c.log(); len(got) != 0 {
		t.Fatalf("applied while the link was down: %v", got)
	}
	c.set(true, false)
	b = start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, want) {
		t.Errorf("applied\n%v\nwant\n%v", got, want)
	}
	b.crash()
	b = start(t, c, options(dir))
	if _, err := b.put("q/last", "last", kv.WriteQueue); err != nil {
		t.Fatal(err)
	}
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, append(want, "last")) {
		t.Errorf("after another start %d were applied, want %d", len(got), len(want)+1)
	}
}

func TestALostAnswerIsNotAppliedTwice(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	b.commit("q/a", "first")
	c.set(true, true)
	res, err := b.put("q/a", "second", kv.WriteAuto)
	if err != nil || res.Queued == nil {
		t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	b.crash()
	c.set(true, false)
	b = start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if got := c.log(); !slices.Equal(got, []string{"first", "second"}) {
		t.Errorf("applied %v, want each once", got)
	}
	if k := b.Status().Kept; k != 0 {
		t.Errorf("%d ops ended badly, want 0: %+v", k, b.List(-1, ""))
	}
}

func TestAWriterThatAsksLaterIsToldHowItEnded(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	c.set(false, false)
	id := b.mustQueue("q/a", "v")
	c.set(true, false)
	item, found, err := b.Wait(t.Context(), id)
	if err != nil || !found || item.State != Committed {
		t.Fatalf("wait: %+v, %v, %v", item, found, err)
	}
	item, found, err = b.Get(id)
	if err != nil || !found || item.State != Committed || item.Revision == 0 {
		t.Errorf("later: %+v, %v, %v, want it committed at a revision", item, found, err)
	}
	if _, err := b.Discard(id); err != nil {
		t.Error(err)
	}
}

func TestAWriteWhileTheLinkIsKnownLostIsAcknowledgedAtOnce(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Wait = time.Hour
	b := start(t, c, o)
	c.set(false, false)
	b.mustQueue("q/a", "finds out")
	eventually(t, "the loss is noticed", func() bool { return b.Status().Down != "" })
	res, err := b.put("q/b", "v", kv.WriteAuto)
	if err != nil || res.Queued == nil {
		t.Fatalf("got %+v, %v, want a receipt", res, err)
	}
	if _, err := b.put("q/a", "v", kv.WriteSync); kv.CodeOf(err) != kv.UpstreamUnavailable {
		t.Errorf("sync write on a key with pending writes: got %v, want upstream-unavailable", err)
	}
}

func TestOnlyPlainWritesUnderAPrefixAreQueued(t *testing.T) {
	c := newCluster()
	b := start(t, c, options(t.TempDir()))
	for name, cmd := range map[string]kv.Command{
		"elsewhere": {Ops: []kv.Op{kv.Put{Key: []byte("x"), Value: []byte("v")}}},
		"range":     {Ops: []kv.Op{kv.Delete{Key: []byte("q/"), End: []byte("q0")}}},
		"lease":     {Ops: []kv.Op{kv.Put{Key: []byte("q/a"), Lease: 3}}},
		"two ops":   {Ops: []kv.Op{kv.Put{Key: []byte("q/a")}, kv.Put{Key: []byte("q/b")}}},
	} {
		cmd.Write = kv.WriteQueue
		if _, err := b.Do(t.Context(), cmd); kv.CodeOf(err) != kv.Invalid {
			t.Errorf("%s: got %v, want invalid", name, err)
		}
	}
}
