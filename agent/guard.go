package agent

import (
	"time"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/auth"
)

// guard puts the one who judges who may do what in front of the queue and the node.
func (a *Agent) guard(next api.Backend) api.Backend {
	refused := prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_auth_refusals_total",
		Help: "Requests refused for a right that is missing (denied), a token (token) or a password (password) that is no good, too many passwords at once (slowed); watches ended because a right was withdrawn (cut)."},
		[]string{"reason"})
	a.opts.Metrics.MustRegister(refused)
	a.swept = newSwept(a.opts.Metrics)
	for _, event := range auth.Events {
		refused.WithLabelValues(event) // so that each is there from the start
	}
	g := auth.NewGuard(next, a.policySource, auth.Options{
		Named:     api.SetName,
		From:      api.PlaceOf,
		Now:       a.judgedTime,
		TokenTTL:  a.cfg.Auth.TokenTTL,
		Passwords: a.passwords,
		Count:     func(event string) { refused.WithLabelValues(event).Inc() },
	})
	a.judge.Store(g)
	return g
}

// lastSeen is when the tokens of devices were shown here last, by id.
func (a *Agent) lastSeen() map[string]time.Time {
	if g := a.judge.Load(); g != nil {
		return g.LastSeen()
	}
	return nil
}

var _ api.Backend = (*auth.Guard)(nil)

// policySource is what the node judges by at present.
func (a *Agent) policySource() auth.Source {
	if n := a.node.Load(); n != nil && n.policy.Policy != nil {
		return n.policy
	}
	return auth.Source{Policy: func() (*auth.Policy, bool) { return nil, false }}
}
