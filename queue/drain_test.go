package queue

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
)

// way is a box's way to the cluster: it notes when how many of its ops arrive.
type way struct {
	*cluster
	mu   sync.Mutex
	came []arrival
}

type arrival struct {
	at  time.Time
	ops int
}

func (w *way) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	res, err := w.cluster.Do(ctx, c)
	if e, ok := c.Ops[0].(kv.Each); ok && err == nil && len(e.Commands[0].Ops) == 1 {
		if _, skip := e.Commands[0].Ops[0].(kv.Skip); !skip {
			w.mu.Lock()
			defer w.mu.Unlock()
			w.came = append(w.came, arrival{time.Now(), len(e.Commands)})
		}
	}
	return res, err
}

func (w *way) arrivals() []arrival {
	w.mu.Lock()
	defer w.mu.Unlock()
	return append([]arrival(nil), w.came...)
}

// most is the most ops that arrived within any span so long, both ends included.
func most(came []arrival, span time.Duration) (n int) {
	for _, first := range came {
		sum := 0
		for _, a := range came {
			if d := a.at.Sub(first.at); d >= 0 && d <= span {
				sum += a.ops
			}
		}
		n = max(n, sum)
	}
	return n
}

// Whoever has waited for the cluster comes within the longest pause, and not at one moment with all others.
func TestBoxesThatWaitedForTheClusterDoNotComeAtOnce(t *testing.T) {
	const boxes, outage = 200, 10 * time.Minute
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(false, false)
		ways := make([]*way, boxes)
		for i := range ways {
			o := options(t.TempDir())
			o.Origin, o.Retry = [16]byte{1, byte(i)}, 0 // the pause as it is by default
			ways[i] = &way{cluster: c}
			start(t, ways[i], o).mustQueue("q/none/a", fmt.Sprint(i))
		}
		time.Sleep(outage)
		c.set(true, false)
		back := time.Now()
		time.Sleep(retryDefault + time.Second)
		var all []arrival
		for i, w := range ways {
			came := w.arrivals()
			if len(came) != 1 {
				t.Fatalf("box %d: %v arrived, want its one write", i, came)
			}
			if late := came[0].at.Sub(back); late > retryDefault {
				t.Errorf("box %d came after %v, want %v at the most", i, late, retryDefault)
			}
			all = append(all, came...)
		}
		// Their pauses are between half of the longest and the longest, so that at most one in 3.75 comes within a second:
		// of 200 in a quarter of one 13, with a deviation of 3.5.
		if n := most(all, time.Second/4); n > 36 {
			t.Errorf("%d of %d came within a quarter of a second", n, boxes)
		}
	})
}

// No more go up than the rate allows, a second's worth at once, over outages and restarts; flush goes past it.
func TestADrainKeepsItsRate(t *testing.T) {
	const rate, ops = 50, 500
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		c.set(false, false)
		w := &way{cluster: c}
		o := options(t.TempDir())
		o.DrainRate = rate
		b := start(t, w, o)
		for i := range ops {
			b.mustQueue(fmt.Sprint("q/none/", i%7), fmt.Sprint(i))
		}
		time.Sleep(time.Minute)
		c.set(true, false)
		began := time.Now()
		time.Sleep(3 * time.Second)
		c.set(false, false) // what the rate does not use while nothing can be sent is not saved up
		time.Sleep(time.Minute)
		c.set(true, false)
		time.Sleep(3 * time.Second)
		left := b.Status().Depth
		if left == 0 || left > ops-4*rate {
			t.Fatalf("%d of %d are left after 6 s at %d a second", left, ops, rate)
		}
		for _, span := range []time.Duration{time.Second, 2 * time.Second} {
			bound := rate + int(rate*span.Seconds())
			if n := most(w.arrivals(), span); n > bound {
				t.Errorf("%d within %v, want %d at the most", n, span, bound)
			}
		}
		if s := b.Status(); s.Rate <= 0 || s.Rate > rate || s.ETA <= 0 {
			t.Errorf("status says a rate of %v and an ETA of %v", s.Rate, s.ETA)
		}
		b.crash()
		b = start(t, w, o)
		restarted := time.Now()
		eventually(t, "half of it is there", func() bool { return b.Status().Depth <= left/2 })
		if took := time.Since(restarted); took < time.Second*time.Duration(left/2-rate)/rate {
			t.Errorf("%d went up within %v", left-left/2, took)
		}
		before := time.Now()
		b.Flush()
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		if took := time.Since(before); took > time.Second {
			t.Errorf("what was flushed took %v", took)
		}
		if got := len(c.log()); got != ops {
			t.Errorf("%d applied, want %d", got, ops)
		}
		t.Logf("%d in %v", ops, time.Since(began))
	})
}
