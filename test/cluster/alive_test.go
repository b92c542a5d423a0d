package cluster

import (
	"context"
	"testing"
	"time"
)

// A service manager that restarts what does not live would take a box with a bad link down again and again, were being cut off
// or behind taken for that: in the middle of the snapshot that it waits for, too.
func TestAMemberThatIsCutOffIsAlive(t *testing.T) {
	alive := func(t *testing.T, what string, n *Node) {
		t.Helper()
		ctx, cancel := context.WithTimeout(context.Background(), 20*time.Second)
		defer cancel()
		if err := n.Alive(ctx); err != nil {
			t.Errorf("%s, %s: %v", n.Name, what, err)
		}
	}
	bubble(t, Options{Seed: 31}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		follower := c.Others(leader)[0]
		for _, n := range c.Nodes() {
			alive(t, "all well", n)
		}
		for _, n := range []*Node{follower, leader} {
			c.Isolate(n)
			for range 6 {
				alive(t, "cut off", n)
				other := c.Others(n)[1]
				for l := other.Status().Leader; l == 0 || c.byReplica(l) == n; l = other.Status().Leader {
					time.Sleep(10 * time.Millisecond) // what is sent to a leader that is cut off may be lost
				}
				mustPut(t, other, "k", "v")
				time.Sleep(20 * time.Second)
			}
			c.Heal(n)
			alive(t, "back", n)
			c.AwaitSame(time.Minute)
		}
		for _, n := range c.Nodes() {
			if n.Applying()%2 != 0 {
				t.Errorf("%s is at rest and says that it applies entries", n.Name)
			}
		}
	})
	bubble(t, Options{Members: 1, Seed: 32}, func(t *testing.T, c *Cluster) {
		first := c.Nodes()[0]
		mustPut(t, first, "k", "v")
		learner, err := c.Join(first)
		if err != nil {
			t.Fatal(err)
		}
		for learner.Status().Leader == 0 {
			time.Sleep(time.Millisecond)
		}
		c.Isolate(learner)
		for range 6 {
			if learner.Status().Leader == 0 {
				t.Fatal("it is no learner any more: those keep the leader that they knew")
			}
			alive(t, "a learner that is cut off", learner)
			time.Sleep(20 * time.Second)
		}
		c.Heal(learner)
		awaitVoters(t, first, 2, 2*time.Minute)
	})
}
