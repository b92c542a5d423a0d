package member

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"github.com/lni/dragonboat/v4"

	"holdfast/internal/wire"
	"holdfast/kv"
)

const (
	// arrangeEvery is how often a leader looks at the members while there is something to do that nobody tells it of.
	arrangeEvery = 100 * time.Millisecond
	// arrangeIdle is how often it looks while there is not.
	arrangeIdle = 5 * time.Second
	// changeTimeout is how long raft may take for one change of its membership.
	changeTimeout = 5 * time.Second
	// standingWait is how long a member may take to tell how it stands.
	standingWait = time.Second
)

// keepMembers brings raft's membership in step with the roster, as long as this replica leads: one change at a time, each
// refused by raft if another came between. A leader that does not know yet that it was deposed changes nothing: every
// change is a log entry.
func (m *Member) keepMembers(ctx context.Context) error {
	for {
		_, roster := m.roster.get()
		_, leader := m.leader.get()
		wait := arrangeIdle
		if now, _ := m.leader.get(); now.replica == m.id.Replica {
			settled, err := false, error(nil)
			if m.nonce.Load() != 0 {
				settled, err = m.arrange(ctx)
			}
			if err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("the members were not brought in step with the list of members; trying again", "err", err)
				settled = false
				pause(ctx, arrangeEvery)
			}
			if !settled {
				wait = arrangeEvery
			}
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
			return nil
		}
	}
}

// arrange makes one change, if one is due. Settled means that none was, and that none is waited for.
func (m *Member) arrange(ctx context.Context) (settled bool, err error) {
	r, err := m.loadRoster()
	if err != nil {
		return false, err
	}
	if r.version != 0 && m.inStep(r) {
		return true, nil
	}
	now, err := m.membership(ctx)
	if err != nil {
		return false, err
	}
	if r.version == 0 {
		return false, m.seedRoster(ctx, now)
	}
	for _, step := range []func(context.Context, Roster, *dragonboat.Membership) (bool, error){
		m.removeLeaving, m.addJoining, m.promoteReady, m.removeUnlisted,
	} {
		if did, err := step(ctx, r, now); did || err != nil {
			return false, err
		}
	}
	return m.inStep(r), nil
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

func (m *Member) membership(ctx context.Context) (*dragonboat.Membership, error) {
	ctx, cancel := context.WithTimeout(ctx, changeTimeout)
	defer cancel()
	now, err := m.host.SyncGetShardMembership(ctx, shardID)
	if err != nil {
		return nil, fmt.Errorf("ask raft for its members: %w", err)
	}
	return now, nil
}

// seedRoster makes the roster of a cluster that has none: of the founders.
func (m *Member) seedRoster(ctx context.Context, now *dragonboat.Membership) error {
	_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) {
		if r.version != 0 {
			return false, nil
		}
		r.Voters = max(m.cfg.Voters, len(now.Nodes))
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
	return err
}

// removeLeaving removes a member that is to go, and takes one that is gone off the list.
func (m *Member) removeLeaving(ctx context.Context, r Roster, now *dragonboat.Membership) (did bool, err error) {
	for _, s := range r.Seats {
		if s.State != SeatLeaving {
			continue
		}
		if !isMember(now, s.Replica) {
			m.cfg.Log.Info("member removed", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
			_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) { r.drop(s.Replica); return true, nil })
			return true, err
		}
		if s.Replica == m.id.Replica {
			return true, m.giveUpLead(ctx, now)
		}
		if err := m.mayRemove(ctx, s.Replica, now); err != nil {
			return false, err
		}
		m.cfg.Log.Info("removing member", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
		return true, m.change(ctx, func() (*dragonboat.RequestState, error) {
			return m.host.RequestDeleteReplica(shardID, s.Replica, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, nil
}

// giveUpLead lets another voter lead, which then removes this one.
func (m *Member) giveUpLead(ctx context.Context, now *dragonboat.Membership) error {
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
func (m *Member) mayRemove(ctx context.Context, replica uint64, now *dragonboat.Membership) error {
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
func (m *Member) addJoining(ctx context.Context, r Roster, now *dragonboat.Membership) (did bool, err error) {
	for _, s := range r.Seats {
		if s.State == SeatLeaving || isMember(now, s.Replica) {
			continue
		}
		if _, gone := now.Removed[s.Replica]; gone {
			_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) { r.drop(s.Replica); return true, nil })
			return true, err
		}
		if m.answers(ctx, s.Node) != nil {
			continue
		}
		m.cfg.Log.Info("adding learner", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
		return true, m.change(ctx, func() (*dragonboat.RequestState, error) {
			return m.host.RequestAddNonVoting(shardID, s.Replica, s.Node, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, nil
}

// promoteReady makes a voter of a learner that has all there is. A learner that has gone again would be a voter that does
// not answer, so it is asked at this moment.
func (m *Member) promoteReady(ctx context.Context, r Roster, now *dragonboat.Membership) (did bool, err error) {
	for _, s := range r.Seats {
		if s.State != SeatJoining {
			continue
		}
		if _, voter := now.Nodes[s.Replica]; voter {
			m.cfg.Log.Info("learner is a voter now", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name)
			_, err := m.changeRoster(ctx, func(r *Roster) (bool, error) { return r.setState(s.Replica, SeatJoining, SeatVoter), nil })
			return true, err
		}
		if !s.CaughtUp || len(now.Nodes) >= r.Voters {
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
		m.cfg.Log.Info("promoting learner, which has caught up", "replica", s.Replica, "node", plainNode(s.Node), "name", s.Name, "applied", applied)
		return true, m.change(ctx, func() (*dragonboat.RequestState, error) {
			return m.host.RequestAddReplica(shardID, s.Replica, s.Node, now.ConfigChangeID, changeTimeout)
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
func (m *Member) removeUnlisted(ctx context.Context, r Roster, now *dragonboat.Membership) (did bool, err error) {
	for replica := range now.NonVotings {
		if r.Seat(replica) != nil {
			continue
		}
		m.cfg.Log.Info("removing learner that has no seat", "replica", replica)
		return true, m.change(ctx, func() (*dragonboat.RequestState, error) {
			return m.host.RequestDeleteReplica(shardID, replica, now.ConfigChangeID, changeTimeout)
		})
	}
	return false, nil
}

func isMember(now *dragonboat.Membership, replica uint64) bool {
	_, voter := now.Nodes[replica]
	_, learner := now.NonVotings[replica]
	return voter || learner
}

// change asks raft for a change of its membership and waits for the outcome. A change that raft refuses, because another
// came between, is looked at anew.
func (m *Member) change(ctx context.Context, request func() (*dragonboat.RequestState, error)) error {
	rs, err := request()
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

// A member asks another how it stands by a query for the roster; the Count of the answer is the log index applied there.

var standingRequest = wire.AppendQuery(nil, kv.Query{LocalOnly: true, Ops: []kv.Op{kv.Records{Prefix: []byte(rosterRecord)}}})

func isStanding(request []byte) bool { return string(request) == string(standingRequest) }

func (m *Member) answerStanding() []byte {
	p := kv.Page{Ops: []kv.OpResult{{Count: int64(m.store.Applied())}}} //nolint:gosec // an index
	m.stamp(&p.Header)
	return wire.AppendPage(nil, p)
}

// standing asks a node up to which log index it has applied, as a member of this cluster.
func (m *Member) standing(ctx context.Context, node string) (applied uint64, err error) {
	b, err := m.net.net.Ask(ctx, node, standingRequest)
	if err != nil {
		return 0, err
	}
	p, err := wire.DecodePage(b)
	if err != nil || len(p.Ops) != 1 {
		return 0, fmt.Errorf("node %s: %w", node, errors.Join(errNoAnswer, err))
	}
	return uint64(p.Ops[0].Count), nil //nolint:gosec // an index
}

// answers returns nil if a member answers now.
func (m *Member) answers(ctx context.Context, node string) error {
	ctx, cancel := context.WithTimeout(ctx, standingWait)
	defer cancel()
	_, err := m.standing(ctx, node)
	return err
}

// registerSelf keeps this member's own entry in the roster true: its name, its addresses, and once, that it has caught
// up. It begins when the member is ready.
func (m *Member) registerSelf(ctx context.Context) error {
	select {
	case <-m.ready:
	case <-ctx.Done():
		return nil
	}
	for {
		r, changed := m.roster.get()
		wait := time.Duration(0)
		if s := r.Seat(m.id.Replica); r.version != 0 && s != nil && !m.entryTrue(*s) {
			if _, err := m.changeRoster(ctx, m.correctEntry); err != nil && ctx.Err() == nil {
				m.cfg.Log.Warn("this member's entry in the list of members was not updated; trying again", "err", err)
				wait = registerRetry
			}
		}
		var again <-chan time.Time
		if wait > 0 {
			again = time.After(wait)
		}
		select {
		case <-changed:
		case <-again:
		case <-ctx.Done():
			return nil
		}
	}
}

// registerRetry is how long a member waits before it tries again to correct its entry in the roster.
const registerRetry = time.Second

func (m *Member) entryTrue(s Seat) bool {
	return s.CaughtUp && s.Name == m.cfg.Name && slices.Equal(s.Addresses, m.cfg.Addresses) && slices.Equal(s.ClientURLs, m.cfg.ClientURLs)
}

func (m *Member) correctEntry(r *Roster) (bool, error) {
	s := r.Seat(m.id.Replica)
	if s == nil || m.entryTrue(*s) {
		return false, nil
	}
	s.CaughtUp, s.Name, s.Addresses, s.ClientURLs = true, m.cfg.Name, m.cfg.Addresses, m.cfg.ClientURLs
	return true, nil
}
