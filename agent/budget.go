package agent

import (
	"fmt"
	"time"

	"holdfast/api"
	"holdfast/internal/budget"
)

// budgetFile is in identity, beside what else the endpoint keeps.
const budgetFile = "budget.json"

// openBudget begins to count what the links carry, if that is bounded.
func (a *Agent) openBudget() {
	if a.cfg.Link.Budget == 0 {
		return
	}
	b, err := budget.Open(budget.Options{
		Path:    a.dir.join(identityName, budgetFile),
		Limit:   int64(a.cfg.Link.Budget),
		Carried: func() uint64 { return a.net.ep.Counters().WireBytes },
		Now:     a.judgedTime,
		Log:     a.opts.Log,
	})
	if err != nil {
		a.opts.Log.Warn("the links' budget begins anew today", "err", err)
	}
	a.budget.Store(b)
}

// sparing reports whether only what must be is sent to other nodes.
func (a *Agent) sparing() bool {
	b := a.budget.Load()
	if b == nil {
		return false
	}
	spent, _ := b.Spent()
	return spent
}

// withoutCopies reports whether members are sent nothing twice against loss.
func (a *Agent) withoutCopies() bool { return a.cfg.Link.Redundancy == "off" || a.sparing() }

// pausedByBudget says why a proxy's cache is not to be fed now.
func (a *Agent) pausedByBudget() (changed <-chan struct{}, why error) {
	b := a.budget.Load()
	if b == nil {
		return nil, nil
	}
	spent, changed := b.Spent()
	if spent {
		why = fmt.Errorf("the links' budget for today is used up, until %s (link.budget)", b.State().Until.Format(time.RFC3339))
	}
	return changed, why
}

func (a *Agent) budgetStatus() *api.BudgetStatus {
	b := a.budget.Load()
	if b == nil {
		return nil
	}
	s := b.State()
	return &api.BudgetStatus{LimitBytes: s.Limit, UsedBytes: s.Used, Spent: s.Spent, Until: s.Until}
}
