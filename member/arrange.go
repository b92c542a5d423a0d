package member

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"

	"holdfast/member/nodehost"
)

// The changes that a leader makes to raft's members, each of them one step.

// removeLeaving removes a member that is to go, and takes one that is gone off the list.
func (p *autopilot) removeLeaving(ctx context.Context, r Roster, now *nodehost.Membership) (did bool, err error) {
	m := p.m
	var refused error
	for _, s := range r.Seats {
		if s.State != SeatLeaving {
			continue
		}
		if !isMember(now, s.Replica) {
			m.cfg.Log.Info("member removed", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
			return true, p.changeRoster(ctx, func(r *Roster) (bool, error) { r.drop(s.Replica); return true, nil })
		}
		if s.Replica == m.id.Replica {
			return true, p.giveUpLead(ctx, now)
		}
		if err := m.mayRemove(ctx, s.Replica, now); err != nil {
			refused = err
			continue
		}
		m.cfg.Log.Info("removing member", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
		return true, m.change(ctx, func(h *nodehost.Host) (*nodehost.RequestState, error) {
			return h.RequestDeleteReplica(shardID, s.Replica, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, refused
}

// giveUpLead lets another voter lead, which then removes this one.
func (p *autopilot) giveUpLead(ctx context.Context, now *nodehost.Membership) error {
	m := p.m
	for _, replica := range slices.Sorted(maps.Keys(now.Nodes)) {
		if replica == m.id.Replica || m.answers(ctx, now.Nodes[replica]) != nil {
			continue
		}
		m.cfg.Log.Info("handing over the leadership, because this member is leaving", "to", replica)
		return m.MoveLeader(ctx, replica)
	}
	return errors.New("this member is to leave, and there is no other voter that could lead")
}

// mayRemove refuses a removal after which the voters that answer would be no quorum.
func (m *Member) mayRemove(ctx context.Context, replica uint64, now *nodehost.Membership) error {
	if _, voter := now.Nodes[replica]; !voter {
		return nil
	}
	left, up := 0, 0
	for other, node := range now.Nodes {
		if other == replica {
			continue
		}
		left++
		if other == m.id.Replica || m.answers(ctx, node) == nil {
			up++
		}
	}
	if up < left/2+1 {
		return fmt.Errorf("member %d is not removed: of the %d voters that would be left %d answer, which is no quorum; bring another one up first",
			replica, left, up)
	}
	return nil
}

// addJoining makes a learner of a box that has been admitted, once it answers: a box that never starts is never in raft's
// way, and the library backs off for seconds from one that it cannot reach.
func (p *autopilot) addJoining(ctx context.Context, r Roster, now *nodehost.Membership) (did bool, err error) {
	m := p.m
	for _, s := range r.Seats {
		if s.State == SeatLeaving || isMember(now, s.Replica) {
			continue
		}
		if _, gone := now.Removed[s.Replica]; gone {
			return true, p.changeRoster(ctx, func(r *Roster) (bool, error) { r.drop(s.Replica); return true, nil })
		}
		if m.answers(ctx, s.Node) != nil {
			continue
		}
		m.cfg.Log.Info("adding learner", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
		return true, m.change(ctx, func(h *nodehost.Host) (*nodehost.RequestState, error) {
			return h.RequestAddNonVoting(shardID, s.Replica, s.Node, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, nil
}

// promoteReady makes a voter of a learner that has all there is. A learner that has gone again would be a voter that does
// not answer, so it is asked at this moment.
func (p *autopilot) promoteReady(ctx context.Context, r Roster, now *nodehost.Membership) (did bool, err error) {
	m := p.m
	for _, s := range r.Seats {
		if s.State != SeatJoining {
			continue
		}
		if _, voter := now.Nodes[s.Replica]; voter {
			m.cfg.Log.Info("learner is a voter now", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
			return true, p.changeRoster(ctx, func(r *Roster) (bool, error) { return r.setState(s.Replica, SeatJoining, SeatVoter), nil })
		}
		if !s.CaughtUp {
			continue
		}
		want := m.committed()
		asking, cancel := context.WithTimeout(ctx, standingWait)
		applied, err := m.standing(asking, s.Node)
		cancel()
		if err != nil || applied < want {
			m.cfg.Log.Debug("learner is not ready to vote", "replica", s.Replica, "applied", applied, "want", want, "err", err)
			continue
		}
		if len(now.Nodes) >= r.Voters {
			if did, err := p.replaceAway(ctx, r, now, s); did || err != nil {
				return did, err
			}
			continue
		}
		m.cfg.Log.Info("promoting learner, which has caught up", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name, "applied", applied)
		return true, m.change(ctx, func(h *nodehost.Host) (*nodehost.RequestState, error) {
			return h.RequestAddReplica(shardID, s.Replica, s.Node, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, nil
}

// replaceAway removes a voter that is away, for a learner that has caught up and is to have its vote. The removal comes
// first: with both, one more would have to answer for a quorum.
func (p *autopilot) replaceAway(ctx context.Context, r Roster, now *nodehost.Membership, by Seat) (did bool, err error) {
	for _, s := range r.Seats {
		if !s.Away || s.State != SeatVoter {
			continue
		}
		if err := p.m.mayRemove(ctx, s.Replica, now); err != nil {
			return false, err
		}
		p.m.cfg.Log.Info("replacing a voter that is away by a learner that has caught up", "replica", s.Replica, "node", plainNode(s.Node),
			"name", s.Name, "by", by.Replica)
		return true, p.changeRoster(ctx, func(r *Roster) (bool, error) {
			if s := r.Seat(s.Replica); s == nil || !s.Away { // it has come back
				return false, nil
			}
			return r.leave(s.Replica)
		})
	}
	return false, nil
}

func (r *Roster) setState(replica uint64, from, to SeatState) bool {
	s := r.Seat(replica)
	if s == nil || s.State != from {
		return false
	}
	s.State = to
	return true
}

// removeUnlisted removes whom the roster does not know: an addition that went through after its seat was given up.
func (p *autopilot) removeUnlisted(ctx context.Context, r Roster, now *nodehost.Membership) (did bool, err error) {
	m := p.m
	for replica := range now.NonVotings {
		if r.Seat(replica) != nil {
			continue
		}
		m.cfg.Log.Info("removing learner that has no seat", "replica", replica)
		return true, m.change(ctx, func(h *nodehost.Host) (*nodehost.RequestState, error) {
			return h.RequestDeleteReplica(shardID, replica, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, nil
}

func isMember(now *nodehost.Membership, replica uint64) bool {
	_, voter := now.Nodes[replica]
	_, learner := now.NonVotings[replica]
	return voter || learner
}

// change asks raft for a change of its membership and waits for the outcome. A change that raft refuses, because another
// came between, is looked at anew.
func (m *Member) change(ctx context.Context, request func(*nodehost.Host) (*nodehost.RequestState, error)) error {
	rs, err := askHost(m, request)
	if err != nil {
		return fmt.Errorf("change raft's members: %w", err)
	}
	select {
	case result := <-rs.ResultC():
		defer rs.Release()
		switch {
		case result.Completed():
			return nil
		case result.Rejected():
			return errors.New("raft refused the change of its members: it was made for a list that has changed meanwhile")
		default:
			return errors.New("raft did not complete the change of its members")
		}
	case <-ctx.Done():
		return ctx.Err()
	}
}
