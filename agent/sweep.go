package agent

import (
	"context"
	"strings"
	"time"

	"holdfast/auth"
	"holdfast/kv"
	"holdfast/member"
)

// The times of a sweep of device tokens that have expired.
const (
	// sweepAfter is how long a token stays listed as expired, for whoever wonders why a device is refused, and for clocks that are wrong.
	sweepAfter = 7 * 24 * time.Hour
	// sweepEvery is also the pause before the first one: by then a clock that was wrong when the box started has been put right.
	sweepEvery = time.Hour
	// sweepMax bounds one sweep: each token is a change of the policy, which goes to every proxy.
	sweepMax = 100
)

// sweepDevices has the leader take away the tokens of devices that expired long ago, until ctx ends: a fleet that makes one for each
// day would come to auth.MaxDevices. What goes is named in the log, so that each replica drops the same, by nobody's clock.
func (a *Agent) sweepDevices(ctx context.Context, m *member.Member) {
	for pauseFor(ctx, sweepEvery) {
		if !m.Leads() {
			continue
		}
		gone, err := sweep(ctx, m.Policy(), a.judgedTime(), m.Do)
		if len(gone) > 0 {
			a.opts.Log.Info("tokens of devices that expired long ago are removed", "ids", strings.Join(gone, ","))
		}
		if err != nil && ctx.Err() == nil {
			a.opts.Log.Debug("not all tokens of devices that expired long ago could be removed; tried again", "err", err, "again_in", sweepEvery.String())
		}
	}
}

// sweep removes what expired sweepAfter ago, sweepMax at most, the oldest first.
func sweep(ctx context.Context, p *auth.Policy, now time.Time, do func(context.Context, kv.Command) (kv.Result, error)) (gone []string, err error) {
	expired := p.Expired(now.Add(-sweepAfter))
	for _, id := range expired[:min(len(expired), sweepMax)] {
		if _, err := do(ctx, kv.Command{By: kv.By{Principal: kv.RootName, AuthRevision: p.Revision()}, Ops: []kv.Op{kv.SetDevice{ID: id}}}); err != nil {
			return gone, err
		}
		gone = append(gone, id)
	}
	return gone, nil
}
