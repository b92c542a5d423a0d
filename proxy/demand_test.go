package proxy

import (
	"fmt"
	"os"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
	"holdfast/proxy/cache"
)

// auto is what a GET over REST asks for by default.
var auto = kv.Query{MaxAge: 5 * time.Second, StaleIfError: 7 * 24 * time.Hour}

// wants reads a key and says what is wrong with the answer; value "" for a key that does not exist.
func wants(t *testing.T, p *Proxy, q kv.Query, key, value string, from kv.Source) kv.Page {
	t.Helper()
	page, got, err := get(p, key, q)
	if err != nil || got != value || page.Source != from || (value == "") != (len(page.Ops) == 1 && len(page.Ops[0].KVs) == 0) {
		t.Errorf("%s: got %q from %v, %v, want %q from %v", key, got, page.Source, err, value, from)
	}
	return page
}

func TestAKeyThatWasReadOnceIsServedHereFromThenOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "one")
		p, _ := open(t, l, t.TempDir())
		synctest.Wait()
		wants(t, p, auto, "k", "one", kv.SourceUpstream)
		wants(t, p, auto, "none", "", kv.SourceUpstream)
		synctest.Wait()
		asked := l.asked()
		if page := wants(t, p, kv.Query{}, "k", "one", kv.SourceCache); page.Age != 0 {
			t.Errorf("linearizable: age %v", page.Age)
		}
		put(t, l.Memory, "k", "two") // by somebody else
		wants(t, p, kv.Query{}, "k", "two", kv.SourceCache)
		wants(t, p, kv.Query{}, "none", "", kv.SourceCache)
		put(t, l.Memory, "none", "is there")
		wants(t, p, kv.Query{}, "none", "is there", kv.SourceCache)
		wants(t, p, local, "none", "is there", kv.SourceCache)
		if l.asked() != asked {
			t.Errorf("%d values were asked for upstream", l.asked()-asked)
		}
		if _, _, err := get(p, "other", local); kv.CodeOf(err) != kv.NotCached {
			t.Errorf("a key nobody read: %v, want not-cached", err)
		}
		if s := p.State(); s.Held != 2 || !s.Synced {
			t.Errorf("state %+v, want two keys held", s)
		}
	})
}

func TestWhatIsHeldAgesWhenTheLinkIsLostAndOutlivesTheProcess(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "one")
		dir := t.TempDir()
		p, _ := open(t, l, dir)
		synctest.Wait()
		wants(t, p, auto, "k", "one", kv.SourceUpstream)
		wants(t, p, auto, "none", "", kv.SourceUpstream)
		l.setCut(true) // before the upstream has confirmed anything
		time.Sleep(10 * time.Second)
		for _, q := range []kv.Query{local, auto} {
			if page := wants(t, p, q, "k", "one", kv.SourceCache); page.Age < 10*time.Second || page.Age > 11*time.Second {
				t.Errorf("age %v, want 10 s", page.Age)
			}
			wants(t, p, q, "none", "", kv.SourceCache)
		}
		if _, _, err := get(p, "k", kv.Query{}); kv.CodeOf(err) != kv.UpstreamUnavailable {
			t.Errorf("linearizable: %v, want upstream-unavailable", err)
		}
		if _, _, err := get(p, "k", kv.Query{MaxAge: time.Second}); kv.CodeOf(err) != kv.StalenessExceeded {
			t.Errorf("bounded: %v, want staleness-exceeded", err)
		}
		q, shut := open(t, l, crash(t, dir)) // killed, and the link still cut
		for _, ask := range []kv.Query{local, auto} {
			if page := wants(t, q, ask, "k", "one", kv.SourceCache); page.Age != kv.AgeUnknown {
				t.Errorf("age %v after a restart, want unknown", page.Age)
			}
			wants(t, q, ask, "none", "", kv.SourceCache)
		}
		put(t, l.Memory, "k", "two")
		l.setCut(false)
		time.Sleep(time.Minute)
		asked := l.asked()
		if page := wants(t, q, local, "k", "two", kv.SourceCache); page.Age < 0 || page.Age > time.Minute {
			t.Errorf("age %v after the link is back", page.Age)
		}
		wants(t, q, kv.Query{}, "k", "two", kv.SourceCache)
		if l.asked() != asked {
			t.Error("it was asked for again, though its watch could go on")
		}
		shut()
	})
}

// crash copies a folder as a process that is killed leaves it.
func crash(t *testing.T, dir string) string {
	t.Helper()
	to := t.TempDir()
	if err := os.CopyFS(to, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	return to
}

func TestHeldKeysWhoseHistoryIsGoneAreAskedForAnewWithoutTheirValues(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		const n = 200
		for i := range n {
			put(t, l, fmt.Sprint("k", i), "old")
		}
		p, _ := open(t, l, t.TempDir())
		synctest.Wait()
		for i := range n {
			wants(t, p, auto, fmt.Sprint("k", i), "old", kv.SourceUpstream)
		}
		wants(t, p, auto, "none", "", kv.SourceUpstream)
		wants(t, p, auto, "none either", "", kv.SourceUpstream)
		synctest.Wait()
		l.setCut(true)
		time.Sleep(time.Minute)
		put(t, l.Memory, "k1", "new")
		rev := put(t, l.Memory, "none", "now there")
		for _, op := range []kv.Op{kv.Delete{Key: []byte("k2")}, kv.Compact{Revision: rev + 1}} {
			if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{op}}); err != nil {
				t.Fatal(err)
			}
		}
		got := l.bytes()
		l.setCut(false)
		time.Sleep(time.Minute)
		if got = l.bytes() - got; got > 20 {
			t.Errorf("%d bytes of values came, want those of two keys", got)
		}
		asked := l.asked()
		for key, value := range map[string]string{"k0": "old", "k1": "new", "k2": "", "none": "now there", "none either": ""} {
			if page := wants(t, p, local, key, value, kv.SourceCache); page.Age < 0 {
				t.Errorf("%s: age unknown", key)
			}
			wants(t, p, kv.Query{}, key, value, kv.SourceCache)
		}
		put(t, l.Memory, "k2", "again")
		wants(t, p, kv.Query{}, "k2", "again", kv.SourceCache)
		if l.asked() != asked {
			t.Error("they were asked for again")
		}
	})
}

func TestAnOwnWriteOfAHeldKeyIsReadBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		dir := t.TempDir()
		p, _ := open(t, l, dir)
		synctest.Wait()
		wants(t, p, auto, "k", "", kv.SourceUpstream)
		for i := range 50 {
			put(t, p, "k", fmt.Sprint(i))
			wants(t, p, local, "k", fmt.Sprint(i), kv.SourceCache)
		}
		q, shut := open(t, l, crash(t, dir))
		wants(t, q, local, "k", "49", kv.SourceCache)
		shut()
		if _, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("k")}}}); err != nil {
			t.Fatal(err)
		}
		wants(t, p, local, "k", "", kv.SourceCache)
		// What a transaction does to a key is not known here: it is let go, and read anew, unless the feed was there first.
		put(t, p, "k", "before")
		if _, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Txn{Then: []kv.Op{kv.Put{Key: []byte("k"), Value: []byte("by a txn")}}}}}); err != nil {
			t.Fatal(err)
		}
		if _, got, err := get(p, "k", kv.Query{MaxAge: kv.Unlimited}); err != nil || got != "by a txn" {
			t.Errorf("after the transaction: %q, %v", got, err)
		}
		wants(t, p, local, "k", "by a txn", kv.SourceCache)
	})
}

// An answer that was on its way while this node wrote the key must not be held.
func TestAnAnswerOlderThanAnOwnWriteIsNotHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "old")
		p, _ := open(t, l, t.TempDir())
		synctest.Wait()
		release := l.holdAnswers()
		var reading sync.WaitGroup
		reading.Go(func() { wants(t, p, auto, "k", "old", kv.SourceUpstream) })
		synctest.Wait()
		put(t, p, "k", "new")
		release()
		reading.Wait()
		if _, v, err := get(p, "k", local); err == nil && v != "new" || err != nil && kv.CodeOf(err) != kv.NotCached {
			t.Errorf("got %q, %v, want the write or not-cached", v, err)
		}
		wants(t, p, auto, "k", "new", kv.SourceUpstream)
	})
}

func TestTheNumberOfHeldKeysIsBoundedAndAScanChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		synctest.Wait()
		for i := range cache.HeldMax {
			wants(t, p, auto, fmt.Sprint("first", i), "", kv.SourceUpstream)
		}
		synctest.Wait()
		for i := range 2 * cache.HeldMax {
			wants(t, p, auto, fmt.Sprint("scan", i), "", kv.SourceUpstream)
		}
		synctest.Wait()
		wants(t, p, local, "first0", "", kv.SourceCache)
		if s := p.State(); s.Held != cache.HeldMax {
			t.Errorf("%d keys are held, want %d", s.Held, cache.HeldMax)
		}
		for i := range 10 { // asked for twice: the ones read longest ago make room
			for range 2 {
				wants(t, p, auto, fmt.Sprint("again", i), "", kv.SourceUpstream)
			}
			wants(t, p, auto, fmt.Sprint("again", i), "", kv.SourceCache)
		}
		wants(t, p, local, "first0", "", kv.SourceCache)
		for i := range 10 {
			if _, _, err := get(p, fmt.Sprint("first", 1+i), local); kv.CodeOf(err) != kv.NotCached {
				t.Errorf("first%d is still held: %v", 1+i, err)
			}
		}
		synctest.Wait()
		if n := l.watching(); n != cache.HeldMax {
			t.Errorf("%d watches upstream, want %d", n, cache.HeldMax)
		}
	})
}

func TestHeldValuesStayWithinTheBytesAllowed(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		big := string(make([]byte, 5000))
		for i := range 40 {
			put(t, l, fmt.Sprint("k", i), big)
		}
		put(t, l, "huge", string(make([]byte, 20_000)))
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.MaxBytes = 100_000 })
		synctest.Wait()
		for range 3 {
			for i := range 40 {
				wants(t, p, kv.Query{MaxAge: kv.Unlimited}, fmt.Sprint("k", i%25), big, map[bool]kv.Source{true: kv.SourceCache, false: kv.SourceUpstream}[isHeld(p, fmt.Sprint("k", i%25))])
			}
		}
		wants(t, p, auto, "huge", string(make([]byte, 20_000)), kv.SourceUpstream)
		if isHeld(p, "huge") {
			t.Error("one value took a fifth of the cache")
		}
		// What is held grows: the others make room.
		for i := range 25 {
			put(t, l.Memory, fmt.Sprint("k", i), big+big)
		}
		synctest.Wait()
		if s := p.State(); s.Bytes > 100_000 || s.Held == 0 || s.Held > 10 {
			t.Errorf("%d keys in %d bytes, want at most 100000", s.Held, s.Bytes)
		}
		if n := l.watching(); n != p.State().Held {
			t.Errorf("%d watches upstream for %d keys", n, p.State().Held)
		}
	})
}

func isHeld(p *Proxy, key string) bool {
	_, ok := p.cache.Covered([]byte(key), nil)
	return ok
}

func TestAPrefixThatIsTooLargeIsCachedOnDemandAndNotReadAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		for i := range 100 {
			put(t, l, fmt.Sprint("a/", i), string(make([]byte, 1000)))
		}
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.MaxBytes, o.Prefixes = 50_000, [][]byte{[]byte("a/")} })
		synctest.Wait()
		wants(t, p, auto, "a/7", string(make([]byte, 1000)), kv.SourceUpstream)
		wants(t, p, auto, "a/7", string(make([]byte, 1000)), kv.SourceCache)
		if s := p.State(); s.Synced || s.Mirrors[0].Covered || s.Mirrors[0].Reason == "" || s.Held != 1 {
			t.Errorf("state %+v", s)
		}
		before := l.bytes()
		for range 10 {
			l.setCut(true)
			time.Sleep(10 * time.Second)
			l.setCut(false)
			time.Sleep(10 * time.Second)
		}
		if got := l.bytes() - before; got > 0 {
			t.Errorf("%d bytes were read again after the link was lost ten times", got)
		}
		wants(t, p, local, "a/7", string(make([]byte, 1000)), kv.SourceCache)
	})
}

func TestAMirrorThatOutgrowsItsBytesIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/0", "small")
		put(t, l, "b/0", "small")
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.MaxBytes, o.Prefixes = 50_000, [][]byte{[]byte("a/"), []byte("b/")} })
		synctest.Wait()
		for i := range 100 {
			put(t, l.Memory, fmt.Sprint("a/", i), string(make([]byte, 1000)))
		}
		synctest.Wait()
		s := p.State()
		if s.Bytes > 50_000 || s.Synced || s.Mirrors[0].Covered || s.Mirrors[0].Reason == "" || !s.Mirrors[1].Covered {
			t.Errorf("state %+v, want a/ given up and b/ mirrored", s)
		}
		wants(t, p, auto, "a/1", string(make([]byte, 1000)), kv.SourceUpstream)
		wants(t, p, auto, "a/1", string(make([]byte, 1000)), kv.SourceCache)
		put(t, l.Memory, "b/0", "changed")
		wants(t, p, kv.Query{}, "b/0", "changed", kv.SourceCache)
	})
}

func TestAnotherHistoryEmptiesWhatIsHeld(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "of the old history")
		p, _ := open(t, l, t.TempDir())
		synctest.Wait()
		wants(t, p, auto, "k", "of the old history", kv.SourceUpstream)
		synctest.Wait()
		l.setCut(true)
		time.Sleep(time.Second)
		l.found()
		put(t, l.Memory, "k", "of the new one")
		l.setCut(false)
		time.Sleep(time.Minute)
		wants(t, p, auto, "k", "of the new one", kv.SourceUpstream)
		synctest.Wait()
		wants(t, p, kv.Query{}, "k", "of the new one", kv.SourceCache)
	})
}

// A linearizable read of a key whose watch has not begun is asked for above: no round speaks for it.
func TestARoundThatDoesNotSpeakForAKeyIsNotTakenForIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "one")
		p, _ := open(t, l, t.TempDir())
		synctest.Wait()
		wants(t, p, auto, "k", "one", kv.SourceUpstream)
		// No time for the watch to begin: whatever is read now must be what is there now.
		put(t, l.Memory, "k", "two")
		if _, v, err := get(p, "k", kv.Query{}); err != nil || v != "two" {
			t.Errorf("got %q, %v, want two", v, err)
		}
	})
}

// What a read shows past the cache is not read older from it, neither from a mirror that was loaded meanwhile nor from a key that
// is held.
func TestWhatWasShownPastTheCacheIsNotReadOlderFromIt(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "one")
		at := put(t, l, "a/1", "one")
		was, err := l.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("a/1")}}})
		if err != nil {
			t.Fatal(err)
		}
		dir := t.TempDir()
		p, err := New(Options{Upstream: l, Path: filepath.Join(dir, "cache.db"), Clock: func() time.Duration { return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		defer p.Close() // it does not run: its feed is slow
		wants(t, p, auto, "k", "one", kv.SourceUpstream)
		wants(t, p, local, "k", "one", kv.SourceCache)
		for _, key := range []string{"k", "a/1"} {
			put(t, l.Memory, key, "two")
		}
		var reading sync.WaitGroup
		release := l.holdAnswers()
		reading.Go(func() { wants(t, p, auto, "a/1", "two", kv.SourceUpstream) })
		synctest.Wait()
		key, end := kv.PrefixRange([]byte("a/"))
		if err := p.cache.Load(was.Epoch, cache.Span{Key: key, End: end, Revision: at}, was.Ops[0].KVs); err != nil {
			t.Fatal(err)
		}
		wants(t, p, local, "a/1", "one", kv.SourceCache)
		release()
		reading.Wait()
		if _, err := p.Read(t.Context(), kv.Query{By: kv.By{Token: "somebody"}, Ops: []kv.Op{kv.Range{Key: []byte("k"), KeysOnly: true}}}); err != nil {
			t.Fatal(err)
		}
		if err := p.cache.Flush(); err != nil {
			t.Fatal(err)
		}
		q, err := New(Options{Upstream: l, Path: filepath.Join(crash(t, dir), "cache.db"), Prefixes: [][]byte{[]byte("a/")}, Clock: func() time.Duration { return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close()
		for _, p := range []*Proxy{p, q} {
			for _, key := range []string{"k", "a/1"} {
				if page, _, err := get(p, key, local); kv.CodeOf(err) != kv.NotCached {
					t.Errorf("%s: %+v, %v, want not-cached", key, page.Ops, err)
				}
			}
		}
	})
}
