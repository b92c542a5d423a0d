package member

import (
	"context"
	"time"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// A leader that hands over stops taking proposals and tells the other to stand for election, once. The library has that
// one ignore it while it has not applied all that it knows to be committed, which under load is nearly always, and the
// cluster then takes no writes until the leader gives up. So it is told again until it leads.

// takeOverEvery is how often a replica that is to lead is told so.
const takeOverEvery = 20 * time.Millisecond

// takeOverRequest is what one member asks another that is to lead.
const takeOverRequest = "take over"

// insist tells a node that it is to lead, until ctx ends. An answer is not waited for long: the next one says the same.
func (m *Member) insist(ctx context.Context, node string) {
	for {
		pause(ctx, takeOverEvery)
		if ctx.Err() != nil {
			return
		}
		asking, cancel := context.WithTimeout(ctx, standingWait)
		_, _ = m.net.net.Ask(asking, node, []byte(takeOverRequest)) // whether it leads is seen elsewhere
		cancel()
	}
}

// takeOver stands for election, as another member asks.
func (m *Member) takeOver() []byte {
	m.nudge(pb.TimeoutNow)
	return m.answerStanding()
}
