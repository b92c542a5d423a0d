package cluster

import (
	"context"
	"fmt"
	"sync"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/kv"
	"holdfast/member"
)

// disks hold up the raft logs of members, by replica.
type disks struct {
	mu   sync.Mutex
	held map[uint64]chan struct{}
}

// change makes the disk of a member one of these.
func (d *disks) change(c *member.Config) {
	replica := c.ReplicaID
	c.LogWrite = func() {
		d.mu.Lock()
		held := d.held[replica]
		d.mu.Unlock()
		if held != nil {
			<-held
		}
	}
}

// hold lets no write of n's log be done until release is called.
func (d *disks) hold(n *Node) (release func()) {
	d.mu.Lock()
	defer d.mu.Unlock()
	held := make(chan struct{})
	d.held[n.Replica] = held
	return sync.OnceFunc(func() {
		d.mu.Lock()
		defer d.mu.Unlock()
		delete(d.held, n.Replica)
		close(held)
	})
}

func withDisks(t *testing.T, opts Options, f func(t *testing.T, c *Cluster, d *disks)) {
	t.Helper()
	d := &disks{held: map[uint64]chan struct{}{}}
	opts.Change = d.change
	bubble(t, opts, func(t *testing.T, c *Cluster) { f(t, c, d) })
}

// acknowledged is what writers were told is stored.
type acknowledged struct {
	mu     sync.Mutex
	values map[string]string
	newest map[*Node]time.Time // when the newest write through each began that was
}

// writeThrough writes keys of its own through n, each once and whether or not those before are answered, until ctx ends. It
// does not mind refusals.
func (a *acknowledged) writeThrough(ctx context.Context, n *Node) {
	var under sync.WaitGroup
	defer under.Wait()
	for i := 0; ctx.Err() == nil; i++ {
		under.Go(func() {
			key, value := fmt.Sprintf("%s/%d", n.Name, i), fmt.Sprint(i)
			began := time.Now()
			limited, cancel := context.WithTimeout(ctx, 5*time.Second)
			defer cancel()
			if _, err := n.Do(limited, put(key, value)); err == nil {
				a.mu.Lock()
				defer a.mu.Unlock()
				a.values[key] = value
				if began.After(a.newest[n]) {
					a.newest[n] = began
				}
			}
		})
		time.Sleep(20 * time.Millisecond)
	}
}

// since reports whether a write that began after at was acknowledged to n's client.
func (a *acknowledged) since(n *Node, at time.Time) bool {
	a.mu.Lock()
	defer a.mu.Unlock()
	return a.newest[n].After(at)
}

// elected is how long it may take if one term is enough, and for each more, in which both stood at the same instant and neither
// won, two election timeouts on top.
func elected(once time.Duration, terms uint64) time.Duration {
	return once + time.Duration(max(terms, 1)-1)*2*electionTimeout //nolint:gosec // few
}

// electionTimeout is T: members elect when they have heard no leader for one to two of it.
const electionTimeout = time.Second

// TestALeaderWhoseDiskHoldsBackIsReplaced has the disk of the leader hold back a write of the raft log, while all members
// take writes: the others go on under another leader, the one says what is wrong, and it follows once its disk is back.
func TestALeaderWhoseDiskHoldsBackIsReplaced(t *testing.T) {
	withDisks(t, Options{Seed: 51, Delay: 10 * time.Millisecond}, func(t *testing.T, c *Cluster, d *disks) {
		leader := c.Leader()
		others := c.Others(leader)
		ctx, stop := context.WithCancel(context.Background())
		told := acknowledged{values: map[string]string{}, newest: map[*Node]time.Time{}}
		var writing sync.WaitGroup
		for _, n := range c.Nodes() {
			writing.Go(func() { told.writeThrough(ctx, n) })
		}
		time.Sleep(2 * time.Second)
		term := others[0].Condition().Term
		release := d.hold(leader)
		began := time.Now()
		for !told.since(others[0], began) && !told.since(others[1], began) {
			if time.Since(began) > time.Minute {
				t.Fatal("nothing is acknowledged for a minute")
			}
			time.Sleep(10 * time.Millisecond)
		}
		took := time.Since(began)
		t.Logf("a write is acknowledged %s after the disk began to hold back", took)
		if most := elected(5*electionTimeout/2, others[0].Condition().Term-term); took > most {
			t.Errorf("it took %s, want at most %s", took, most)
		}
		time.Sleep(4 * time.Second)
		next := others[0].Condition()
		if next.Leader == leader.Replica || next.Leader == 0 {
			t.Errorf("%d leads, want one of the others", next.Leader)
		}
		if next.Term > term+3 {
			t.Errorf("term %d after %d: elections went on", next.Term, term)
		}
		stalled(t, leader)
		time.Sleep(10 * time.Second)
		release()
		back := time.Now()
		for leader.Status().Leader != next.Leader || leader.Status().LogHeld > 0 || !told.since(leader, back) {
			if time.Since(back) > 5*time.Second {
				t.Fatalf("it does not take part: %+v", leader.Status())
			}
			time.Sleep(10 * time.Millisecond)
		}
		if now := others[0].Condition(); now.Term != next.Term || now.Leader != next.Leader {
			t.Errorf("%d leads in term %d, want still %d in %d", now.Leader, now.Term, next.Leader, next.Term)
		}
		stop()
		writing.Wait()
		c.AwaitSame(5 * time.Second)
		told.mu.Lock()
		defer told.mu.Unlock()
		for key, value := range told.values {
			if got := mustGet(t, leader, key); got != value {
				t.Errorf("%s is %q, and %q was acknowledged", key, got, value)
			}
		}
	})
}

// stalled checks what a member says whose disk has held back for a while.
func stalled(t *testing.T, n *Node) {
	t.Helper()
	if held := n.Status().LogHeld; held < 4*time.Second {
		t.Errorf("it says that its disk has held back for %s, want longer", held)
	}
	if v := n.value("holdfast_member_log_held_seconds"); v < 4 {
		t.Errorf("holdfast_member_log_held_seconds is %v", v)
	}
	if v := n.counted("holdfast_member_log_held_total"); v != 1 {
		t.Errorf("holdfast_member_log_held_total is %v", v)
	}
	began := time.Now()
	if _, err := n.Do(t.Context(), put("refused", "v")); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("a write: %v, want that there is no leader", err)
	}
	if _, err := n.Read(t.Context(), get("k")); kv.CodeOf(err) != kv.NoLeader {
		t.Errorf("a linearizable read: %v, want that there is no leader", err)
	}
	if took := time.Since(began); took > time.Second {
		t.Errorf("it took %s to refuse", took)
	}
	local := get("k")
	local.MaxAge, local.LocalOnly = kv.Unlimited, true
	if _, err := n.Read(t.Context(), local); err != nil {
		t.Errorf("a local read: %v", err)
	}
}

// TestAQuietLeaderWhoseDiskHoldsBackIsReplaced lets a cluster rest until it says nothing, and then writes through another
// member.
func TestAQuietLeaderWhoseDiskHoldsBackIsReplaced(t *testing.T) {
	withDisks(t, Options{Seed: 52, Delay: 10 * time.Millisecond}, func(t *testing.T, c *Cluster, d *disks) {
		leader := c.Leader()
		mustPut(t, leader, "k", "1")
		time.Sleep(20 * time.Minute)
		defer d.hold(leader)()
		began, follower := time.Now(), c.Others(leader)[0]
		term := follower.Condition().Term
		mustPut(t, follower, "k", "2")
		took := time.Since(began)
		t.Logf("written after %s", took)
		if most := elected(3*electionTimeout, follower.Condition().Term-term); took > most {
			t.Errorf("it took %s, want at most %s", took, most)
		}
	})
}

// TestALoneMemberWaitsForItsDisk has nobody else to ask: what was sent is answered when the disk is back.
func TestALoneMemberWaitsForItsDisk(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		d := &disks{held: map[uint64]chan struct{}{}}
		c := New(t, Options{Members: 1, Seed: 53, Change: d.change})
		c.Start()
		n := c.Nodes()[0]
		mustPut(t, n, "k", "1")
		release := d.hold(n)
		var early sync.WaitGroup
		early.Go(func() {
			if _, err := n.Do(context.Background(), put("k", "2")); err != nil {
				t.Errorf("a write before: %v", err)
			}
		})
		time.Sleep(500 * time.Millisecond)
		if held := n.Status().LogHeld; held != 0 {
			t.Errorf("it says after half a second that the disk has held back for %s", held)
		}
		time.Sleep(7 * time.Second)
		stalled(t, n)
		release()
		early.Wait()
		if held := n.Status().LogHeld; held != 0 {
			t.Errorf("it still says that the disk has held back for %s", held)
		}
		mustPut(t, n, "k", "3")
	})
}
