package member

import (
	"context"
	"time"

	"holdfast/kv"
	"holdfast/member/nodehost"
)

// fate is how a command ended that was sent.
type fate int

const (
	known   fate = iota // there is an answer, or none is waited for any more
	dropped             // it certainly was not applied
	missing             // there is no answer, and it may be sent again
)

// resendAfter is how long the answer to a repeatable command may take once another leader is known: some round trips, in
// which what the former one had passed on arrives.
const resendAfter = 250 * time.Millisecond

// orphanAfter is how long the answer to a command that is not repeatable may still take once the next leader has taken office,
// as known here. By then all that earlier leaders had taken is applied here; what was passed on to this one has these round trips.
const orphanAfter = 2 * resendAfter

// officeEvery is how often it is looked whether the next leader has taken office.
const officeEvery = 50 * time.Millisecond

// answer waits for raft's answer to a command that was sent, and returns its encoded outcome if it was applied.
//
// Changed is closed when the leader changes: then what was sent to the former one may be lost without a word, and to
// send it again could apply it twice. So an answer that does not come soon afterwards is given up: within leaderWait, and soon
// after the next leader has taken office. A command that is
// repeatable is missing then, and also if it is not answered for leaderWait.
//
// Every PUT waits here, so it waits for three things only. Whatever else may end the wait comes by way of the pulse: a
// timer for each, and two channels more, were 4 % of the CPU of a PUT with 256 clients.
func (m *Member) answer(ctx context.Context, rs *nodehost.RequestState, changed <-chan struct{}, repeatable bool) (outcome []byte, how fate, err error) {
	began := time.Now()
	for {
		pulse := m.pulse.next() // before anything is looked at: what happens afterwards is heard
		switch {
		case m.halt.failed():
			return nil, known, m.halted()
		case isClosed(changed):
			return m.answerLate(ctx, rs, repeatable)
		}
		select {
		case r := <-rs.ResultC():
			return outcomeOf(rs, &r)
		case <-ctx.Done():
			return nil, known, givenUp(ctx)
		case <-pulse:
		}
		switch waited := time.Since(began); {
		case repeatable && waited > leaderWait: // on the way to a leader it may be lost as well
			return nil, missing, nil
		case waited > proposalTimeout+leaderWait: // raft gives it up before
			return nil, known, unknown("no answer within %s", proposalTimeout+leaderWait)
		}
	}
}

// answerLate goes on where the leader has changed while an answer was waited for.
//
//go:noinline // see stackBudget in package agent: it is rare
func (m *Member) answerLate(ctx context.Context, rs *nodehost.RequestState, repeatable bool) ([]byte, fate, error) {
	wait := resendAfter
	var look <-chan time.Time
	if !repeatable {
		ticker := time.NewTicker(officeEvery)
		defer ticker.Stop()
		wait, look = leaderWait, ticker.C
	}
	began, office := time.Now(), m.store.LeaderTerm()
	late := time.NewTimer(wait)
	defer late.Stop()
	for {
		select {
		case r := <-rs.ResultC():
			return outcomeOf(rs, &r)
		case <-ctx.Done():
			return nil, known, givenUp(ctx)
		case <-m.halt.done:
			return nil, known, m.halted()
		case <-look:
			if m.store.LeaderTerm() != office {
				look = nil
				late.Reset(min(orphanAfter, wait-time.Since(began)))
			}
		case <-late.C:
			if repeatable {
				return nil, missing, nil
			}
			return nil, known, unknown("the leader was lost, and no answer came within %s", time.Since(began).Round(time.Millisecond))
		}
	}
}

// outcomeOf is what raft's answer to a command says of it, encoded if it was applied.
func outcomeOf(rs *nodehost.RequestState, r *nodehost.RequestResult) ([]byte, fate, error) {
	switch {
	case r.Completed():
		data := r.GetResult().Data
		rs.Release()
		return data, known, nil
	case r.Dropped():
		rs.Release()
		return nil, dropped, nil
	case r.Timeout():
		return nil, known, unknown("no answer within %s", proposalTimeout)
	case r.Terminated():
		return nil, known, unknown("the replica stopped")
	default:
		return nil, known, unknown("raft gave it up")
	}
}

func givenUp(ctx context.Context) error {
	return unknown("the caller gave up waiting: %v", context.Cause(ctx))
}

// halted is for what was under way when the replica failed.
func (m *Member) halted() error { return unknown("the replica failed: %v", m.halt.err) }

//go:noinline // those who wait for an answer have no room for it on their stacks
func unknown(format string, args ...any) *kv.Error {
	return kv.Errorf(kv.OutcomeUnknown, "the command was sent, and whether it was applied is not known: "+format+
		"; read the keys before you send it again", args...)
}

// pulseEvery is how often those who wait for an answer look whether they still should; what they look for takes seconds.
const pulseEvery = 500 * time.Millisecond

// beat gives the pulse by which those who wait for an answer look around: when the leader changes, when the replica fails,
// and every so often. It goes on until drained is closed.
func (m *Member) beat(drained <-chan struct{}) {
	ticker := time.NewTicker(pulseEvery)
	defer ticker.Stop()
	for {
		_, changed := m.leader.get() // before the pulse: who does not feel that has seen the change
		m.pulse.announce()
		select {
		case <-changed:
		case <-ticker.C:
		case <-m.halt.done:
			m.pulse.announce() // whoever comes later sees it first
			return
		case <-drained:
			return
		}
	}
}

func isClosed(c <-chan struct{}) bool {
	select {
	case <-c:
		return true
	default:
		return false
	}
}
