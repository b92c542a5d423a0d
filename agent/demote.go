package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/internal/pivot"
	"holdfast/kv"
	"holdfast/member"
)

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
