package proxy

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// pauser pauses a feed, or does not.
type pauser struct {
	mu      sync.Mutex
	why     error
	changed chan struct{}
}

func newPauser(why error) *pauser { return &pauser{why: why, changed: make(chan struct{})} }

func (h *pauser) paused() (<-chan struct{}, error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.changed, h.why
}

func (h *pauser) set(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = why
	close(h.changed)
	h.changed = make(chan struct{})
}

func TestAPausedFeedAgesAndIsAskedPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, h := newLink(), newPauser(nil)
		put(t, l, "a/1", "one")
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.Prefixes, o.Paused = [][]byte{[]byte("a/")}, h.paused })
		synctest.Wait()
		wants(t, p, auto, "a/1", "one", kv.SourceCache)
		h.set(errors.New("no bytes left"))
		synctest.Wait()
		if s := p.State(); s.Synced || s.Mirrors[0].Reason != "no bytes left" {
			t.Errorf("while the feed is paused: %+v", s)
		}
		put(t, l.Memory, "a/1", "two") // by somebody else
		time.Sleep(10 * time.Second)
		for _, q := range []kv.Query{local, auto} {
			if page := wants(t, p, q, "a/1", "one", kv.SourceCache); page.Age < 10*time.Second || page.Age > 11*time.Second {
				t.Errorf("age %v, want 10 s", page.Age)
			}
		}
		began := time.Now()
		wants(t, p, kv.Query{}, "a/1", "two", kv.SourceUpstream)
		wants(t, p, kv.Query{MaxAge: time.Second}, "a/1", "two", kv.SourceUpstream)
		if took := time.Since(began); took > time.Second {
			t.Errorf("a read that is asked above took %v", took)
		}
		wants(t, p, kv.Query{}, "b", "", kv.SourceUpstream)
		put(t, p, "a/2", "mine")
		wants(t, p, kv.Query{MaxAge: kv.Unlimited}, "a/2", "mine", kv.SourceCache)
		h.set(nil)
		synctest.Wait()
		wants(t, p, kv.Query{}, "a/1", "two", kv.SourceCache)
		if s := p.State(); !s.Synced || s.Mirrors[0].Reason != "" {
			t.Errorf("once the feed goes on: %+v", s)
		}
	})
}

func TestAFeedThatIsPausedFromTheStartLoadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, h := newLink(), newPauser(errors.New("no bytes left"))
		put(t, l, "a/1", "one")
		asked := l.asked()
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.Prefixes, o.Paused = [][]byte{[]byte("a/")}, h.paused })
		time.Sleep(time.Hour)
		if l.asked() != asked {
			t.Error("something was asked for")
		}
		wants(t, p, auto, "a/1", "one", kv.SourceUpstream)
		h.set(nil)
		synctest.Wait()
		wants(t, p, local, "a/1", "one", kv.SourceCache)
	})
}
