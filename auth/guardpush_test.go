package auth

import (
	"context"
	"iter"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// sink hands on what a pushed stream brings.
type sink struct {
	batches chan kv.Batch
	gone    <-chan struct{} // nobody takes any more
	ended   chan error      // of one slot
}

func (s *sink) Bring(b kv.Batch) (more bool) {
	select {
	case s.batches <- b:
		return true
	case <-s.gone:
		return false
	}
}

func (s *sink) End(err error) { s.ended <- err }

// streamed is g.Watch; by way of Push where the name of the test says so.
func streamed(ctx context.Context, t *testing.T, g *Guard, spec kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	if !strings.HasSuffix(t.Name(), "pushed") {
		return g.Watch(ctx, spec)
	}
	return func(yield func(kv.Batch, error) bool) {
		to := &sink{batches: make(chan kv.Batch), gone: ctx.Done(), ended: make(chan error, 1)}
		p, err := g.Push(ctx, kv.WatchSpec{By: spec.By, Watches: spec.Watches}, to)
		if err != nil {
			yield(kv.Batch{}, err)
			return
		}
		defer context.AfterFunc(ctx, p.Stop)()
		over := make(chan struct{})
		var asking sync.WaitGroup
		defer asking.Wait()
		defer close(over)
		asking.Go(func() {
			for {
				select {
				case c, ok := <-spec.Control:
					if !ok {
						p.Close()
						return
					}
					p.Ask(c)
				case <-over:
					return
				}
			}
		})
		p.Start()
		for {
			select {
			case b := <-to.batches:
				if !yield(b, nil) {
					p.Stop()
					if err := <-to.ended; err != nil && ctx.Err() == nil {
						t.Errorf("a stream that was stopped ended with %v", err)
					}
					return
				}
			case err := <-to.ended:
				if err != nil {
					yield(kv.Batch{}, err)
				}
				return
			}
		}
	}
}

func TestAPushedStreamIsJudgedAsAnyOther(t *testing.T) {
	for name, test := range map[string]func(*testing.T){
		"right": TestAWatchEndsWithItsRight, "older policy": TestAWatchThatWasJudgedByAnOlderPolicyIsJudgedAgain,
		"device": TestAWatchEndsWithTheTokenOfItsDevice, "late": TestNoEventOfADeviceWhoseTokenHasExpiredPasses,
	} {
		t.Run(name, func(t *testing.T) { t.Run("pushed", test) })
	}
}

// Streams come and go while rights do. Whoever has lost theirs is cut, without an event and whatever they wait for.
func TestIdlePushedStreamsAreCutWhenTheirRightGoes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(shop(t))
		g, _ := guarded(n, time.Now)
		for range 3 { // the reviewer ends with the last, and begins with the next
			var streams []*sink
			var pushes []kv.WatchPush
			for range 3 {
				to := &sink{batches: make(chan kv.Batch, 4), ended: make(chan error, 1)}
				p, err := g.Push(t.Context(), kv.WatchSpec{By: kv.By{Principal: "reader"}, Watches: []kv.Watch{{ID: 1, Key: []byte("a")}}}, to)
				if err != nil {
					t.Fatal(err)
				}
				p.Start()
				streams, pushes = append(streams, to), append(pushes, p)
			}
			pushes[0].Stop()
			synctest.Wait()
			n.change(t, kv.SetAuth{Do: kv.AuthRevokeRole, User: "reader", Role: "r"})
			synctest.Wait()
			for i, to := range streams {
				if b := <-to.batches; !b.Created {
					t.Errorf("stream %d: got %+v", i, b)
				}
				if i == 0 {
					continue
				}
				if b := <-to.batches; !b.Canceled || kv.CodeOf(b.Err) != kv.PermissionDenied {
					t.Errorf("stream %d: got %+v, want its end", i, b)
				}
				pushes[i].Close()
			}
			synctest.Wait()
			for i, to := range streams {
				if err := <-to.ended; err != nil {
					t.Errorf("stream %d: %v", i, err)
				}
			}
			n.change(t, grantRole("reader", "r"))
		}
	})
}
