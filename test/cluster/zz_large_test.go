package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestZZLarge(t *testing.T) {
	for i, c := range []struct{ size, count, gapMS int }{{4 << 10, 300, 50}, {8000, 200, 50}, {64 << 10, 60, 500}, {1 << 20, 10, 6000}} {
		synctest.Test(t, func(t *testing.T) {
			cl := New(t, Options{Seed: uint64(500 + i), Delay: 25 * time.Millisecond})
			cl.Start()
			leader := cl.Leader()
			for _, a := range cl.Nodes() {
				for _, b := range cl.Others(a) {
					cl.Net.Link(a.Name, b.Name).Loss(.05).Rate(100_000_000)
				}
			}
			writeAt(t, leader, 200, 50*time.Millisecond)
			gap := time.Duration(c.gapMS) * time.Millisecond
			run := func(count int) *latencies {
				l := &latencies{began: time.Now()}
				var wg sync.WaitGroup
				for i := range count {
					wg.Go(func() {
						began := time.Now()
						if _, err := leader.Do(context.Background(), put(fmt.Sprint("large", i), noise(c.size))); err != nil {
							t.Errorf("%v", err)
							return
						}
						l.add(began)
					})
					time.Sleep(gap)
				}
				wg.Wait()
				return l
			}
			run(max(c.count/5, 3))
			before := cl.wire()
			l := run(c.count)
			after := cl.wire()
			t.Logf("LARGE %d: %s, %d bytes in %d packets", c.size, l, (after.Bytes-before.Bytes)/c.count, (after.Packets-before.Packets)/c.count)
		})
	}
}
