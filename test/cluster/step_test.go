package cluster

import (
	"fmt"
	"testing"
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
		rest     time.Duration // before, after writes
		follower bool
	}{
		{name: "streams before", rtt: time.Millisecond},
		{name: "busy, through a follower", rtt: 40 * time.Millisecond, follower: true},
		{name: "at rest", rtt: 10 * time.Millisecond, rest: 3 * time.Minute},
		{name: "busy, to 256 kbit/s", rtt: 10 * time.Millisecond, rate: 256_000},
	} {
		t.Run(c.name, func(t *testing.T) {
			bubble(t, Options{Seed: uint64(70 + i), Delay: c.rtt / 2}, func(t *testing.T, cl *Cluster) { //nolint:gosec // few
				leader := cl.Leader()
				through := leader
				if c.follower {
					through = cl.Others(leader)[0]
				}
				writeAt(t, through, 400, 50*time.Millisecond)
				time.Sleep(c.rest)
				term := leader.Condition().Term
				for _, a := range cl.Nodes() {
					for _, b := range cl.Others(a) {
						cl.Net.Link(a.Name, b.Name).Delay(long / 2).Rate(c.rate).Buffer(time.Second)
					}
				}
				began := time.Now()
				var first, slowest time.Duration
				for n := 0; time.Since(began) < 30*time.Second; n++ {
					at := time.Now()
					mustPut(t, through, fmt.Sprint("after", n), "v")
					if first == 0 {
						first = time.Since(began)
					}
					slowest = max(slowest, time.Since(at))
					time.Sleep(200 * time.Millisecond)
				}
				terms := leader.Condition().Term - term
				t.Logf("first write after %s, slowest %s, %d terms", first, slowest, terms)
				if first > 5*time.Second || slowest > 5*time.Second || terms > 1 {
					t.Errorf("the first write took %s, another %s, and %d terms went by; want 5 s and 1 at most", first, slowest, terms)
				}
			})
		})
	}
}
