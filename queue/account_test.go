package queue

import (
	"errors"
	"fmt"
	"math/rand/v2"
	"sync"
	"testing"
	"time"

	"holdfast/kv"
)

// TestEveryAcknowledgementIsAccountedForOnce is the promise as a whole: writers, a link that comes, goes and loses
// answers, crashes. Each value is unique, so what was applied can be told.
func TestEveryAcknowledgementIsAccountedForOnce(t *testing.T) {
	for round := range 8 {
		seed := uint64(round + 1)
		t.Run(fmt.Sprint("seed ", seed), func(t *testing.T) { account(t, seed) })
	}
}

func account(t *testing.T, seed uint64) {
	rnd := rand.New(rand.NewPCG(seed, 7))
	c := newCluster()
	dir := t.TempDir()
	var mu sync.Mutex
	acked := map[string][]string{} // per key, in the order of acknowledgement by its one writer
	surelyNot := map[string]bool{}
	for life := range 6 {
		b := start(t, c, options(dir))
		var writers sync.WaitGroup
		for w := range 4 {
			writers.Go(func() {
				key := fmt.Sprint("q/none/", w)
				for i := range 40 {
					v := fmt.Sprint(w, ".", life, ".", i)
					_, err := b.put(key, v, []kv.Write{kv.WriteAuto, kv.WriteQueue, kv.WriteSync}[i%3])
					mu.Lock()
					switch {
					case err == nil:
						acked[key] = append(acked[key], v)
					case kv.CodeOf(err) == kv.UpstreamUnavailable:
						surelyNot[v] = true
					case !errors.Is(err, &kv.Error{Code: kv.OutcomeUnknown}):
						t.Errorf("put %s: %v", v, err)
					}
					mu.Unlock()
				}
			})
		}
		for range 10 {
			c.set(rnd.IntN(2) == 0, rnd.IntN(3) == 0)
			time.Sleep(time.Duration(rnd.IntN(10)) * time.Millisecond)
		}
		c.set(rnd.IntN(2) == 0, false)
		writers.Wait()
		b.crash()
	}
	c.set(true, false)
	b := start(t, c, options(dir))
	eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
	if kept := b.List(-1, ""); len(kept) > 0 {
		t.Errorf("ended badly: %+v", kept)
	}
	times, at := map[string]int{}, map[string]int{}
	for i, v := range c.log() {
		times[v]++
		at[v] = i
	}
	for v, n := range times {
		if n > 1 || surelyNot[v] {
			t.Errorf("%s applied %d times, said not to be applied: %v", v, n, surelyNot[v])
		}
	}
	for key, vs := range acked {
		for i, v := range vs {
			if times[v] != 1 {
				t.Errorf("%s: %s acknowledged and applied %d times", key, v, times[v])
			}
			if i > 0 && at[vs[i-1]] > at[v] {
				t.Errorf("%s: %s applied before %s", key, v, vs[i-1])
			}
		}
	}
}
