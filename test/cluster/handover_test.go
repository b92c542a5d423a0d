package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"time"

	"holdfast/kv"
)

// TestAHandOverLosesNoAnswer moves the leadership around while every member takes commands: each is answered, and none
// waits for long.
func TestAHandOverLosesNoAnswer(t *testing.T) {
	const rounds, gapMax = 20, time.Second
	bubble(t, Options{Seed: 31, Loss: 0.01}, func(t *testing.T, c *Cluster) {
		ctx, stop := context.WithCancel(context.Background())
		var writing sync.WaitGroup
		for _, n := range c.Nodes() {
			for i := range 8 {
				writing.Go(func() {
					key := fmt.Sprint(n.Name, "/", i)
					for count := 1; ctx.Err() == nil; count++ {
						began := time.Now()
						res, err := n.Do(context.Background(), put(key, fmt.Sprint(count)))
						if err != nil {
							t.Errorf("put %s: %v", key, err)
						}
						if took := time.Since(began); took > gapMax {
							t.Errorf("put %s at revision %d took %s", key, res.Revision, took)
						}
						time.Sleep(time.Millisecond)
					}
				})
			}
		}
		for i := range rounds {
			from := c.Leader()
			others := c.Others(from)
			if err := from.MoveLeader(t.Context(), others[i%len(others)].Replica); err != nil {
				t.Errorf("hand over: %v", err)
			}
			time.Sleep(100 * time.Millisecond)
		}
		stop()
		writing.Wait()
	})
}

// TestARepeatableCommandOutlivesItsLeader cuts the leader off with a command under way that has a retry key: it is
// answered by the next leader, and applied once.
func TestARepeatableCommandOutlivesItsLeader(t *testing.T) {
	bubble(t, Options{Seed: 32}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		asked := c.Others(leader)[0]
		before := mustPut(t, asked, "k", "0")
		c.Isolate(leader)
		command := put("k", "1")
		command.ID = kv.ID{Key: [16]byte{1}}
		res, err := asked.Do(t.Context(), command)
		for kv.CodeOf(err) == kv.NoLeader || kv.CodeOf(err) == kv.OutcomeUnknown { // votes may split: then there is none for longer than a call waits
			time.Sleep(10 * time.Millisecond)
			res, err = asked.Do(t.Context(), command)
		}
		if err != nil || res.Revision != before+1 {
			t.Fatalf("revision %d, %v; want %d", res.Revision, err, before+1)
		}
		c.Heal(leader)
		for l := leader.Status().Leader; l == 0 || c.byReplica(l) == leader; l = leader.Status().Leader {
			time.Sleep(10 * time.Millisecond) // it has to hear of the next one
		}
		if again, err := leader.Do(t.Context(), command); err != nil || again.Revision != res.Revision {
			t.Errorf("sent once more: revision %d, %v; want %d", again.Revision, err, res.Revision)
		}
		if got := mustPut(t, asked, "k", "2"); got != before+2 {
			t.Errorf("the next write is at revision %d, want %d", got, before+2)
		}
	})
}

// TestACommandOfALostLeaderIsGivenUpSoonAfterTheNext cuts the leader off with commands under way. The one that has a retry key says when the next
// leader takes commands; the one that has none, and may not be sent again, ends not long after that, with an unknown outcome.
func TestACommandOfALostLeaderIsGivenUpSoonAfterTheNext(t *testing.T) {
	const soon = time.Second
	for seed := range uint64(5) {
		bubble(t, Options{Seed: 40 + seed}, func(t *testing.T, c *Cluster) {
			leader := c.Leader()
			asked := c.Others(leader)[0]
			mustPut(t, asked, "k", "0")
			c.Isolate(leader)
			began := time.Now()
			var next time.Duration
			var both sync.WaitGroup
			both.Go(func() {
				command := put("again", "1")
				command.ID = kv.ID{Key: [16]byte{1}}
				for { // votes may split, and then there is none for longer than a call waits
					_, err := asked.Do(t.Context(), command)
					if next = time.Since(began); err == nil {
						return
					}
					if next > time.Minute {
						t.Errorf("what may be sent again: %v", err)
						return
					}
					time.Sleep(10 * time.Millisecond)
				}
			})
			_, err := asked.Do(t.Context(), put("k", "1"))
			took := time.Since(began)
			both.Wait()
			if kv.CodeOf(err) != kv.OutcomeUnknown {
				t.Errorf("what may not: %v, want an unknown outcome", err)
			}
			if took > next+soon {
				t.Errorf("it was waited for %s; the next leader took commands after %s", took, next)
			}
			c.Heal(leader)
		})
	}
}

// TestACommandOutlivesAGapInTheLink has the link between a follower and the leader away for about as long as it takes to be found lost, and
// the follower take a command right afterwards. One command for which there was no link at the moment, or right after that, must
// not be lost for good: raft sends none again.
func TestACommandOutlivesAGapInTheLink(t *testing.T) {
	const soon = 1500 * time.Millisecond // a lost link is probed once a second
	for seed := range uint64(3) {
		bubble(t, Options{Seed: 50 + seed}, func(t *testing.T, c *Cluster) {
			for round := range 10 {
				leader := c.Leader()
				n := c.Others(leader)[round%2]
				mustPut(t, n, "k", "v")
				c.Net.Cut(n.Name, leader.Name)
				time.Sleep(time.Second + time.Duration(round)*50*time.Millisecond)
				c.Net.Heal(n.Name, leader.Name)
				time.Sleep(time.Duration(seed) * 200 * time.Millisecond)
				began, term := time.Now(), n.Status().Term
				_, err := n.Do(context.Background(), put("k", "v"))
				if took := time.Since(began); err != nil || took > soon {
					t.Errorf("round %d: put in term %d after %s: %v; now it is term %d", round, term, took, err, n.Status().Term)
				}
			}
		})
	}
}
