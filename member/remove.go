package member

import (
	"context"
	"errors"
	"fmt"
	"time"

	"holdfast/kv"
)

// removeTimeout is how long a removal may take before it is called off: the leader changes raft's members in a few round
// trips, and hands over the leadership first if it is to go itself.
const removeTimeout = 20 * time.Second

// RemoveReplica takes a member out of the cluster for good. It returns once the member is out.
func (m *Member) RemoveReplica(ctx context.Context, replica uint64) error {
	ctx, done, err := m.join(ctx)
	if err != nil {
		return err
	}
	defer done()
	if err := m.removable(ctx, replica); err != nil {
		return err
	}
	_, err = m.changeRoster(ctx, func(r *Roster) (bool, error) { return r.leave(replica) })
	if err != nil {
		return m.orStopping(err)
	}
	if replica == m.id.Replica {
		return nil // its own log may never tell it
	}
	ctx, cancel := context.WithTimeout(ctx, removeTimeout)
	defer cancel()
	for {
		r, changed := m.roster.get()
		if r.Seat(replica) == nil && !r.none() {
			return nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return m.orStopping(m.recall(context.WithoutCancel(ctx), replica))
		}
	}
}

// Dismiss asks the cluster to take a member out for good, and waits for that while ctx lasts: what has been asked for is
// done later, once the voters left are a quorum. Gone is whether it is out. What RemoveReplica refuses is refused.
func (m *Member) Dismiss(ctx context.Context, replica uint64) (gone bool, err error) {
	ctx, done, err := m.join(ctx)
	if err != nil {
		return false, err
	}
	defer done()
	if err := m.removable(ctx, replica); err != nil {
		return false, err
	}
	if _, err := m.changeRoster(ctx, func(r *Roster) (bool, error) { return r.leave(replica) }); err != nil {
		return false, m.orStopping(err)
	}
	for {
		r, changed := m.roster.get()
		if r.Seat(replica) == nil && !r.none() {
			return true, nil
		}
		select {
		case <-changed:
		case <-ctx.Done():
			return false, nil
		}
	}
}

// removable refuses what would cost the cluster its last voter or its quorum.
func (m *Member) removable(ctx context.Context, replica uint64) error {
	now, err := m.membership(ctx)
	if err != nil {
		return noLeader("%v", err)
	}
	if _, voter := now.Nodes[replica]; voter && len(now.Nodes) == 1 { // a cluster that was founded a moment ago has no roster yet
		return kv.Errorf(kv.Invalid, "member %d is the last voter, and a cluster needs one: to give the cluster up, run agent leave --force on it", replica)
	}
	r := m.Roster()
	if r.Seat(replica) == nil {
		return kv.Errorf(kv.KeyNotFound, "there is no member %d: see agent members ls", replica)
	}
	if err := m.mayRemove(ctx, replica, now); err != nil {
		return kv.Errorf(kv.Busy, "%w", err)
	}
	return nil
}

// leave marks a seat as one that is to be given up.
func (r *Roster) leave(replica uint64) (bool, error) {
	s := r.Seat(replica)
	if s == nil {
		return false, kv.Errorf(kv.KeyNotFound, "there is no member %d: see agent members ls", replica)
	}
	if s.State == SeatLeaving {
		return false, nil
	}
	s.Was, s.State = s.State, SeatLeaving
	return true, nil
}

// recall calls a removal off that did not come about. What it returns says how it ended.
func (m *Member) recall(ctx context.Context, replica uint64) error {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	gone := false
	_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) {
		s := r.Seat(replica)
		if gone = s == nil; gone || s.State != SeatLeaving || s.Was == "" {
			return false, nil
		}
		s.State, s.Was = s.Was, ""
		return true, nil
	})
	switch {
	case err != nil:
		return kv.Errorf(kv.OutcomeUnknown, "member %d was not removed within %s and may be later: see agent members ls: %w", replica, removeTimeout, err)
	case gone:
		return nil
	}
	return kv.Errorf(kv.Busy, "member %d was not removed within %s, and stays: see the log of the leader for the reason", replica, removeTimeout)
}

// Wanted is what is wanted of the members, as known here.
func (m *Member) Wanted() kv.Wanted {
	r, _ := m.roster.get()
	return kv.Wanted{Voters: r.Voters, ReplaceAfter: time.Duration(r.ReplaceAfter) * time.Second}
}

// leastReplaceAfter is the shortest time after which a voter may be replaced: a restart, and an election or two, are no
// reason.
const leastReplaceAfter = 30 * time.Second

// SetWanted says what is wanted of the members from now on. More voters are found among the boxes that ask; a lower number
// removes nobody.
func (m *Member) SetWanted(ctx context.Context, w kv.Wanted) error {
	switch {
	case w.Voters < 1 || w.Voters > MaxVoters:
		return kv.Errorf(kv.Invalid, "%d voters: a cluster has from 1 to %d", w.Voters, MaxVoters)
	case w.ReplaceAfter%time.Second != 0 || w.ReplaceAfter != 0 && w.ReplaceAfter < leastReplaceAfter:
		return kv.Errorf(kv.Invalid, "replacing a voter after %s: it is %s or more, in whole seconds, or 0 for never", w.ReplaceAfter, leastReplaceAfter)
	}
	_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) {
		if r.none() {
			return false, noLeader("the cluster has no list of its members yet")
		}
		after := int64(w.ReplaceAfter / time.Second)
		changed := r.Voters != w.Voters || r.ReplaceAfter != after
		r.Voters, r.ReplaceAfter = w.Voters, after
		return changed, nil
	})
	return err
}

// ErrRemoved is why a member ends that the cluster has removed. Its data stays where it is.
var ErrRemoved = errors.New("this member has been removed from the cluster")

const (
	// lostFor is how long a member without a leader waits before it asks the others whether it still belongs to them.
	lostFor = 3 * time.Second
	// lostEvery is how often it asks.
	lostEvery = 2 * time.Second
)

// watchRemoval ends with ErrRemoved once another member says that this one is no longer on the list. Raft does not tell
// it: whoever removes a member stops talking to it. A list counts if it has given out this
// member's id, which it does in the one change that also puts the member on it.
func (m *Member) watchRemoval(ctx context.Context) error {
	for ctx.Err() == nil {
		now, changed := m.leader.get()
		r, listed := m.roster.get()
		// Whoever does not vote never finds out that there is no leader any more.
		if s := r.Seat(m.id.Replica); now.replica != 0 && s != nil && s.State == SeatVoter {
			select {
			case <-changed:
			case <-listed:
			case <-ctx.Done():
				return nil
			}
			continue
		}
		timer := time.NewTimer(lostFor)
		select {
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if again, _ := m.leader.get(); ctx.Err() != nil || again != now {
			continue
		}
		if by := m.removedBy(ctx); by != "" {
			return fmt.Errorf("%w, says node %s: replica %d of cluster %016x. Its data in %s is kept. To let this box join again, "+
				"give it an empty data dir, --join and a token; to let it go on as a proxy, start it with --fallback=proxy", ErrRemoved, by, m.id.Replica, m.id.Cluster, m.cfg.Dir)
		}
		pause(ctx, lostEvery)
	}
	return nil
}

// removedBy returns the member that says that this one is removed, empty for none.
func (m *Member) removedBy(ctx context.Context) string {
	mine := m.Roster()
	for _, s := range mine.Seats {
		if s.Replica == m.id.Replica {
			continue
		}
		asking, cancel := context.WithTimeout(ctx, standingWait)
		_, theirs, err := m.ask(asking, s.Node)
		cancel()
		if err == nil && theirs.Next > m.id.Replica && theirs.Seat(m.id.Replica) == nil {
			return plainNode(s.Node)
		}
	}
	return ""
}
