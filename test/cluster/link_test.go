package cluster

import (
	"context"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strings"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

// latencies are how long writes took, and when each began.
type latencies struct {
	began time.Time
	mu    sync.Mutex
	at    []time.Duration
	took  []time.Duration
}

func (l *latencies) add(began time.Time) {
	took := time.Since(began)
	l.mu.Lock()
	defer l.mu.Unlock()
	l.at = append(l.at, began.Sub(l.began))
	l.took = append(l.took, took)
}

// quantile is the value that a share of all do not exceed.
func (l *latencies) quantile(share float64) time.Duration {
	sorted := slices.Sorted(slices.Values(l.took))
	return sorted[min(int(share*float64(len(sorted))), len(sorted)-1)]
}

func (l *latencies) String() string {
	var b strings.Builder
	for _, q := range []float64{.5, .9, .99, .999} {
		fmt.Fprintf(&b, "%.1f / ", float64(l.quantile(q))/float64(time.Millisecond))
	}
	return strings.TrimSuffix(b.String(), " / ") + " ms (p50 / p90 / p99 / p99.9)"
}

// keep writes the history down where the test's failure can be looked into.
func (l *latencies) keep(t *testing.T, seed uint64) {
	dir := os.Getenv("HOLDFAST_TEST_KEEP")
	if dir == "" {
		dir = os.TempDir()
	}
	name := filepath.Join(dir, fmt.Sprintf("holdfast-%s-seed-%d.csv", strings.ReplaceAll(t.Name(), "/", "-"), seed))
	var b strings.Builder
	b.WriteString("began_us,took_us\n")
	for i := range l.at {
		fmt.Fprintf(&b, "%d,%d\n", l.at[i].Microseconds(), l.took[i].Microseconds())
	}
	if err := os.WriteFile(name, []byte(b.String()), 0o600); err != nil {
		t.Logf("the history could not be kept: %v", err)
		return
	}
	t.Logf("seed %d, history in %s", seed, name)
}

// writeAt puts count keys through n, one every gap, whether or not those before have been answered.
func writeAt(t *testing.T, n *Node, count int, gap time.Duration) *latencies {
	t.Helper()
	l := &latencies{began: time.Now()}
	value := strings.Repeat("x", 128)
	var wg sync.WaitGroup
	defer wg.Wait()
	for i := range count {
		wg.Go(func() {
			began := time.Now()
			if _, err := n.Do(context.Background(), put(fmt.Sprintf("key%05d", i%1000), value)); err != nil {
				t.Errorf("write %d on %s: %v", i, n.Name, err)
				return
			}
			l.add(began)
		})
		time.Sleep(gap)
	}
	return l
}

// floor is what must hold on a link.
type floor struct {
	name     string
	loss     float64
	burst    int
	rate     int // writes a second
	follower bool
	p99      float64 // round trips
	p999     float64
	long     bool // only with HOLDFAST_TEST_LONG
}

// long is set by nightly runs.
func long() bool { return os.Getenv("HOLDFAST_TEST_LONG") != "" }

const floorRTT = 50 * time.Millisecond

// TestCommitTakesOneRoundTripUnderLoss holds the floors of the targets: virtual time, so that nothing but the network
// and what waits for it counts.
func TestCommitTakesOneRoundTripUnderLoss(t *testing.T) {
	for i, f := range []floor{
		{name: "no loss", rate: 20, p99: 1.05, p999: 1.2, long: true},
		{name: "2 %", loss: .02, rate: 20, p99: 1.2, p999: 2.4, long: true},
		{name: "5 %", loss: .05, rate: 20, p99: 1.2, p999: 2.4},
		{name: "10 %", loss: .10, rate: 20, p99: 1.5, p999: 3, long: true},
		{name: "5 % in runs", loss: .05, burst: 4, rate: 20, p99: 1.2, p999: 2.4},
		{name: "5 %, 200 a second", loss: .05, rate: 200, p99: 1.2, p999: 2.4, long: true},
		{name: "5 %, through a follower", loss: .05, rate: 20, follower: true, p99: 2.5, p999: 4},
	} {
		if f.long && !long() {
			continue
		}
		t.Run(f.name, func(t *testing.T) {
			f.hold(t, uint64(100+i)) //nolint:gosec // few
		})
	}
}

// TestWritesKeepUpOnALongLink: what a long link does not bring in time is sent again so that it comes, and is not behind for good.
func TestWritesKeepUpOnALongLink(t *testing.T) {
	for i, l := range []struct {
		name string
		rtt  time.Duration
		rate int
		long bool
	}{
		{"250 ms, 200 a second", 250 * time.Millisecond, 200, false},
		{"600 ms, 60 a second", 600 * time.Millisecond, 60, true},
	} {
		if l.long && !long() {
			continue
		}
		t.Run(l.name, func(t *testing.T) {
			seed := uint64(300 + i) //nolint:gosec // few
			synctest.Test(t, func(t *testing.T) {
				c := New(t, Options{Seed: seed, Delay: l.rtt / 2})
				c.Start()
				leader := c.Leader()
				for _, a := range c.Nodes() {
					for _, b := range c.Others(a) {
						c.Net.Link(a.Name, b.Name).Loss(.03)
					}
				}
				took := writeAt(t, leader, 20*l.rate, time.Second/time.Duration(l.rate)) // from one moment to the next
				t.Log(took)
				if p90, p999 := took.quantile(.9), took.quantile(.999); p90 > 2*l.rtt || p999 > 6*l.rtt {
					t.Errorf("p90 %s, p99.9 %s, want 2 and 6 round trips at most", p90, p999)
				}
				if t.Failed() {
					took.keep(t, seed)
				}
			})
		})
	}
}

func (f floor) hold(t *testing.T, seed uint64) {
	synctest.Test(t, func(t *testing.T) {
		c := New(t, Options{Seed: seed, Delay: floorRTT / 2})
		c.Start()
		leader := c.Leader()
		for _, a := range c.Nodes() {
			for _, b := range c.Others(a) {
				c.Net.Link(a.Name, b.Name).Loss(f.loss).Burst(f.burst)
			}
		}
		through := leader
		if f.follower {
			through = c.Others(leader)[0]
		}
		gap := time.Second / time.Duration(f.rate)
		writeAt(t, through, max(200, 4*f.rate), gap) // in which the loss is noticed
		count := 400
		if f.burst > 0 { // few runs of losses are worse than many by chance
			count = 1600
		}
		if long() {
			count = max(4000, 40*f.rate)
		}
		before := c.wire()
		l := writeAt(t, through, count, gap)
		after := c.wire()
		t.Logf("%s, %d bytes in %d packets for each write", l, (after.Bytes-before.Bytes)/count, (after.Packets-before.Packets)/count)
		for _, n := range c.Nodes() {
			for peer, s := range n.raft.Mail() {
				t.Logf("%s to %.4s: %+v", n.Name, peer, s)
			}
		}
		if c.Leader() != leader {
			t.Error("another member leads")
		}
		p99, p999 := l.quantile(.99), l.quantile(.999)
		if p99 > time.Duration(f.p99*float64(floorRTT)) || p999 > time.Duration(f.p999*float64(floorRTT)) {
			t.Errorf("p99 %s, p99.9 %s, want at most %.2f and %.2f of %s", p99, p999, f.p99, f.p999, floorRTT)
		}
		if t.Failed() {
			l.keep(t, seed)
		}
	})
}
