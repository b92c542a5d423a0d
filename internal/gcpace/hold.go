package gcpace

import (
	"runtime/debug"
	"sync"
)

// collector is the one that a process has, and how it is told to work once nobody holds it.
var collector struct {
	sync.Mutex
	holds   int
	percent int
}

// Hold keeps the collector from running until release is called, for as long as somebody holds it. It is for a short time in
// which much is made that stays: a collection would find no garbage, and look at all there is once more. A limit of
// memory (GOMEMLIMIT, Bound) holds nevertheless. It may be called concurrently, and release more than once.
func Hold() (release func()) {
	collector.Lock()
	defer collector.Unlock()
	if collector.holds == 0 {
		collector.percent = debug.SetGCPercent(-1)
	}
	collector.holds++
	return sync.OnceFunc(func() {
		collector.Lock()
		defer collector.Unlock()
		if collector.holds--; collector.holds == 0 {
			debug.SetGCPercent(collector.percent)
		}
	})
}

// tell sets the growth of the heap after which the collector runs.
func tell(percent int) {
	collector.Lock()
	defer collector.Unlock()
	if collector.percent = percent; collector.holds == 0 {
		debug.SetGCPercent(percent)
	}
}
