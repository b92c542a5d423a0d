package member

import (
	"context"
	"errors"
	"path/filepath"
	"strings"
	"testing"
	"testing/synctest"
	"time"

	"github.com/lni/dragonboat/v4/raftio"

	"holdfast/kv"
	"holdfast/member/nodehost"
	"holdfast/mvcc"
)

// What raft does not answer is given up when there is a reason to, and not much later.
func TestAnAnswerIsNotAwaitedForEver(t *testing.T) {
	type event = func(m *Member, cancel context.CancelCauseFunc)
	const moment = 700 * time.Millisecond // when the event comes that does not come before
	const office = 2 * officeEvery        // how long after that the next leader takes office, where it does
	fails := func(m *Member, _ context.CancelCauseFunc) { m.halt.fail(errors.New("disk gone")) }
	leaves := func(_ *Member, cancel context.CancelCauseFunc) { cancel(errors.New("the caller has left")) }
	for name, tc := range map[string]struct {
		repeatable    bool
		before, event event
		fate          fate
		why           string
		after, late   time.Duration
	}{
		"it may be sent again": {repeatable: true, fate: missing, after: leaderWait, late: pulseEvery},
		"it may not":           {fate: known, why: "no answer within", after: proposalTimeout + leaderWait, late: pulseEvery},
		"the leader changes, it may be sent again":       {repeatable: true, event: otherLeader, fate: missing, after: moment + resendAfter},
		"the leader changes, it may not":                 {event: otherLeader, fate: known, why: "the leader was lost", after: moment + leaderWait},
		"the next leader takes office":                   {event: nextLeader, fate: known, why: "the leader was lost", after: moment + office + orphanAfter, late: officeEvery},
		"the next leader takes office, to be sent again": {repeatable: true, event: nextLeader, fate: missing, after: moment + resendAfter},
		"the leader had changed":                         {before: otherLeader, fate: known, why: "the leader was lost", after: leaderWait},
		"the replica fails":                              {event: fails, fate: known, why: "disk gone", after: moment},
		"the replica had failed":                         {before: fails, fate: known, why: "disk gone"},
		"the caller leaves":                              {event: leaves, fate: known, why: "the caller has left", after: moment},
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				store, err := mvcc.Open(filepath.Join(t.TempDir(), "state.db"), mvcc.Options{})
				if err != nil {
					t.Fatal(err)
				}
				defer func() {
					if err := store.Close(); err != nil {
						t.Error(err)
					}
				}()
				m := &Member{store: store, halt: newHalt(), pulse: newAnnouncer(), leader: newLeadership(func() time.Duration { return time.Since(began) })}
				ctx, cancel := context.WithCancelCause(t.Context())
				defer cancel(nil)
				drained, ended := make(chan struct{}), make(chan struct{})
				go func() { m.beat(drained); close(ended) }()
				defer func() { close(drained); <-ended }()
				_, changed := m.leader.get()
				if tc.before != nil {
					tc.before(m, cancel)
					synctest.Wait() // the pulse is over
				}
				if tc.event != nil {
					time.AfterFunc(moment, func() { tc.event(m, cancel) })
				}
				rs := &nodehost.RequestState{CompletedC: make(chan nodehost.RequestResult, 1)} //nolint:staticcheck // nobody else could make one
				outcome, how, why := m.answer(ctx, rs, changed, tc.repeatable)
				took := time.Since(began)
				if outcome != nil || how != tc.fate || (why != nil) != (tc.why != "") || why != nil && !strings.Contains(why.Error(), tc.why) {
					t.Errorf("%q, fate %d, %v; want fate %d, %q", outcome, how, why, tc.fate, tc.why)
				}
				if why != nil && kv.CodeOf(why) != kv.OutcomeUnknown {
					t.Errorf("code %v, want OutcomeUnknown", kv.CodeOf(why))
				}
				if took < tc.after || took > tc.after+tc.late {
					t.Errorf("after %v, want %v and at most %v more", took, tc.after, tc.late)
				}
			})
		})
	}
}

// nextLeader has a member told of another leader, and then of what that takes office with.
func nextLeader(m *Member, cancel context.CancelCauseFunc) {
	otherLeader(m, cancel)
	time.Sleep(2 * officeEvery)
	if _, err := m.store.Apply([]mvcc.Entry{{Index: 1, Command: kv.Command{Ops: []kv.Op{kv.LeaderTerm{Nonce: 7}}}}}); err != nil {
		panic(err)
	}
}

// otherLeader has a member told of another leader.
func otherLeader(m *Member, _ context.CancelCauseFunc) {
	now, _ := m.leader.get()
	m.leader.LeaderUpdated(raftio.LeaderInfo{LeaderID: now.replica + 1, Term: now.term + 1})
}
