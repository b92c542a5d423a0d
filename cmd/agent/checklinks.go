package main

import (
	"context"
	"fmt"
	"time"

	"holdfast/config"
)

// checkBudget looks at what the links have carried today.
func checkBudget(_ context.Context, u *checkup) finding {
	if u.status == nil {
		return skip("no agent answers")
	}
	b := u.status.Budget
	if b == nil {
		return ok("the links have no budget (link.budget)")
	}
	text := fmt.Sprintf("%s of %s are used today, until %s", roughly(config.Size(b.UsedBytes)), config.Size(b.LimitBytes), b.Until.Format(time.RFC3339))
	switch {
	case b.Spent:
		return warn(text, "mirrors are not fed until then; writes go on. Raise link.budget, or see docs/operations.md (metered link) for what uses less")
	case 5*b.UsedBytes >= 4*b.LimitBytes:
		return warn(text, "once it is used up mirrors are not fed until the next day; see docs/operations.md (metered link) for what uses less")
	}
	return ok("%s", text)
}

// checkKeepAlive looks at how long NATs on the way to the node above remember this one.
func checkKeepAlive(_ context.Context, u *checkup) finding {
	if u.status == nil {
		return skip("no agent answers")
	}
	k := u.status.KeepAlive
	switch {
	case k == nil:
		return skip("this node has no links")
	case k.Short:
		return warn(fmt.Sprintf("a NAT or firewall forgets this node within %v s", k.EverySeconds), "what is sent to this node while it is at rest may be that late: raise the router's timeout for UDP to 30 s or more")
	case k.Found == nil:
		return ok("every %v s; how seldom it may be is not measured yet (it is a few minutes after the uplink is up)", k.EverySeconds)
	}
	return ok("every %v s, found %s", k.EverySeconds, k.Found.Format(time.RFC3339))
}
