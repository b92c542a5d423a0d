package proxy

import (
	"errors"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// holder holds a feed, or does not.
type holder struct {
	mu      sync.Mutex
	why     error
	changed chan struct{}
}

func newHolder(why error) *holder { return &holder{why: why, changed: make(chan struct{})} }

func (h *holder) held() (error, <-chan struct{}) { //nolint:revive // as Options.Held, which says why first
	h.mu.Lock()
	defer h.mu.Unlock()
	return h.why, h.changed
}

func (h *holder) set(why error) {
	h.mu.Lock()
	defer h.mu.Unlock()
	h.why = why
	close(h.changed)
	h.changed = make(chan struct{})
}

func TestAHeldFeedAgesAndIsAskedPast(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, h := newLink(), newHolder(nil)
		put(t, l, "a/1", "one")
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.Prefixes, o.Held = [][]byte{[]byte("a/")}, h.held })
		synctest.Wait()
		wants(t, p, auto, "a/1", "one", kv.SourceCache)
		h.set(errors.New("no bytes left"))
		synctest.Wait()
		if s := p.State(); s.Synced || s.Mirrors[0].Reason != "no bytes left" {
			t.Errorf("while the feed is held: %+v", s)
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
			t.Errorf("once the feed is not held any more: %+v", s)
		}
	})
}

func TestAFeedThatIsHeldFromTheStartLoadsNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l, h := newLink(), newHolder(errors.New("no bytes left"))
		put(t, l, "a/1", "one")
		asked := l.asked()
		p, _ := openWith(t, l, t.TempDir(), func(o *Options) { o.Prefixes, o.Held = [][]byte{[]byte("a/")}, h.held })
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
