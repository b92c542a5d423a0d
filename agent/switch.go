package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"slices"
	"time"

	"holdfast/api"
	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/internal/pivot"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/transport"
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

// promote makes a proxy a member.
func (a *Agent) promote(ctx context.Context, now *running, e *errand) (*running, error) {
	rec := a.planned().record
	if now.mode == config.ModeMember {
		if rec.Switch == nil {
			return now, nil // it is one
		}
		return now, a.promoted(rec, e)
	}
	if rec.Switch == nil {
		rec.Switch = &change{Kind: promoting, Token: e.token}
		if err := a.note(rec, failpoint.PromoteJournalled); err != nil {
			return now, err
		}
	}
	if rec.Switch.Admission == nil {
		if err := a.takeSeat(ctx, &rec, e); err != nil {
			return now, err
		}
	}
	e.say("making the member's folder")
	if err := a.dir.finishJoin(rec.Switch.Admission); err != nil {
		return now, err
	}
	next, err := a.understudy(ctx, e)
	if err != nil {
		if _, refused := errors.AsType[*undone](err); refused {
			err = errors.Join(err, a.unseat(rec))
		}
		return now, err
	}
	rec = a.as(rec, config.ModeMember, "promoted")
	rec.Switch = &change{Kind: promoting}
	if err := a.note(rec, failpoint.PromoteCommitted); err != nil {
		return now, errors.Join(err, next.stop())
	}
	e.say("taking over from the proxy")
	drained, err := a.turn(ctx, next, e)
	if err != nil {
		return now, errors.Join(err, next.stop())
	}
	if err := a.dir.step(failpoint.PromoteTurned); err != nil {
		return next, err
	}
	if err := a.retire(ctx, now, drained); err != nil {
		a.opts.Log.Warn("the proxy did not end cleanly; its cache is deleted anyway", "err", err)
	}
	return next, a.promoted(rec, e)
}

// takeSeat asks the cluster for a seat and records what it says.
func (a *Agent) takeSeat(ctx context.Context, rec *record, e *errand) error {
	e.say("asking the cluster for a seat")
	t, err := a.promotionToken(rec.Switch.Token)
	var got enroll.Joined
	if err == nil {
		wish := enroll.Wish{Role: transport.Member, Addresses: a.peerAddresses(), ClientURLs: a.clientURLs()}
		got, err = a.join(ctx, t, wish, "it serves on as a proxy", func(err error) { e.worry(err) })
	}
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		rec.Switch = &change{Kind: promoting, Admission: got.Admission}
		return a.note(*rec, failpoint.PromoteSeated)
	case ExitCode(err) == ExitConfig || errors.Is(err, enroll.ErrFull):
		if errors.Is(err, enroll.ErrFull) {
			err = fmt.Errorf("%w: demote a member first, or raise the number of voters that the cluster wants", err)
		}
		rec.Switch = nil
		return errors.Join(&undone{err}, a.note(*rec, failpoint.PromoteRefused))
	}
	return err
}

// promotionToken is the token that an operator gave, else the one in the configuration.
func (a *Agent) promotionToken(text string) (enroll.Token, error) {
	if text == "" {
		t, err := a.token()
		if err != nil {
			return t, fmt.Errorf("%w; to be promoted a proxy needs a token for a member: agent promote --token-file FILE", err)
		}
		return t, nil
	}
	t, err := enroll.ParseToken(text)
	if err != nil {
		return t, refusef("the token: %w: make one with `agent token create` on a member", err)
	}
	return t, nil
}

// understudy runs the member beside the proxy and returns when it is a voter that has all there is.
func (a *Agent) understudy(ctx context.Context, e *errand) (*running, error) {
	x, err := a.openMember(ctx)
	if err != nil {
		return nil, err
	}
	next := begin(ctx, x)
	m, replica := x.member, x.member.Status().ReplicaID
	e.say("catching up with the cluster")
	err = until(ctx, next, func() (bool, error) {
		r := m.Roster()
		if slices.ContainsFunc(r.Removed, func(g member.Gone) bool { return g.Replica == replica }) {
			return false, &undone{kv.Errorf(kv.PreconditionFailed, "the cluster has removed this member before it was a voter: promote it again")}
		}
		seat := r.Seat(replica)
		if seat != nil && seat.State == member.SeatVoter {
			return isClosed(x.node.caughtUp), nil
		}
		if isClosed(x.node.caughtUp) {
			e.say("waiting to be made a voter")
		}
		return false, nil
	})
	if errors.Is(err, member.ErrRemoved) {
		err = &undone{kv.Errorf(kv.PreconditionFailed, "the cluster has removed this member before it was a voter, so promote it again: %w", err)}
		return nil, errors.Join(err, ignoreRemoved(next.stop()))
	}
	if err != nil {
		return nil, errors.Join(err, next.stop())
	}
	return next, nil
}

// ignoreRemoved is the error of a member's end without that it was removed.
func ignoreRemoved(err error) error {
	if errors.Is(err, member.ErrRemoved) {
		return nil
	}
	return err
}

// unseat gives up a promotion that the cluster has taken back.
func (a *Agent) unseat(rec record) error {
	for _, name := range []string{memberName, stagedName} {
		if err := a.dir.removeFolder(name); err != nil {
			return err
		}
	}
	rec.Switch = nil
	return a.note(rec, failpoint.PromoteRefused)
}

// promoted ends a promotion: the member serves.
func (a *Agent) promoted(rec record, e *errand) error {
	e.say("deleting the proxy's cache")
	if err := a.dir.removeFolder(proxyName); err != nil {
		return err
	}
	if err := a.dir.step(failpoint.PromoteCleared); err != nil {
		return err
	}
	rec.Switch = nil
	return a.note(rec, failpoint.PromoteRecorded)
}

// demote makes a member a proxy.
func (a *Agent) demote(ctx context.Context, now *running, e *errand) (*running, error) {
	rec := a.planned().record
	if rec.Switch == nil {
		if now.mode == config.ModeProxy {
			return now, nil // it is one
		}
		replica := now.member.Status().ReplicaID
		r := now.member.Roster()
		if err := r.CanLose(replica); err != nil {
			return now, &undone{err}
		}
		rec.Switch = &change{Kind: demoting, Replica: replica}
		if err := a.note(rec, failpoint.DemoteJournalled); err != nil {
			return now, err
		}
	}
	var old *running
	if now.mode == config.ModeMember {
		if rec.Switch.Replica == 0 { // asked for while the agent was stopped
			rec.Switch.Replica = now.member.Status().ReplicaID
		}
		next, drained, err := a.stepDown(ctx, now, &rec, e)
		if err != nil {
			return now, err
		}
		bounded, cancel := context.WithTimeout(ctx, retireMax)
		drained(bounded)
		cancel()
		now, old = next, now
		// Only now: what this node has sent to itself as the leader would be lost with the leadership, and wait for an answer.
		if err := a.handOver(ctx, old, rec.Switch.Replica, e); err != nil {
			return now, errors.Join(err, old.stop())
		}
	}
	old, err := a.beRemoved(ctx, now, old, rec.Switch.Replica, e)
	if refusal, refused := errors.AsType[*undone](err); refused {
		return a.stepUp(ctx, now, old, rec, refusal, e)
	}
	if err != nil {
		return now, errors.Join(err, stopped(old))
	}
	if err := stopped(old); err != nil && !errors.Is(err, member.ErrRemoved) {
		a.opts.Log.Warn("the member did not end cleanly; it has been removed from the cluster", "err", err)
	}
	if err := a.dir.retireMember(rec.Switch.Replica); err != nil {
		return now, err
	}
	rec.Switch = nil
	if err := a.note(rec, failpoint.DemoteRecorded); err != nil {
		return now, err
	}
	a.net.look(true) // it has the certificate of a member
	return now, a.loadRevoked()
}

func stopped(r *running) error {
	if r == nil {
		return nil
	}
	return r.stop()
}

// stepDown has a proxy take over from a member, which goes on voting.
func (a *Agent) stepDown(ctx context.Context, now *running, rec *record, e *errand) (next *running, drained func(context.Context) int, err error) {
	next, err = a.successor(ctx, now, rec.Switch.Replica, e)
	if err == nil {
		*rec = a.as(*rec, config.ModeProxy, "demoted")
		err = a.note(*rec, failpoint.DemoteCommitted)
	}
	if err == nil {
		e.say("the proxy takes over")
		drained, err = a.turn(ctx, next, e)
	}
	if err == nil {
		err = a.dir.step(failpoint.DemoteTurned)
	}
	if err != nil {
		return nil, nil, errors.Join(err, stopped(next))
	}
	return next, drained, nil
}

// successor runs a proxy beside the member: its cache filled from the member's own data, its uplink to another member.
func (a *Agent) successor(ctx context.Context, now *running, replica uint64, e *errand) (*running, error) {
	e.say("filling the proxy's cache from this member's own data")
	r := now.member.Roster()
	r.Seats = slices.DeleteFunc(r.Seats, func(s member.Seat) bool { return s.Replica == replica })
	if err := a.dir.makeFolder(proxyName); err != nil {
		return nil, err
	}
	a.keepEndpoints(memberAddresses(r))
	if err := a.dir.step(failpoint.DemoteFolder); err != nil {
		return nil, err
	}
	x, err := a.openProxy(rounds{now.member})
	if err != nil {
		return nil, err
	}
	next := begin(ctx, x)
	err = until(ctx, next, func() (bool, error) { return isFilled(x.proxy.cache.State()), nil })
	if err == nil {
		e.say("connecting to another member")
		err = a.connect(ctx, next, e)
	}
	if err != nil {
		return nil, errors.Join(err, next.stop())
	}
	return next, nil
}

// connect waits for the uplink of a proxy and has its cache fed from there.
func (a *Agent) connect(ctx context.Context, r *running, e *errand) error {
	up := r.proxy.up
	for {
		err := until(ctx, r, func() (bool, error) {
			s := up.State()
			if s.Err != nil {
				e.worry(s.Err)
			}
			return s.Endpoint != "" && !s.Lost, nil
		})
		if err != nil {
			return err
		}
		attempt, cancel := context.WithTimeout(ctx, turnMax)
		_, err = r.proxy.above.Turn(attempt, pivot.Node{Backend: a.tracer.Backend("uplink", up), Reach: func(ctx context.Context, h kv.Header) error {
			_, err := up.Read(ctx, kv.Query{MaxAge: kv.Unlimited, MinRevision: h.Revision, Wait: turnMax})
			return err
		}})
		cancel()
		if err == nil {
			return nil
		}
		if err := a.again(ctx, e, err); err != nil {
			return err
		}
	}
}

// handOver has another voter lead if this one does. That it does not succeed is no obstacle: a leader that is to leave
// hands over before it is removed.
func (a *Agent) handOver(ctx context.Context, now *running, replica uint64, e *errand) error {
	m := now.member
	if m.Status().Leader != replica {
		return nil
	}
	e.say("handing over the leadership")
	for _, s := range m.Roster().Seats {
		if s.Replica == replica || s.State != member.SeatVoter {
			continue
		}
		attempt, cancel := context.WithTimeout(ctx, turnMax)
		err := m.MoveLeader(attempt, s.Replica)
		cancel()
		if err == nil {
			a.opts.Log.Info("leadership handed over", "to", s.Replica)
			return nil
		}
		a.opts.Log.Warn("leadership not handed over", "to", s.Replica, "err", err)
	}
	return ctx.Err()
}

// beRemoved asks the cluster to remove a replica of this node, which runs meanwhile because its vote may be needed, until
// it is. It returns what runs: old, or, if that is nil, what it has opened.
func (a *Agent) beRemoved(ctx context.Context, now, old *running, replica uint64, e *errand) (*running, error) {
	e.say("being removed from the members")
	for asked := false; ; {
		gone, why := a.isRemoved(ctx, now, replica)
		if gone {
			return old, a.dir.step(failpoint.DemoteRemoved)
		}
		if old == nil {
			x, err := a.openMember(ctx)
			if err != nil {
				return nil, err
			}
			old = begin(ctx, x)
		}
		if !asked {
			attempt, cancel := context.WithTimeout(ctx, askMax)
			err := old.auth.Resign(attempt)
			if err == nil {
				err = old.member.Leave(attempt)
			}
			cancel()
			if kv.CodeOf(err) == kv.PreconditionFailed {
				old.auth.Stay()
				return old, &undone{err}
			}
			if asked = err == nil; asked {
				if err := a.dir.step(failpoint.DemoteAsked); err != nil {
					return old, err
				}
			} else {
				why = err
			}
		}
		select {
		case <-old.done:
			if errors.Is(old.failure(), member.ErrRemoved) { // others have told it
				return old, a.dir.step(failpoint.DemoteRemoved)
			}
			return old, fmt.Errorf("the member that is to be removed: %w", old.failure())
		default:
		}
		if why == nil {
			if err := wait(ctx, switchLook); err != nil {
				return old, err
			}
		} else if err := a.again(ctx, e, why); err != nil {
			return old, err
		}
	}
}

// isRemoved asks the cluster, over the uplink, whether a replica has a seat.
func (a *Agent) isRemoved(ctx context.Context, now *running, replica uint64) (bool, error) {
	attempt, cancel := context.WithTimeout(ctx, askMax)
	defer cancel()
	page, err := now.proxy.up.Read(attempt, member.RosterQuery())
	if err != nil {
		return false, err
	}
	r, err := member.RosterOf(page)
	return err == nil && r.Seat(replica) == nil, err
}

// stepUp puts the member back on stage, because the cluster has come to need it.
func (a *Agent) stepUp(ctx context.Context, now, old *running, rec record, why *undone, e *errand) (*running, error) {
	e.say("going back to being a member")
	if err := until(ctx, old, func() (bool, error) { return isClosed(old.node.caughtUp), nil }); err != nil {
		return now, errors.Join(err, old.stop())
	}
	rec = a.as(rec, config.ModeMember, "demotion refused")
	rec.Switch = &change{Kind: promoting} // from here on it is the end of a promotion
	if err := a.note(rec, failpoint.PromoteCommitted); err != nil {
		return now, errors.Join(err, old.stop())
	}
	drained, err := a.turn(ctx, old, e)
	if err != nil {
		return now, errors.Join(err, old.stop())
	}
	if err := a.retire(ctx, now, drained); err != nil {
		a.opts.Log.Warn("the proxy did not end cleanly; its cache is deleted anyway", "err", err)
	}
	if err := a.promoted(rec, e); err != nil {
		return old, err
	}
	return old, why
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
