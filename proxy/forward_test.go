package proxy

import (
	"context"
	"fmt"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// shards is a link that brings the events of watches that allow fragments one by one, and breaks such a stream from time to
// time.
type shards struct {
	*link
	mu     sync.Mutex
	breaks []int // how many events each stream brings before it breaks; those behind do not
}

func (s *shards) next() int {
	s.mu.Lock()
	defer s.mu.Unlock()
	if len(s.breaks) == 0 {
		return -1
	}
	n := s.breaks[0]
	s.breaks = s.breaks[1:]
	return n
}

func (s *shards) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if len(w.Watches) == 0 || !w.Watches[0].Fragment {
		return s.link.Watch(ctx, w)
	}
	return func(yield func(kv.Batch, error) bool) {
		left := s.next()
		for b, err := range s.link.Watch(ctx, w) {
			if len(b.Events) == 0 && !yield(b, err) {
				return
			}
			for i, e := range b.Events {
				if left == 0 {
					yield(kv.Batch{}, errCut)
					return
				}
				left--
				part, at := b, e.KV.ModRevision
				part.Events, part.Fragment = b.Events[i:i+1], i+1 < len(b.Events) && b.Events[i+1].KV.ModRevision == at
				if i+1 < len(b.Events) {
					part.Revision = at
				}
				if !yield(part, nil) {
					return
				}
			}
		}
	}
}

// A watch that is cut in the middle of a revision goes on behind what it has had of it, whether an upstream watch feeds it then or the
// feed of a mirrored prefix.
func TestAWatchCutWithinARevisionRepeatsNothing(t *testing.T) {
	const revisions, each = 3, 3
	for _, prefixes := range [][]string{nil, {"a/"}} {
		for first := range revisions * each {
			for second := range 3 {
				synctest.Test(t, func(t *testing.T) {
					s := &shards{link: newLink(), breaks: []int{first, second}}
					put(t, s.link, "a/", "old")
					p, shut := openWith(t, s.link, t.TempDir(), func(o *Options) {
						o.Upstream = s
						for _, x := range prefixes {
							o.Prefixes = append(o.Prefixes, []byte(x))
						}
					})
					defer shut()
					synctest.Wait()
					all := under(1, "a/")
					all.Fragment, all.From = true, 2 // from the past: the feed does not have that
					v := view(t, p, all)
					defer v.end()
					synctest.Wait()
					want := []string{"old"}
					for i := range revisions {
						var ops []kv.Op
						for k := range each {
							value := fmt.Sprint(i*each + k)
							ops = append(ops, kv.Put{Key: fmt.Append(nil, "a/", k), Value: []byte(value)})
							want = append(want, value)
						}
						if _, err := s.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Txn{Then: ops}}}); err != nil {
							t.Fatal(err)
						}
					}
					time.Sleep(time.Minute)
					synctest.Wait()
					var got []string
					for _, word := range v.story(1) {
						if word != "stale" && word != "catching up" && word != "synced" {
							got = append(got, word)
						}
					}
					if fmt.Sprint(got) != fmt.Sprint(want) {
						t.Errorf("mirrored %q, cut after %d and %d events: got %q, want %q", prefixes, first, second, got, want)
					}
				})
			}
		}
	}
}

// What came while the link was lost comes between the words that it is back and that all of it is there.
func TestAForwardedWatchIsSyncedBehindWhatItHasMissed(t *testing.T) {
	for _, controlled := range []bool{false, true} {
		synctest.Test(t, func(t *testing.T) {
			var control chan kv.WatchControl
			if controlled {
				control = make(chan kv.WatchControl)
			}
			l := newLink()
			p, shut := open(t, l, t.TempDir())
			defer shut()
			synctest.Wait()
			v := viewWith(t, p, control, kv.Watch{ID: 1, Key: []byte("k")}, kv.Watch{ID: 2, Key: []byte("other")})
			defer v.end()
			synctest.Wait()
			put(t, l.Memory, "k", "seen")
			synctest.Wait()
			for range 2 {
				l.setCut(true)
				time.Sleep(time.Second)
				put(t, l.Memory, "k", "one")
				put(t, l.Memory, "k", "two")
				l.setCut(false)
				time.Sleep(time.Minute)
			}
			put(t, l.Memory, "k", "live")
			v.tells(t, 1, "seen", "stale", "catching up", "one", "two", "synced", "stale", "catching up", "one", "two", "synced", "live")
			v.tells(t, kv.WatchAll, "stale", "catching up", "synced", "stale", "catching up", "synced") // nobody has asked how far it is
		})
	}
}
