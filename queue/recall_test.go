package queue

import (
	"slices"
	"testing"

	"holdfast/kv"
)

// What may have been sent is given up only if the cluster says that it does not have it, and the wish survives a crash.
func TestWhatMayHaveBeenSentIsGivenUpOnlyIfTheClusterDoesNotHaveIt(t *testing.T) {
	c := newCluster()
	dir := t.TempDir()
	b := start(t, c, options(dir))
	if _, err := b.put("q/a", "first", kv.WriteAuto); err != nil { // sets the mark ahead of what comes now
		t.Fatal(err)
	}
	c.set(true, true)
	arrived := b.mustQueue("q/a", "arrived")
	eventually(t, "it has arrived", func() bool { return slices.Contains(c.log(), "arrived") })
	c.set(false, false)
	gone, behind := b.mustQueue("q/b", "gone"), b.mustQueue("q/b", "behind it")
	b.crash()
	b = start(t, c, options(dir))
	for _, id := range []string{arrived, gone} {
		if done, err := b.Discard(id); done || err != nil {
			t.Fatalf("discard %s: %v %v, want it not done yet", id, done, err)
		}
	}
	b.crash()
	c.set(true, false)
	b = start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	for id, want := range map[string]State{arrived: Committed, gone: Discarded, behind: Committed} {
		if i, found, err := b.Get(id); !found || err != nil || i.State != want {
			t.Errorf("%s is %v (%v %v), want %v", id, i.State, found, err, want)
		}
	}
	if got := c.log(); !slices.Equal(got, []string{"first", "arrived", "behind it"}) {
		t.Errorf("applied %q", got)
	}
	if i, _, _ := b.Get(arrived); i.Revision == 0 {
		t.Error("no revision for what had arrived")
	}
}
