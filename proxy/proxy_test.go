package proxy

import (
	"context"
	"fmt"
	"path/filepath"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// open runs a proxy that mirrors prefixes until the test, or shut, ends it. Its clock is the bubble's.
func open(t *testing.T, l *link, dir string, prefixes ...string) (p *Proxy, shut func()) {
	t.Helper()
	return openWith(t, l, dir, func(o *Options) {
		for _, x := range prefixes {
			o.Prefixes = append(o.Prefixes, []byte(x))
		}
	})
}

func openWith(t *testing.T, l *link, dir string, change func(*Options)) (p *Proxy, shut func()) {
	t.Helper()
	p, stop := run(t, l, dir, change)
	shut = sync.OnceFunc(func() {
		stop()
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
	t.Cleanup(shut)
	return p, shut
}

// run runs a proxy until stop, which leaves everything as a process that is killed does.
func run(t *testing.T, l *link, dir string, change func(*Options)) (p *Proxy, stop func()) {
	t.Helper()
	boot := time.Now()
	o := Options{Upstream: l, Path: filepath.Join(dir, "cache.db"), Clock: func() time.Duration { return time.Since(boot) }}
	change(&o)
	p, err := New(o)
	if err != nil {
		t.Fatal(err)
	}
	ctx, cancel := context.WithCancel(context.Background())
	var wg sync.WaitGroup
	wg.Go(func() {
		if err := p.Run(ctx); err != nil {
			t.Error(err)
		}
	})
	return p, func() {
		cancel()
		wg.Wait()
	}
}

func put(t *testing.T, b interface {
	Do(context.Context, kv.Command) (kv.Result, error)
}, key, value string) int64 {
	t.Helper()
	res, err := b.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}})
	if err != nil {
		t.Fatalf("put %s: %v", key, err)
	}
	return res.Revision
}

func get(p *Proxy, key string, q kv.Query) (kv.Page, string, error) {
	q.Ops = []kv.Op{kv.Range{Key: []byte(key)}}
	page, err := p.Read(context.Background(), q)
	if err != nil || len(page.Ops[0].KVs) == 0 {
		return page, "", err
	}
	return page, string(page.Ops[0].KVs[0].Value), nil
}

var local = kv.Query{MaxAge: kv.Unlimited, LocalOnly: true}

func TestALinearizableReadOfAMirroredKeyCostsARoundAndIsServedHere(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "one")
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		put(t, l, "a/1", "two") // by somebody else: only a round proves that there is no later one
		asked := l.asked()
		page, v, err := get(p, "a/1", kv.Query{})
		if err != nil || v != "two" || page.Source != kv.SourceCache || page.Age != 0 {
			t.Errorf("got %q from %v, age %v, %v, want two from the cache", v, page.Source, page.Age, err)
		}
		if l.asked() != asked {
			t.Errorf("the value was asked for upstream")
		}
	})
}

// However many read at a time, keys and lists, present or not: they share the round that begins when the one under way has ended, and
// no value comes over the link.
func TestLinearizableReadsOfWhatIsCoveredShareARound(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		for i := range 100 {
			put(t, l, fmt.Sprintf("a/%02d", i), "value")
		}
		put(t, l, "held", "value")
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		if _, _, err := get(p, "held", kv.Query{}); err != nil { // and from then on it is held
			t.Fatal(err)
		}
		synctest.Wait()
		put(t, l.Memory, "a/00", "new")
		rounds, asked, size := l.rounds(), l.asked(), l.bytes()
		release := l.holdRounds()
		var wg sync.WaitGroup
		for i := range 200 {
			wg.Go(func() {
				r := kv.Range{Key: []byte("a/"), End: []byte("a0")}
				want := 100
				if i%2 == 0 {
					r, want = kv.Range{Key: [][]byte{[]byte("a/00"), []byte("held"), []byte("a/none")}[i%3]}, []int{1, 1, 0}[i%3]
				}
				page, err := p.Read(t.Context(), kv.Query{Ops: []kv.Op{r}})
				if err != nil || page.Source != kv.SourceCache || page.Age != 0 || len(page.Ops[0].KVs) != want {
					t.Errorf("%s: %v, from %v of age %v, want %d keys from the cache", r.Key, err, page.Source, page.Age, want)
					return
				}
				if string(r.Key) != "held" && want > 0 && string(page.Ops[0].KVs[0].Value) != "new" {
					t.Errorf("%s is older than the read", r.Key)
				}
			})
		}
		synctest.Wait()
		release()
		wg.Wait()
		if n := l.rounds() - rounds; n > 2 {
			t.Errorf("200 reads took %d rounds, want the one under way and one more", n)
		}
		if l.asked() != asked || l.bytes() != size {
			t.Errorf("%d reads and %d bytes of values went over the link", l.asked()-asked, l.bytes()-size)
		}
	})
}

func TestWhatIsMirroredIsServedWithItsAgeWhenTheLinkIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "one")
		dir := t.TempDir()
		p, shut := open(t, l, dir, "a/")
		synctest.Wait()
		l.setCut(true)
		time.Sleep(10 * time.Second)
		page, v, err := get(p, "a/1", local)
		if err != nil || v != "one" || page.Age < 10*time.Second || page.Age > 11*time.Second {
			t.Errorf("local: got %q, age %v, %v, want one, 10 s old", v, page.Age, err)
		}
		if _, _, err := get(p, "a/1", kv.Query{}); kv.CodeOf(err) != kv.UpstreamUnavailable {
			t.Errorf("linearizable: got %v, want upstream-unavailable", err)
		}
		if _, _, err := get(p, "a/1", kv.Query{MaxAge: time.Second}); kv.CodeOf(err) != kv.StalenessExceeded {
			t.Errorf("bounded by 1 s: got %v, want staleness-exceeded", err)
		}
		if _, v, err := get(p, "a/1", kv.Query{MaxAge: 20 * time.Second}); err != nil || v != "one" {
			t.Errorf("bounded by 20 s: got %q, %v", v, err)
		}
		if _, v, err := get(p, "a/1", kv.Query{MaxAge: time.Second, StaleIfError: time.Hour}); err != nil || v != "one" {
			t.Errorf("auto: got %q, %v", v, err)
		}
		if page, _, err := get(p, "a/none", local); err != nil || len(page.Ops[0].KVs) != 0 {
			t.Errorf("absent under a mirrored prefix: got %v, want it known to be absent", err)
		}
		if _, _, err := get(p, "b", local); kv.CodeOf(err) != kv.NotCached {
			t.Errorf("elsewhere: got %v, want not-cached", err)
		}
		shut()

		p, shut = open(t, l, dir, "a/") // a reboot, still cut off
		defer shut()
		page, v, err = get(p, "a/1", local)
		if err != nil || v != "one" || page.Age != kv.AgeUnknown {
			t.Errorf("after a reboot: got %q, age %v, %v, want one of unknown age", v, page.Age, err)
		}
		if _, _, err := get(p, "a/1", kv.Query{MaxAge: time.Hour}); kv.CodeOf(err) != kv.StalenessExceeded {
			t.Errorf("bounded, age unknown: got %v, want staleness-exceeded", err)
		}
		if _, v, err := get(p, "a/1", kv.Query{MaxAge: time.Second, StaleIfError: time.Hour}); err != nil || v != "one" {
			t.Errorf("auto, age unknown: got %q, %v", v, err)
		}
	})
}

func TestTheCacheCatchesUpAfterTheLinkIsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		for i := range 1200 { // more than a page
			put(t, l, fmt.Sprintf("a/%04d", i), "old")
		}
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		l.setCut(true)
		time.Sleep(time.Minute)
		last := put(t, l.Memory, "a/0007", "new")
		if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("a/0008")}}}); err != nil {
			t.Fatal(err)
		}
		l.setCut(false)
		page, v, err := get(p, "a/0007", kv.Query{MinRevision: last, Wait: time.Minute, MaxAge: kv.Unlimited})
		if err != nil || v != "new" || page.Source != kv.SourceCache {
			t.Fatalf("got %q from %v, %v", v, page.Source, err)
		}
		time.Sleep(time.Minute)
		if page, _, err := get(p, "a/0008", local); err != nil || len(page.Ops[0].KVs) != 0 {
			t.Errorf("deleted meanwhile: %+v, %v", page, err)
		}
		key, end := kv.PrefixRange([]byte("a/"))
		all, err := p.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: key, End: end, Limit: 10}}})
		if err != nil || all.Ops[0].Count != 1199 || !all.Ops[0].More || len(all.Ops[0].KVs) != 10 || all.Source != kv.SourceCache {
			t.Errorf("list: count %d of %v, %v", all.Ops[0].Count, all.Source, err)
		}
	})
}

func TestTheCacheIsFedAtOnceWhenTheLinkIsBackAfterLong(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "one")
		var mu sync.Mutex
		changed := make(chan struct{})
		p, stop := run(t, l, t.TempDir(), func(o *Options) {
			o.Prefixes = [][]byte{[]byte("a/")}
			o.Reconnected = func() <-chan struct{} {
				mu.Lock()
				defer mu.Unlock()
				return changed
			}
		})
		defer func() { stop(); _ = p.Close() }()
		synctest.Wait()
		l.setCut(true)
		time.Sleep(10*time.Minute + 17*time.Millisecond) // the pauses are long by now
		if p.State().Synced {
			t.Fatal("the cache is fed over a link that is cut")
		}
		l.setCut(false)
		mu.Lock()
		close(changed)
		changed = make(chan struct{})
		mu.Unlock()
		synctest.Wait() // and no time passes
		if !p.State().Synced {
			t.Error("the cache is not fed, although the link is back")
		}
	})
}

func TestHistoryLostMeanwhileIsReadAnew(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "one")
		put(t, l, "a/2", "two")
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		l.setCut(true)
		time.Sleep(time.Minute)
		rev := put(t, l.Memory, "a/1", "later")
		for _, op := range []kv.Op{kv.Delete{Key: []byte("a/2")}, kv.Compact{Revision: rev + 1}} {
			if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{op}}); err != nil {
				t.Fatal(err)
			}
		}
		l.setCut(false)
		time.Sleep(time.Minute)
		if _, v, err := get(p, "a/1", local); err != nil || v != "later" {
			t.Errorf("got %q, %v, want later", v, err)
		}
		if page, _, err := get(p, "a/2", local); err != nil || len(page.Ops[0].KVs) != 0 {
			t.Errorf("a key deleted in the lost history is still there: %+v, %v", page, err)
		}
	})
}

func TestANodeServesWhatItHasItselfAcknowledged(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		for i := range 200 {
			want := fmt.Sprint(i)
			put(t, p, "a/1", want)
			if _, v, err := get(p, "a/1", local); err != nil || v != want {
				t.Fatalf("write %d: read back %q, %v", i, v, err)
			}
		}
		if _, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte("a/1")}}}); err != nil {
			t.Fatal(err)
		}
		if page, _, err := get(p, "a/1", local); err != nil || len(page.Ops[0].KVs) != 0 {
			t.Errorf("still there after its delete: %+v, %v", page, err)
		}
	})
}

func TestARevisionTheCacheDoesNotHaveYetIsAskedForAbove(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir(), "a/")
		synctest.Wait()
		for i := range 20 {
			at := put(t, l.Memory, "a/1", fmt.Sprint(i)) // the feed may or may not have brought it
			_, got, err := get(p, "a/1", kv.Query{MaxAge: kv.Unlimited, MinRevision: at})
			if err != nil || got != fmt.Sprint(i) {
				t.Fatalf("at revision %d, which the cluster has: %q, %v", at, got, err)
			}
		}
		at := put(t, l.Memory, "a/1", "last")
		synctest.Wait() // until then the key is not shown: a newer one was
		if _, _, err := get(p, "a/1", kv.Query{MaxAge: kv.Unlimited, LocalOnly: true, MinRevision: at + 1}); kv.CodeOf(err) != kv.RevisionTimeout {
			t.Errorf("a read that may not ask above: %v, want RevisionTimeout", err)
		}
	})
}

func TestAPrefixTooLargeIsForwardedAndSaysSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		for i := range 100 {
			put(t, l, fmt.Sprint("a/", i), string(make([]byte, 1000)))
		}
		boot := time.Now()
		p, err := New(Options{Upstream: l, Path: filepath.Join(t.TempDir(), "c"), MaxBytes: 50_000, Prefixes: [][]byte{[]byte("a/")},
			Clock: func() time.Duration { return time.Since(boot) }})
		if err != nil {
			t.Fatal(err)
		}
		ctx, cancel := context.WithCancel(t.Context())
		done := make(chan error, 1)
		go func() { done <- p.Run(ctx) }()
		synctest.Wait()
		if s := p.State(); s.Synced || s.Mirrors[0].Covered || s.Mirrors[0].Reason == "" || s.Bytes > 50_000 {
			t.Errorf("got %+v, want it not mirrored, with a reason", s)
		}
		if page, v, err := get(p, "a/7", kv.Query{}); err != nil || len(v) != 1000 || page.Source != kv.SourceUpstream {
			t.Errorf("got %d bytes from %v, %v, want it forwarded", len(v), page.Source, err)
		}
		cancel()
		if err := <-done; err != nil {
			t.Error(err)
		}
		if err := p.Close(); err != nil {
			t.Error(err)
		}
	})
}

func TestAWatchOutlivesTheLinkWithoutAGapOrADuplicate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		ctx, cancel := context.WithCancel(t.Context())
		var mu sync.Mutex
		var values []string
		var states []kv.WatchState
		done := make(chan struct{})
		go func() {
			defer close(done)
			key, end := kv.PrefixRange([]byte("a/"))
			for b, err := range p.Watch(ctx, kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: key, End: end}}}) {
				if err != nil {
					t.Error(err)
					return
				}
				mu.Lock()
				if b.State != kv.WatchSame {
					states = append(states, b.State)
				}
				for _, e := range b.Events {
					values = append(values, string(e.KV.Value))
				}
				mu.Unlock()
			}
		}()
		synctest.Wait()
		for i := range 30 {
			if i == 10 {
				l.setCut(true)
				time.Sleep(time.Second)
			}
			if i == 20 {
				l.setCut(false)
				time.Sleep(time.Minute)
			}
			put(t, l.Memory, "a/k", fmt.Sprint(i))
		}
		synctest.Wait()
		cancel()
		<-done
		for i, v := range values {
			if v != fmt.Sprint(i) {
				t.Fatalf("event %d is %s: %v", i, v, values)
			}
		}
		if len(values) != 30 {
			t.Errorf("%d events, want 30", len(values))
		}
		if fmt.Sprint(states) != fmt.Sprint([]kv.WatchState{kv.WatchStale, kv.WatchCatchingUp, kv.WatchSynced}) {
			t.Errorf("states %v, want stale, catching up, synced", states)
		}
	})
}

func TestAWatchOfNoKeyIsRefusedWhileTheLinkIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		l.setCut(true)
		control := make(chan kv.WatchControl, 2)
		control <- kv.WatchControl{Add: &kv.Watch{ID: 1}}
		control <- kv.WatchControl{Add: &kv.Watch{ID: 2}}
		begin, refused := time.Now(), 0
		for b, err := range p.Watch(t.Context(), kv.WatchSpec{Control: control}) {
			if err != nil {
				t.Fatal(err)
			}
			if b.WatchID == kv.WatchAll {
				continue
			}
			if !b.Created || !b.Canceled || kv.CodeOf(b.Err) != kv.Invalid {
				t.Fatalf("watch %d is answered with %+v", b.WatchID, b)
			}
			if refused++; refused == 2 {
				break
			}
		}
		if took := time.Since(begin); refused != 2 || took > 2*retryMax {
			t.Errorf("%d were refused after %v", refused, took)
		}
	})
}

func TestAReadOnlyProxyRefusesWrites(t *testing.T) {
	l := newLink()
	p, err := New(Options{Upstream: l, Path: filepath.Join(t.TempDir(), "c"), ReadOnly: true, Clock: func() time.Duration { return 0 }})
	if err != nil {
		t.Fatal(err)
	}
	if _, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte("a")}}}); kv.CodeOf(err) != kv.ReadOnlyNode {
		t.Errorf("got %v, want read-only", err)
	}
	if err := p.Close(); err != nil {
		t.Error(err)
	}
}

// A list is read page by page, the later pages at the revision of the first. Without it no list of a few keys can be had
// while the cluster is out of reach.
func TestTheNextPageOfAListComesFromTheCacheWhileNothingChanges(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir(), "a/")
		for i := range 3 {
			put(t, p, fmt.Sprintf("a/%d", i), "v")
		}
		synctest.Wait()
		l.setCut(true)
		synctest.Wait()
		key, end := kv.PrefixRange([]byte("a/"))
		read := func(r kv.Range) (kv.Page, error) {
			return p.Read(t.Context(), kv.Query{Ops: []kv.Op{r}, MaxAge: kv.Unlimited})
		}
		first, err := read(kv.Range{Key: key, End: end, Limit: 1})
		if err != nil {
			t.Fatal(err)
		}
		next, err := read(kv.Range{Key: []byte("a/1"), End: end, Revision: first.Revision})
		if err != nil || len(next.Ops[0].KVs) != 2 || next.Source != kv.SourceCache {
			t.Errorf("got %+v, %v, want the other two keys from the cache", next, err)
		}
		if past, err := read(kv.Range{Key: key, End: end, Revision: first.Revision - 1}); kv.CodeOf(err) != kv.UpstreamUnavailable {
			t.Errorf("an older revision, which the cache does not know: %+v, %v", past, err)
		}
	})
}

// behind answers who does not ask for the newest as a member does that has not come further.
type behind struct {
	*link
	was kv.Page
}

func (b *behind) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if q.MaxAge > 0 && q.MinRevision <= b.was.Revision && len(q.Ops) > 0 {
		return b.was, nil
	}
	return b.link.Read(ctx, q)
}

func TestAMemberThatIsBehindIsNotBelievedAfterAKill(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "k", "one")
		was, err := l.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.Range{Key: []byte("k")}}})
		if err != nil {
			t.Fatal(err)
		}
		was.Age = kv.AgeUnknown
		dir := t.TempDir()
		p, shut := open(t, l, dir)
		put(t, p, "k", "two") // not held
		dir = crash(t, dir)
		shut()
		q, err := New(Options{Upstream: &behind{l, was}, Path: filepath.Join(dir, "cache.db"), Clock: func() time.Duration { return 0 }})
		if err != nil {
			t.Fatal(err)
		}
		defer q.Close() // it does not run: its feed has not come up yet
		wants(t, q, auto, "k", "two", kv.SourceUpstream)
	})
}
