package auth

import (
	"context"
	"sync"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// watchedNode is a stream of watches through a Guard, in a bubble.
type watchedNode struct {
	t        *testing.T
	controls chan kv.WatchControl
	got      chan kv.Batch
	end      func() // ends the stream and waits for it
}

func watches(t *testing.T, g *Guard, by kv.By, all ...kv.Watch) *watchedNode {
	t.Helper()
	ctx, cancel := context.WithCancel(t.Context())
	w := &watchedNode{t: t, controls: make(chan kv.WatchControl), got: make(chan kv.Batch, 16)}
	var wg sync.WaitGroup
	wg.Go(func() {
		for b, err := range streamed(ctx, t, g, kv.WatchSpec{By: by, Control: w.controls, Watches: all}) {
			if err != nil {
				t.Error(err)
			}
			w.got <- b
		}
	})
	w.end = func() { cancel(); wg.Wait() }
	return w
}

// gets is what has come once nobody has anything to do.
func (w *watchedNode) gets(what string, id int64, created, canceled bool, code kv.Code) {
	w.t.Helper()
	synctest.Wait()
	select {
	case b := <-w.got:
		var err error
		if b.Err != nil {
			err = b.Err
		}
		if b.WatchID != id || b.Created != created || b.Canceled != canceled || kv.CodeOf(err) != code {
			w.t.Errorf("%s: got %+v, want watch %d, created %v, canceled %v, %v", what, b, id, created, canceled, code)
		}
	default:
		w.t.Errorf("%s: nothing came, want watch %d", what, id)
	}
}

// A right is withdrawn while a second watch is judged by the policy before, and an event of the first one has that judged by the
// one after.
func TestAWatchThatWasJudgedByAnOlderPolicyIsJudgedAgain(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		n := newNode(policyOf(t, append(withRoot, addUser("reader"), addRole("r"), permit("r", "a", "", kv.PermitRead), permit("r", "x", "", kv.PermitRead),
			grantRole("reader", "r"), enable)...))
		token, err := n.policy.Sign("reader", time.Now(), time.Hour)
		if err != nil {
			t.Fatal(err)
		}
		var meanwhile atomic.Pointer[func()] // what happens while a token is looked at
		g, _ := guarded(n, func() time.Time {
			if do := meanwhile.Swap(nil); do != nil {
				(*do)()
			}
			return time.Now()
		})
		w := watches(t, g, kv.By{Token: token}, kv.Watch{ID: 1, Key: []byte("a")})
		defer w.end()
		w.gets("the first", 1, true, false, kv.OK)
		withdraw := func() {
			n.change(t, kv.SetAuth{Do: kv.AuthRevokePermission, Role: "r", Key: []byte("x")})
			n.batches <- kv.Batch{WatchID: 1, Events: []kv.Event{{}}}
			<-w.got
		}
		meanwhile.Store(&withdraw)
		w.controls <- kv.WatchControl{Add: &kv.Watch{ID: 2, Key: []byte("x")}}
		w.gets("the second", 2, true, false, kv.OK)
		w.gets("its end", 2, false, true, kv.PermissionDenied)
	})
}

func TestAWatchEndsWithTheTokenOfItsDevice(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kv.Device{Verbs: kv.VerbWatch, Prefixes: []string{"site/"}, Expires: time.Now().Add(time.Hour).Unix()}
		id, token := NewDevice(&d)
		n := newNode(shop(t))
		n.change(t, kv.SetDevice{ID: id, Device: &d})
		var behind atomic.Int64 // the clock of the node
		g, _ := guarded(n, func() time.Time { return time.Now().Add(-time.Duration(behind.Load())) })
		idle := watches(t, g, kv.By{Token: token}, kv.Watch{ID: 1, Key: []byte("site/1")})
		defer idle.end()
		idle.gets("the idle one", 1, true, false, kv.OK)
		busy := watches(t, g, kv.By{Token: token}, kv.Watch{ID: 1, Key: []byte("site/1")})
		defer busy.end()
		busy.gets("the busy one", 1, true, false, kv.OK)

		behind.Store(int64(time.Hour)) // it was put back
		time.Sleep(time.Hour + time.Second)
		synctest.Wait()
		if len(idle.got) > 0 {
			t.Error("it ended before its token")
		}
		n.change(t, addUser("somebody")) // judged again, and not forgotten
		time.Sleep(time.Hour)
		idle.gets("the idle one's end", 1, false, true, kv.Unauthenticated)
		busy.gets("the busy one's end", 1, false, true, kv.Unauthenticated)
	})
}

func TestNoEventOfADeviceWhoseTokenHasExpiredPasses(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kv.Device{Verbs: kv.VerbWatch, Prefixes: []string{"site/"}, Expires: time.Now().Add(time.Hour).Unix()}
		id, token := NewDevice(&d)
		n := newNode(shop(t))
		n.change(t, kv.SetDevice{ID: id, Device: &d})
		var ahead atomic.Int64
		g, _ := guarded(n, func() time.Time { return time.Now().Add(time.Duration(ahead.Load())) })
		w := watches(t, g, kv.By{Token: token}, kv.Watch{ID: 1, Key: []byte("site/1")})
		defer w.end()
		w.gets("the watch", 1, true, false, kv.OK)
		n.batches <- kv.Batch{WatchID: 1, Events: []kv.Event{{}}}
		w.gets("an event", 1, false, false, kv.OK)
		ahead.Store(int64(2 * time.Hour)) // the clock was wrong, and nothing wakes for that
		n.batches <- kv.Batch{WatchID: 1, Events: []kv.Event{{}}}
		w.gets("the end", 1, false, true, kv.Unauthenticated)
	})
}

// A watch is a request like any other. One that a proxy passes on was counted there, and comes again with all others when its
// link is back.
func TestTheWatchesOfADeviceCountForItsRate(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := kv.Device{Verbs: kv.VerbWatch, Prefixes: []string{"site/"}, Rate: 2}
		id, token := NewDevice(&d)
		n := newNode(shop(t))
		n.change(t, kv.SetDevice{ID: id, Device: &d})
		g, _ := guarded(n, time.Now)
		all := []kv.Watch{{ID: 1, Key: []byte("site/1")}, {ID: 2, Key: []byte("site/2")}, {ID: 3, Key: []byte("site/3")}}
		w := watches(t, g, kv.By{Token: token}, all...)
		defer w.end()
		w.gets("the first", 1, true, false, kv.OK)
		w.gets("the second", 2, true, false, kv.OK)
		w.gets("the third", 3, true, true, kv.RateLimited)
		if _, seen := g.LastSeen()[id]; !seen {
			t.Error("a device that only watches was never seen")
		}
		passed := watches(t, g, kv.By{Principal: kv.DevicePrincipal + id, Node: testNode}, all...)
		defer passed.end()
		for _, one := range all {
			passed.gets("through a proxy", one.ID, true, false, kv.OK)
		}
	})
}
