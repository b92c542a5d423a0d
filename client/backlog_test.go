package client

import (
	"bytes"
	"errors"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/wire"
)

// fed is a stream that brings what was written to it.
type fed struct {
	bytes.Buffer
	aborted atomic.Bool
}

func (f *fed) Close() error      { return nil }
func (f *fed) CancelRead(uint64) {}
func (f *fed) Abort(uint64)      { f.aborted.Store(true) }

func feed(t *testing.T, sizes ...int) *fed {
	t.Helper()
	f := &fed{}
	for _, n := range sizes {
		if err := wire.WriteFrame(f, make([]byte, n)); err != nil {
			t.Fatal(err)
		}
	}
	return f
}

func TestABacklogThatNobodyTakesIsGivenUp(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(nil, "")
		st := feed(t, 2*backlogMax, backlogMax/2, backlogMax/2, 1)
		b := newBacklog(l)
		go b.fill(t.Context(), st)
		synctest.Wait()
		if l.waiting.Load() != 2*backlogMax { // one frame may be larger than all
			t.Fatalf("%d bytes wait", l.waiting.Load())
		}
		time.Sleep(slowGrace - time.Millisecond)
		if frame, err := b.take(t.Context()); err != nil || len(frame) != 2*backlogMax {
			t.Fatalf("%d bytes, %v", len(frame), err)
		}
		synctest.Wait()
		time.Sleep(slowGrace - time.Millisecond)
		if st.aborted.Load() {
			t.Fatal("given up within the grace since something was taken")
		}
		time.Sleep(2 * time.Millisecond)
		if !st.aborted.Load() {
			t.Fatal("the stream is kept")
		}
		for range 2 { // what has come is not lost
			if frame, err := b.take(t.Context()); err != nil || len(frame) != backlogMax/2 {
				t.Fatalf("%d bytes, %v", len(frame), err)
			}
		}
		if _, err := b.take(t.Context()); !errors.Is(err, errSlow) {
			t.Errorf("then %v, want %v", err, errSlow)
		}
		if l.waiting.Load() != 0 {
			t.Errorf("%d bytes still count", l.waiting.Load())
		}
	})
}

func TestTheBacklogsOfALinkHaveABoundTogether(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink(nil, "")
		var all []*backlog
		for range backlogLinkMax/backlogMax + 8 {
			b := newBacklog(l)
			go b.fill(t.Context(), feed(t, backlogMax/2, backlogMax/2))
			all = append(all, b)
		}
		time.Sleep(2 * slowGrace)
		synctest.Wait()
		if n := l.waiting.Load(); n > backlogLinkMax+8*backlogMax/2 { // each may hold one frame
			t.Errorf("%d bytes wait", n)
		}
		for _, b := range all {
			b.end()
		}
		if n := l.waiting.Load(); n != 0 {
			t.Errorf("%d bytes still count at the end", n)
		}
	})
}
