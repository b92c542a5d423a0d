package proxy

import (
	"context"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

func renewOf(id int64) kv.Command { return kv.Command{Ops: []kv.Op{kv.LeaseKeepAlive{ID: id}}} }

// granted makes leases of 60 s at the upstream.
func granted(t *testing.T, l *link, ids ...int64) {
	t.Helper()
	for _, id := range ids {
		if _, err := l.Memory.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.LeaseGrant{ID: id, TTL: 60}}}); err != nil {
			t.Fatal(err)
		}
	}
}

// left is how many seconds a lease has left at the upstream.
func left(t *testing.T, l *link, id int64) int64 {
	t.Helper()
	page, err := l.Memory.Read(t.Context(), kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: id}}})
	if err != nil {
		t.Fatal(err)
	}
	return page.Ops[0].Leases[0].TTL
}

func (l *link) renewals() []int {
	l.mu.Lock()
	defer l.mu.Unlock()
	return append([]int(nil), l.renewed...)
}

// A thousand clients that renew 20 leases for ten seconds cost no more calls than there are intervals.
func TestRenewalsOfManyClientsAreFewCalls(t *testing.T) {
	const clients, leases = 1000, 20
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		var ids []int64
		for i := range int64(leases) {
			ids = append(ids, i+1)
		}
		granted(t, l, ids...)
		var wg sync.WaitGroup
		for i := range clients {
			wg.Go(func() {
				id := ids[i%leases]
				time.Sleep(time.Duration(i) * time.Millisecond)
				for range 10 {
					time.Sleep(time.Second)
					asked := time.Now()
					res, err := p.Do(t.Context(), renewOf(id))
					if err != nil {
						t.Errorf("client %d: %v", i, err)
						return
					}
					if got := res.Ops[0].Leases[0]; got.ID != id || got.TTL != 60 || got.Granted != 60 {
						t.Errorf("client %d: %+v", i, got)
					}
					if waited := time.Since(asked); waited > renewEvery {
						t.Errorf("client %d waited %v", i, waited)
					}
				}
			})
		}
		wg.Wait()
		calls := l.renewals()
		if most := int(12 * time.Second / renewEvery); len(calls) > most || len(calls) < most/2 {
			t.Errorf("%d renewals took %d calls, want at most %d", clients*10, len(calls), most)
		}
		for _, n := range calls {
			if n > leases {
				t.Errorf("a call has %d renewals of %d leases", n, leases)
			}
		}
		for _, id := range ids {
			if ttl := left(t, l, id); ttl < 58 {
				t.Errorf("lease %d has %d s left at the end", id, ttl)
			}
		}
	})
}

// Whoever asks while a call is under way is not answered by it: the lease may have been renewed before he asked.
func TestARenewalIsNotAnsweredByACallThatWasSentBefore(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		granted(t, l, 7)
		l.slow = make(chan struct{})
		var wg sync.WaitGroup
		for range 2 {
			wg.Go(func() {
				if _, err := p.Do(t.Context(), renewOf(7)); err != nil {
					t.Error(err)
				}
			})
			time.Sleep(10 * time.Second / 11) // the first is under way, and its lease renewed
		}
		if n := len(l.renewals()); n != 2 {
			t.Errorf("%d calls, want one for each", n)
		}
		if ttl := left(t, l, 7); ttl < 59 {
			t.Errorf("%d s left when the second was sent", ttl)
		}
		close(l.slow)
		wg.Wait()
	})
}

func TestRenewalsFailAtOnceWhileTheUplinkIsLost(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		granted(t, l, 7)
		l.setCut(true)
		for range 5 {
			began := time.Now()
			_, err := p.Do(t.Context(), renewOf(7))
			if kv.CodeOf(err) != kv.UpstreamUnavailable || time.Since(began) > renewEvery {
				t.Errorf("after %v: %v, want upstream-unavailable within %v", time.Since(began), err, renewEvery)
			}
		}
		l.setCut(false)
		if _, err := p.Do(t.Context(), renewOf(7)); err != nil {
			t.Errorf("with the uplink back: %v", err)
		}
	})
}

// Each of a batch has an answer of its own, and whoever gives up waiting holds up nobody.
func TestEachRenewalHasItsOwnAnswer(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		granted(t, l, 1)
		l.slow = make(chan struct{})
		short, cancel := context.WithTimeout(t.Context(), 200*time.Millisecond)
		defer cancel()
		var wg sync.WaitGroup
		ask := func(ctx context.Context, id int64, want kv.Code) {
			wg.Go(func() {
				if _, err := p.Do(ctx, renewOf(id)); kv.CodeOf(err) != want {
					t.Errorf("lease %d: %v, want %v", id, err, want)
				}
			})
		}
		ask(t.Context(), 1, kv.OK)
		time.Sleep(time.Millisecond)
		ask(t.Context(), 1, kv.OK)
		ask(t.Context(), 2, kv.LeaseNotFound)
		ask(short, 1, kv.OutcomeUnknown)
		time.Sleep(time.Second)
		close(l.slow)
		wg.Wait()
		if calls := l.renewals(); len(calls) != 2 || calls[1] != 2 {
			t.Errorf("calls of %v leases, want one of 1 and one of 2", calls)
		}
		res, err := p.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{renewOf(2), renewOf(1)}}}})
		if err != nil || res.Ops[0].Each[0].Err == nil || res.Ops[0].Each[1].Err != nil || res.Revision == 0 {
			t.Errorf("a batch of one below: %+v, %v", res, err)
		}
	})
}

func TestAMemberThatTakesNoBatchIsAskedForEachLease(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		granted(t, l, 1, 2, 3)
		l.former = true
		batch := kv.Command{Ops: []kv.Op{kv.Each{Commands: []kv.Command{renewOf(1), renewOf(2), renewOf(3)}}}}
		for _, want := range []int{1 + 3, 1 + 3 + 3} { // the refusal is found out once
			res, err := p.Do(t.Context(), batch)
			if err != nil {
				t.Fatal(err)
			}
			for _, out := range res.Ops[0].Each {
				if out.Err != nil {
					t.Error(out.Err)
				}
			}
			if n := len(l.renewals()); n != want {
				t.Errorf("%d calls, want %d", n, want)
			}
		}
		l.mu.Lock()
		l.former = false // it was upgraded
		l.mu.Unlock()
		time.Sleep(2 * renewSingly)
		if _, err := p.Do(t.Context(), batch); err != nil || len(l.renewals()) != 8 {
			t.Errorf("%v, %d calls, want one more", err, len(l.renewals()))
		}
	})
}

func TestTooManyRenewalsAreBusy(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		l := newLink()
		p, _ := open(t, l, t.TempDir())
		l.slow = make(chan struct{})
		var wg sync.WaitGroup
		busy := 0
		var mu sync.Mutex
		const all = renewCalls*renewMost + renewalsMax + 100
		for i := range all {
			wg.Go(func() {
				_, err := p.Do(t.Context(), renewOf(int64(i+1)))
				mu.Lock()
				defer mu.Unlock()
				if kv.CodeOf(err) == kv.Busy {
					busy++
				} else if kv.CodeOf(err) != kv.LeaseNotFound {
					t.Error(err)
				}
			})
			if i%renewMost == 0 {
				time.Sleep(renewEvery) // calls go out while there are any left to go
			}
		}
		time.Sleep(time.Second)
		close(l.slow)
		wg.Wait()
		if busy < 100 || busy > all-renewalsMax {
			t.Errorf("%d of %d were refused; %d may wait", busy, all, renewalsMax)
		}
	})
}

// Who renews does not wait for the proxy's end: with the race detector this fails if a call begins while the end of all is waited
// for.
func TestARenewalAfterTheEndIsRefused(t *testing.T) {
	l := newLink()
	p, shut := open(t, l, t.TempDir())
	granted(t, l, 7)
	first := make(chan struct{})
	ended := make(chan error, 1)
	go func() {
		_, err := p.Do(t.Context(), renewOf(7))
		close(first)
		for err == nil {
			_, err = p.Do(t.Context(), renewOf(7))
		}
		ended <- err
	}()
	<-first
	shut()
	if err := <-ended; kv.CodeOf(err) != kv.Stopping {
		t.Errorf("got %v, want stopping", err)
	}
}
