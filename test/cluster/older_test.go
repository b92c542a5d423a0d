package cluster

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/member"
)

// TestAMemberFromBeforeSlices has one in the cluster that neither reads nor writes slices, as while members are upgraded one after
// the other: long values are committed under loss whichever of them leads, and snapshots pass both ways. Nothing is sent to it that
// it would have to refuse.
func TestAMemberFromBeforeSlices(t *testing.T) {
	const beforeSlices = 1
	for i, leads := range []bool{true, false} {
		t.Run(fmt.Sprintf("it leads %t", leads), func(t *testing.T) {
			seed := uint64(230 + i) //nolint:gosec // few
			opts := Options{Seed: seed, Delay: floorRTT / 2, Change: func(c *member.Config) { c.SnapshotEntries = 60 }}
			synctest.Test(t, func(t *testing.T) {
				c := New(t, opts)
				older := c.Nodes()[0]
				older.Dialect = beforeSlices
				c.Start()
				leader := older
				if !leads {
					leader = c.Nodes()[1]
				}
				if from := c.Leader(); from != leader {
					if err := from.MoveLeader(t.Context(), leader.Replica); err != nil {
						t.Fatal(err)
					}
				}
				for _, a := range c.Nodes() {
					for _, b := range c.Others(a) {
						c.Net.Link(a.Name, b.Name).Loss(.05).Rate(100e6)
					}
				}
				writeAt(t, leader, 100, 50*time.Millisecond) // in which the loss is noticed
				refused := func() (sum float64) {
					for _, n := range c.Nodes() {
						sum += n.counted("holdfast_raftnet_dropped_total", "refused")
					}
					return sum
				}
				before := refused() // connections that crossed may have had some
				long := &latencies{began: time.Now()}
				for j := range 5 {
					began := time.Now()
					if _, err := leader.Do(context.Background(), put(fmt.Sprintf("long%d", j), incompressible(seed, 64<<10))); err != nil {
						t.Errorf("value %d: %v", j, err)
					}
					long.add(began)
				}
				c.AwaitSame(30 * time.Second)
				if n := refused() - before; n > 0 {
					t.Errorf("%v streams or letters were refused", n)
				}

				// Snapshots: from whichever leads to the one of the other version.
				behind := older
				if leads {
					behind = c.Nodes()[1]
				}
				behind.Kill()
				writeAt(t, leader, 200, 20*time.Millisecond)
				sent := leader.Chunks()
				behind.Start()
				behind.AwaitReady(2 * time.Minute)
				if leader.Chunks() == sent {
					t.Error("the member caught up without a snapshot: the test does not test what it says")
				}
				c.AwaitSame(30 * time.Second)
				t.Logf("long %s; at most %s", long, long.quantile(1))
				if most := long.quantile(1); most > 5*time.Second {
					t.Errorf("a value of 64 kB took %s", most)
				}
				if s := leader.Condition(); s.Leader != leader.Replica {
					t.Errorf("replica %d leads, want %d", s.Leader, leader.Replica)
				}
			})
		})
	}
}
