package relay

import (
	"context"
	"testing"

	"holdfast/kv"
)

func TestControlsAreHandedOnInOrderUntilTheEnd(t *testing.T) {
	from, to := make(chan kv.WatchControl), make(chan kv.WatchControl)
	ended := make(chan bool, 1)
	go func() {
		saw := int64(0)
		Controls(t.Context(), from, to, func(c *kv.WatchControl, ok bool) {
			if ok {
				saw++
				c.Cancel += 10 * saw
			}
		})
		ended <- saw == 3
	}()
	go func() {
		for i := range int64(3) {
			from <- kv.WatchControl{Cancel: i}
		}
		close(from)
	}()
	for i := range int64(3) {
		if c := <-to; c.Cancel != i+10*(i+1) {
			t.Errorf("control %d comes as %+v", i, c)
		}
	}
	if _, more := <-to; more || !<-ended {
		t.Error("the end is not handed on after all")
	}
}

func TestControlsEndWithTheContext(t *testing.T) {
	for _, asked := range []int{0, 1} { // waiting for the one side or the other
		ctx, cancel := context.WithCancel(t.Context())
		from, to, ended := make(chan kv.WatchControl, 1), make(chan kv.WatchControl), make(chan struct{})
		taken := make(chan struct{}, 1)
		go func() {
			Controls(ctx, from, to, func(*kv.WatchControl, bool) { taken <- struct{}{} })
			close(ended)
		}()
		if asked > 0 {
			from <- kv.WatchControl{Progress: true}
			<-taken
		}
		cancel()
		<-ended
	}
}
