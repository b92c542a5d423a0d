package proxy

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// viewer is a consumer of one watch stream.
type viewer struct {
	control chan kv.WatchControl
	cancel  context.CancelFunc
	done    chan struct{}

	mu      sync.Mutex
	batches []kv.Batch
	gate    chan struct{} // taken before each batch while not nil
}

func view(t *testing.T, p *Proxy, watches ...kv.Watch) *viewer {
	t.Helper()
	return viewWith(t, p, make(chan kv.WatchControl), watches...)
}

// viewWith is view with what the consumer asks for later, nil for nothing.
func viewWith(t *testing.T, p *Proxy, control chan kv.WatchControl, watches ...kv.Watch) *viewer {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	v := &viewer{control: control, cancel: cancel, done: make(chan struct{})}
	go func() {
		defer close(v.done)
		for b, err := range p.Watch(ctx, kv.WatchSpec{Watches: watches, Control: v.control}) {
			if err != nil {
				t.Error(err)
				return
			}
			v.mu.Lock()
			gate := v.gate
			v.batches = append(v.batches, b)
			v.mu.Unlock()
			if gate != nil {
				<-gate
			}
		}
	}()
	t.Cleanup(v.end)
	return v
}

func (v *viewer) end() {
	v.cancel()
	<-v.done
}

// story is what a watch has seen, in words.
func (v *viewer) story(id int64) (words []string) {
	v.mu.Lock()
	defer v.mu.Unlock()
	for _, b := range v.batches {
		switch {
		case b.State != kv.WatchSame:
			words = append(words, map[kv.WatchState]string{kv.WatchStale: "stale", kv.WatchCatchingUp: "catching up", kv.WatchSynced: "synced"}[b.State])
		case b.WatchID != id:
		case b.Canceled && b.Err != nil:
			words = append(words, b.Err.Code.String())
		case b.Canceled:
			words = append(words, "canceled")
		case b.Progress:
			words = append(words, fmt.Sprint("progress ", b.Revision))
		}
		for _, e := range b.Events {
			if b.WatchID != id {
				continue
			}
			word := string(e.KV.Value)
			if e.Delete {
				word = "deleted"
			}
			if e.Prev != nil {
				word += " was " + string(e.Prev.Value)
			}
			words = append(words, word)
		}
	}
	return words
}

func (v *viewer) tells(t *testing.T, id int64, want ...string) {
	t.Helper()
	synctest.Wait()
	if got := v.story(id); fmt.Sprint(got) != fmt.Sprint(want) {
		t.Errorf("watch %d tells %q, want %q", id, got, want)
	}
}

func under(id int64, prefix string) kv.Watch {
	key, end := kv.PrefixRange([]byte(prefix))
	return kv.Watch{ID: id, Key: key, End: end}
}

func del(t *testing.T, l *link, key string) {
	t.Helper()
	if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Delete{Key: []byte(key)}}}); err != nil {
		t.Fatal(err)
	}
}

func TestWatchesOfAMirroredPrefixCostNoWatchUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		put(t, l, "a/1", "old")
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		streams := l.streamsOpened()
		one, all := view(t, p, kv.Watch{ID: 7, Key: []byte("a/1")}), view(t, p, under(1, "a/"), under(2, "a/2"))
		prev := under(1, "a/")
		prev.PrevKV, prev.NoPuts = true, true
		gone := view(t, p, prev)
		synctest.Wait()
		put(t, l.Memory, "a/1", "new")
		put(t, l.Memory, "a/2", "two")
		put(t, l.Memory, "b", "elsewhere")
		del(t, l, "a/1")
		one.tells(t, 7, "new", "deleted")
		all.tells(t, 1, "new", "two", "deleted")
		all.tells(t, 2, "two")
		gone.tells(t, 1, "deleted was new")
		rev := put(t, l.Memory, "b", "elsewhere again")
		all.control <- kv.WatchControl{Progress: true}
		all.tells(t, kv.WatchAll, fmt.Sprint("progress ", rev))
		all.control <- kv.WatchControl{Cancel: 1}
		all.control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("a/2")}}
		synctest.Wait()
		put(t, l.Memory, "a/2", "three")
		all.tells(t, 1, "new", "two", "deleted", "canceled")
		all.tells(t, 2, "two", "invalid", "three")
		if n := l.streamsOpened() - streams; n != 0 {
			t.Errorf("%d more watch streams were opened upstream", n)
		}
		for _, v := range []*viewer{one, all, gone} {
			v.end()
		}
	})
}

func TestAWatchOfWhatTheFeedDoesNotHaveGetsOneUpstream(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		from := put(t, l, "a/1", "one")
		put(t, l, "a/1", "two")
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		history := under(1, "a/")
		history.From = from
		past := view(t, p, history)
		past.tells(t, 1, "one", "two")
		grows := view(t, p, under(1, "a/"))
		synctest.Wait()
		put(t, l.Memory, "a/1", "three")
		synctest.Wait()
		grows.control <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("b")}}
		synctest.Wait()
		put(t, l.Memory, "a/1", "four")
		put(t, l.Memory, "b", "five")
		grows.tells(t, 1, "three", "four")
		grows.tells(t, 2, "five")
		past.tells(t, 1, "one", "two", "three", "four")
		past.end()
		grows.end()
	})
}

func TestASlowWatcherMissesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		slow := view(t, p, under(1, "a/"))
		synctest.Wait()
		gate := make(chan struct{})
		slow.mu.Lock()
		slow.gate = gate
		slow.mu.Unlock()
		var want []string
		for i := range 3 * tailEvents { // more than is kept here
			put(t, l.Memory, "a/k", fmt.Sprint(i))
			want = append(want, fmt.Sprint(i))
			if i%100 == 0 {
				synctest.Wait()
			}
		}
		synctest.Wait()
		if n := p.feed.mirrors[0].tail.events; n > tailEvents {
			t.Errorf("%d events are kept", n)
		}
		close(gate)
		slow.tells(t, 1, want...)
		slow.end()
	})
}

func TestAFedWatchOutlivesTheLink(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		v := view(t, p, under(1, "a/"))
		synctest.Wait()
		put(t, l.Memory, "a/k", "1")
		synctest.Wait()
		l.setCut(true)
		time.Sleep(time.Minute)
		put(t, l.Memory, "a/k", "2")
		del(t, l, "a/k")
		l.setCut(false)
		time.Sleep(time.Minute)
		put(t, l.Memory, "a/k", "3")
		v.tells(t, 1, "1", "stale", "catching up", "2", "deleted", "synced", "3")
		// Asked while the link is lost it is told that this cannot be told, and goes on.
		l.setCut(true)
		time.Sleep(time.Second)
		v.control <- kv.WatchControl{Progress: true}
		synctest.Wait()
		l.setCut(false)
		time.Sleep(time.Minute)
		v.control <- kv.WatchControl{Progress: true}
		synctest.Wait()
		rev := put(t, l.Memory, "a/k", "4")
		v.tells(t, kv.WatchAll, "stale", "catching up", "synced", "stale", "progress 0", "catching up", "synced", fmt.Sprint("progress ", rev-1))
		v.end()
	})
}

// The feed still has what was compacted; that this node has acknowledged the compaction counts.
func TestAWatchFromBeforeACompactionMadeHereIsRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		for i := range 4 {
			put(t, p, "a/k", fmt.Sprint(i))
		}
		rev := put(t, p, "a/k", "4")
		synctest.Wait()
		if _, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: rev}}}); err != nil {
			t.Fatal(err)
		}
		before, from := under(1, "a/"), under(1, "a/")
		before.From, from.From = rev-1, rev
		refused, taken := view(t, p, before), view(t, p, from)
		refused.tells(t, 1, "compacted")
		taken.tells(t, 1, "4")
		refused.end()
		taken.end()
	})
}

func TestAFedWatchWhoseHistoryIsGoneIsToldSo(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, shut := open(t, l, t.TempDir(), "a/")
		defer shut()
		synctest.Wait()
		v := view(t, p, under(1, "a/"))
		synctest.Wait()
		put(t, l.Memory, "a/k", "1")
		synctest.Wait()
		l.setCut(true)
		time.Sleep(time.Minute)
		put(t, l.Memory, "a/k", "2")
		rev := put(t, l.Memory, "a/k", "3")
		if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: rev}}}); err != nil {
			t.Fatal(err)
		}
		l.setCut(false)
		time.Sleep(time.Minute)
		synctest.Wait()
		v.tells(t, 1, "1", "stale", "catching up", "compacted", "synced") // nothing is left to be caught up with
		v.end()
	})
}
