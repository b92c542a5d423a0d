package queue

import (
	"strings"
	"testing"
	"testing/synctest"

	"holdfast/kv"
)

// What is urgent goes first, whatever came first, and of ten batches one begins with the lowest lane.
func TestTheUrgentGoesFirstAndTheRestIsNotStarved(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		c := newCluster()
		o := options(t.TempDir())
		o.Rules = []Rule{{Prefix: []byte("h/"), Lane: kv.LaneHigh}, {Prefix: []byte("n/"), Lane: kv.LaneNormal}, {Prefix: []byte("b/"), Lane: kv.LaneBulk}}
		b := start(t, c, o)
		if err := b.Pause(); err != nil {
			t.Fatal(err)
		}
		const each = 25
		large := strings.Repeat("v", batchBytes/2+1) // a batch of its own
		for range each {
			for _, lane := range []string{"b", "n", "h"} {
				b.mustQueue(lane+"/k", lane+large)
			}
		}
		if err := b.Resume(); err != nil {
			t.Fatal(err)
		}
		eventually(t, "drained", func() bool { return b.Status().Depth == 0 })
		order := ""
		for _, v := range c.log() {
			order += v[:1]
		}
		if len(order) != 3*each {
			t.Fatalf("applied %q", order)
		}
		inFront := func(lane, of string) int { return strings.Count(order[:strings.LastIndex(order, of)], lane) }
		if n := inFront("n", "h"); n != 0 {
			t.Errorf("%d of the normal lane went before the last of the high one: %s", n, order)
		}
		for _, of := range []string{"h", "n"} {
			before := strings.LastIndex(order, of)
			if n := inFront("b", of); n < before/drainShare-1 || n > before/drainShare+1 {
				t.Errorf("%d of the lowest lane went within the first %d batches, want one in %d: %s", n, before, drainShare, order)
			}
		}
	})
}
