package member

import (
	"testing"
	"testing/synctest"
	"time"

	"github.com/lni/dragonboat/v4/raftio"

	"holdfast/kv"
)

// A call that is turned away is refused when a leader has done so for long enough, and not because elections took that long.
func TestElectionsDoNotUseUpThePatienceOfACall(t *testing.T) {
	const ms = time.Millisecond
	type event struct {
		at     time.Duration
		leader uint64
	}
	var restless []event
	for at := time.Duration(0); at < time.Minute; at += time.Second {
		restless = append(restless, event{at, 1}, event{at + 500*ms, 0})
	}
	for name, tc := range map[string]struct {
		events []event
		want   time.Duration // after so long it is refused
	}{
		"there is a leader all along":       {[]event{{0, 1}}, leaderWait},
		"there is none":                     {nil, leaderWait},
		"an election that takes long":       {[]event{{2900 * ms, 1}}, 2900*ms + leaderWait},
		"the first one comes to nothing":    {[]event{{2000 * ms, 1}, {2100 * ms, 0}, {4500 * ms, 1}}, 4500*ms + leaderWait},
		"the leader goes while it is tried": {[]event{{0, 1}, {1000 * ms, 0}, {3500 * ms, 1}}, 3500*ms + leaderWait},
		"leaders that come and go":          {restless, electionsMax - time.Second + leaderWait}, // the last that counts comes a second before
	} {
		t.Run(name, func(t *testing.T) {
			synctest.Test(t, func(t *testing.T) {
				began := time.Now()
				clock := func() time.Duration { return time.Since(began) }
				m := &Member{leader: newLeadership(clock), lessor: newLessor(clock), stopping: make(chan struct{})}
				m.id.Replica = 1 // which is asked as the leader, and never takes office
				for i, e := range tc.events {
					now := raftio.LeaderInfo{LeaderID: e.leader, Term: uint64(i)}
					if e.at == 0 {
						m.leader.LeaderUpdated(now)
						continue
					}
					defer time.AfterFunc(e.at, func() { m.leader.LeaderUpdated(now) }).Stop() //nolint:gocritic // they end together
				}
				_, err := m.askKeeper(t.Context(), kv.LeaseTTL{ID: 1})
				took := time.Since(began)
				if kv.CodeOf(err) != kv.NoLeader || took < tc.want || took > tc.want+time.Second {
					t.Errorf("after %v: %v; want it refused after %v", took, err, tc.want)
				}
			})
		})
	}
}
