package cache

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"
	"testing/synctest"

	"holdfast/kv"
)

// full is a cache with room for two keys of the weight of wide.
func full(t *testing.T, path string) *Cache {
	t.Helper()
	c := open(t, path, boot1)
	if err := c.Turn(epoch); err != nil {
		t.Fatal(err)
	}
	c.maxBytes = heldShare * weight(wide("k", 1))
	s := all
	s.Revision = 1
	var kvs []kv.KeyValue
	for _, k := range strings.Split("bcdefghijklmno", "") {
		kvs = append(kvs, wide(k, 1))
	}
	s.Key, s.End = []byte("b"), []byte("p")
	if err := c.Load(epoch, s, kvs); err != nil {
		t.Fatal(err)
	}
	return c
}

func wide(key string, mod int64) kv.KeyValue {
	return kv.KeyValue{Key: []byte(key), Value: []byte{byte(mod)}, CreateRevision: 1, ModRevision: mod, Version: mod}
}

// hold asks for a key and lets in the answer.
func hold(t *testing.T, c *Cache, key string, mod, revision int64) {
	t.Helper()
	for range 2 { // when it is full, a key is let in the second time
		v := wide(key, mod)
		held, err := c.Hold(c.Ask([]byte(key)), epoch, &v, revision)
		if err != nil {
			t.Fatal(err)
		}
		if held {
			return
		}
	}
	t.Fatalf("%s is not held", key)
}

// A replay makes room otherwise than the process that was killed did, since it does not know what was read when. What was
// left out then must not come back in by that.
func TestAnOldAnswerThatWasLeftOutIsNotLetInByAReplay(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := full(t, path)
	hold(t, c, "z", 2, 2)
	if err := c.Flush(); err != nil {
		t.Fatal(err)
	}
	slow := c.Ask([]byte("z"))
	if _, err := c.Apply([]byte("z"), nil, []kv.Event{{KV: wide("z", 4)}}, 4); err != nil {
		t.Fatal(err)
	}
	hold(t, c, "y", 2, 3)
	want(t, c, "z", "\x04") // so y is the one to go
	hold(t, c, "x", 2, 3)
	old := wide("z", 2)
	if _, err := c.Hold(slow, epoch, &old, 3); err != nil {
		t.Fatal(err)
	}
	want(t, c, "z", "\x04")
	want(t, c, "x", "\x02")
	d, err := Open(crashed(t, path), c.maxBytes, boot1)
	if err != nil {
		t.Fatal(err)
	}
	defer d.db.Close()
	want(t, d, "z", "\x04")
	want(t, d, "x", "\x02")
}

// What is shown while an older answer is between the decision to hold it and its place in memory waits for that, or nobody would
// say that what is held then is older.
func TestWhatIsShownWaitsForAnOlderAnswerThatIsBeingHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := open(t, filepath.Join(t.TempDir(), "c.db"), boot1)
		if err := c.Turn(epoch); err != nil {
			t.Fatal(err)
		}
		key, old, newer := []byte("z"), wide("z", 2), wide("z", 3)
		older := make(chan bool, 1)
		err := c.write(func() error { // what Hold does, step by step
			if !c.admit(c.Ask(key), epoch, &old, 2) {
				t.Fatal("there is room, and it is not let in")
			}
			go func() {
				c.Shown(key, nil, 3)
				is, err := c.OlderKey(kv.Event{KV: newer})
				older <- is && err == nil
			}()
			synctest.Wait()
			if len(older) != 0 {
				t.Error("it did not wait")
			}
			c.mu.Lock()
			defer c.mu.Unlock()
			defer c.taken()
			return c.take(kv.Event{KV: old}, 2)
		})
		if err != nil {
			t.Fatal(err)
		}
		if !<-older {
			t.Error("what is held is older than what was shown, and nobody was told")
		}
	})
}

// Whoever asked is shown the answer, so what is held must not stay older, though somebody was shown something newer yet.
func TestWhatIsHeldIsNotOlderThanAnAnswer(t *testing.T) {
	c := full(t, filepath.Join(t.TempDir(), "c.db"))
	hold(t, c, "z", 2, 2)
	one, other := c.Ask([]byte("z")), c.Ask([]byte("z"))
	c.Shown([]byte("z"), nil, 5)
	v := wide("z", 4)
	if held, err := c.Hold(one, epoch, &v, 4); err != nil || !held {
		t.Fatalf("held %v, %v", held, err)
	}
	want(t, c, "z", "\x04")
	v = wide("z", 5)
	if _, err := c.Hold(other, epoch, &v, 5); err != nil {
		t.Fatal(err)
	}
	want(t, c, "z", "\x05")
}

func TestAKeyThatMakesRoomForItselfIsNotHeld(t *testing.T) {
	c := full(t, filepath.Join(t.TempDir(), "c.db"))
	hold(t, c, "z", 2, 2)
	hold(t, c, "y", 2, 2)
	v := wide("z", 4)
	v.Value = []byte("grown")
	if held, err := c.Hold(c.Ask([]byte("z")), epoch, &v, 4); err != nil || held {
		t.Errorf("held %v, %v, though it was read longest ago and is too much", held, err)
	}
}

func TestAKeyThatIsLetGoAtTheStartDoesNotComeBack(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := full(t, path)
	hold(t, c, "z", 2, 2)
	if err := c.Close(); err != nil {
		t.Fatal(err)
	}
	less, err := Open(path, c.bytes-1, boot1) // another setting
	if err != nil || less.HeldLen() != 0 {
		t.Fatalf("%d held, %v", less.HeldLen(), err)
	}
	defer less.db.Close()
	if d := open(t, crashed(t, path), boot1); d.HeldLen() != 0 {
		t.Error("it came back")
	}
}

// After a power cut and a kill, before the feed was back.
func TestAnOwnDeleteOutlivesAPowerCutAndAKill(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	if known, err := c.Own(kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte("a/1"), ModRevision: 7}}, false); err != nil || !known {
		t.Fatal(known, err)
	}
	d := open(t, crashed(t, path), boot2)
	e := open(t, crashed(t, d.db.Path()), boot2)
	apply(t, e, event("a/1", "two", 6)) // what came between
	want(t, e, "a/1", "")
}

// After a power cut that left the journal whole it is not known how far the spans are by it. What the feed has brought is
// newer than an own write before it all the same.
func TestAnOwnWriteDoesNotComeBackFromBehindTheFeed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	if _, err := c.Own(event("a/1", "own", 6), false); err != nil {
		t.Fatal(err)
	}
	want(t, c, "a/1", "own")
	apply(t, c, kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte("a/1"), ModRevision: 7}})
	want(t, c, "a/1", "")
	for _, boot := range [][16]byte{boot1, boot2} {
		want(t, open(t, crashed(t, path), boot), "a/1", "")
	}
}

// The feed goes on behind what was replayed. The journal is of an earlier version, which did not say whether there is more of
// its newest revision.
func TestADeletedKeyDoesNotComeBackWhileTheFeedCatchesUp(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	gone := kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte("a/1"), ModRevision: 8}}
	if err := c.journal.add(change{Event: event("a/1", "two", 6)}, change{Event: event("a/2", "x", 7)}, change{Event: gone}); err != nil {
		t.Fatal(err)
	}
	d := open(t, crashed(t, path), boot1)
	if s, _ := d.Covered([]byte("a/1"), nil); s.Revision != 7 {
		t.Errorf("the span is known as of %d, want 7", s.Revision)
	}
	apply(t, d, event("a/1", "two", 6))
	want(t, d, "a/1", "")
	want(t, d, "a/2", "x")
	apply(t, d, event("a/2", "x", 7), gone, event("a/3", "y", 8))
	want(t, d, "a/1", "")
	want(t, d, "a/3", "y")
}

// Wherever in the journal a kill struck: what is listed is what there was at the revision that is said.
func TestAListAfterAKillIsAsOfItsRevision(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	apply(t, c, event("a/2", "x", 6))
	apply(t, c, event("a/3", "x", 7), event("a/4", "x", 7), event("a/5", "x", 8), kv.Event{Delete: true, KV: kv.KeyValue{Key: []byte("a/1"), ModRevision: 8}})
	b, err := os.ReadFile(path + ".journal")
	if err != nil {
		t.Fatal(err)
	}
	there := map[int64]string{5: "a/1", 6: "a/1 a/2", 8: "a/2 a/3 a/4 a/5"}
	ends := map[int]int64{journalHeader: 5}
	for rest, at := b[journalHeader:], int64(6); len(rest) > 0; {
		ch, behind, ok := nextChange(rest)
		if !ok {
			t.Fatal("the journal is damaged")
		}
		if ch.last {
			at = ch.KV.ModRevision
		}
		rest = behind
		ends[len(b)-len(rest)] = at
	}
	for cut, at := range ends {
		to := crashed(t, path)
		if err := os.WriteFile(to+".journal", b[:cut], 0o600); err != nil {
			t.Fatal(err)
		}
		d := open(t, to, boot1)
		kvs, f, covered, err := d.Range(all.Key, all.End, 0)
		var keys []string
		for _, v := range kvs {
			keys = append(keys, string(v.Key))
		}
		if got := strings.Join(keys, " "); err != nil || !covered || d.Partial() || f.Span.Revision != at || got != there[at] {
			t.Errorf("cut at %d of %d: %q as of %d, covered %v, partial %v, %v; want %q as of %d", cut, len(b), got, f.Span.Revision, covered, d.Partial(), err, there[at], at)
		}
	}
}

// fullDisk takes half of what is written to it.
type fullDisk struct{ file }

func (f fullDisk) Write(b []byte) (int, error) {
	n, err := f.file.Write(b[:len(b)/2])
	return n, errors.Join(err, syscall.ENOSPC)
}

func TestWhatComesBehindAFullDiskIsReplayed(t *testing.T) {
	path := filepath.Join(t.TempDir(), "c.db")
	c := loaded(t, path)
	apply(t, c, event("a/1", "two", 6))
	disk := c.journal.f
	c.journal.f = fullDisk{disk}
	if _, err := c.Apply(all.Key, all.End, []kv.Event{event("a/1", "three", 7)}, 7); !errors.Is(err, syscall.ENOSPC) {
		t.Fatalf("%v, want ENOSPC", err)
	}
	c.journal.f = disk
	apply(t, c, event("a/1", "three", 7), event("a/1", "four", 8))
	d := open(t, crashed(t, path), boot1)
	want(t, d, "a/1", "four")
	if d.Partial() {
		t.Error("it does not believe what it has")
	}
}
