package cluster

import (
	"errors"
	"fmt"
	"holdfast/kv"
	"os"
	"slices"
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

// seat is a node's entry in the list of members, as leader has it.
func seat(n, leader *Node) *member.Seat {
	r := leader.Roster()
	return r.Seat(n.Replica)
}

func TestAMemberIsRemovedAndSaysSo(t *testing.T) {
	bubble(t, Options{Seed: 22}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		gone, stays := c.Others(leader)[0], c.Others(leader)[1]
		gone.failing = true
		mustPut(t, gone, "k", "1")
		if err := stays.RemoveReplica(t.Context(), 99); kv.CodeOf(err) != kv.KeyNotFound {
			t.Errorf("removing nobody: %v", err)
		}
		if err := stays.RemoveReplica(t.Context(), gone.Replica); err != nil {
			t.Fatal(err)
		}
		if err := gone.Ended(time.Minute); !errors.Is(err, member.ErrRemoved) {
			t.Errorf("the removed member ended with %v", err)
		}
		gone.Stop()
		mustPut(t, leader, "k", "2")
		// One that was away when it was removed finds out when it is back.
		gone.Start()
		if err := gone.Ended(time.Minute); !errors.Is(err, member.ErrRemoved) {
			t.Errorf("started again it ended with %v", err)
		}
		gone.Stop()
		stays.Kill()
		if err := leader.RemoveReplica(t.Context(), leader.Replica); err == nil {
			t.Error("the last voter that is up was removed")
		}
		stays.Start()
		stays.AwaitReady(time.Minute)
		leader = c.Leader()
		other := c.byReplica(1)
		for _, n := range c.Nodes() {
			if n.stop != nil && n != leader {
				other = n
			}
		}
		if err := leader.RemoveReplica(t.Context(), other.Replica); err != nil {
			t.Fatal(err)
		}
		other.failing = true
		if err := leader.RemoveReplica(t.Context(), leader.Replica); kv.CodeOf(err) != kv.Invalid {
			t.Errorf("removing the last voter: %v", err)
		}
		mustPut(t, leader, "k", "3")
	})
}

func TestALeaderThatIsRemovedHandsOver(t *testing.T) {
	bubble(t, Options{Seed: 23}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		leader.failing = true
		other := c.Others(leader)[0]
		if err := other.RemoveReplica(t.Context(), leader.Replica); err != nil {
			t.Fatal(err)
		}
		if err := leader.Ended(time.Minute); !errors.Is(err, member.ErrRemoved) {
			t.Errorf("the former leader ended with %v", err)
		}
		leader.Stop()
		mustPut(t, other, "k", "1")
		awaitVoters(t, other, 2, time.Minute)
	})
}

func TestAWipedMemberJoinsUnderAnotherID(t *testing.T) {
	bubble(t, Options{Seed: 24}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		lost := c.Others(leader)[0]
		mustPut(t, leader, "k", "1")
		if err := lost.Enter(leader); kv.CodeOf(err) != kv.PermissionDenied {
			t.Errorf("a second box with the identity of a member that is up: %v", err)
		}
		lost.Kill()
		lost.Wipe()
		before := lost.Replica
		time.Sleep(3 * time.Second)
		if err := lost.Enter(leader); err != nil {
			t.Fatal(err)
		}
		if lost.Replica == before {
			t.Errorf("it is replica %d again", before)
		}
		lost.Start()
		lost.AwaitReady(time.Minute)
		awaitVoters(t, leader, 3, time.Minute)
		c.AwaitSame(time.Minute)
		if got := mustGet(t, lost, "k"); got != "1" {
			t.Errorf("it reads %q", got)
		}
	})
}

// A disk that was put back to what it was before the member acknowledged more must not take part: it is noticed before
// the library panics.
func TestAMemberWhoseLogWasWipedTakesNoPart(t *testing.T) {
	bubble(t, Options{Seed: 25}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		old := c.Others(leader)[0]
		old.Stop()
		saved := t.TempDir()
		if err := os.CopyFS(saved, os.DirFS(old.dir)); err != nil {
			t.Fatal(err)
		}
		old.Start()
		old.AwaitReady(time.Minute)
		for i := range 20 {
			mustPut(t, leader, "k", fmt.Sprint(i))
		}
		c.AwaitSame(time.Minute)
		old.Stop()
		old.Wipe()
		if err := os.CopyFS(old.dir, os.DirFS(saved)); err != nil {
			t.Fatal(err)
		}
		old.failing = true
		old.Start()
		if err := old.Ended(time.Minute); !errors.Is(err, member.ErrLogLost) {
			t.Errorf("it ended with %v", err)
		}
	})
}

func TestAMemberAtAnotherAddressIsFound(t *testing.T) {
	bubble(t, Options{Seed: 26}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		moved := c.Others(leader)[0]
		moved.Stop()
		c.Net.Move(moved.Name)
		moved.addr = c.Net.Addr(moved.Name)
		moved.Start()
		moved.AwaitReady(time.Minute)
		mustPut(t, moved, "k", "0") // ready is ready
		deadline := time.Now().Add(time.Minute)
		for _, n := range c.Nodes() {
			for s := seat(moved, n); s == nil || !slices.Equal(s.Addresses, []string{moved.addr}); s = seat(moved, n) {
				if time.Now().After(deadline) {
					t.Fatalf("%s has %+v", n.Name, s)
				}
				time.Sleep(100 * time.Millisecond)
			}
		}
		mustPut(t, moved, "k", "1")
	})
}

func TestAVoterThatIsAwayIsReplaced(t *testing.T) {
	const after = 5 * time.Minute
	opts := Options{Seed: 27, Change: func(c *member.Config) { c.ReplaceAfter = after }}
	bubble(t, opts, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		dead := c.Others(leader)[0]
		mustPut(t, leader, "k", "1")
		dead.Kill()
		time.Sleep(after / 2)
		late := c.add()
		if err := late.Enter(leader); !errors.Is(err, member.ErrFull) {
			t.Fatalf("a box that comes before the voter has been away for long: %v", err)
		}
		time.Sleep(after)
		if s := seat(dead, leader); s == nil || !s.Away {
			t.Fatalf("the seat of the voter that is away is %+v", s)
		}
		if err := late.Enter(leader); err != nil {
			t.Fatal(err)
		}
		late.Start()
		late.AwaitReady(time.Minute)
		awaitVoters(t, leader, 3, time.Minute)
		if s := seat(dead, leader); s != nil {
			t.Errorf("the voter that was away still has a seat: %+v", s)
		}
		mustPut(t, late, "k", "2")
		dead.failing = true
		dead.Start()
		if err := dead.Ended(time.Minute); !errors.Is(err, member.ErrRemoved) {
			t.Errorf("back again, the replaced voter ended with %v", err)
		}
	})
}

func TestAVoterThatComesBackKeepsItsSeat(t *testing.T) {
	const after = time.Minute
	opts := Options{Seed: 28, Change: func(c *member.Config) { c.ReplaceAfter = after }}
	bubble(t, opts, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		away := c.Others(leader)[0]
		c.Isolate(away)
		time.Sleep(2 * after)
		if s := seat(away, leader); s == nil || !s.Away {
			t.Fatalf("the seat of the voter that is away is %+v", s)
		}
		c.Heal(away)
		time.Sleep(after)
		if s := seat(away, leader); s == nil || s.Away {
			t.Errorf("the seat of the voter that is back is %+v", s)
		}
		if _, err := c.Join(leader); !errors.Is(err, member.ErrFull) {
			t.Errorf("another box: %v", err)
		}
	})
}

func TestTheSeatOfABoxThatNeverComesIsGivenUp(t *testing.T) {
	bubble(t, Options{Members: 1, Seed: 29}, func(t *testing.T, c *Cluster) {
		first := c.Nodes()[0]
		ghost := c.add()
		for _, n := range []*Node{ghost, c.add()} {
			if err := n.Enter(first); err != nil {
				t.Fatal(err)
			}
		}
		if err := c.add().Enter(first); !errors.Is(err, member.ErrFull) {
			t.Fatalf("a box that finds all seats taken: %v", err)
		}
		time.Sleep(10 * time.Minute)
		mustPut(t, first, "k", "1") // neither was ever in raft's way
		anew, err := c.Join(first)
		if err != nil {
			t.Fatal(err)
		}
		anew.AwaitReady(time.Minute)
		ghost.failing = true
		ghost.Start()
		if err := ghost.Ended(time.Minute); !errors.Is(err, member.ErrRemoved) {
			t.Errorf("the box that comes too late ended with %v", err)
		}
	})
}

// A member behind a NAT has no address that others could dial.
func TestAMemberWithoutAnAddressIsReachedByWhatItOpens(t *testing.T) {
	bubble(t, Options{Members: 1, Seed: 30, Loss: 0.02}, func(t *testing.T, c *Cluster) {
		first := c.Nodes()[0]
		if _, err := c.Join(first); err != nil {
			t.Fatal(err)
		}
		hidden := c.add()
		hidden.addr = ""
		if err := hidden.Enter(first); err != nil {
			t.Fatal(err)
		}
		hidden.Start()
		awaitVoters(t, first, 3, time.Minute)
		hidden.AwaitReady(time.Minute)
		hidden.Kill()
		time.Sleep(3 * time.Minute) // the others notice
		hidden.Start()
		hidden.AwaitReady(time.Minute)
		mustPut(t, hidden, "k", "1")
		if err := c.Leader().MoveLeader(t.Context(), hidden.Replica); err != nil && c.Leader() != hidden {
			t.Errorf("it cannot lead: %v", err)
		}
		c.AwaitSame(time.Minute)
	})
}
