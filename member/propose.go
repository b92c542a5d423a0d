package member

import (
	"context"
	"errors"
	"slices"
	"sync"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
	"holdfast/member/nodehost"
	"holdfast/mvcc"
)

const (
	// proposalTimeout is how long a command that was sent may take to come back before its outcome is given up as
	// unknown; a caller's context may be shorter.
	proposalTimeout = 15 * time.Second
	// busyWait is how long a command waits for a place in a full queue.
	busyWait = time.Second
	busyStep = 5 * time.Millisecond
)

// Do applies a command and returns once a quorum has it on disk. Errors are *kv.Error. OutcomeUnknown says that the
// command was sent and may have been applied; NoLeader, Busy, NoSpace and Stopping that it certainly was not.
func (m *Member) Do(ctx context.Context, c kv.Command) (kv.Result, error) {
	if len(c.Guards) == 0 && kv.ReadOnly(c.Ops) {
		return m.readFor(ctx, &c)
	}
	if all := kv.Renewals(&c); len(all) > 0 {
		return m.keepAlive(ctx, c.Ops[0], all)
	}
	res, err := m.do(ctx, &c)
	m.metrics.proposed(err)
	return res, err
}

// readFor answers a command that changes nothing.
func (m *Member) readFor(ctx context.Context, c *kv.Command) (kv.Result, error) {
	p, err := m.Read(ctx, kv.Query{By: c.By, Ops: c.Ops})
	return kv.Result{Header: p.Header, Ops: p.Ops}, err
}

func (m *Member) do(ctx context.Context, c *kv.Command) (res kv.Result, err error) {
	buf := encodeBuffers.Get().(*encodeBuffer)
	defer encodeBuffers.Put(buf)
	entry, again, err := m.admit(ctx, c, buf)
	if err != nil {
		return kv.Result{}, err
	}
	data, err := m.proposeAgain(ctx, entry, again)
	if err != nil {
		return kv.Result{}, err
	}
	if err = m.decode(data, &res); err == nil {
		err = m.sweepFor(ctx, c.Ops)
	}
	return res, err
}

// admit returns the entry that a command makes, in buf, and whether that is repeatable. It sets the command's ids and takes its tokens away.
func (m *Member) admit(ctx context.Context, c *kv.Command, buf *encodeBuffer) (entry []byte, again bool, err error) {
	c.Ops = chooseIDs(c.Ops)
	if err := checkDoor(c); err != nil {
		return nil, false, err
	}
	hideTokens(c)
	buf.cmd = wire.AppendCommand(buf.cmd[:0], *c)
	if n := len(buf.cmd); n > m.cfg.RequestBytes {
		return nil, false, kv.Errorf(kv.TooLarge, "the request has %d bytes, the limit is %d", n, m.cfg.RequestBytes)
	}
	if err := m.passes(ctx, c); err != nil {
		return nil, false, err
	}
	if err := m.space.admit(int64(len(buf.cmd)), frees(c.Ops)); err != nil {
		return nil, false, err
	}
	buf.packed, entry = packCommand(buf.packed, buf.cmd)
	return entry, repeatable(c), nil
}

// hideTokens leaves out what clients have shown: nobody is to find it in a log. Whoever made the ops keeps them as they are.
func hideTokens(c *kv.Command) {
	c.By.Token = ""
	if len(c.Ops) != 1 {
		return
	}
	each, ok := c.Ops[0].(kv.Each)
	if !ok || !slices.ContainsFunc(each.Commands, func(c kv.Command) bool { return c.By.Token != "" }) {
		return
	}
	each.Commands = slices.Clone(each.Commands)
	for i := range each.Commands {
		each.Commands[i].By.Token = ""
	}
	c.Ops = []kv.Op{each}
}

// encodeBuffers holds memory for commands on their way into the log, which makes a copy.
var encodeBuffers = sync.Pool{New: func() any { return new(encodeBuffer) }}

type encodeBuffer struct{ cmd, packed []byte }

// checkDoor refuses what must not reach the log.
func checkDoor(c *kv.Command) error {
	if c.Write == kv.WriteQueue {
		return kv.Errorf(kv.Invalid, "write=queue: this node has no queue for the key (queue.prefixes)")
	}
	if err := mvcc.Check(*c); err != nil {
		return err
	}
	if err := checkOwn(c); err != nil {
		return err
	}
	return wire.CheckCommand(*c)
}

// checkOwn refuses what only a leader proposes, in a batch too.
func checkOwn(c *kv.Command) error {
	for _, op := range c.Ops {
		switch op := op.(type) {
		case kv.LeaderTerm, kv.OpenEpoch, kv.SetFeature, kv.Audit:
			return kv.Errorf(kv.Invalid, "%T is proposed by a leader only", op)
		case kv.LeaseKeepAlive:
			return kv.Errorf(kv.Invalid, "a renewal of a lease has to be the only op of its command, without guards")
		case kv.Compact:
			if op.Term != 0 {
				return kv.Errorf(kv.Invalid, "a compaction with a term is proposed by a leader only")
			}
		case kv.SetRecord:
			if op.Term != 0 {
				return kv.Errorf(kv.Invalid, "a record with a term is set by a leader only")
			}
		case kv.LeaseRevoke:
			if op.Term != 0 {
				return kv.Errorf(kv.Invalid, "a revocation with a term is proposed by a leader only")
			}
		case kv.Each:
			for i := range op.Commands {
				if err := checkOwn(&op.Commands[i]); err != nil {
					return err
				}
			}
		}
	}
	return nil
}

// propose sends an entry, an encoded command, through the log. It tries again while it is certain that nothing was applied and
// there is time.
func (m *Member) propose(ctx context.Context, entry []byte) (res kv.Result, err error) {
	data, err := m.proposeAgain(ctx, entry, false)
	if err != nil {
		return kv.Result{}, err
	}
	err = m.decode(data, &res)
	return res, err
}

// proposeAgain is propose that, if the command is repeatable, sends it anew when no answer comes, as
// when the leader has changed. It returns the command's encoded outcome.
func (m *Member) proposeAgain(ctx context.Context, entry []byte, repeatable bool) (outcome []byte, err error) {
	if !m.begin() {
		return nil, errStopping()
	}
	defer m.calls.Done()
	m.metrics.pending.Add(1)
	defer func() { m.metrics.ended(err) }()
	tried := m.leader.patience()
	sent := false // it may have been applied, whatever becomes of it now
	refuse := func(why error) ([]byte, error) {
		if sent {
			why = unknown("the leader was lost, and sending the command again came to this: %v", why)
		}
		return nil, why
	}
	for {
		if err := m.leader.await(ctx); err != nil {
			return refuse(err)
		}
		if err := m.stall.refuse(); err != nil {
			return refuse(err)
		}
		if err := m.door.enter(ctx, m.stopping); err != nil {
			return refuse(err)
		}
		_, changed := m.leader.get()
		tried.by(changed)
		rs, err := askHost(m, func(h *nodehost.Host) (*nodehost.RequestState, error) {
			return h.Propose(m.session, entry, proposalTimeout)
		})
		if err == nil {
			data, how, why := m.answer(ctx, rs, changed, repeatable && tried.age() < proposalTimeout/2)
			if how == known {
				m.door.leave()
				m.metrics.commitSeconds.Observe(tried.age().Seconds())
				return data, why
			}
			err = errDropped
			if how == missing {
				sent = true
				tried.renew()
			}
		}
		m.door.leave()
		if err := turnedAway(err, tried.spent()); err != nil {
			return refuse(err)
		}
		if err := m.pause(ctx, changed); err != nil {
			return refuse(err)
		}
	}
}

// pause is for a moment, or until changed is closed.
func (m *Member) pause(ctx context.Context, changed <-chan struct{}) error {
	timer := time.NewTimer(busyStep)
	defer timer.Stop()
	select {
	case <-changed:
	case <-timer.C:
	case <-ctx.Done():
		return noLeader("the caller gave up waiting: %v", context.Cause(ctx))
	case <-m.stopping:
		return errStopping()
	}
	return nil
}

// errDropped is raft's answer to a command that found no leader.
var errDropped = errors.New("dropped")

// turnedAway says what becomes of a command that raft did not take, tried for so long: nil to try again.
func turnedAway(err error, tried time.Duration) error {
	switch {
	case errors.Is(err, errDropped):
		if tried > leaderWait {
			return noLeader("the command was turned away for %s", leaderWait)
		}
	case errors.Is(err, nodehost.ErrShardNotReady):
		if tried > leaderWait {
			return noLeader("this replica is still replaying its log")
		}
	case errors.Is(err, nodehost.ErrSystemBusy):
		if tried > busyWait {
			e := kv.Errorf(kv.Busy, "too many commands are under way; nothing was applied: send fewer at a time")
			e.RetryAfter = busyWait
			return e
		}
	case closedHost(err):
		return errStopping()
	case errors.Is(err, nodehost.ErrPayloadTooBig):
		return kv.Errorf(kv.TooLarge, "the request is larger than the raft log takes")
	default:
		return kv.Errorf(kv.Internal, "propose: %w", err)
	}
	return nil
}

func closedHost(err error) bool {
	return errors.Is(err, nodehost.ErrClosed) || errors.Is(err, nodehost.ErrShardClosed) ||
		errors.Is(err, nodehost.ErrShardNotFound)
}

// decode fills in res. A result that is returned would be on the stack once more, and what is allocated here is where a PUT has
// most on it: see stackBudget in agent.
func (m *Member) decode(data []byte, res *kv.Result) error {
	o, err := wire.DecodeOutcome(data)
	if err != nil {
		return unknown("its outcome cannot be read: %v", err)
	}
	*res = o.Result
	m.stamp(&res.Header)
	if o.Err != nil {
		*res = kv.Result{Header: res.Header}
		return o.Err
	}
	return nil
}

// begin counts a call that stopping waits for, unless the member is stopping already.
func (m *Member) begin() bool {
	m.mu.Lock()
	defer m.mu.Unlock()
	if m.stopped {
		return false
	}
	m.calls.Add(1)
	return true
}

func errStopping() *kv.Error {
	return kv.Errorf(kv.Stopping, "this member is stopping; nothing was applied: ask another one, or this one once it is back")
}

// frees reports whether ops do nothing but give space back.
func frees(ops []kv.Op) bool {
	for _, op := range ops {
		switch op.(type) {
		case kv.Delete, kv.Compact, kv.LeaseRevoke:
		default:
			return false
		}
	}
	return true
}
