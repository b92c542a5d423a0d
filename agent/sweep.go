package agent

import (
	"context"
	"strings"
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/auth"
	"holdfast/enroll"
	"holdfast/kv"
	"holdfast/member"
)

// The times of a sweep of tokens that have expired.
const (
	// sweepAfter is how long a token stays listed as expired, for whoever wonders why a box is refused, and for clocks that are wrong.
	sweepAfter = 7 * 24 * time.Hour
	// sweepEvery is also the pause before the first one: by then a clock that was wrong when the box started has been put right.
	sweepEvery = time.Hour
	// sweepMax bounds one sweep of each kind: a token of a device is a change of the policy, which goes to every proxy.
	sweepMax = 100
)

// The kinds of tokens, as the metric has them.
const (
	sweptDevice = "device"
	sweptJoin   = "join"
)

func newSwept(reg prometheus.Registerer) *prometheus.CounterVec {
	swept := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_agent_expired_tokens_removed_total",
		Help: "Tokens of devices (device) and for joining (join) that this node removed, as the leader, a week after they had expired."}, []string{"kind"})
	reg.MustRegister(swept)
	for _, kind := range []string{sweptDevice, sweptJoin} {
		swept.WithLabelValues(kind) // so that each is there from the start
	}
	return swept
}

// sweep has the leader take away the tokens that expired long ago, until ctx ends: a fleet that makes one for each day, or each
// box, would come to auth.MaxDevices or enroll.MaxTokens. What goes is named in the log, so that each replica drops the same, by
// nobody's clock.
func (a *Agent) sweep(ctx context.Context, m *member.Member) {
	tell := func(kind string, gone []string, err error) {
		a.swept.WithLabelValues(kind).Add(float64(len(gone)))
		if len(gone) > 0 {
			a.opts.Log.Info("tokens that expired long ago are removed", "kind", kind, "ids", strings.Join(gone, ","))
		}
		if err != nil && ctx.Err() == nil {
			a.opts.Log.Debug("not all tokens that expired long ago could be removed; tried again", "kind", kind, "err", err, "again_in", sweepEvery.String())
		}
	}
	for pauseFor(ctx, sweepEvery) {
		if !m.Leads() {
			continue
		}
		gone, err := sweepDevices(ctx, m.Policy(), a.judgedTime(), m.Do)
		tell(sweptDevice, gone, err)
		gone, err = enroll.RemoveExpired(ctx, m, a.judgedTime().Add(-sweepAfter), sweepMax)
		tell(sweptJoin, gone, err)
		a.sweepNodes(ctx, m)
	}
}

// sweepNodes removes the proxies that could not come back any more sweepAfter ago, and are not there: they would be listed as away for
// ever.
func (a *Agent) sweepNodes(ctx context.Context, m *member.Member) {
	r := a.roll.Load()
	if r == nil {
		return
	}
	seen, _, errs := r.gather(ctx, a.selfReport())
	if len(errs) > 0 { // what is connected to a member that does not answer is not known
		return
	}
	here := func(id string) bool { return seen[id].Connected }
	gone, err := enroll.RemoveGone(ctx, m, a.judgedTime().Add(-sweepAfter), sweepMax, here)
	if len(gone) > 0 {
		a.opts.Log.Info("proxies that were away for longer than they could come back are removed", "nodes", strings.Join(gone, ","))
	}
	if err != nil && ctx.Err() == nil {
		a.opts.Log.Debug("not all proxies that are gone could be removed; tried again", "err", err, "again_in", sweepEvery.String())
	}
}

// sweepDevices removes what expired sweepAfter ago, sweepMax at most, the oldest first.
func sweepDevices(ctx context.Context, p *auth.Policy, now time.Time, do func(context.Context, kv.Command) (kv.Result, error)) (gone []string, err error) {
	expired := p.Expired(now.Add(-sweepAfter))
	for _, id := range expired[:min(len(expired), sweepMax)] {
		if _, err := do(ctx, kv.Command{By: kv.By{Principal: kv.RootName, AuthRevision: p.Revision()}, Ops: []kv.Op{kv.SetDevice{ID: id}}}); err != nil {
			return gone, err
		}
		gone = append(gone, id)
	}
	return gone, nil
}
