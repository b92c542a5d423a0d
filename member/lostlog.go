package member

import (
	"context"
	"errors"
	"fmt"

	pb "github.com/lni/dragonboat/v4/raftpb"
)

// ErrLogLost is why a member ends whose log has lost what it has acknowledged.
var ErrLogLost = errors.New("raft log lost")

// loseLog makes the member end for a log that has lost something. Unlike a halt it leaves the library in order.
func (m *Member) loseLog(err error) {
	select {
	case m.lost <- err:
	default:
	}
}

// watchLog returns why the log is lost, if it is.
func (m *Member) watchLog(ctx context.Context) error {
	select {
	case err := <-m.lost:
		return err
	case <-ctx.Done():
		return nil
	}
}

// checkBatch ends a replica whose log has lost entries that it once acknowledged: a disk that was wiped or put back to an
// older state. A leader's heartbeat names, as committed, only what this replica has said it has; the library would panic
// over it without saying why. Nothing of the batch is delivered then.
func (m *Member) checkBatch(b pb.MessageBatch) bool {
	if !m.fs.armed.Load() { // raft is not running, and where its log ends not known
		return true
	}
	for _, msg := range b.Requests {
		if msg.Type != pb.Heartbeat || msg.To != m.id.Replica || msg.Commit == 0 {
			continue
		}
		if end := m.logs.db.end(); msg.Commit > end {
			m.loseLog(fmt.Errorf("%w: the raft log of this member ends at index %d, and it has acknowledged entries up to %d: its disk was "+
				"wiped, or put back to an older state, as by a snapshot of a virtual machine. It takes part no more, since its vote could "+
				"undo what was acknowledged. Give the box an empty data dir, --join and a token: it joins as a new member, and this one is removed",
				ErrLogLost, end, msg.Commit))
			return false
		}
	}
	return true
}
