package agent

import (
	"context"
	"errors"
	"fmt"
	"slices"

	"holdfast/config"
	"holdfast/enroll"
	"holdfast/internal/failpoint"
	"holdfast/kv"
	"holdfast/member"
	"holdfast/transport"
)

// promote makes a proxy a member.
func (a *Agent) promote(ctx context.Context, now *running, e *errand) (*running, error) {
	rec := a.planned().record
	if now.mode == config.ModeMember {
		if rec.Switch == nil {
			return now, nil // it is one
		}
		return now, a.promoted(rec, e)
	}
	if a.cfg.Proxy.Namespace != "" {
		return now, &undone{kv.Errorf(kv.PreconditionFailed, "this proxy shows its clients a namespace (proxy.namespace), and a member shows all keys: take that setting out first")}
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
	} else if err := a.takePeerPort(ctx); err != nil { // it had the port before this start
		a.opts.Log.Warn("other nodes find this one at the port that it has meanwhile", "at", a.net.listensAt().String(), "err", err)
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
	if err := a.takePeerPort(ctx); err != nil {
		rec.Switch = nil
		return errors.Join(&undone{err}, a.note(*rec, failpoint.PromoteRefused))
	}
	e.say("asking the cluster for a seat")
	wish := enroll.Wish{Role: transport.Member, Addresses: a.peerAddresses(), ClientURLs: a.clientURLs()}
	got, err := a.askForSeat(ctx, wish, rec.Switch.Token, "it serves on as a proxy", func(err error) { e.worry(err) })
	switch {
	case ctx.Err() != nil:
		return ctx.Err()
	case err == nil:
		rec.Switch = &change{Kind: promoting, Admission: got.Admission}
		return a.note(*rec, failpoint.PromoteSeated)
	case ExitCode(err) == ExitConfig || errors.Is(err, enroll.ErrFull):
		if errors.Is(err, enroll.ErrFull) {
			err = fmt.Errorf("%w: demote a member first, or have it want more (on a member: agent members set --voters N)", err)
		}
		rec.Switch = nil
		return errors.Join(&undone{err}, a.note(*rec, failpoint.PromoteRefused))
	}
	return err
}

// askForSeat asks with the token that an operator gave; else by this node's certificate, which does not end as a token does,
// if the cluster lets that be enough; else with the token in the configuration.
func (a *Agent) askForSeat(ctx context.Context, wish enroll.Wish, text, meanwhile string, worry func(error)) (got enroll.Joined, err error) {
	wish.Name = a.cfg.Name
	if text != "" {
		t, err := enroll.ParseToken(text)
		if err != nil {
			return got, refusef("the token: %w: make one with `agent token create` on a member", err)
		}
		return a.join(ctx, t, wish, meanwhile, worry)
	}
	if a.net.identity.Load().Joined() {
		got, err = a.askIn(ctx, meanwhile, worry, func(at []string) (enroll.Joined, error) {
			return enroll.TakeSeat(ctx, a.net.ep, at, a.net.identity.Load(), wish)
		})
		if !errors.Is(err, enroll.ErrNoSeat) {
			return got, err
		}
	}
	t, err := a.token()
	if err != nil {
		return got, fmt.Errorf("%w; this node has joined as a proxy only: to become a member it needs a token for one, agent promote "+
			"--token-file FILE, or that agent promote %s is run on a member", err, a.cfg.Name)
	}
	return a.join(ctx, t, wish, meanwhile, worry)
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
