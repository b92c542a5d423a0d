package queue

import (
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"holdfast/kv"
)

func TestARolledBackDiskIsNeverTakenForAnAcknowledgement(t *testing.T) {
	c := newCluster()
	dir, old := t.TempDir(), t.TempDir()
	b := start(t, c, options(dir))
	b.commit("q/none/a", "0")
	b.crash()
	if err := os.CopyFS(filepath.Join(old, "copy"), os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	b = start(t, c, options(dir))
	for i := range markStep + 100 { // beyond the mark that the copy has
		b.commit("q/none/a", fmt.Sprint("new", i))
	}
	b.crash()
	b = start(t, c, options(filepath.Join(old, "copy")))
	told := 0
	if _, err := b.put("q/none/a", "from the copy", kv.WriteQueue); kv.CodeOf(err) == kv.OutcomeUnknown {
		told = 1 // before it was on disk
	} else if err != nil {
		t.Fatal(err)
	}
	eventually(t, "settled", func() bool { s := b.Status(); return s.Depth == 0 && s.Down == "" })
	applied := c.log()
	n := 0
	for _, v := range applied {
		if v == "from the copy" {
			n++
		}
	}
	unknown := 0
	for _, i := range b.List(int(Unknown), "") { // the copy may have had the first write too, if its answer was slow
		item, _, err := b.Get(i.ID)
		if err != nil {
			t.Fatal(err)
		}
		if string(item.Value) == "from the copy" {
			unknown++
		}
	}
	if n+unknown+told != 1 {
		t.Errorf("applied %d times, listed as unknown %d times, writer told so: %d; want one of them", n, unknown, told)
	}
}
