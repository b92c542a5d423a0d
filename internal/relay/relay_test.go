package relay

import (
	"context"
	"iter"
	"testing"
	"testing/synctest"

	"holdfast/kv"
)

func TestControlsAreHandedOnInOrderUntilTheEnd(t *testing.T) {
	from, to := make(chan kv.WatchControl), make(chan kv.WatchControl)
	ended := make(chan bool, 1)
	go func() {
		saw := int64(0)
		Controls(t.Context(), from, to, func(c *kv.WatchControl, ok bool) {
			if ok {
				saw++
				c.Cancel += 10 * saw
			}
		})
		ended <- saw == 3
	}()
	go func() {
		for i := range int64(3) {
			from <- kv.WatchControl{Cancel: i}
		}
		close(from)
	}()
	for i := range int64(3) {
		if c := <-to; c.Cancel != i+10*(i+1) {
			t.Errorf("control %d comes as %+v", i, c)
		}
	}
	if _, more := <-to; more || !<-ended {
		t.Error("the end is not handed on after all")
	}
}

func TestControlsEndWithTheContext(t *testing.T) {
	for _, asked := range []int{0, 1} { // waiting for the one side or the other
		ctx, cancel := context.WithCancel(t.Context())
		from, to, ended := make(chan kv.WatchControl, 1), make(chan kv.WatchControl), make(chan struct{})
		taken := make(chan struct{}, 1)
		go func() {
			Controls(ctx, from, to, func(*kv.WatchControl, bool) { taken <- struct{}{} })
			close(ended)
		}()
		if asked > 0 {
			from <- kv.WatchControl{Progress: true}
			<-taken
		}
		cancel()
		<-ended
	}
}

// asked is a node that answers each thing it is asked for, if it may.
type asked struct{ may chan struct{} }

func (a asked) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		for {
			select {
			case <-a.may:
			case <-ctx.Done():
				return
			}
			c, ok := <-w.Control
			if !ok {
				yield(kv.Batch{}, kv.Errorf(kv.Internal, "the end"))
				return
			}
			if !yield(kv.Batch{WatchID: c.Cancel}, nil) {
				return
			}
		}
	}
}

// brought keeps what a pushed stream brings.
type brought struct {
	ids   []int64
	most  int
	ended int
	err   error
}

func (b *brought) Bring(one kv.Batch) (more bool) {
	b.ids = append(b.ids, one.WatchID)
	return len(b.ids) != b.most
}

func (b *brought) End(err error) { b.ended, b.err = b.ended+1, err }

func TestANodeThatDoesNotPushIsWaitedFor(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		begin := func(a asked, to *brought) kv.WatchPush {
			p, err := Push(t.Context(), a, kv.WatchSpec{}, to)
			if err != nil {
				t.Fatal(err)
			}
			p.Start()
			return p
		}
		free := make(chan struct{})
		close(free)
		to := &brought{}
		p := begin(asked{free}, to)
		p.Ask(kv.WatchControl{Cancel: 1})
		p.Cut(2)
		p.Close()
		synctest.Wait()
		if len(to.ids) != 2 || to.ids[0] != 1 || to.ids[1] != 2 || to.ended != 1 || kv.CodeOf(to.err) != kv.Internal {
			t.Errorf("what came is %+v", to)
		}
		to = &brought{most: 1}
		p = begin(asked{free}, to)
		p.Ask(kv.WatchControl{Cancel: 1})
		synctest.Wait()
		if to.ended != 1 || to.err != nil {
			t.Errorf("who has had enough is told %+v", to)
		}
		to = &brought{}
		p = begin(asked{make(chan struct{})}, to)
		asks := 0
		go func() {
			for range asksMax + 3 {
				p.Ask(kv.WatchControl{Progress: true})
				asks++
			}
		}()
		synctest.Wait()
		if asks != asksMax+1 { // one is on its way
			t.Errorf("%d were asked of a node that takes nothing", asks)
		}
		p.Cut(1) // does not wait
		p.Stop()
		synctest.Wait()
		if asks != asksMax+3 || to.ended != 1 || to.err != nil {
			t.Errorf("stopped, after %d: %+v", asks, to)
		}
	})
}
