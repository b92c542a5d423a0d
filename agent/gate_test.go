package agent

import (
	"context"
	"errors"
	"iter"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// slowNode answers after a second and watches until told to stop.
type slowNode struct{ took time.Duration }

func (n slowNode) Do(ctx context.Context, _ kv.Command) (kv.Result, error) {
	select {
	case <-time.After(n.took):
		return kv.Result{}, nil
	case <-ctx.Done():
		return kv.Result{}, &kv.Error{Code: kv.OutcomeUnknown}
	}
}

func (n slowNode) Read(ctx context.Context, _ kv.Query) (kv.Page, error) {
	_, err := n.Do(ctx, kv.Command{})
	return kv.Page{}, err
}

func (n slowNode) Watch(ctx context.Context, _ kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		if yield(kv.Batch{Created: true}, nil) {
			<-ctx.Done()
			yield(kv.Batch{}, ctx.Err())
		}
	}
}

func TestRequestsWaitForAReplayAndThenAreRefused(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g, begin := newGate(), time.Now()
		_, err := g.Do(t.Context(), kv.Command{})
		if kv.CodeOf(err) != kv.NoLeader || time.Since(begin) != openWait {
			t.Errorf("after %v: %v; want no leader after %v", time.Since(begin), err, openWait)
		}
		go func() { time.Sleep(time.Second); g.open(slowNode{}) }()
		if _, err := g.Read(t.Context(), kv.Query{}); err != nil {
			t.Errorf("opened while the request waited: %v", err)
		}
	})
}

func TestDrainRefusesNewRequestsAndWaitsForRunningOnes(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.open(slowNode{took: 3 * time.Second})
		answered := make(chan error, 1)
		go func() { _, err := g.Do(t.Context(), kv.Command{}); answered <- err }()
		synctest.Wait()

		begin := time.Now()
		drained := make(chan int, 1)
		go func() { drained <- g.drain(t.Context()) }()
		synctest.Wait()
		if _, err := g.Do(t.Context(), kv.Command{}); !errors.Is(err, &kv.Error{Code: kv.Stopping}) {
			t.Errorf("while draining: %v, want stopping", err)
		}
		if n := <-drained; n != 0 || time.Since(begin) != 3*time.Second {
			t.Errorf("drained with %d running after %v, want 0 after 3s", n, time.Since(begin))
		}
		if err := <-answered; err != nil {
			t.Errorf("the running request got %v", err)
		}
	})
}

func TestDrainIsBounded(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.open(slowNode{took: time.Hour})
		ctx, stop := context.WithCancel(t.Context())
		go func() { _, _ = g.Do(ctx, kv.Command{}) }()
		synctest.Wait()
		bounded, cancel := context.WithTimeout(t.Context(), 8*time.Second)
		defer cancel()
		if n := g.drain(bounded); n != 1 {
			t.Errorf("%d requests are said to run, want 1", n)
		}
		stop()
	})
}

func TestDrainEndsWatchesAndSaysWhy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.open(slowNode{})
		var got []error
		ended := make(chan struct{})
		go func() {
			defer close(ended)
			for _, err := range g.Watch(t.Context(), kv.WatchSpec{}) {
				got = append(got, err)
			}
		}()
		synctest.Wait()
		if n := g.drain(t.Context()); n != 0 {
			t.Errorf("%d watches are left", n)
		}
		<-ended
		if len(got) != 2 || got[0] != nil || kv.CodeOf(got[1]) != kv.Stopping {
			t.Errorf("the watch saw %v, want its beginning and stopping", got)
		}
	})
}

func TestWatchThatItsClientEndsIsNotSaidToBeStopping(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		g := newGate()
		g.open(slowNode{})
		ctx, cancel := context.WithTimeout(t.Context(), time.Second)
		defer cancel()
		var last error
		for _, err := range g.Watch(ctx, kv.WatchSpec{}) {
			last = err
		}
		if !errors.Is(last, context.DeadlineExceeded) {
			t.Errorf("the watch ended with %v, want what the backend said", last)
		}
	})
}
