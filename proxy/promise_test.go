package proxy

import (
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// A link may move to a member that lags. Whatever a request would take, it gets nothing from before what this node has seen.
func TestAMemberThatLagsIsNotBelieved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "one")
		was, err := l.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("k")}}})
		if err != nil {
			t.Fatal(err)
		}
		was.Age = time.Second
		p, shut := openWith(t, l, t.TempDir(), func(o *Options) { o.Upstream = &behind{l, was} })
		defer shut()
		synctest.Wait()
		if _, _, err := get(p, "other", kv.Query{}); err != nil || !p.caughtUp() { // from here on it asks for no more than it has to
			t.Fatal(err)
		}
		put(t, p, "k", "two") // not held
		for _, q := range []kv.Query{auto, {MaxAge: kv.Unlimited}, {MaxAge: time.Minute}} {
			wants(t, p, q, "k", "two", kv.SourceUpstream)
			if err := p.feed.release([]byte("k")); err != nil { // which the answer has let in
				t.Fatal(err)
			}
		}
	})
}

func TestWhatIsServedWithoutTheClusterIsBoundedByItsAge(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "one")
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		q := kv.Query{MaxAge: time.Second, StaleIfError: 20 * time.Second}
		wants(t, p, q, "a/1", "one", kv.SourceCache)
		l.setCut(true)
		time.Sleep(19 * time.Second)
		wants(t, p, q, "a/1", "one", kv.SourceCache)
		time.Sleep(2 * time.Second)
		if page, v, err := get(p, "a/1", q); kv.CodeOf(err) != kv.StalenessExceeded {
			t.Errorf("after 21 s: %q, age %v, %v; 20 s are allowed", v, page.Age, err)
		}
		for name, c := range map[string]struct {
			q    kv.Query
			want kv.Code
		}{
			"bounded":      {kv.Query{MaxAge: 20 * time.Second}, kv.StalenessExceeded},
			"linearizable": {kv.Query{}, kv.UpstreamUnavailable},
			"longer":       {kv.Query{MaxAge: 25 * time.Second}, kv.OK},
			"local":        {local, kv.OK},
		} {
			if _, v, err := get(p, "a/1", c.q); kv.CodeOf(err) != c.want || err == nil && v != "one" {
				t.Errorf("%s, after 21 s: %q, %v; want %v", name, v, err, c.want)
			}
		}
	})
}

// After a power cut what the cache had not written down is not known: a key that it lacks may exist.
func TestAfterAPowerCutAKeyThatIsMissingIsNotCalledAbsent(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "one")
		dir := t.TempDir()
		_, shut := open(t, l, dir, "a/")
		synctest.Wait()
		put(t, l, "a/2", "two") // arrives, and is not written down
		synctest.Wait()
		dir = crash(t, dir)
		shut()
		l.setCut(true)
		p, shut := openWith(t, l, dir, func(o *Options) { o.Prefixes, o.Boot = [][]byte{[]byte("a/")}, [16]byte{2} })
		defer shut()
		synctest.Wait()
		list := func(q kv.Query) (int, error) {
			q.Ops = []kv.Op{kv.Range{Key: []byte("a/"), End: []byte("a0")}}
			page, err := p.Read(t.Context(), q)
			if err != nil {
				return 0, err
			}
			return len(page.Ops[0].KVs), nil
		}
		wants(t, p, local, "a/1", "one", kv.SourceCache)
		for _, q := range []kv.Query{local, auto, {MaxAge: kv.Unlimited}} {
			if page, v, err := get(p, "a/3", q); kv.CodeOf(err) != kv.NotCached {
				t.Errorf("a key that is missing, %+v: %q %+v %v", q, v, page, err)
			}
			if n, err := list(q); kv.CodeOf(err) != kv.NotCached {
				t.Errorf("a list that may lack keys, %+v: %d, %v", q, n, err)
			}
		}
		l.setCut(false)
		time.Sleep(2 * retryMax)
		if _, v, err := get(p, "a/3", local); err != nil || v != "" {
			t.Errorf("once the feed is back: %q, %v", v, err)
		}
		wants(t, p, local, "a/2", "two", kv.SourceCache)
		if n, err := list(local); n != 2 || err != nil {
			t.Errorf("once the feed is back the list has %d, %v", n, err)
		}
	})
}
