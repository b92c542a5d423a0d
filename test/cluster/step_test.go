package cluster

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"
)

// TestWritesGoOnWhenRoundTripsGetLong has all links go from a good one to a satellite, from one moment to the next, as where
// a mobile network gives way to it: a write commits soon, and nobody elects again and again.
func TestWritesGoOnWhenRoundTripsGetLong(t *testing.T) {
	const long = 600 * time.Millisecond
	for i, c := range []struct {
		name     string
		rtt      time.Duration
		rate     int64         // of the satellite
		busy     bool          // there are writes before
		rest     time.Duration // without, before
		follower bool
	}{
		{name: "1 ms, busy", rtt: time.Millisecond, busy: true},
		{name: "10 ms, busy", rtt: 10 * time.Millisecond, busy: true},
		{name: "40 ms, busy, through a follower", rtt: 40 * time.Millisecond, busy: true, follower: true},
		{name: "10 ms, at rest", rtt: 10 * time.Millisecond, rest: 3 * time.Minute},
		{name: "10 ms, just at rest, through a follower", rtt: 10 * time.Millisecond, rest: 5 * time.Second, follower: true},
		{name: "10 ms, busy, then 256 kbit/s", rtt: 10 * time.Millisecond, busy: true, rate: 256_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			for run := range 3 {
				synctest.Test(t, func(t *testing.T) {
					cl := New(t, Options{Seed: uint64(70 + 10*i + run), Delay: c.rtt / 2}) //nolint:gosec // few
					cl.Start()
					leader := cl.Leader()
					through := leader
					if c.follower {
						through = cl.Others(leader)[0]
					}
					if c.busy {
						writeAt(t, through, 600, 50*time.Millisecond)
					} else {
						mustPut(t, through, "k", "v")
						time.Sleep(c.rest)
					}
					term := leader.Condition().Term
					for _, a := range cl.Nodes() {
						for _, b := range cl.Others(a) {
							cl.Net.Link(a.Name, b.Name).Delay(long / 2).Rate(c.rate).Buffer(time.Second)
						}
					}
					began := time.Now()
					var first, slowest time.Duration
					failed := 0
					for n := 0; time.Since(began) < time.Minute; n++ {
						at := time.Now()
						limited, cancel := context.WithTimeout(context.Background(), 10*time.Second)
						_, err := through.Do(limited, put(fmt.Sprint("after", n), "v"))
						cancel()
						took := time.Since(at)
						if err != nil {
							failed++
							t.Logf("at %s: %v", at.Sub(began), err)
							continue
						}
						if first == 0 {
							first = time.Since(began)
						}
						slowest = max(slowest, took)
						time.Sleep(200 * time.Millisecond)
					}
					terms := leader.Condition().Term - term
					t.Logf("first write after %s, slowest %s, %d failed, %d terms", first, slowest, failed, terms)
					if first == 0 || first > 5*time.Second || terms > 1 {
						t.Errorf("the first write took %s, and %d terms went by; want 5 s and 1 at most", first, terms)
					}
				})
			}
		})
	}
}
