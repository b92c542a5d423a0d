package member

import (
	"context"
	"errors"
	"maps"
	"slices"
	"sync"
	"time"

	"holdfast/kv"
	"holdfast/member/nodehost"
)

// This file and backup.go have what a replica does for its operator: they make a Member an Admin.

// Replicas lists the members of the cluster in order of id, as applied here; unless local is set, after a read-index
// round.
func (m *Member) Replicas(ctx context.Context, local bool) ([]kv.Replica, error) {
	if m.isStopping() {
		return nil, errStopping()
	}
	if !local {
		if err := m.rounds.join(ctx); err != nil {
			return nil, err
		}
	}
	r, err := m.loadRoster()
	if err != nil {
		return nil, err
	}
	voters := m.voterIDs()
	if r.none() { // founded a moment ago
		for replica, node := range m.registry.list(shardID) {
			r.add(Seat{Replica: replica, Node: node, State: SeatVoter})
		}
	}
	list := make([]kv.Replica, 0, len(r.Seats))
	for _, s := range r.Seats {
		list = append(list, kv.Replica{
			ID: s.Replica, Node: plainNode(s.Node), Name: s.Name, PeerURLs: peerURLs(s.Addresses), ClientURLs: s.ClientURLs,
			Learner: s.State == SeatJoining && !slices.Contains(voters, s.Replica), Leaving: s.State == SeatLeaving, Away: s.Away,
		})
	}
	return list, nil
}

func peerURLs(addresses []string) (urls []string) {
	for _, a := range addresses {
		urls = append(urls, "quic://"+a)
	}
	return urls
}

// voterIDs is the replicas that vote, as applied here, in order; none before anything is applied, and none after the end.
func (m *Member) voterIDs() []uint64 {
	if s, known := m.shard(); known {
		return slices.Sorted(maps.Keys(s.Replicas))
	}
	return nil
}

// Condition tells how this replica stands, from memory.
func (m *Member) Condition() kv.Condition {
	st := m.store.Stats()
	l, _ := m.leader.get()
	voters := m.voterIDs()
	c := kv.Condition{
		Header:    kv.Header{Revision: st.Revision},
		Leader:    l.replica,
		Applied:   st.Applied,
		Committed: m.committed(),
		Learner:   len(voters) > 0 && !slices.Contains(voters, m.id.Replica),
		DBSize:    st.FileBytes,
		DBInUse:   st.FileBytes - st.FreeBytes,
		DBQuota:   max(m.cfg.Quota, 0),
		Feature:   m.store.Feature(),
		Version:   m.cfg.Version,
		Alarms:    m.store.Alarms(),
	}
	m.stamp(&c.Header)
	return c
}

// committed is the newest log index known here to be committed.
func (m *Member) committed() uint64 {
	return max(m.logs.db.committed(shardID, m.id.Replica), m.store.Applied())
}

// Hash digests what this replica holds up to a revision, 0 for the newest. It reads the whole state file, beside
// everything else.
func (m *Member) Hash(ctx context.Context, revision int64) (kv.Hash, error) {
	ctx, done, err := m.join(ctx)
	if err != nil {
		return kv.Hash{}, err
	}
	defer done()
	h, err := m.store.Hash(ctx, revision)
	if err != nil {
		return kv.Hash{}, m.orStopping(asKV(err))
	}
	m.stamp(&h.Header)
	return h, nil
}

// join makes a call one that stopping waits for, with a context that ends then. Done must be called.
func (m *Member) join(ctx context.Context) (_ context.Context, done func(), err error) {
	if !m.begin() {
		return nil, nil, errStopping()
	}
	ctx, cancel := context.WithCancelCause(ctx)
	go func() {
		select {
		case <-m.stopping:
			cancel(errMemberStops)
		case <-ctx.Done():
		}
	}()
	return ctx, func() { cancel(nil); m.calls.Done() }, nil
}

// orStopping is the error of a call that the member's stopping has ended.
func (m *Member) orStopping(err error) error {
	if m.isStopping() {
		return errStopping()
	}
	return err
}

// transferWait is how long a hand-over of the leadership may take: raft gives it up after an election timeout.
const transferWait = 2 * electionTicks * tickMillis * time.Millisecond

// MoveLeader has another voter lead. It returns once this replica knows that it does. Commands that come meanwhile, to any
// member, wait for that.
func (m *Member) MoveLeader(ctx context.Context, to uint64) error {
	now, _ := m.leader.get()
	switch {
	case now.replica != m.id.Replica:
		return kv.Errorf(kv.NoLeader, "this replica does not lead and has no leadership to give away; ask replica %d, which does", now.replica)
	case !slices.Contains(m.voterIDs(), to):
		return kv.Errorf(kv.Invalid, "there is no voter %016x that could lead: see the list of members", to)
	case to == m.id.Replica:
		return nil
	}
	m.holdAll(ctx, now)
	defer m.door.open()
	_, err := askHost(m, func(h *nodehost.Host) (struct{}, error) { return struct{}{}, h.RequestLeaderTransfer(shardID, to) })
	switch {
	case closedHost(err):
		return errStopping()
	case errors.Is(err, nodehost.ErrShardNotReady), errors.Is(err, nodehost.ErrSystemBusy):
		return kv.Errorf(kv.Busy, "the leadership is being given away already: %w", err)
	case err != nil:
		return kv.Errorf(kv.Internal, "give the leadership away: %w", err)
	}
	insisting, enough := context.WithCancel(ctx)
	var insists sync.WaitGroup
	insists.Go(func() { m.insist(insisting, m.registry.list(shardID)[to]) })
	defer insists.Wait()
	defer enough()
	timer := time.NewTimer(transferWait)
	defer timer.Stop()
	for {
		now, changed := m.leader.get()
		switch now.replica {
		case to:
			return nil
		case m.id.Replica, 0:
		default:
			return kv.Errorf(kv.NoLeader, "replica %016x leads now, not %016x", now.replica, to)
		}
		select {
		case <-changed:
		case <-timer.C:
			return kv.Errorf(kv.OutcomeUnknown, "replica %016x did not take over within %s; it may be out of reach or far behind", to, transferWait)
		case <-ctx.Done():
			return kv.Errorf(kv.OutcomeUnknown, "the caller gave up waiting: %w", context.Cause(ctx))
		case <-m.stopping:
			return errStopping()
		}
	}
}

// Defragment gives the free pages of this replica's state file back to the file system. Reads and writes go on. It
// needs room for a second file.
func (m *Member) Defragment(ctx context.Context) error {
	ctx, done, err := m.join(ctx)
	if err != nil {
		return err
	}
	defer done()
	if !m.defragmenting.TryLock() {
		return kv.Errorf(kv.Busy, "the state file is being defragmented already")
	}
	defer m.defragmenting.Unlock()
	before := m.store.Stats()
	if err := m.space.fits(before.FileBytes - before.FreeBytes); err != nil {
		return err
	}
	began := time.Now()
	if err := m.store.Defragment(ctx); err != nil {
		return m.orStopping(asKV(err))
	}
	after := m.store.Stats()
	m.cfg.Log.Info("state file defragmented", "before", before.FileBytes, "after", after.FileBytes, "took", time.Since(began))
	return nil
}

// sweepFor waits until what the compactions among ops give up is free for reuse, if one asks for that. The command has
// been applied here.
func (m *Member) sweepFor(ctx context.Context, ops []kv.Op) error {
	var revision int64
	for _, op := range ops {
		if c, ok := op.(kv.Compact); ok && c.Physical {
			revision = max(revision, c.Revision)
		}
	}
	if revision == 0 {
		return nil
	}
	sweeping, done, err := m.join(ctx)
	if err == nil {
		defer done()
		err = m.store.Sweep(sweeping, revision)
	}
	if err == nil {
		return nil
	}
	e := kv.Errorf(kv.CodeOf(err), "the history was compacted at revision %d, and its space is not free yet: %w", revision, err)
	if m.isStopping() || ctx.Err() != nil {
		e.Code = kv.OutcomeUnknown
	}
	return e
}
