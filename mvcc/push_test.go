package mvcc

import (
	"context"
	"fmt"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"

	"holdfast/kv"
)

// sink hands on what a pushed stream brings.
type sink struct {
	batches chan kv.Batch
	gone    <-chan struct{} // nobody takes any more
	ended   chan struct{}   // closed by End
	err     error
}

func (s *sink) Bring(b kv.Batch) (more bool) {
	select {
	case s.batches <- b:
		return true
	case <-s.gone:
		return false
	}
}

func (s *sink) End(err error) {
	s.err = err
	close(s.ended)
}

// pull is Watch, by way of Push.
func pull(ctx context.Context, s *Store, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		ctx, cancel := context.WithCancel(ctx)
		to := &sink{batches: make(chan kv.Batch), gone: ctx.Done(), ended: make(chan struct{})}
		p := s.Push(kv.WatchSpec{By: spec.By, Watches: spec.Watches}, to)
		defer context.AfterFunc(ctx, p.Stop)()
		var asking sync.WaitGroup
		defer asking.Wait()
		defer cancel()
		if spec.Control == nil {
			p.Close()
		} else {
			asking.Go(func() {
				defer p.Close()
				for {
					select {
					case c, ok := <-spec.Control:
						if !ok {
							return
						}
						p.Ask(c)
					case <-ctx.Done():
						return
					}
				}
			})
		}
		p.Start()
		for {
			select {
			case b := <-to.batches:
				if !yield(b, nil) {
					cancel()
					<-to.ended
					return
				}
			case <-to.ended:
				if to.err != nil {
					yield(kv.Batch{}, to.err)
				}
				return
			}
		}
	}
}

// watching is the stream that a test watches: one that is pushed where its name says so.
func watching(ctx context.Context, t *testing.T, s *Store, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if strings.HasSuffix(t.Name(), "pushed") {
		return pull(ctx, s, spec)
	}
	return s.Watch(ctx, spec)
}

func TestAPushedStreamIsAsAnyOther(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"changes": TestWatchSendsChangesAsTheyAreMade, "flush and sweep": TestWatchAcrossFlushSweepAndSlowness, "from the past": TestWatchFromThePastGoesOnIntoThePresent,
		"behind others": TestWatchAddedBehindOthers, "between": TestWatchFromBetweenTheStreamAndThePresent,
		"filters": TestWatchFilters, "whole revisions": TestWatchKeepsARevisionTogether,
		"control": TestWatchControl, "no watches": TestStreamEndsWithoutWatchesWhenNoneCanCome, "progress": TestProgressIsAnnouncedToIdleWatchesThatAsk,
		"close": TestCloseEndsStreams,
	} {
		t.Run(name, func(t *testing.T) { t.Run("pushed", test) })
	}
}

// While it rests nothing of a pushed stream runs, and each event has it run again.
func TestAPushedStreamThatRestsHasNoGoroutine(t *testing.T) {
	g := newRig(t, Options{})
	to := &sink{batches: make(chan kv.Batch), gone: t.Context().Done(), ended: make(chan struct{})}
	p := g.s.Push(kv.WatchSpec{Watches: []kv.Watch{watchAll(1)}}, to)
	p.Start()
	<-to.batches
	asleep := func() {
		t.Helper()
		st := p.(*pushed)
		eventually(t, "the stream rests", func() bool {
			st.mu.Lock()
			defer st.mu.Unlock()
			return st.state == pushAsleep
		})
	}
	for i := range 100 {
		asleep()
		rev := g.put("a", fmt.Sprint(i))
		if b := <-to.batches; len(b.Events) != 1 || b.Revision != rev {
			t.Fatalf("got %+v, want revision %d", b, rev)
		}
	}
	asleep()
	p.Stop()
	if <-to.ended; to.err != nil {
		t.Errorf("it ended with %v", to.err)
	}
	if streams, watches := g.s.hub.size(); streams != 0 || watches != 0 {
		t.Errorf("%d streams and %d watches are left", streams, watches)
	}
}

// Many ask and cut while changes come: each change comes once and in order, and the end last.
func TestPushedStreamsAreAskedFromAllSides(t *testing.T) {
	g := newRig(t, Options{})
	for range 20 {
		to := &sink{batches: make(chan kv.Batch), gone: t.Context().Done(), ended: make(chan struct{})}
		p := g.s.Push(kv.WatchSpec{Watches: []kv.Watch{watchAll(1)}}, to)
		created, caughtUp, taken := make(chan struct{}), make(chan struct{}), make(chan struct{})
		var seen []int64
		go func() {
			defer close(taken)
			for {
				select {
				case b := <-to.batches:
					switch {
					case b.Progress:
						close(caughtUp)
					case b.WatchID == 1 && b.Created:
						close(created)
					case b.WatchID == 1:
						for _, e := range b.Events {
							seen = append(seen, e.KV.ModRevision)
						}
					}
				case <-to.ended:
					return
				}
			}
		}()
		p.Start()
		<-created
		var asking sync.WaitGroup
		for id := range int64(4) {
			asking.Go(func() {
				for i := range int64(20) {
					p.Ask(kv.WatchControl{Add: &kv.Watch{ID: 100*id + i + 2, Key: []byte("a")}})
					p.Cut(100*id + i + 2)
				}
			})
		}
		first := g.s.Revision() + 1
		for range 20 {
			g.put("a", "v")
		}
		asking.Wait()
		p.Ask(kv.WatchControl{Progress: true})
		<-caughtUp
		p.Stop()
		<-taken
		if len(seen) != 20 {
			t.Fatalf("%v came, want %d to %d", seen, first, first+19)
		}
		for i, rev := range seen {
			if rev != first+int64(i) {
				t.Fatalf("%v came, want %d to %d", seen, first, first+19)
			}
		}
		p.Ask(kv.WatchControl{Progress: true}) // behind the end it does nothing
	}
}

// Who asks for more than a stream takes waits, until it has ended at the latest.
func TestWhoAsksAPushedStreamForTooMuchWaits(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p := &pushed{}
		p.room.L = &p.mu
		asked := 0
		go func() {
			for range asksMax + 3 {
				p.Ask(kv.WatchControl{Progress: true})
				asked++
			}
		}()
		synctest.Wait()
		if asked != asksMax {
			t.Fatalf("%d were asked, want %d", asked, asksMax)
		}
		p.mu.Lock()
		p.state = pushOver
		p.room.Broadcast()
		p.mu.Unlock()
		synctest.Wait()
		if asked != asksMax+3 {
			t.Errorf("%d were asked once it was over", asked)
		}
	})
}
