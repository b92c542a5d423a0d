package member

import (
	"context"
	"errors"
	"iter"
	"time"

	"holdfast/kv"
	"holdfast/member/nodehost"
)

const (
	// readRetry is how long a round waits before it asks again after raft has turned it away.
	readRetry = 5 * time.Millisecond
	// minRevisionWait is how long a read waits for its MinRevision if it does not say.
	minRevisionWait = 5 * time.Second
)

// Read answers a query from this replica, after a read-index round if it may not be as old as what the replica is known
// to hold. Errors are *kv.Error.
func (m *Member) Read(ctx context.Context, q kv.Query) (kv.Page, error) {
	if m.isStopping() {
		return kv.Page{}, errStopping()
	}
	left, err := m.leaseTimes(ctx, q)
	if err != nil {
		return kv.Page{}, err
	}
	age, err := m.freshen(ctx, q)
	if err != nil {
		return kv.Page{}, err
	}
	if err := m.awaitRevision(ctx, q); err != nil {
		return kv.Page{}, err
	}
	p, err := m.store.Read(q)
	if err != nil {
		return kv.Page{}, asKV(err)
	}
	setTimes(q.Ops, p.Ops, left)
	m.stamp(&p.Header)
	p.Source, p.Age = kv.SourceMember, age
	return p, nil
}

// freshen returns once the replica is as fresh as q asks, and how old it then is.
func (m *Member) freshen(ctx context.Context, q kv.Query) (time.Duration, error) {
	if q.MaxAge > 0 {
		age := m.rounds.age()
		if q.LocalOnly || q.MaxAge == kv.Unlimited || age != kv.AgeUnknown && age <= q.MaxAge {
			return age, nil
		}
	}
	err := m.rounds.join(ctx)
	switch {
	case err == nil && q.MaxAge == 0:
		return 0, nil
	case err == nil:
		return m.rounds.age(), nil
	case q.StaleIfError == 0:
		return 0, err
	}
	age := m.rounds.age()
	if age != kv.AgeUnknown && age > q.StaleIfError {
		e := kv.Errorf(kv.StalenessExceeded, "the newest proof that this replica is current is %s old, more than the "+
			"%s allowed, and no newer one can be had: %w", age.Round(time.Millisecond), q.StaleIfError, err)
		e.RetryAfter = time.Second
		return 0, e
	}
	return age, nil
}

// awaitRevision returns once the store has q.MinRevision, or RevisionTimeout.
func (m *Member) awaitRevision(ctx context.Context, q kv.Query) error {
	if m.store.Revision() >= q.MinRevision {
		return nil
	}
	wait := q.Wait
	if wait == 0 {
		wait = minRevisionWait
	}
	timer := time.NewTimer(wait)
	defer timer.Stop()
	for {
		applied := m.applied.next()
		rev := m.store.Revision()
		if rev >= q.MinRevision {
			return nil
		}
		select {
		case <-applied:
			continue
		case <-timer.C:
		case <-ctx.Done():
		case <-m.stopping:
			return errStopping()
		}
		e := kv.Errorf(kv.RevisionTimeout, "this member is at revision %d and did not reach %d in time: wait longer, "+
			"or check that the revision is of this cluster and epoch", rev, q.MinRevision)
		e.Revision = rev
		return e
	}
}

// readIndex returns once the replica has applied everything that was committed when it was called, as rounds ask it to.
// Sent is told the time right before each attempt.
func (m *Member) readIndex(ctx context.Context, sent func()) error {
	tried := m.leader.patience()
	for {
		if err := m.leader.await(ctx); err != nil {
			return err
		}
		if err := m.stall.refuse(); err != nil {
			return err
		}
		_, changed := m.leader.get()
		tried.by(changed) // a new leader takes no question before its term has an entry
		sent()
		again, err := m.askIndex(ctx, changed)
		if !again {
			return err
		}
		if tried.spent() > leaderWait {
			return noLeader("a read was turned away for %s", leaderWait)
		}
		timer := time.NewTimer(readRetry)
		select {
		case <-changed:
		case <-timer.C:
		case <-ctx.Done():
		}
		timer.Stop()
	}
}

// A follower's question to its leader, or the answer, is lost when the connection that carries it ends, and raft does not
// repeat it. So it is put again while no answer has come; any answer counts.
const (
	readAsks  = 3
	readAgain = 900 * time.Millisecond
	// readLate is how much later than it should raft may give a question up. Its clock stands still while the disk holds back
	// a write of the log.
	readLate = 500 * time.Millisecond
)

// askIndex makes one attempt. Again says that raft turned it away and may not the next time, or that the leader has
// changed, which closes changed: the former one may never answer.
func (m *Member) askIndex(ctx context.Context, changed <-chan struct{}) (again bool, err error) {
	var asked [readAsks]*nodehost.RequestState
	var answer [readAsks]chan nodehost.RequestResult
	ask := func(h *nodehost.Host) (*nodehost.RequestState, error) { return h.ReadIndex(shardID, leaderWait) }
	if asked[0], err = askHost(m, ask); err != nil {
		switch {
		case closedHost(err):
			return false, errStopping()
		case errors.Is(err, nodehost.ErrShardNotReady), errors.Is(err, nodehost.ErrSystemBusy):
			return true, nil
		default:
			return false, kv.Errorf(kv.Internal, "read index: %w", err)
		}
	}
	answer[0] = asked[0].ResultC()
	repeat := time.NewTimer(readAgain)
	defer repeat.Stop()
	late := time.NewTimer(leaderWait + readLate)
	defer late.Stop()
	for n := 1; ; {
		which := 0
		var r nodehost.RequestResult
		select {
		case r = <-answer[0]:
		case r = <-answer[1]:
			which = 1
		case r = <-answer[2]:
			which = 2
		case <-repeat.C:
			if rs, err := askHost(m, ask); err == nil { // else those under way may be answered yet
				asked[n], answer[n] = rs, rs.ResultC()
			}
			if n++; n < readAsks {
				repeat.Reset(readAgain)
			}
			continue
		case <-changed:
			return true, nil
		case <-late.C:
			return false, noLeader("a read was not confirmed by a quorum within %s", leaderWait)
		case <-ctx.Done():
			return false, noLeader("the caller gave up waiting: %v", context.Cause(ctx))
		case <-m.halt.done:
			return false, errStopping()
		}
		asked[which].Release()
		switch {
		case r.Completed():
			return false, nil
		case r.Timeout():
			return false, noLeader("a read was not confirmed by a quorum within %s", leaderWait)
		case r.Terminated():
			return false, errStopping()
		default:
			return true, nil
		}
	}
}

// Watch streams changes from this replica's own store until ctx ends, the consumer stops, or the member does: then the
// last thing it yields is Stopping.
func (m *Member) Watch(ctx context.Context, w kv.WatchSpec) iter.Seq2[kv.Batch, error] {
	return func(yield func(kv.Batch, error) bool) {
		ctx, cancel := context.WithCancelCause(ctx)
		defer cancel(nil)
		defer context.AfterFunc(m.watching, func() { cancel(errMemberStops) })()
		ended := false
		m.store.Watch(ctx, w)(func(b kv.Batch, err error) bool { // no range: it would take more of the stack, on which ten thousand wait
			if err != nil {
				ended = true
				yield(b, asKV(err))
				return false
			}
			m.stamp(&b.Header)
			ended = !yield(b, nil)
			return !ended
		})
		if !ended && errors.Is(context.Cause(ctx), errMemberStops) {
			sayStopping(yield)
		}
	}
}

// Push is Watch for a consumer that does not wait: see kv.WatchPush.
func (m *Member) Push(_ context.Context, w kv.WatchSpec, to kv.WatchSink) (kv.WatchPush, error) {
	p := &pushed{member: m, to: to}
	p.WatchPush = m.store.Push(w, p)
	p.free = context.AfterFunc(m.watching, p.Stop)
	return p, nil
}

// pushed is a pushed stream of this replica's store.
type pushed struct {
	kv.WatchPush
	member *Member
	to     kv.WatchSink
	free   func() bool // the member's end no longer stops it
}

func (p *pushed) Bring(b kv.Batch) (more bool) {
	p.member.stamp(&b.Header)
	return p.to.Bring(b)
}

func (p *pushed) End(err error) {
	p.free()
	switch {
	case err != nil:
		err = asKV(err)
	case p.member.watching.Err() != nil:
		err = errStopping()
	}
	p.to.End(err)
}

//go:noinline
func sayStopping(yield func(kv.Batch, error) bool) { yield(kv.Batch{}, errStopping()) }

var errMemberStops = errors.New("the member stops")

func (m *Member) isStopping() bool {
	select {
	case <-m.stopping:
		return true
	default:
		return false
	}
}

// asKV makes err a *kv.Error.
func asKV(err error) *kv.Error {
	if e, ok := errors.AsType[*kv.Error](err); ok {
		return e
	}
	return kv.Errorf(kv.Internal, "%w", err)
}
