package agent

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// settleAfter is when a proxy's start is over: its uplink is up and its cache is loaded, if they are going to be soon.
	settleAfter = 10 * time.Second
	// settleEvery is how often it is done again, for what was used once since: a collection of a few megabytes and some
	// hundred minor faults, a few milliseconds in ten minutes.
	settleEvery = 10 * time.Minute
)

// settle gives back, from time to time, memory that only the start or something rare needed. A proxy is made for boxes on
// which that is noticed. It returns when ctx ends.
func (a *Agent) settle(ctx context.Context) {
	t := time.NewTimer(settleAfter)
	defer t.Stop()
	for {
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
		debug.FreeOSMemory()
		if err := dropPages(); err != nil {
			a.opts.Log.Debug("pages that are not in use are not given back; it makes no difference but in memory", "error", err)
		}
		t.Reset(settleEvery)
	}
}
