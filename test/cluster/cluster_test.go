package cluster

import (
	"context"
	"fmt"
	"testing"
	"testing/synctest"
	"time"

	"go.uber.org/goleak"

	"holdfast/kv"
)

func TestMain(m *testing.M) { goleak.VerifyTestMain(m) }

// bubble runs f with a cluster that has started, in virtual time.
func bubble(t *testing.T, opts Options, f func(t *testing.T, c *Cluster)) {
	t.Helper()
	synctest.Test(t, func(t *testing.T) {
		c := New(t, opts)
		c.Start()
		f(t, c)
	})
}

func put(key, value string) kv.Command {
	return kv.Command{Ops: []kv.Op{kv.Put{Key: []byte(key), Value: []byte(value)}}}
}

func get(key string) kv.Query { return kv.Query{Ops: []kv.Op{kv.Range{Key: []byte(key)}}} }

func mustPut(t *testing.T, n *Node, key, value string) int64 {
	t.Helper()
	res, err := n.Do(context.Background(), put(key, value))
	if err != nil {
		t.Fatalf("put %s on %s: %v", key, n.Name, err)
	}
	return res.Revision
}

func mustGet(t *testing.T, n *Node, key string) string {
	t.Helper()
	p, err := n.Read(context.Background(), get(key))
	if err != nil {
		t.Fatalf("get %s on %s: %v", key, n.Name, err)
	}
	if len(p.Ops[0].KVs) == 0 {
		return ""
	}
	return string(p.Ops[0].KVs[0].Value)
}

func TestEveryMemberTakesWritesAndReadsThem(t *testing.T) {
	bubble(t, Options{Seed: 1}, func(t *testing.T, c *Cluster) {
		for i := range 30 {
			writer, value := c.Nodes()[i%3], fmt.Sprint(i)
			mustPut(t, writer, "k", value)
			for _, n := range c.Nodes() {
				if got := mustGet(t, n, "k"); got != value {
					t.Fatalf("%s reads %q after %s was told that %q is stored", n.Name, got, writer.Name, value)
				}
			}
		}
		c.AwaitSame(5 * time.Second)
		epochs := map[kv.Epoch]bool{}
		for _, n := range c.Nodes() {
			epochs[n.Header().Epoch] = true
		}
		if len(epochs) != 1 || epochs[kv.Epoch{}] {
			t.Errorf("epochs %v, want one", epochs)
		}
	})
}
