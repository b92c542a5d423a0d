package member

import (
	"context"
	"errors"
	"fmt"
	"maps"
	"slices"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
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
		switch reached := m.reaches(ctx, s.Node); {
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

// reaches reports whether there is a connection to a node that is not lost. It sends nothing.
func (m *Member) reaches(ctx context.Context, node string) bool {
	c, err := m.net.net.Connect(ctx, node)
	if err != nil {
		return false
	}
	c.Close()
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
	now, err := m.host.SyncGetShardMembership(ctx, shardID)
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
		return true, m.change(ctx, func() (*nodehost.RequestState, error) {
			return m.host.RequestDeleteReplica(shardID, s.Replica, now.ConfigChangeID, changeTimeout)
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
		return true, m.change(ctx, func() (*nodehost.RequestState, error) {
			return m.host.RequestAddNonVoting(shardID, s.Replica, s.Node, now.ConfigChangeID, changeTimeout)
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
		return true, m.change(ctx, func() (*nodehost.RequestState, error) {
			return m.host.RequestAddReplica(shardID, s.Replica, s.Node, now.ConfigChangeID, changeTimeout)
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
		return true, m.change(ctx, func() (*nodehost.RequestState, error) {
			return m.host.RequestDeleteReplica(shardID, replica, now.ConfigChangeID, changeTimeout)
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
func (m *Member) change(ctx context.Context, request func() (*nodehost.RequestState, error)) error {
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

// A member asks another how it stands by a query for the roster. The answer has the record as applied there, and the log
// index applied in Count.

var standingRequest = wire.AppendQuery(nil, rosterQuery())

func rosterQuery() kv.Query {
	return kv.Query{LocalOnly: true, Ops: []kv.Op{kv.Records{Prefix: []byte(rosterRecord)}}}
}

func isStanding(request []byte) bool { return string(request) == string(standingRequest) }

func (m *Member) answerStanding() []byte {
	applied := m.store.Applied() // before the record, which is then at least as new
	p, err := m.store.Read(rosterQuery())
	if err != nil {
		return wire.AppendOutcome(nil, kv.Outcome{Err: asKV(err)}) // not what was asked for
	}
	p.Ops[0].Count = int64(applied) //nolint:gosec // an index
	m.stamp(&p.Header)
	return wire.AppendPage(nil, p)
}

// standing asks a node up to which log index it has applied, as a member of this cluster.
func (m *Member) standing(ctx context.Context, node string) (applied uint64, err error) {
	applied, _, err = m.ask(ctx, node)
	return applied, err
}

// ask asks a node how it stands, and for its roster.
func (m *Member) ask(ctx context.Context, node string) (applied uint64, r Roster, err error) {
	b, err := m.net.net.Ask(ctx, node, standingRequest)
	if err != nil {
		return 0, r, err
	}
	p, err := wire.DecodePage(b)
	if err != nil || len(p.Ops) != 1 {
		return 0, r, fmt.Errorf("node %s: %w", node, errors.Join(errNoAnswer, err))
	}
	r, err = m.parseRoster(p)
	return uint64(p.Ops[0].Count), r, err //nolint:gosec // an index
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
		if s := r.Seat(m.id.Replica); s != nil && r.version != 0 && !m.entryTrue(*s) {
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
