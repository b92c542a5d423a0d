package agent

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"slices"
	"strconv"

	"holdfast/api"
	"holdfast/config"
	"holdfast/internal/failpoint"
	"holdfast/member"
)

// retiredName is where a member goes that this node no longer is: retired/<replica id>/, the newest alone. Nothing reads
// it; it is there for the person who wants something back.
const retiredName = "retired"

// removedReason is recorded for a node that is a proxy because its cluster has removed it from the members.
const removedReason = "removed from the members"

// mayBeProxy reports whether a node that cannot be a member goes on as a proxy.
func (a *Agent) mayBeProxy() bool {
	return a.cfg.Mode == config.ModeProxy || a.cfg.Fallback == "proxy" || a.cfg.Fallback == "" && a.cfg.Mode == config.ModeAuto
}

// outlive goes on after the act on stage has ended by itself: as a proxy, if that was a member which the cluster has removed
// and the configuration lets it; nil if the agent stops meanwhile. Any other end is the node's. Cut short, the next start goes on as with a demotion.
func (a *Agent) outlive(ctx context.Context, now *running) (*running, error) {
	err := now.failure()
	if !errors.Is(err, member.ErrRemoved) || !a.mayBeProxy() {
		return nil, err
	}
	replica, r := now.member.Status().ReplicaID, now.member.Roster()
	a.opts.Log.Warn("the cluster has removed this member; it goes on as a proxy, and what it held is kept", "replica", replica,
		"in", a.dir.join(retiredName, strconv.FormatUint(replica, 10)), "err", err)
	if err := a.dir.makeFolder(proxyName); err != nil {
		return nil, err
	}
	r.Seats = slices.DeleteFunc(r.Seats, func(s member.Seat) bool { return s.Replica == replica })
	a.keepEndpoints(memberAddresses(r))
	rec := a.as(a.planned().record, config.ModeProxy, removedReason)
	rec.Switch = &change{Kind: demoting, Replica: replica}
	if err := a.note(rec, failpoint.DemoteCommitted); err != nil {
		return nil, err
	}
	x, err := a.openProxy(nil)
	if err != nil {
		return nil, err
	}
	next := begin(ctx, x)
	drained, err := a.turn(ctx, next, newErrand(api.SwitchDemote, a.opts.Now()))
	if err != nil {
		return nil, errors.Join(ignoreStop(ctx, err), next.stop())
	}
	bounded, cancel := context.WithTimeout(ctx, retireMax)
	drained(bounded)
	cancel()
	err = a.dir.retireMember(replica)
	if err == nil {
		rec.Switch = nil
		err = a.note(rec, failpoint.DemoteRecorded)
	}
	if err == nil {
		err = a.loadRevoked()
	}
	if err != nil {
		return nil, errors.Join(err, next.stop())
	}
	a.net.look(true) // it has the certificate of a member
	return next, nil
}

// ignoreStop is err without that the agent is stopping.
func ignoreStop(ctx context.Context, err error) error {
	if ctx.Err() != nil {
		return nil
	}
	return err
}

// retireMember puts the folder of a removed member aside, and deletes the one before. Cut short, it is to be called again.
func (d *dataDir) retireMember(replica uint64) error {
	name := strconv.FormatUint(replica, 10)
	if err := d.makeFolder(retiredName); err != nil {
		return err
	}
	there, err := d.look(memberName)
	if err != nil {
		return err
	}
	if there != absent {
		if err := os.RemoveAll(d.join(retiredName, name)); err != nil { // never there: replica ids are not used again
			return storageError(fmt.Errorf("make room for the retired member: %w", err))
		}
		if err := os.Rename(d.join(memberName), d.join(retiredName, name)); err != nil {
			return storageError(fmt.Errorf("retire %s: %w", memberName, err))
		}
		if err := syncDir(d.path); err != nil {
			return storageError(err)
		}
		if err := syncDir(d.join(retiredName)); err != nil {
			return storageError(err)
		}
	}
	if err := d.step(failpoint.DemoteRetired); err != nil {
		return err
	}
	all, err := os.ReadDir(d.join(retiredName))
	if err != nil {
		return storageError(err)
	}
	for _, one := range all {
		if one.Name() == name {
			continue
		}
		if err := os.RemoveAll(filepath.Join(d.join(retiredName), one.Name())); err != nil {
			return storageError(fmt.Errorf("delete what was retired before: %w", err))
		}
	}
	return nil
}
