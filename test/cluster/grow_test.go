package cluster

import (
	"fmt"
	"testing"
	"time"

	"holdfast/member"
)

// voters waits until the roster of n has that many voters and nobody else.
func awaitVoters(t *testing.T, n *Node, want int, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	var r member.Roster
	for time.Since(began) < limit {
		r = n.Roster()
		voters := 0
		for _, s := range r.Seats {
			if s.State == member.SeatVoter {
				voters++
			}
		}
		if voters == want && len(r.Seats) == want {
			return time.Since(began)
		}
		time.Sleep(10 * time.Millisecond)
	}
	t.Fatalf("%s has %+v after %s, want %d voters", n.Name, r, limit, want)
	return 0
}

func TestOneGrowsToThree(t *testing.T) {
	bubble(t, Options{Members: 1, Seed: 21, Loss: 0.01}, func(t *testing.T, c *Cluster) {
		first := c.Nodes()[0]
		for i := range 50 {
			mustPut(t, first, fmt.Sprint("k", i), "v")
		}
		began := time.Now()
		for range 2 {
			if _, err := c.Join(first); err != nil {
				t.Fatal(err)
			}
		}
		awaitVoters(t, first, 3, time.Minute)
		t.Logf("three voters after %s", time.Since(began))
		for _, n := range c.Nodes() {
			n.AwaitReady(time.Minute)
		}
		c.AwaitSame(time.Minute)
	})
}
