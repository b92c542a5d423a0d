package cluster

import (
	"testing"
	"time"
)

// TestNoElectionOnABadLink leaves three members on a link like that of a satellite for an hour: nobody may take the leader
// for dead, neither while there is something to say nor at rest.
func TestNoElectionOnABadLink(t *testing.T) {
	busy := 2 * time.Minute
	if long() {
		busy = time.Hour
	}
	bubble(t, Options{Seed: 20, Delay: 150 * time.Millisecond}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		for _, a := range c.Nodes() {
			for _, b := range c.Others(a) {
				c.Net.Link(a.Name, b.Name).Loss(.10)
			}
		}
		mustPut(t, leader, "k", "v")
		term := leader.Condition().Term
		said := time.Now()
		for began := time.Now(); time.Since(began) < busy+time.Hour; time.Sleep(500 * time.Millisecond) {
			for _, n := range c.Nodes() {
				if s := n.Condition(); s.Term != term || s.Leader != leader.Replica {
					t.Fatalf("after %s %s follows %d in term %d, want %d in %d", time.Since(began), n.Name, s.Leader, s.Term, leader.Replica, term)
				}
			}
			if time.Since(began) < busy && time.Since(said) > 7*time.Second {
				mustPut(t, leader, "k", "v") // so that heartbeats go on
				said = time.Now()
			}
		}
		mustPut(t, leader, "k", "w")
	})
}

// TestFirstWriteAfterLongIdlenessFindsANewLeader lets a cluster rest, kills the leader and writes at once.
func TestFirstWriteAfterLongIdlenessFindsANewLeader(t *testing.T) {
	bubble(t, Options{Seed: 21, Delay: 25 * time.Millisecond}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		mustPut(t, leader, "k", "v")
		time.Sleep(20 * time.Minute)
		leader.Kill() // as a power cut: nobody is told
		began := time.Now()
		follower := c.Others(leader)[0]
		for {
			_, err := follower.Do(t.Context(), put("k", "w"))
			if err == nil {
				break
			}
			if time.Since(began) > time.Minute {
				t.Fatalf("not within a minute: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		took := time.Since(began)
		t.Logf("written %s after the leader died", took)
		if took > time.Minute {
			t.Errorf("it took %s, want a minute at most", took)
		}
	})
}

// TestIdleClusterIsNearlySilent counts what a cluster at rest sends.
func TestIdleClusterIsNearlySilent(t *testing.T) {
	bubble(t, Options{Seed: 22, Delay: 25 * time.Millisecond}, func(t *testing.T, c *Cluster) {
		mustPut(t, c.Leader(), "k", "v")
		time.Sleep(5 * time.Minute)
		before := c.wire()
		const lasts = 30 * time.Minute
		time.Sleep(lasts)
		after := c.wire()
		perDay := float64(after.Bytes-before.Bytes) / 3 * float64(24*time.Hour/lasts) / 1e6
		t.Logf("%.1f MB a day and link in %d packets", perDay, (after.Packets-before.Packets)/3*48)
		if perDay > 5 {
			t.Errorf("%.1f MB a day and link, want 5 at most", perDay)
		}
	})
}
