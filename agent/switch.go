package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/kv"
)

// A switch is a walk along records in mode.json. What serves is what Mode says, at every start; the act that is not on
// stage may run beside it. Cut short anywhere, the next start goes on from the record it finds.
//
//	promote   proxy                              the proxy serves
//	          proxy,  switch promote             the cluster is asked for a seat
//	          proxy,  switch promote, admission  member/ is made; a learner runs beside the proxy, catches up, is made a voter
//	          member, switch promote             the member serves; proxy/ is deleted
//	          member
//
//	demote    member                             the member serves
//	          member, switch demote              proxy/ is made; its cache is filled from the member; the leadership moves
//	          proxy,  switch demote              the proxy serves; the member runs beside it, and votes, until it is removed
//	          proxy                              member/ is retired/<replica>/
//
// The record is written before the other one serves: what that has shown to clients is never asked of the first again.

const (
	// switchLook is how often a step that waits for others looks whether they are there.
	switchLook = 20 * time.Millisecond
	// turnMax bounds one attempt at an exchange, during which requests wait: less than they wait.
	turnMax = 3 * time.Second
	// retireMax is how long what runs on the act that left is waited for.
	retireMax = 10 * time.Second
	// switchRetry is the pause after a step of a switch failed that may succeed yet.
	switchRetry = 500 * time.Millisecond
	// askMax bounds one question to the cluster.
	askMax = 5 * time.Second
)

// undone is the reason why a switch was refused, or given up: the node is what it was.
type undone struct{ err error }

func (u *undone) Error() string { return u.err.Error() }
func (u *undone) Unwrap() error { return u.err }

// resumed is the change that the journal is in the middle of, nil for none.
func (a *Agent) resumed() *errand {
	rec := a.planned().record
	if rec.Switch == nil || !rec.Switch.live() {
		return nil
	}
	e := newErrand(rec.Switch.Kind, a.opts.Now())
	e.token, e.force = rec.Switch.Token, rec.Switch.Force
	return e
}

// carryOut changes what the node is. It returns what runs on stage afterwards, and an error if the node cannot go on; a
// change that is refused is not one. It ends early when ctx ends, or when what is on stage does.
func (a *Agent) carryOut(ctx context.Context, now *running, e *errand) (*running, error) {
	work, cancel := context.WithCancel(ctx)
	watched := make(chan struct{})
	go func() {
		defer close(watched)
		select {
		case <-now.done:
			cancel()
		case <-work.Done():
		}
	}()
	defer func() { cancel(); <-watched }()
	log := a.opts.Log.With("change", e.kind)
	e.logTo(log)
	log.Info("changing mode", "from", string(now.mode))
	change := map[string]func(context.Context, *running, *errand) (*running, error){
		api.SwitchPromote: a.promote, api.SwitchDemote: a.demote, api.SwitchLeave: a.leave,
	}[e.kind]
	next, err := change(work, now, e)
	refusal, refused := errors.AsType[*undone](err)
	switch {
	case err == nil:
		log.Info("mode changed", "to", string(next.mode), "took", time.Since(e.began).Round(time.Millisecond).String())
		a.errands.end(e, nil)
	case refused:
		log.Warn("mode not changed", "mode", string(next.mode), "err", refusal.err)
		a.errands.end(e, asRefusal(refusal.err))
	case work.Err() != nil:
		a.errands.end(e, kv.Errorf(kv.Stopping, "the agent is stopping; the next start goes on with the change (%s)", e.status("").Step))
	default:
		a.errands.end(e, kv.Errorf(kv.Internal, "change the mode: %w", err))
		return next, fmt.Errorf("%s: %w", e.kind, err)
	}
	return next, nil
}

// asRefusal gives a refusal a code if it has none.
func asRefusal(err error) error {
	if kv.CodeOf(err) != kv.Internal {
		return err
	}
	return kv.Errorf(kv.PreconditionFailed, "%w", err)
}

// note records where a switch stands. It returns once that is on disk.
func (a *Agent) note(rec record, at failpoint.Point) error {
	if err := a.dir.writeRecord(rec); err != nil {
		return err
	}
	p := *a.planned()
	p.do, p.record = goOn, rec
	a.plan.Store(&p)
	return a.dir.step(at)
}

// as returns a record of another mode, of this moment.
func (a *Agent) as(rec record, mode config.Mode, reason string) record {
	rec.Mode, rec.Wanted, rec.Reason, rec.Since = mode, a.cfg.Mode, reason, a.opts.Now().UTC().Truncate(time.Second)
	return rec
}

// turn puts an act on stage, which has been recorded as what the node is. It is tried until it succeeds.
func (a *Agent) turn(ctx context.Context, next *running, e *errand) (drained func(context.Context) int, err error) {
	for {
		attempt, cancel := context.WithTimeout(ctx, turnMax)
		drained, err = a.pivot.Turn(attempt, next.stage())
		cancel()
		if err == nil {
			a.enter(next)
			return drained, nil
		}
		if err := a.again(ctx, e, err); err != nil {
			return nil, err
		}
	}
}

// again notes why a step failed and waits a little. It returns an error when there is to be no other attempt.
func (a *Agent) again(ctx context.Context, e *errand, why error) error {
	if ctx.Err() != nil {
		return ctx.Err()
	}
	if e.worry(why) {
		a.opts.Log.Warn("a step of the change of mode failed and is tried again", "change", e.kind, "step", e.status("").Step, "err", why)
	}
	return wait(ctx, switchRetry)
}

func wait(ctx context.Context, d time.Duration) error {
	t := time.NewTimer(d)
	defer t.Stop()
	select {
	case <-t.C:
		return nil
	case <-ctx.Done():
		return ctx.Err()
	}
}

// until looks again and again until what says that it is so. An error of what, of ctx or of the act ends it.
func until(ctx context.Context, r *running, what func() (bool, error)) error {
	for {
		switch yes, err := what(); {
		case err != nil:
			return err
		case yes:
			return nil
		}
		select {
		case <-r.done:
			return r.failure()
		default:
		}
		if err := wait(ctx, switchLook); err != nil {
			return err
		}
	}
}

// retire ends an act that has left the stage.
func (a *Agent) retire(ctx context.Context, old *running, drained func(context.Context) int) error {
	bounded, cancel := context.WithTimeout(ctx, retireMax)
	defer cancel()
	if n := drained(bounded); n > 0 {
		a.opts.Log.Warn("requests are cut off that are still under way from before the change of mode", "requests", n)
	}
	return old.stop()
}

// removeFolder deletes a folder and what is in it, if it is there, durably. Cut short, it is to be called again.
func (d *dataDir) removeFolder(name string) error {
	if err := os.RemoveAll(d.join(name)); err != nil {
		return storageError(fmt.Errorf("delete %s: %w", name, err))
	}
	if err := syncDir(d.path); err != nil {
		return storageError(err)
	}
	return nil
}
