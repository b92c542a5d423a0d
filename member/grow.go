package member

import (
	"context"
	"errors"
	"fmt"
	"slices"
	"time"

	"holdfast/member/nodehost"
)

const (
	// arrangeEvery is how often a leader looks at the members while there is something to do that nobody tells it of.
	arrangeEvery = 100 * time.Millisecond
	// arrangeIdle is how often it looks while there is not.
	arrangeIdle = 5 * time.Second
	// arrangeRetry is how long it waits after something went wrong, and reportEvery how often it says the same.
	arrangeRetry = time.Second
	reportEvery  = time.Minute
	// joinPatience is how long a box that was admitted may be out of reach before it has caught up once: then its seat is
	// given up, since nobody knows whether it will ever come.
	joinPatience = 5 * time.Minute
	// changeTimeout is how long raft may take for one change of its membership.
	changeTimeout = 5 * time.Second
	// standingWait is how long a member may take to tell how it stands.
	standingWait = time.Second
)

// keepMembers brings raft's membership in step with the roster, as long as this replica leads: one change at a time, each
// refused by raft if another came between. What it writes into the roster carries the leader's term, so that one that does
// not know yet that it was deposed writes nothing.
func (m *Member) keepMembers(ctx context.Context) error {
	p := autopilot{m: m}
	for {
		_, roster := m.roster.get()
		now, leader := m.leader.get()
		wait := arrangeIdle
		switch term := m.nonce.Load(); {
		case now.replica != m.id.Replica:
			p.rest()
		case term == 0:
			wait = arrangeEvery // it is taking office
		default:
			p.term = term
			step, err := p.arrange(ctx)
			p.report(ctx, err)
			wait = p.pace(step, err)
		}
		timer := time.NewTimer(wait)
		select {
		case <-roster:
		case <-leader:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
		if ctx.Err() != nil {
			return nil //nolint:nilerr // it was stopped
		}
	}
}

// progress is what became of a look at the members.
type progress int

const (
	settled progress = iota // nothing is to be done
	changed                 // a change was made, and another may be due
	waits                   // something is to be done that is not possible yet
)

// pace is how long to wait before the next look. What is waited for is looked at less and less often.
func (p *autopilot) pace(step progress, err error) time.Duration {
	switch {
	case err != nil:
		return arrangeRetry
	case step == settled:
		p.waited = 0
		return arrangeIdle
	case step == changed:
		p.waited = 0
		return arrangeEvery
	}
	p.waited = min(max(2*p.waited, arrangeEvery), arrangeRetry)
	return p.waited
}

// autopilot is the leader's work on the members.
type autopilot struct {
	m     *Member
	term  uint64                   // nonce of the LeaderTerm under which it works
	gone  map[uint64]time.Duration // voters out of reach, and since when
	said  string                   // the error last reported
	again time.Duration            // when it may be reported again

	waited time.Duration // before the present look, for something that is not possible yet
}

// rest forgets what only a leader knows.
func (p *autopilot) rest() { p.gone, p.said = nil, "" }

// report logs why the members are not in step, once for each reason and reportEvery.
func (p *autopilot) report(ctx context.Context, err error) {
	if ctx.Err() != nil {
		return
	}
	if err == nil {
		p.said = ""
		return
	}
	if now := p.m.cfg.Clock(); err.Error() != p.said || now >= p.again {
		p.said, p.again = err.Error(), now+reportEvery
		p.m.cfg.Log.Warn("the members are not as the list of members has them; trying again", "err", err)
	}
}

// arrange makes one change, if one is due.
func (p *autopilot) arrange(ctx context.Context) (progress, error) {
	m := p.m
	r, err := m.loadRoster()
	if err != nil {
		return waits, err
	}
	if !r.none() {
		if did, err := p.watchVoters(ctx, r); did || err != nil {
			return changed, err
		}
		if m.inStep(r) {
			return settled, nil
		}
	}
	now, err := m.membership(ctx)
	if err != nil {
		return waits, err
	}
	if r.none() {
		return changed, p.seedRoster(ctx, now)
	}
	var errs []error
	for _, step := range []func(context.Context, Roster, *nodehost.Membership) (bool, error){
		p.removeLeaving, p.addJoining, p.promoteReady, p.removeUnlisted,
	} {
		did, err := step(ctx, r, now)
		errs = append(errs, err) // what cannot be done keeps nothing else from being done
		if did {
			return changed, errors.Join(errs...)
		}
	}
	return waits, errors.Join(errs...)
}

func (p *autopilot) changeRoster(ctx context.Context, change func(*Roster) (bool, error)) error {
	_, err := p.m.changeRosterAs(ctx, p.term, change)
	return err
}

// watchVoters frees the seat of a voter that has been out of reach for as long as the roster says, and takes that back
// when it is there again. A free seat goes to the next box that asks; the voter stays one until that has caught up.
func (p *autopilot) watchVoters(ctx context.Context, r Roster) (did bool, err error) {
	m := p.m
	if p.gone == nil {
		p.gone = make(map[uint64]time.Duration)
	}
	now := m.cfg.Clock()
	for _, s := range r.Seats {
		if s.State == SeatLeaving || s.Replica == m.id.Replica || s.State == SeatJoining && s.CaughtUp {
			continue
		}
		since, gone := p.gone[s.Replica]
		switch reached := m.net.net.Reaches(s.Node); {
		case reached && s.Away:
			m.cfg.Log.Info("voter is back; its seat is kept", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
			return true, p.changeRoster(ctx, func(r *Roster) (bool, error) { return r.setAway(s.Replica, false), nil })
		case reached:
			delete(p.gone, s.Replica)
		case !gone:
			p.gone[s.Replica] = now
		case s.State == SeatJoining:
			if now-since >= joinPatience {
				m.cfg.Log.Warn("box that was admitted has not come; its seat is free again", "replica", s.Replica, "node", plainNode(s.Node),
					"name", s.Name, "for", (now - since).Round(time.Second))
				return true, p.changeRoster(ctx, func(r *Roster) (bool, error) { return r.leave(s.Replica) })
			}
		case !s.Away && r.ReplaceAfter > 0 && now-since >= time.Duration(r.ReplaceAfter)*time.Second:
			m.cfg.Log.Warn("voter is out of reach for so long that its seat is free for another box; it stays a voter until that has caught up",
				"replica", s.Replica, "node", plainNode(s.Node), "name", s.Name, "for", (now - since).Round(time.Second))
			return true, p.changeRoster(ctx, func(r *Roster) (bool, error) { return r.setAway(s.Replica, true), nil })
		}
	}
	return false, nil
}

func (r *Roster) setAway(replica uint64, away bool) bool {
	s := r.Seat(replica)
	if s == nil || s.Away == away {
		return false
	}
	s.Away = away
	return true
}

// inStep reports, from memory, whether every seat is that of a voter and every voter has one.
func (m *Member) inStep(r Roster) bool {
	voters := m.voterIDs()
	for _, s := range r.Seats {
		if s.State != SeatVoter || !slices.Contains(voters, s.Replica) {
			return false
		}
	}
	return len(voters) == len(r.Seats)
}

func (m *Member) membership(ctx context.Context) (*nodehost.Membership, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	now, err := askHost(m, func(h *nodehost.Host) (*nodehost.Membership, error) { return h.SyncGetShardMembership(ctx, shardID) })
	if err != nil {
		return nil, fmt.Errorf("ask raft for its members: %w", err)
	}
	return now, nil
}

// seedRoster makes the roster of a cluster that has none: of the founders.
func (p *autopilot) seedRoster(ctx context.Context, now *nodehost.Membership) error {
	m := p.m
	return p.changeRoster(ctx, func(r *Roster) (bool, error) {
		if !r.none() {
			return false, nil
		}
		r.Voters, r.ReplaceAfter = max(m.cfg.Voters, len(now.Nodes)), int64(m.cfg.ReplaceAfter/time.Second)
		for replica := range now.Removed {
			r.Next = max(r.Next, replica+1)
		}
		for replica, node := range now.Nodes {
			r.add(Seat{Replica: replica, Node: node, State: SeatVoter})
		}
		for replica, node := range now.NonVotings {
			r.add(Seat{Replica: replica, Node: node, State: SeatJoining})
		}
		return true, nil
	})
}
