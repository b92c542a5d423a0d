package agent

import (
	"context"
	"math/rand/v2"
	"time"

	"holdfast/api"
	"holdfast/client"
	"holdfast/config"
	"holdfast/member"
)

// fallbackReason is recorded for a node that is a proxy only because the cluster had all the members it wanted.
const fallbackReason = "fallback: the cluster is full"

// standbyEvery is how often, about, such a node looks whether a seat has become free: 0.4 MB a day.
const standbyEvery = time.Minute

// standBy has a node in auto mode that fell back to being a proxy take a seat among the members when one is free: more
// voters are wanted, or one has been away for so long that it may be replaced. A proxy that somebody wanted stays one. It
// asks with its own certificate: its token may have ended long ago. It returns when ctx ends.
func (a *Agent) standBy(ctx context.Context, up *client.Client) {
	rec := a.planned().record
	if a.cfg.Mode != config.ModeAuto || rec.Reason != fallbackReason || rec.Switch != nil {
		return
	}
	for {
		if err := wait(ctx, standbyEvery/2+rand.N(standbyEvery)); err != nil {
			return
		}
		asking, cancel := context.WithTimeout(ctx, askMax)
		page, err := up.Read(asking, member.RosterQuery())
		cancel()
		if err != nil {
			continue // the uplink says so itself
		}
		r, err := member.RosterOf(page)
		if err != nil || len(r.Seats) == 0 || r.Taken() >= r.Voters {
			continue
		}
		a.opts.Log.Info("a seat among the members is free; this proxy, which is one for want of a seat, asks for it", "voters", r.Voters, "taken", r.Taken())
		if _, err := a.errands.ask(newErrand(api.SwitchPromote, a.opts.Now())); err != nil {
			a.opts.Log.Info("not asked: this node is changing already", "err", err)
		}
	}
}
