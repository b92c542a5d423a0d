package cache

import (
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"testing"

	"holdfast/kv"
)

var (
	epoch = kv.Epoch{Cluster: 1}
	all   = Span{Key: []byte("a/"), End: []byte("a0")}
	boot1 = [16]byte{1}
	boot2 = [16]byte{2}
)

func open(t *testing.T, path string, boot [16]byte) *Cache {
	t.Helper()
	c, err := Open(path, 1<<20, boot)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = c.db.Close() })
	return c
}

// loaded is a cache with a span at revision 5 that has been written down.
func loaded(t *testing.T, path string) *Cache {
	t.Helper()
	c := open(t, path, boot1)
	s := all
	s.Revision = 5
	if err := c.Load(epoch, s, []kv.KeyValue{{Key: []byte("a/1"), Value: []byte("one"), ModRevision: 5, CreateRevision: 5, Version: 1}}); err != nil {
		t.Fatal(err)
	}
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	return c
}

func event(key, value string, mod int64) kv.Event {
	return kv.Event{KV: kv.KeyValue{Key: []byte(key), Value: []byte(value), ModRevision: mod, CreateRevision: 1, Version: 2}}
}

func apply(t *testing.T, c *Cache, events ...kv.Event) {
	t.Helper()
	if _, err := c.Apply(all.Key, all.End, events, events[len(events)-1].KV.ModRevision); err != nil {
		t.Fatal(err)
	}
}

// crashed is the folder as a process that is killed leaves it.
func crashed(t *testing.T, path string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(filepath.Dir(path))); err != nil {
		t.Fatal(err)
	}
	return filepath.Join(to, filepath.Base(path))
}

func want(t *testing.T, c *Cache, key, value string) {
	t.Helper()
	f, covered, err := c.Get([]byte(key))
	got := ""
	if f.KV != nil {
		got = string(f.KV.Value)
	}
	if err != nil || !covered || (f.KV != nil) != (value != "") || got != value {
		t.Errorf("%s: got %q, found %v, covered %v, %v, want %q", key, got, f.KV != nil, covered, err, value)
	}
}

func TestAKilledProcessLosesNothingItHasSeen(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	apply(t, c, event("a/2", "two", 6), event("a/1", "one more", 7))
	apply(t, c, kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte("a/2"), ModRevision: 8}}, event("a/3", "three", 9))
	if known, err := c.Own(event("a/4", "own", 12), true); err != nil || !known { // the feed has not brought it yet
		t.Fatal(err)
	}
	apply(t, c, event("a/4", "somebody else's, before", 11))
	again := open(t, crashed(t, path), boot1)
	if again.Partial() {
		t.Error("partial, but only the process went down")
	}
	want(t, again, "a/1", "one more")
	want(t, again, "a/2", "")
	want(t, again, "a/3", "three")
	want(t, again, "a/4", "own")
	third := open(t, crashed(t, again.db.Path()), boot2) // written down at the start
	if third.Partial() {
		t.Error("partial, but everything had been written down")
	}
	want(t, third, "a/4", "own")
}

func TestAMachineThatWentDownLeavesAbsenceUnknown(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	apply(t, c, event("a/2", "two", 6))
	again := open(t, crashed(t, path), boot2)
	if !again.Partial() {
		t.Fatal("not partial after a power cut with changes that were not written down")
	}
	want(t, again, "a/1", "one")
	apply(t, again, event("a/5", "five", 10))
	third := open(t, crashed(t, again.db.Path()), boot2) // killed before the feed was back
	if !third.Partial() {
		t.Error("a second crash made it forget that it is partial")
	}
	if err := third.Whole(); err != nil {
		t.Fatal(err)
	}
	if fourth := open(t, crashed(t, third.db.Path()), [16]byte{3}); fourth.Partial() {
		t.Error("still partial after the feed brought everything")
	}
}

func TestAPowerCutWithoutChangesLosesNothing(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	loaded(t, path)
	again := open(t, crashed(t, path), boot2)
	if again.Partial() {
		t.Error("partial, but nothing had changed")
	}
	want(t, again, "a/1", "one")
	want(t, again, "a/none", "")
}

func TestATornJournalIsPartial(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	apply(t, c, event("a/2", "two", 6))
	apply(t, c, event("a/3", "three", 7))
	b, err := os.ReadFile(path + ".journal")
	if err != nil {
		t.Fatal(err)
	}
	for cut := journalHeader + 1; cut < len(b); cut++ {
		to := crashed(t, path)
		if err := os.WriteFile(to+".journal", b[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		again := open(t, to, boot1)
		f, _, err := again.Get([]byte("a/2"))
		if whole := f.KV != nil && err == nil; !again.Partial() && !whole {
			t.Fatalf("cut at %d: not partial, and a/2 is missing", cut)
		}
		_ = again.db.Close()
	}
}

func TestALoadReplacesTheRange(t *testing.T) {
	c := loaded(t, filepath.Join(t.TempDir(), "c.db"))
	apply(t, c, event("a/2", "two", 6))
	s := all
	s.Revision = 9
	err := c.Load(epoch, s, []kv.KeyValue{{Key: []byte("a/2"), Value: []byte("two"), ModRevision: 6}, {Key: []byte("a/3"), Value: []byte("new"), ModRevision: 8}})
	if err != nil {
		t.Fatal(err)
	}
	want(t, c, "a/1", "")
	want(t, c, "a/2", "two")
	want(t, c, "a/3", "new")
}

func TestAnotherEpochEmptiesTheCache(t *testing.T) {
	c := loaded(t, filepath.Join(t.TempDir(), "c.db"))
	s := Span{Key: []byte("b/"), End: []byte("b0"), Revision: 2}
	if err := c.Load(kv.Epoch{Cluster: 2}, s, nil); err != nil {
		t.Fatal(err)
	}
	if _, covered := c.Covered([]byte("a/1"), nil); covered {
		t.Error("a span of the old epoch is still covered")
	}
}

func TestWhatDoesNotFitIsNotCovered(t *testing.T) {
	c, err := Open(filepath.Join(t.TempDir(), "c.db"), 1000, boot1)
	if err != nil {
		t.Fatal(err)
	}
	var kvs []kv.KeyValue
	for i := range 100 {
		kvs = append(kvs, kv.KeyValue{Key: fmt.Appendf(nil, "a/%d", i), Value: make([]byte, 50), ModRevision: int64(i + 1)})
	}
	s := all
	s.Revision = 200
	if err := c.Load(epoch, s, kvs); !errors.Is(err, ErrFull) {
		t.Fatalf("got %v, want full", err)
	}
	if _, covered := c.Covered([]byte("a/1"), nil); covered || c.Bytes() > 1000 {
		t.Errorf("covered %v with %d bytes", covered, c.Bytes())
	}
	if err := c.Close(); err != nil {
		t.Error(err)
	}
}

func TestADamagedRecordIsNotServed(t *testing.T) {
	v := kv.KeyValue{Key: []byte("k"), Value: []byte("value"), ModRevision: 3, CreateRevision: 2, Version: 1}
	b := appendValue(nil, v)
	if got, err := decodeValue(v.Key, b); err != nil || string(got.Value) != "value" || got.ModRevision != 3 {
		t.Fatalf("got %+v, %v", got, err)
	}
	for i := range b {
		bad := append([]byte{}, b...)
		bad[i] ^= 0x10
		if _, err := decodeValue(v.Key, bad); kv.CodeOf(err) != kv.Corrupt {
			t.Errorf("byte %d flipped: %v", i, err)
		}
	}
}

func FuzzJournalAndState(f *testing.F) {
	f.Add([]byte(journalMagic))
	f.Fuzz(func(t *testing.T, b []byte) {
		for rest, ok := b, true; ok && len(rest) > 0; {
			_, rest, ok = nextChange(rest)
		}
		_, _ = decodeState(b)
		_, _ = decodeValue([]byte("k"), b)
	})
}

// A process that is killed right after a jump was shown must not come back with what was before it.
func TestAKillAfterAJumpHidesWhatWasBefore(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	apply(t, c, event("a/2", "two", 6))
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	jump := func(c *Cache) {
		t.Helper()
		s := all
		s.Revision = 9
		if err := c.Jump(s, []kv.KeyValue{event("a/1", "later", 8).KV}, []string{"a/2"}); err != nil {
			t.Fatal(err)
		}
		want(t, c, "a/1", "later")
		want(t, c, "a/2", "")
	}
	jump(c)
	killed := open(t, crashed(t, path), boot1)
	if f, covered, err := killed.Get([]byte("a/1")); covered || err != nil {
		t.Errorf("after the kill a/1 is shown as it is at %d, %v", f.Span.Revision, err)
	}
	jump(killed)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	c = open(t, crashed(t, path), boot1)
	want(t, c, "a/1", "later")
	want(t, c, "a/2", "")
}
