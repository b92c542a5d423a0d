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
		if err != nil || res.Revision != before+1 {
			t.Fatalf("revision %d, %v; want %d", res.Revision, err, before+1)
		}
		c.Heal(leader)
		if again, err := leader.Do(t.Context(), command); err != nil || again.Revision != res.Revision {
			t.Errorf("sent once more: revision %d, %v; want %d", again.Revision, err, res.Revision)
		}
		if got := mustPut(t, asked, "k", "2"); got != before+2 {
			t.Errorf("the next write is at revision %d, want %d", got, before+2)
		}
	})
}
