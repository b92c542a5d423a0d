package cluster

import (
	"bytes"
	"encoding/binary"
	"errors"
	"hash/crc32"
	"path/filepath"
	"testing"
	"time"

	"go.etcd.io/bbolt"

	"holdfast/kv"
	"holdfast/member"
)

// plant changes a value in the state file of a node that does not run, with a checksum that fits: what no checksum of
// ours can notice.
func (n *Node) plant(was, is string) {
	t := n.c.t
	t.Helper()
	db, err := bbolt.Open(filepath.Join(n.dir, "state.db"), 0o600, nil)
	if err != nil {
		t.Fatal(err)
	}
	found := false
	err = db.Update(func(tx *bbolt.Tx) error {
		b := tx.Bucket([]byte("rev"))
		return b.ForEach(func(k, v []byte) error {
			if found = found || bytes.HasSuffix(v, []byte(was)); !bytes.HasSuffix(v, []byte(was)) {
				return nil
			}
			v = append(bytes.TrimSuffix(bytes.Clone(v), []byte(was)), is...)
			table := crc32.MakeTable(crc32.Castagnoli)
			binary.BigEndian.PutUint32(v, crc32.Update(crc32.Update(0, table, k), table, v[4:]))
			return b.Put(bytes.Clone(k), v)
		})
	})
	if err = errors.Join(err, db.Close()); err != nil || !found {
		t.Fatalf("%s: found %v, %v", n.Name, found, err)
	}
}

func awaitAlarm(t *testing.T, n *Node, limit time.Duration) kv.Alarm {
	t.Helper()
	for deadline := time.Now().Add(limit); time.Now().Before(deadline); time.Sleep(100 * time.Millisecond) {
		if alarms := n.Condition().Alarms; len(alarms) > 0 {
			return alarms[0]
		}
	}
	t.Fatalf("no alarm within %s", limit)
	return kv.Alarm{}
}

func TestAuditFindsTheReplicaThatDiffers(t *testing.T) {
	opts := Options{Seed: 9, Change: func(c *member.Config) { c.AuditEvery = 20 * time.Second }}
	bubble(t, opts, func(t *testing.T, c *Cluster) {
		mustPut(t, c.Leader(), "meter", "reads 21.5")
		time.Sleep(45 * time.Second) // two audits, and nothing to find
		for _, n := range c.Nodes() {
			if alarms := n.Condition().Alarms; len(alarms) != 0 {
				t.Fatalf("%s: alarms %v of replicas that are the same", n.Name, alarms)
			}
			if got := n.counted("holdfast_member_audits_total"); got < 1 {
				t.Errorf("%s was not compared", n.Name)
			}
		}
		wrong := c.Others(c.Leader())[0]
		wrong.Stop()
		wrong.plant("reads 21.5", "reads 12.5")
		wrong.Start()
		wrong.AwaitReady(time.Minute)
		mustPut(t, c.Leader(), "other", "1") // something changes
		leader := c.Leader()
		if got, want := awaitAlarm(t, leader, time.Minute), (kv.Alarm{Member: wrong.Replica, Kind: kv.AlarmCorrupt}); got != want {
			t.Errorf("got %v, want %v", got, want)
		}
		_, err := leader.Do(t.Context(), put("meter", "reads 22"))
		if kv.CodeOf(err) != kv.Corrupt {
			t.Errorf("a write: %v", err)
		}
		if got := mustGet(t, leader, "meter"); got != "reads 21.5" {
			t.Errorf("a read: %q", got)
		}
		disarm := kv.Command{Ops: []kv.Op{kv.SetAlarm{Alarm: kv.Alarm{Member: wrong.Replica, Kind: kv.AlarmCorrupt}}}}
		if _, err := leader.Do(t.Context(), disarm); err != nil {
			t.Fatal(err)
		}
		mustPut(t, leader, "meter", "reads 22")
	})
}

// Alarms hold on every member alike, and one member's lack of room refuses writes on all.
func TestQuotaOfOneMemberHoldsForAll(t *testing.T) {
	small := uint64(0)
	opts := Options{Seed: 10, Change: func(c *member.Config) {
		if c.ReplicaID == 2 {
			c.Quota, small = 256<<10, 2
		}
	}}
	bubble(t, opts, func(t *testing.T, c *Cluster) {
		value := string(bytes.Repeat([]byte("x"), 16<<10))
		writer := c.Nodes()[0]
		var err error
		for i := 0; i < 400 && err == nil; i++ {
			_, err = writer.Do(t.Context(), put("fill", value))
			time.Sleep(10 * time.Millisecond)
		}
		if kv.CodeOf(err) != kv.NoSpace {
			t.Fatalf("got %v", err)
		}
		for _, n := range c.Nodes() {
			if _, err := n.Do(t.Context(), put("a", "1")); kv.CodeOf(err) != kv.NoSpace {
				t.Errorf("%s: %v", n.Name, err)
			}
			if got := awaitAlarm(t, n, time.Second); got != (kv.Alarm{Member: small, Kind: kv.AlarmNoSpace}) {
				t.Errorf("%s: %v", n.Name, got)
			}
		}
		rev := writer.Status().Revision
		if _, err := writer.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.Compact{Revision: rev}}}); err != nil {
			t.Fatal(err)
		}
		for deadline := time.Now().Add(time.Minute); ; time.Sleep(100 * time.Millisecond) {
			if _, err = writer.Do(t.Context(), put("a", "1")); err == nil {
				break
			}
			if time.Now().After(deadline) {
				t.Fatalf("writes do not go on: %v", err)
			}
		}
		c.AwaitSame(10 * time.Second)
	})
}

func TestLeadershipIsMovedWhereItIsAskedToGo(t *testing.T) {
	bubble(t, Options{Seed: 11}, func(t *testing.T, c *Cluster) {
		leader := c.Leader()
		to := c.Others(leader)[0]
		if err := to.MoveLeader(t.Context(), to.Replica); kv.CodeOf(err) != kv.NoLeader {
			t.Errorf("asked of a follower: %v", err)
		}
		if err := leader.MoveLeader(t.Context(), 99); kv.CodeOf(err) != kv.Invalid {
			t.Errorf("to nobody: %v", err)
		}
		if err := leader.MoveLeader(t.Context(), to.Replica); err != nil {
			t.Fatal(err)
		}
		if got := c.Leader(); got != to {
			t.Errorf("%s leads, want %s", got.Name, to.Name)
		}
		mustPut(t, leader, "a", "1")
		for _, n := range c.Nodes() {
			list, err := n.Replicas(t.Context(), false)
			if err != nil || len(list) != 3 || list[0].ID != 1 || list[2].ID != 3 || list[1].Learner {
				t.Errorf("%s: %+v, %v", n.Name, list, err)
			}
			if got := n.Condition(); got.Leader != to.Replica || got.Learner || got.Feature != kv.FeatureNewest {
				t.Errorf("%s: %+v", n.Name, got)
			}
		}
		gone := c.Others(to)[0]
		gone.Kill()
		if err := to.MoveLeader(t.Context(), gone.Replica); kv.CodeOf(err) != kv.OutcomeUnknown {
			t.Errorf("to one that is gone: %v", err)
		}
		mustPut(t, to, "a", "2")
	})
}
