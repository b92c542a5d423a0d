package agent

import (
	"context"
	"fmt"
	"time"
)

const (
	// statusEvery is how often the line shown by the service manager is looked at; it is sent when it has changed.
	statusEvery = 5 * time.Second

	// replayMax is how long the watchdog believes in a store that is being opened. 15 minutes read 1.8 GB at 2 MB/s, the
	// slowest of SD cards.
	replayMax = 15 * time.Minute
)

// runHerald is the part that tells the outside how the agent is doing. It stops first, so that everybody knows before
// the doors close.
func (a *Agent) runHerald(ctx context.Context, ready func()) error {
	ready()
	line := a.statusLine()
	a.tell("READY=1", status(line)) // health answers from here on; what it says is another matter
	looks, pings, stop := a.clocks()
	defer stop()
	serving := a.ready
	for {
		select {
		case <-serving:
			serving = nil
			a.opts.Log.Info("agent ready", "status", a.statusLine(), "after", a.opts.Now().Sub(a.started).Round(time.Millisecond).String())
		case <-looks:
		case <-pings:
			a.ping(ctx)
		case <-ctx.Done():
			a.tell("STOPPING=1", status("Stopping: waiting for running requests, then writing the state file"))
			return nil
		}
		if now := a.statusLine(); now != line {
			line = now
			a.tell(status(line))
		}
	}
}

// clocks say when to look at the status line and when to feed the watchdog: three times within its patience, so that
// one read lost in an election starves nobody. They stand still if there is nobody to tell.
func (a *Agent) clocks() (looks, pings <-chan time.Time, stop func()) {
	if a.notifier == nil {
		return nil, nil, func() {}
	}
	look := time.NewTicker(statusEvery)
	if a.notifier.watchdog <= 0 {
		return look.C, nil, look.Stop
	}
	ping := time.NewTicker(a.notifier.watchdog / 3)
	return look.C, ping.C, func() { look.Stop(); ping.Stop() }
}

// ping tells the watchdog that the agent is alive, if the node has answered just now. Without a sign of life the service
// manager restarts the agent, which is the remedy for a loop that hangs.
func (a *Agent) ping(ctx context.Context) {
	w := a.notifier.watchdog
	if err := a.alive(ctx, w/3); err != nil {
		if ctx.Err() == nil {
			a.opts.Log.Warn("node gave no sign of life, the watchdog gets none either", "err", err, "restart_after", w.String())
		}
		return
	}
	a.tell("WATCHDOG=1")
}

func (a *Agent) alive(ctx context.Context, within time.Duration) error {
	n := a.node.Load()
	if n == nil {
		if age := a.opts.Now().Sub(a.started); age > replayMax {
			return fmt.Errorf("the store is not open after %v", age.Round(time.Second))
		}
		return nil
	}
	bounded, cancel := context.WithTimeout(ctx, within)
	defer cancel()
	return n.alive(bounded)
}

// tell passes lines to the service manager. That it cannot be told is worth a line and nothing more.
func (a *Agent) tell(lines ...string) {
	if err := a.notifier.send(lines...); err != nil {
		a.opts.Log.Warn("service manager not reached", "lines", lines, "err", err)
	}
}
