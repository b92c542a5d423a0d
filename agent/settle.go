package agent

import (
	"context"
	"runtime/debug"
	"time"
)

const (
	// settleAfter is when a start is over: the uplink of a proxy is up and its cache is loaded, if they are going to be
	// soon; a member has been serving for so long.
	settleAfter = 10 * time.Second
	// settleEvery is how often a proxy does it again, for what was used once since: a collection of a few megabytes and some
	// hundred minor faults, a few milliseconds in ten minutes.
	settleEvery = 10 * time.Minute
)

// settle gives back memory that only the start needed, and where again is set from time to time what something rare
// needed: a proxy is made for boxes on which that is noticed. It returns when that is done or ctx ends.
func (a *Agent) settle(ctx context.Context, again bool) {
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
		if !again {
			return
		}
		t.Reset(settleEvery)
	}
}
