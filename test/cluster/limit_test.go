package cluster

import (
	"bytes"
	"errors"
	"strings"
	"sync/atomic"
	"testing"
	"testing/synctest"
	"time"

	"holdfast/internal/simnet"
)

// TestALimitHoldsSnapshotsBack sends a snapshot over a fast link at a limit, which does not hold in the first and the last
// minute, and is raised in between.
func TestALimitHoldsSnapshotsBack(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		const size = 4 << 20
		net := simnet.New(t, 61)
		c := newCarriers(t, net, "a", "b")
		net.Link("a", "b").Delay(25 * time.Millisecond).Rate(20_000_000)
		awaitLink(t, c[0], c[1])
		began := time.Now()
		c[0].LimitBulk(8<<10, func(at time.Time) bool { return at.Sub(began) > 5*time.Minute })
		before := net.OneWay("a", "b").Stats().Bytes
		carried := func(from, to time.Duration) int {
			time.Sleep(time.Until(began.Add(from)))
			start := net.OneWay("a", "b").Stats().Bytes
			time.Sleep(time.Until(began.Add(to)))
			return (net.OneWay("a", "b").Stats().Bytes - start) / int((to - from).Seconds())
		}
		done := make(chan struct{})
		var sum []byte
		go func() {
			defer close(done)
			var err error
			if sum, err = c[0].send(t.Context(), c[1], size); err != nil {
				t.Error(err)
			}
		}()
		if rate := carried(10*time.Second, 110*time.Second); rate > 10<<10 || rate < 7<<10 {
			t.Errorf("%d bytes a second, want about %d", rate, 8<<10)
		}
		if b := c[0].Bulk()[c[1].node]; b.Limit != 8<<10 || b.Pace > 8<<10 || b.Pace == 0 || b.Sent == 0 {
			t.Errorf("%+v is shown", b)
		}
		c[0].LimitBulk(4<<10, func(at time.Time) bool { return at.Sub(began) > 5*time.Minute })
		if rate := carried(120*time.Second, 220*time.Second); rate > 5<<10 || rate < 7<<9 {
			t.Errorf("%d bytes a second, want about %d", rate, 4<<10)
		}
		<-done
		took := time.Since(began)
		t.Logf("%s, %d bytes sent for %d", took, net.OneWay("a", "b").Stats().Bytes-before, size)
		if took < 5*time.Minute || took > 6*time.Minute {
			t.Errorf("it took %s, want little more than the five minutes in which the limit holds", took)
		}
		if !bytes.Equal(sum, c[1].got.Sum(nil)) {
			t.Error("what came is not what was sent")
		}
		if b := c[0].Bulk()[c[1].node]; b.Limit != 0 || b.Pace != 0 {
			t.Errorf("%+v is shown at the end", b)
		}
	})
}

// TestSnapshotsLeaveTheReserve has too little room on either side: nothing is kept that there is no room for, and the snapshot
// arrives once there is some.
func TestSnapshotsLeaveTheReserve(t *testing.T) {
	for side, name := range []string{"sender", "receiver"} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				const size = 6 << 20
				net := simnet.New(t, 62)
				c := newCarriers(t, net, "a", "b")
				net.Link("a", "b").Delay(5 * time.Millisecond).Rate(100_000_000)
				awaitLink(t, c[0], c[1])
				full := errors.New("full to the reserve")
				var left atomic.Int64
				left.Store(3 << 20)
				c[side].room = func(n int64) error {
					if left.Add(-n) < 0 {
						return full
					}
					return nil
				}
				_, err := c[0].send(t.Context(), c[1], size)
				if err == nil || side == 0 && !errors.Is(err, full) || side == 1 && !strings.Contains(err.Error(), "did not take") {
					t.Errorf("with room for half of it: %v", err)
				}
				if again := left.Load(); again > 0 {
					t.Errorf("%d bytes of room were not asked for", again)
				}
				if _, err := c[0].send(t.Context(), c[1], size); err == nil {
					t.Error("without room it was sent")
				}
				time.Sleep(time.Minute) // until nothing is left of those that were refused
				left.Store(8 << 20)
				sum, err := c[0].send(t.Context(), c[1], size)
				if err != nil {
					t.Fatal(err)
				}
				if !bytes.Equal(sum, c[1].got.Sum(nil)) {
					t.Error("what came is not what was sent")
				}
				if now := left.Load(); now < 0 {
					t.Errorf("%d bytes beyond the room were taken", -now)
				}
			})
		})
	}
}
