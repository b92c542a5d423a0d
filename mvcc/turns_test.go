package mvcc

import (
	"testing"
	"testing/synctest"
	"time"
)

// idlers are streams that nobody runs.
func idlers(h *hub, n int) []*stream {
	all := make([]*stream, n)
	for i := range all {
		all[i] = &stream{wake: make(chan struct{}, 1)}
		h.open(all[i])
	}
	return all
}

// tellAll tells streams of changes, one after the other before anybody has his turn.
func tellAll(h *hub, changes ...[]*stream) {
	h.mu.Lock()
	defer h.mu.Unlock()
	for _, told := range changes {
		for _, st := range told {
			h.turns.add(st)
		}
		h.wakeTold()
	}
}

// woken is how many are awake; they fall asleep again. It fails if one is behind one that is not.
func woken(t *testing.T, all []*stream) (n int) {
	t.Helper()
	for i, st := range all {
		select {
		case <-st.wake:
			if n++; n != i+1 {
				t.Errorf("stream %d is awake, and only %d of those before it", i, n-1)
			}
		default:
		}
	}
	return n
}

func TestFewStreamsAreWokenAtOnce(t *testing.T) {
	h := newHub()
	all := idlers(h, turnsAtOnce)
	tellAll(h, all)
	if n := woken(t, all); n != len(all) {
		t.Errorf("%d of %d are awake", n, len(all))
	}
}

// One change for many holds nobody up for longer than it takes to wake them.
func TestManyStreamsAreWokenWithoutPause(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		defer h.end()
		all := idlers(h, 1000)
		for range 3 {
			tellAll(h, all)
			synctest.Wait()
			if n := woken(t, all); n != len(all) {
				t.Fatalf("%d of %d are awake", n, len(all))
			}
		}
	})
}

// With changes that come while others stand in line there are pauses, in which nobody is woken.
func TestStreamsInLineWaitForTheirTurn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		defer h.end()
		all := idlers(h, 200)
		tellAll(h, all[:100], all) // the first hundred are told twice, and stand in line once
		for n := range len(all) / turnsFew {
			synctest.Wait()
			if got := woken(t, all[n*turnsFew:]); got != turnsFew {
				t.Fatalf("after %d pauses %d more are awake, want %d", n, got, turnsFew)
			}
			time.Sleep(turnsPause)
		}
		synctest.Wait()
		if got := woken(t, all[192:]); got != 8 {
			t.Errorf("of the last 8 %d are awake", got)
		}
		time.Sleep(turnsPause)
		synctest.Wait()
		tellAll(h, all) // nobody was in line
		synctest.Wait()
		if got := woken(t, all); got != len(all) {
			t.Errorf("%d of %d are awake", got, len(all))
		}
	})
}

// However many streams there are, the last one is not far.
func TestALongLineMovesOn(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		defer h.end()
		all := idlers(h, 100_000)
		tellAll(h, all[:1000], all)
		time.Sleep(200 * time.Millisecond)
		synctest.Wait()
		if n := woken(t, all); n != len(all) {
			t.Errorf("%d of %d are awake", n, len(all))
		}
	})
}

func TestTheEndWakesWhoStandsInLine(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		h := newHub()
		all := idlers(h, 1000)
		tellAll(h, all[:100], all)
		synctest.Wait()
		began := time.Now()
		h.end()
		if took := time.Since(began); took > turnsPauseMax {
			t.Errorf("it took %v", took)
		}
		for i, st := range all {
			if len(st.wake) == 0 {
				t.Fatalf("stream %d sleeps", i)
			}
		}
		woken(t, all)
		tellAll(h, all)
		if n := woken(t, all); n != len(all) {
			t.Errorf("later %d of %d are awake", n, len(all))
		}
	})
}
