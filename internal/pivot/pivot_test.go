package pivot

import (
	"context"
	"errors"
	"fmt"
	"iter"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/api"
	"holdfast/api/apitest"
	"holdfast/kv"
)

// spun is a pivot whose node is exchanged every few milliseconds, always for another in front of the same data.
func spun(t *testing.T) api.Backend {
	data := apitest.NewMemory()
	p := New()
	turn := func() {
		drained, err := p.Turn(t.Context(), Node{Backend: data})
		if err != nil {
			if t.Context().Err() == nil {
				t.Errorf("turn: %v", err)
			}
			return
		}
		drained(t.Context())
	}
	turn()
	var spinning sync.WaitGroup
	ctx, stop := context.WithCancel(context.Background())
	spinning.Go(func() {
		for ctx.Err() == nil {
			p.mu.Lock()
			busy := p.at.Load().calls // those that wait for something would be waited for, each time
			p.mu.Unlock()
			if busy == 0 {
				turn()
			}
			time.Sleep(2 * time.Millisecond)
		}
	})
	t.Cleanup(func() { stop(); spinning.Wait() })
	return p
}

func TestContractHoldsWhileNodesAreExchanged(t *testing.T) { apitest.Run(t, spun) }

// lagging is a node that has come as far as it was told to.
type lagging struct {
	slow time.Duration // of an answer

	mu     sync.Mutex
	at     int64
	refuse error
}

func (n *lagging) Do(ctx context.Context, _ kv.Command) (kv.Result, error) {
	time.Sleep(n.slow)
	n.mu.Lock()
	defer n.mu.Unlock()
	n.at++
	return kv.Result{Header: kv.Header{Epoch: kv.Epoch{Cluster: 1}, Revision: n.at}}, nil
}

func (n *lagging) Read(context.Context, kv.Query) (kv.Page, error) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return kv.Page{Header: kv.Header{Epoch: kv.Epoch{Cluster: 1}, Revision: n.at}}, nil
}

func (n *lagging) Watch(context.Context, kv.WatchSpec) iter.Seq2[kv.Batch, error] { return nil }

func (n *lagging) node() Node {
	return Node{Backend: n, Reach: func(_ context.Context, h kv.Header) error {
		time.Sleep(10 * time.Millisecond)
		n.mu.Lock()
		defer n.mu.Unlock()
		if n.refuse == nil {
			n.at = max(n.at, h.Revision)
		}
		return n.refuse
	}}
}

func TestWhatWasShownIsNotUnseen(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := &lagging{at: 6}, &lagging{}
		p := New()
		if _, err := p.Turn(t.Context(), old.node()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Do(t.Context(), kv.Command{}); err != nil { // shows 7
			t.Fatal(err)
		}
		old.slow = time.Second // this one ends on the node that left, and shows 8
		var late kv.Result
		var wg sync.WaitGroup
		wg.Go(func() { late, _ = p.Do(t.Context(), kv.Command{}) })
		synctest.Wait()
		began := time.Now()
		drained, err := p.Turn(t.Context(), next.node())
		if err != nil {
			t.Fatal(err)
		}
		if took := time.Since(began); took < quietMax || took > quietMax+100*time.Millisecond {
			t.Errorf("a turn in front of a slow request took %v, want %v and a little", took, quietMax)
		}
		page, err := p.Read(t.Context(), kv.Query{})
		if err != nil || page.Revision != 7 {
			t.Errorf("read revision %d, %v; 7 was shown", page.Revision, err)
		}
		if n := drained(t.Context()); n != 0 {
			t.Errorf("%d requests are left", n)
		}
		wg.Wait()
		if page, _ := p.Read(t.Context(), kv.Query{}); late.Revision != 8 || page.Revision != 8 {
			t.Errorf("a late answer showed %d, then %d was read, want 8 twice", late.Revision, page.Revision)
		}
	})
}

func TestANodeThatDoesNotGetThereChangesNothing(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		old, next := &lagging{at: 6}, &lagging{refuse: errors.New("no way")}
		p := New()
		if _, err := p.Turn(t.Context(), old.node()); err != nil {
			t.Fatal(err)
		}
		if _, err := p.Turn(t.Context(), next.node()); !errors.Is(err, next.refuse) {
			t.Errorf("turned with %v", err)
		}
		if page, err := p.Read(t.Context(), kv.Query{}); err != nil || page.Revision != 6 {
			t.Errorf("read revision %d, %v; want what the old node has", page.Revision, err)
		}
	})
}

func TestRequestsWaitForATurnAndNotForEver(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		p, began := New(), time.Now()
		_, err := p.Do(t.Context(), kv.Command{})
		if kv.CodeOf(err) != kv.NoLeader || time.Since(began) != holdMax {
			t.Errorf("after %v: %v, want no leader after %v", time.Since(began), err, holdMax)
		}
	})
}

// parts gives the events of one revision in fragments, and leaves after some of them.
type parts struct {
	events []kv.Event
	stop   int // how many it gives before it hangs
}

func (n parts) Do(context.Context, kv.Command) (kv.Result, error) { return kv.Result{}, nil }
func (n parts) Read(context.Context, kv.Query) (kv.Page, error)   { return kv.Page{}, nil }

func (n parts) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		if !yield(kv.Batch{WatchID: 1, Created: true}, nil) {
			return
		}
		for i, e := range n.events {
			if i == n.stop {
				<-ctx.Done()
				return
			}
			if e.KV.ModRevision < w.Watches[0].From {
				continue
			}
			more := i+1 < len(n.events) && n.events[i+1].KV.ModRevision == e.KV.ModRevision
			if !yield(kv.Batch{WatchID: 1, Events: []kv.Event{e}, Fragment: more}, nil) {
				return
			}
		}
		<-ctx.Done()
	}
}

// However the events of a revision are cut, and wherever a turn comes in between: each comes once.
func TestFragmentsComeOnce(t *testing.T) {
	var events []kv.Event
	for i := range 9 {
		events = append(events, kv.Event{KV: kv.KeyValue{Key: fmt.Append(nil, i), ModRevision: int64(2 + i/4)}})
	}
	for first := range len(events) + 1 {
		for second := first; second <= len(events); second++ {
			synctest.Test(t, func(t *testing.T) {
				p := New()
				turn := func(stop int) {
					if _, err := p.Turn(t.Context(), Node{Backend: parts{events, stop}}); err != nil {
						t.Fatal(err)
					}
				}
				turn(first)
				ctx, cancel := context.WithCancel(t.Context())
				got, made := "", 0
				var wg sync.WaitGroup
				wg.Go(func() {
					for b, err := range p.Watch(ctx, kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte("k"), From: 1}}}) {
						if err != nil {
							t.Error(err)
							return
						}
						if b.Created {
							made++
						}
						for _, e := range b.Events {
							got += string(e.KV.Key)
						}
					}
				})
				for _, stop := range []int{second, len(events)} {
					synctest.Wait()
					turn(stop)
				}
				synctest.Wait()
				cancel()
				wg.Wait()
				if got != "012345678" || made != 1 {
					t.Errorf("turned after %d and %d events: got %s, made %d times", first, second, got, made)
				}
			})
		}
	}
}

// ends keeps the end of a pushed stream.
type ends struct{ with chan error }

func (ends) Bring(kv.Batch) (more bool) { return true }
func (e ends) End(err error)            { e.with <- err }

// A pushed stream does not move, and neither does it hold up the node that leaves: who asks again is served by the next one.
func TestAPushedStreamEndsWhenNodesAreExchanged(t *testing.T) {
	data := apitest.NewMemory()
	p := New()
	if _, err := p.Turn(t.Context(), Node{Backend: data}); err != nil {
		t.Fatal(err)
	}
	push := func() (kv.WatchPush, ends) {
		to := ends{make(chan error, 1)}
		w, err := p.Push(t.Context(), kv.WatchSpec{Watches: []kv.Watch{{ID: 1, Key: []byte("k")}}}, to)
		if err != nil {
			t.Fatal(err)
		}
		w.Start()
		return w, to
	}
	_, to := push()
	drained, err := p.Turn(t.Context(), Node{Backend: data})
	if err != nil {
		t.Fatal(err)
	}
	if err := <-to.with; kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("it ended with %v", err)
	}
	if left := drained(t.Context()); left != 0 {
		t.Errorf("%d are left on the node that left", left)
	}
	w, to := push()
	w.Stop()
	if err := <-to.with; err != nil {
		t.Errorf("stopped, it ended with %v", err)
	}
}
