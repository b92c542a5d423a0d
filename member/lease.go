package member

import (
	"bytes"
	"context"
	"fmt"
	"slices"
	"sync"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// What only the one who keeps the time of leases knows, a LeaseKeepAlive and what a LeaseTTL has left, is asked of the
// leader, wherever it comes from:
//
//	Do, Read -> askKeeper -+- here, if this replica leads ----------------> keeper -> read-index round -> lessor
//	                       +- Network.Ask -> the leader's Network.Serve -> answer ----^
//
// It never enters the log. The round begins after the question has arrived. If the office is still the newest in the
// store when the round has ended, nobody else can have taken it before the question arrived: who takes it later gives
// every lease its full TTL anew, so what is answered here still holds there.

// keepAlive renews the leases of a command, or of those in a batch, each by itself.
func (m *Member) keepAlive(ctx context.Context, op kv.Op, all []kv.Command) (kv.Result, error) {
	if !m.begin() {
		return kv.Result{}, errStopping()
	}
	defer m.calls.Done()
	if _, alone := op.(kv.LeaseKeepAlive); alone {
		return m.keepOne(ctx, op)
	}
	if len(all) > maxAsked {
		return kv.Result{}, kv.Errorf(kv.TooManyOps, "a batch has %d renewals, the limit is %d", len(all), maxAsked)
	}
	outs := make([]kv.Outcome, len(all))
	var wg sync.WaitGroup
	for i, one := range all { // they share a round
		wg.Go(func() {
			var err error
			if outs[i].Result, err = m.keepOne(ctx, one.Ops[0]); err != nil {
				outs[i].Err = asKV(err)
			}
		})
	}
	wg.Wait()
	res := kv.Result{Ops: []kv.OpResult{{Each: outs}}}
	res.Revision = m.store.Revision()
	m.stamp(&res.Header)
	return res, nil
}

// keepOne renews a lease.
func (m *Member) keepOne(ctx context.Context, op kv.Op) (kv.Result, error) {
	l, err := m.askKeeper(ctx, op)
	if err != nil {
		return kv.Result{}, err
	}
	res := kv.Result{Ops: []kv.OpResult{{Leases: []kv.Lease{l}}}}
	res.Revision = m.store.Revision()
	m.stamp(&res.Header)
	return res, nil
}

// keeperRetry is how long a question that nobody could answer waits before it is asked again.
const keeperRetry = 20 * time.Millisecond

// askKeeper puts a LeaseKeepAlive or LeaseTTL to the leader, for as long as a call waits for one. To ask twice does no
// harm.
func (m *Member) askKeeper(ctx context.Context, op kv.Op) (kv.Lease, error) {
	tried := m.leader.patience()
	for {
		if err := m.leader.await(ctx); err != nil {
			return kv.Lease{}, err
		}
		now, changed := m.leader.get()
		tried.by(changed) // a new leader takes office with its first entry
		_, office := m.lessor.inOffice()
		var l kv.Lease
		var err error
		if now.replica == m.id.Replica {
			l, err = m.keeper(ctx, op)
		} else {
			l, err = m.asks.ask(ctx, now.replica, op, changed)
		}
		if kv.CodeOf(err) != kv.NoLeader || ctx.Err() != nil {
			return l, err
		}
		if tried.spent() > leaderWait {
			return l, noLeader("nobody who keeps the time of leases answered for %s (%v)", leaderWait, err)
		}
		timer := time.NewTimer(keeperRetry)
		select {
		case <-changed:
		case <-office:
		case <-timer.C:
		case <-ctx.Done():
		case <-m.stopping:
			timer.Stop()
			return l, errStopping()
		}
		timer.Stop()
	}
}

// keeper answers from this replica, if it is in office.
func (m *Member) keeper(ctx context.Context, op kv.Op) (kv.Lease, error) {
	office, _ := m.lessor.inOffice()
	if office == 0 {
		return kv.Lease{}, notInOffice()
	}
	switch op := op.(type) {
	case kv.LeaseKeepAlive:
		return m.renew(ctx, office, op.ID)
	case kv.LeaseTTL:
		if err := m.confirm(ctx, office); err != nil {
			return kv.Lease{}, err
		}
		return m.lessor.left(office, op.ID)
	default:
		return kv.Lease{}, kv.Errorf(kv.Unsupported, "the keeper of leases does not answer a %T", op)
	}
}

// confirm returns once it is certain that nobody else had taken office when it was called.
func (m *Member) confirm(ctx context.Context, office uint64) error {
	if err := m.rounds.join(ctx); err != nil {
		return err
	}
	if m.store.LeaderTerm() != office {
		return notInOffice()
	}
	return nil
}

func (m *Member) renew(ctx context.Context, office uint64, id int64) (kv.Lease, error) {
	release := m.lessor.hold(id)
	defer release()
	if err := m.confirm(ctx, office); err != nil {
		return kv.Lease{}, err
	}
	for {
		l, revoking, err := m.lessor.renew(office, id)
		if revoking == nil {
			return l, err
		}
		select { // it came too late, unless the revocation fails
		case <-revoking:
		case <-ctx.Done():
			return l, noLeader("the caller gave up waiting: %v", context.Cause(ctx))
		case <-m.stopping:
			return l, errStopping()
		}
	}
}

// listLeases lists the leases in the store.
func (m *Member) listLeases() ([]kv.Lease, error) {
	p, err := m.store.Read(kv.Query{Ops: []kv.Op{kv.LeaseList{}}})
	if err != nil {
		return nil, fmt.Errorf("list leases: %w", err)
	}
	return p.Ops[0].Leases, nil
}

// answerAsked answers what another member asks.
func (m *Member) answerAsked(ctx context.Context, request []byte) []byte {
	if isStanding(request) {
		return m.answerStanding()
	}
	if string(request) == takeOverRequest {
		return m.takeOver()
	}
	if isHold(request) {
		return m.answerHold(ctx, request)
	}
	if q, ok := bytes.CutPrefix(request, questionMark); ok && m.cfg.Answer != nil {
		return m.cfg.Answer(ctx, q)
	}
	out := kv.Outcome{Err: kv.Errorf(kv.Unsupported, "this member does not answer that: it may be of an older version")}
	c, err := wire.DecodeCommand(request)
	if err != nil || len(c.Ops) != 1 {
		return wire.AppendOutcome(nil, out)
	}
	if e, ok := c.Ops[0].(kv.Each); ok && len(e.Commands) <= maxAsked {
		out = kv.Outcome{Result: kv.Result{Ops: []kv.OpResult{{Each: m.answerEach(ctx, e.Commands)}}}}
	}
	return wire.AppendOutcome(nil, out)
}

// answerEach answers questions that came together. They share a round.
func (m *Member) answerEach(ctx context.Context, commands []kv.Command) []kv.Outcome {
	outs := make([]kv.Outcome, len(commands))
	var wg sync.WaitGroup
	for i, c := range commands {
		wg.Go(func() {
			if len(c.Ops) != 1 {
				outs[i].Err = kv.Errorf(kv.Unsupported, "a question has %d ops", len(c.Ops))
				return
			}
			l, err := m.keeper(ctx, c.Ops[0])
			if err != nil {
				outs[i].Err = asKV(err)
				return
			}
			outs[i].Result.Ops = []kv.OpResult{{Leases: []kv.Lease{l}}}
		})
	}
	wg.Wait()
	return outs
}

// sendTo asks a replica over the Network.
func (m *Member) sendTo(ctx context.Context, replica uint64, request []byte) ([]byte, error) {
	node, _, err := m.registry.Resolve(shardID, replica)
	if err != nil {
		return nil, err
	}
	_, changed := m.leader.get()
	ctx, cancel := context.WithCancel(ctx)
	var wg sync.WaitGroup
	defer wg.Wait()
	defer cancel()
	wg.Go(func() {
		select {
		case <-changed: // it may be gone, and never answer
			cancel()
		case <-ctx.Done():
		}
	})
	return m.net.net.Ask(ctx, node, request)
}

// leaseTimes returns what the leases that a query asks for have left, by id; nil if it asks for none.
func (m *Member) leaseTimes(ctx context.Context, q kv.Query) (map[int64]int64, error) {
	ids := leasesAsked(q.Ops, nil)
	if len(ids) == 0 {
		return nil, nil
	}
	left := make(map[int64]int64, len(ids))
	for _, id := range ids {
		var l kv.Lease
		var err error
		if office, _ := m.lessor.inOffice(); !q.LocalOnly {
			l, err = m.askKeeper(ctx, kv.LeaseTTL{ID: id})
		} else if l, err = m.lessor.left(office, id); office == 0 || err != nil {
			return nil, kv.Errorf(kv.NotCached, "only the leader knows how long a lease has left, and the request forbids asking it")
		}
		if err != nil {
			return nil, err
		}
		left[id] = l.TTL
	}
	return left, nil
}

// leasesAsked lists the leases whose time ops ask for, nested ones included.
func leasesAsked(ops []kv.Op, ids []int64) []int64 {
	for _, op := range ops {
		switch op := op.(type) {
		case kv.LeaseTTL:
			ids = append(ids, op.ID)
		case kv.Txn:
			ids = leasesAsked(op.Else, leasesAsked(op.Then, ids))
		}
	}
	return ids
}

// setTimes puts what leases have left into the answers of the store, which knows the rest. A lease that has ended since
// the store was read has nothing left.
func setTimes(ops []kv.Op, results []kv.OpResult, left map[int64]int64) {
	for i, op := range ops {
		switch op := op.(type) {
		case kv.LeaseTTL:
			if l := results[i].Leases; len(l) == 1 && l[0].TTL >= 0 {
				l[0].TTL = max(left[op.ID], 0)
			}
		case kv.Txn:
			branch := op.Else
			if results[i].Succeeded {
				branch = op.Then
			}
			setTimes(branch, results[i].Ops, left)
		}
	}
}

// revokeMost is how many leases one command revokes, each at a revision of its own.
const revokeMost = 256

// expireLeases has leases revoked that have ended, while this replica keeps their time.
func (m *Member) expireLeases(ctx context.Context) error {
	ticker := time.NewTicker(leaseTick)
	defer ticker.Stop()
	failing := false
	for {
		select {
		case <-ticker.C:
		case <-ctx.Done():
			return nil
		}
		err := m.expireDue(ctx)
		if err != nil && !failing && ctx.Err() == nil {
			m.cfg.Log.Warn("leases that have ended could not be revoked, their keys stay meanwhile; trying again", "err", err)
		}
		failing = err != nil
	}
}

// expireDue revokes what has ended. It first makes sure that this replica still is in office: a process that was stopped
// for a while does not know what has happened since. The revocations carry the office all the same, and are void under
// another.
func (m *Member) expireDue(ctx context.Context) error {
	for {
		office, due := m.lessor.due(revokeMost)
		if len(due) == 0 {
			return nil
		}
		err := m.revokeDue(ctx, office, due)
		m.lessor.settle(office, due)
		if err != nil {
			return err
		}
	}
}

func (m *Member) revokeDue(ctx context.Context, office uint64, due []*lease) error {
	if err := m.confirm(ctx, office); err != nil {
		return err
	}
	var each kv.Each
	for _, l := range due {
		each.Commands = append(each.Commands, kv.Command{Ops: []kv.Op{kv.LeaseRevoke{ID: l.id, Term: office}}})
	}
	c := kv.Command{Ops: []kv.Op{each}}
	if err := m.store.Barred(c); err != nil { // while an alarm stands they would be refused again and again, in the log
		return err
	}
	res, err := m.propose(ctx, wire.AppendCommand(nil, c))
	if err != nil {
		return err
	}
	if len(res.Ops) != 1 || len(res.Ops[0].Each) != len(due) {
		return fmt.Errorf("%d leases were to be revoked and the answer is %+v", len(due), res)
	}
	for i, out := range res.Ops[0].Each {
		if out.Err != nil && out.Err.Code != kv.LeaseNotFound {
			return fmt.Errorf("revoke lease %016x: %w", uint64(due[i].id), out.Err)
		}
	}
	return nil
}

// chooseIDs gives each lease that is to be granted without an id a random one, as etcd does a positive one.
func chooseIDs(ops []kv.Op) []kv.Op {
	for i, op := range ops {
		g, ok := op.(kv.LeaseGrant)
		if !ok || g.ID != 0 {
			continue
		}
		for g.ID == 0 {
			g.ID = int64(random64() >> 1)
		}
		ops = slices.Clone(ops) // the caller's stay as they are
		ops[i] = g
	}
	return ops
}
