package cluster

import (
	"context"
	"fmt"
	"reflect"
	"testing"
	"time"

	"holdfast/kv"
	"holdfast/member"
)

// grantOn makes a lease through a node, with keys.
func grantOn(t *testing.T, n *Node, ttl int64, keys ...string) int64 {
	t.Helper()
	res, err := n.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.LeaseGrant{TTL: ttl}}})
	if err != nil {
		t.Fatalf("grant on %s: %v", n.Name, err)
	}
	id := res.Ops[0].Leases[0].ID
	for _, k := range keys {
		if _, err := n.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(k), Lease: id}}}); err != nil {
			t.Fatalf("put %s under a lease on %s: %v", k, n.Name, err)
		}
	}
	return id
}

func renewOn(n *Node, id int64) error {
	res, err := n.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.LeaseKeepAlive{ID: id}}})
	if err == nil && (len(res.Ops) != 1 || len(res.Ops[0].Leases) != 1 || res.Ops[0].Leases[0].ID != id || res.Ops[0].Leases[0].TTL < 1) {
		return fmt.Errorf("a renewal was answered with %+v", res)
	}
	return err
}

func leftOn(t *testing.T, n *Node, id int64) kv.Lease {
	t.Helper()
	p, err := n.Read(context.Background(), kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: id}}})
	if err != nil {
		t.Fatalf("time left on %s: %v", n.Name, err)
	}
	return p.Ops[0].Leases[0]
}

func there(t *testing.T, n *Node, key string) bool {
	t.Helper()
	p, err := n.Read(context.Background(), get(key))
	if err != nil {
		t.Fatalf("get %s on %s: %v", key, n.Name, err)
	}
	return len(p.Ops[0].KVs) > 0
}

// endsWithin waits until a key is gone and returns after how long.
func endsWithin(t *testing.T, n *Node, key string, limit time.Duration) time.Duration {
	t.Helper()
	began := time.Now()
	for there(t, n, key) {
		if time.Since(began) > limit {
			t.Fatalf("%s is still there after %s", key, limit)
		}
		time.Sleep(50 * time.Millisecond)
	}
	return time.Since(began)
}

func TestLeasesWorkOnEveryMember(t *testing.T) {
	bubble(t, Options{Seed: 11}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		for i, n := range c.Nodes() {
			key := fmt.Sprint("k", i)
			granted := time.Now()
			id := grantOn(t, n, 10, key)
			time.Sleep(4 * time.Second)
			for _, o := range c.Nodes() {
				if l := leftOn(t, o, id); l.TTL < 5 || l.TTL > 6 || l.Granted != 10 {
					t.Errorf("4 s after a grant of 10 s on %s, %s says %+v", n.Name, o.Name, l)
				}
				p, err := o.Read(context.Background(), kv.Query{Ops: []kv.Op{kv.LeaseList{}}})
				if err != nil || len(p.Ops[0].Leases) != 1 || p.Ops[0].Leases[0].ID != id {
					t.Errorf("%s lists %+v, %v", o.Name, p.Ops, err)
				}
			}
			if err := renewOn(n, id); err != nil {
				t.Errorf("renewal on %s: %v", n.Name, err)
			}
			if l := leftOn(t, leader, id); l.TTL != 9 {
				t.Errorf("after a renewal on %s: %+v", n.Name, l)
			}
			endsWithin(t, n, key, 11*time.Second)
			if took := time.Since(granted); took < 14*time.Second || took > 15*time.Second {
				t.Errorf("ended %s after the grant, want 14 s", took)
			}
			for _, o := range c.Nodes() {
				if l := leftOn(t, o, id); l.TTL != -1 {
					t.Errorf("%s says of a lease that has ended %+v", o.Name, l)
				}
				if err := renewOn(o, id); kv.CodeOf(err) != kv.LeaseNotFound {
					t.Errorf("renewal of a lease that has ended, on %s: %v", o.Name, err)
				}
			}
		}
		local := kv.Query{Ops: []kv.Op{kv.LeaseTTL{ID: 1}}, MaxAge: kv.Unlimited, LocalOnly: true}
		if _, err := c.Others(leader)[0].Read(context.Background(), local); kv.CodeOf(err) != kv.NotCached {
			t.Errorf("the time of a lease, asked of a follower alone: %v, want not-cached", err)
		}
		c.AwaitSame(5 * time.Second)
	})
}

func TestManyRenewalsThroughAFollower(t *testing.T) {
	bubble(t, Options{Seed: 12}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		n := c.Others(leader)[0]
		id := grantOn(t, n, 60)
		time.Sleep(5 * time.Second) // a new leader has words of its own for the log
		applied := leader.Status().Applied
		errs := make(chan error, 3000)
		for range cap(errs) {
			go func() { errs <- renewOn(n, id) }()
		}
		for range cap(errs) {
			if err := <-errs; err != nil {
				t.Fatal(err)
			}
		}
		if now := leader.Status().Applied; now != applied {
			t.Errorf("renewals took the log from %d to %d", applied, now)
		}
		if got := n.counted("holdfast_raftnet_asks_total"); got > 200 {
			t.Errorf("%v streams for %d renewals", got, cap(errs))
		}
	})
}

// A lease has its full time again under a new leader, and ends there.
func TestChangeOfLeaderShortensNoLease(t *testing.T) {
	bubble(t, Options{Seed: 13}, func(t *testing.T, c *Cluster) {
		old := c.Leader()
		grantOn(t, old, 10, "k")
		time.Sleep(9 * time.Second)
		old.Kill()
		n := c.Others(old)[0]
		took := endsWithin(t, n, "k", 20*time.Second)
		if took < 10*time.Second || took > 15*time.Second {
			t.Errorf("ended %s after the leader died, want the 10 s granted and the election", took)
		}
	})
}

// A leader that is cut off takes itself for one a little longer. It must not end what others keep alive.
func TestLeaderThatIsCutOffRevokesNothing(t *testing.T) {
	bubble(t, Options{Seed: 14}, func(t *testing.T, c *Cluster) {
		old := c.Leader()
		id := grantOn(t, old, 4, "k")
		c.Isolate(old)
		n := c.Others(old)[0]
		renewed := 0
		for range 30 {
			time.Sleep(time.Second)
			switch err := renewOn(n, id); {
			case err == nil:
				renewed++
			case renewed > 0 || kv.CodeOf(err) != kv.NoLeader: // by chance the first elections come to nothing, and it says so
				t.Fatalf("renewal on %s: %v", n.Name, err)
			}
		}
		if renewed < 25 {
			t.Errorf("%d of 30 renewals got through", renewed)
		}
		if err := renewOn(old, id); kv.CodeOf(err) != kv.NoLeader {
			t.Errorf("renewal on a member without quorum: %v, want no-leader", err)
		}
		c.Heal(old)
		for range 30 {
			if err := renewOn(old, id); err != nil && kv.CodeOf(err) != kv.NoLeader {
				t.Fatalf("renewal on %s, which is back: %v", old.Name, err)
			}
			if !there(t, n, "k") {
				t.Fatal("the key is gone though its lease was renewed all the time")
			}
			time.Sleep(time.Second)
		}
		endsWithin(t, old, "k", 6*time.Second)
	})
}

func TestLeasesAreTheSameEverywhere(t *testing.T) {
	opts := Options{Seed: 16, Change: func(c *member.Config) { c.SnapshotEntries = 100 }}
	bubble(t, opts, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		behind := c.Others(leader)[0]
		var ids []int64
		for i := range 20 {
			ids = append(ids, grantOn(t, leader, 1000+int64(i), fmt.Sprint("a", i)))
		}
		behind.Kill()
		for i := range 300 {
			id := ids[i%len(ids)]
			if _, err := leader.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.Put{Key: fmt.Append(nil, "b", i%50), Lease: id}}}); err != nil {
				t.Fatal(err)
			}
		}
		for _, id := range ids[:10] {
			if _, err := leader.Do(context.Background(), kv.Command{Ops: []kv.Op{kv.LeaseRevoke{ID: id}}}); err != nil {
				t.Fatal(err)
			}
		}
		sent := leader.Chunks()
		behind.Start() // it gets a snapshot
		behind.AwaitReady(time.Minute)
		if leader.Chunks() == sent {
			t.Error("the member caught up without a snapshot: the test does not test what it says")
		}
		c.AwaitSame(time.Minute)
		look := func(n *Node) []kv.OpResult {
			q := kv.Query{Ops: []kv.Op{kv.LeaseList{}}}
			for _, id := range ids {
				q.Ops = append(q.Ops, kv.LeaseTTL{ID: id, Keys: true})
			}
			p, err := n.Read(context.Background(), q)
			if err != nil {
				t.Fatalf("leases on %s: %v", n.Name, err)
			}
			for i := range p.Ops[1:] {
				for j := range p.Ops[1+i].Leases {
					p.Ops[1+i].Leases[j].TTL = min(p.Ops[1+i].Leases[j].TTL, 1)
				}
			}
			return p.Ops
		}
		want := look(leader)
		if len(want[0].Leases) != 10 || len(want[20].KVs) < 2 {
			t.Fatalf("got %+v", want)
		}
		for _, n := range c.Others(leader) {
			if got := look(n); !reflect.DeepEqual(got, want) { //nolint:govet // values
				t.Errorf("%s has\n%+v\nthe leader\n%+v", n.Name, got, want)
			}
		}
	})
}
