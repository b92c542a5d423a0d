package gcpace

import (
	"context"
	"runtime"
	"slices"
	"sync"
	"testing"
	"testing/synctest"
	"time"
)

func TestRoomIsAShareOfASmallMachine(t *testing.T) {
	for memory, want := range map[uint64]uint64{64 << 20: 2 << 20, 512 << 20: 16 << 20, 1 << 30: roomMax, 1 << 40: roomMax} {
		if got := Room(memory); got != want {
			t.Errorf("of %d MiB: %d, want %d", memory>>20, got, want)
		}
	}
}

func TestPercentOfRoom(t *testing.T) {
	for _, tc := range []struct {
		room, inUse uint64
		want        int
	}{{24 << 20, 6 << 20, 400}, {24 << 20, 24 << 20, 100}, {24 << 20, 64 << 20, 41}, {24 << 20, 128 << 20, 23}, {24 << 20, 1 << 30, 8}, {0, 5, 100}, {24 << 20, 0, 1<<31 - 1}} {
		if got := percentOf(tc.room, tc.inUse); got != tc.want {
			t.Errorf("%d bytes of room for %d: %d %%, want %d", tc.room, tc.inUse, got, tc.want)
		}
	}
}

func TestRoomIsGivenUnderLoadAndTakenBackAtRest(t *testing.T) {
	synctest.Test(t, func(t *testing.T) {
		var mu sync.Mutex
		var told []int
		p := pacer{room: 24 << 20, fast: fast, rest: rest, percent: usual, set: func(percent int) {
			mu.Lock()
			defer mu.Unlock()
			told = append(told, percent)
		}}
		ctx, cancel := context.WithCancel(t.Context())
		collected, use := make(chan struct{}), uint64(8<<20)
		var wg sync.WaitGroup
		wg.Go(func() { p.run(ctx, collected, func() uint64 { return use }) })
		expect := func(when string, want ...int) {
			t.Helper()
			synctest.Wait()
			mu.Lock()
			defer mu.Unlock()
			if !slices.Equal(told, want) {
				t.Errorf("%s: told %v, want %v", when, told, want)
			}
		}
		for range 3 {
			collected <- struct{}{}
			time.Sleep(time.Second)
		}
		expect("now and then")
		for range 3 {
			collected <- struct{}{}
			time.Sleep(fast / 5)
		}
		expect("fast", 300)
		time.Sleep(fast * 3)
		collected <- struct{}{}
		expect("slower, with the room", 300)
		use = 6 << 20
		collected <- struct{}{}
		expect("less in use", 300, 400)
		time.Sleep(rest + time.Second)
		expect("at rest", 300, 400, usual)
		collected <- struct{}{}
		time.Sleep(time.Minute)
		expect("long at rest", 300, 400, usual)
		use = 256 << 20
		collected <- struct{}{}
		time.Sleep(time.Minute)
		expect("large, at rest", 300, 400, usual, 15)
		use = 6 << 20
		collected <- struct{}{}
		collected <- struct{}{}
		cancel()
		wg.Wait()
		expect("at the end", 300, 400, usual, 15, usual, 400, usual)
	})
}

func TestEachCollectionIsTold(t *testing.T) {
	ctx, cancel := context.WithCancel(t.Context())
	defer cancel()
	told := collections(ctx)
	for i := range 5 {
		runtime.GC()
		select {
		case <-told:
		case <-time.After(10 * time.Second):
			t.Fatalf("collection %d was not told", i+1)
		}
	}
	if inUse() == 0 {
		t.Error("nothing is in use")
	}
}
