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
	b.commit("q/a", "first") // sets the mark ahead of what comes now
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

// A list of more than a page is read page by page, each op once, also while it drains.
func TestALongListIsReadPageByPage(t *testing.T) {
	c := newCluster()
	o := options(t.TempDir())
	o.Rules = append(o.Rules, Rule{Prefix: []byte("q/high/"), Lane: kv.LaneHigh})
	b := start(t, c, o)
	if err := b.Pause(); err != nil {
		t.Fatal(err)
	}
	const count = ListMax + 20
	want := map[string]bool{}
	for i := range count {
		key := "q/high/a"
		if i%2 == 0 {
			key = "q/b"
		}
		want[b.mustQueue(key, "x")] = true
	}
	after := ""
	for page := range 3 {
		items, err := b.ListAfter(-1, "q/", after)
		if err != nil {
			t.Fatal(err)
		}
		if wanted := []int{ListMax, count - ListMax, 0}[page]; len(items) != wanted {
			t.Fatalf("page %d has %d, want %d", page, len(items), wanted)
		}
		for _, i := range items {
			if !want[i.ID] {
				t.Errorf("%s is listed twice", i.ID)
			}
			delete(want, i.ID)
			after = i.ID
		}
		if page == 0 { // the one to go on from is gone
			if done, err := b.Discard(after); !done || err != nil {
				t.Fatal(done, err)
			}
		}
	}
	if len(want) > 0 {
		t.Errorf("%d are not listed", len(want))
	}
	if _, err := b.ListAfter(-1, "", "seven"); kv.CodeOf(err) != kv.Invalid {
		t.Errorf("a bad id: %v", err)
	}
}
