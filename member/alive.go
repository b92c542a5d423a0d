package member

import (
	"context"
	"errors"
	"fmt"
	"math"

	"holdfast/kv"
	"holdfast/member/nodehost"
)

// Applying counts the loop that applies log entries: up by one when it begins a batch, and by one when it has ended it. It is
// at one as long as the count is odd and stays the same.
func (m *Member) Applying() uint64 { return m.applying.Load() }

// WaitsForDisk reports whether the disk holds back a write of the log, and is still believed in: for StallBelieved.
func (m *Member) WaitsForDisk() bool {
	held := m.Status().LogHeld
	return held > 0 && held < StallBelieved
}

// Alive returns nil once raft's loop and the store have answered, and on a leader the way of a linearizable read too. It says
// nothing about other members: a replica that is cut off, or far behind, is alive. So is one that waits for its disk, if its
// store answers. ctx bounds it.
func (m *Member) Alive(ctx context.Context) error {
	probe := kv.Query{Ops: []kv.Op{kv.Range{Key: []byte{0}, CountOnly: true}}}
	if !m.WaitsForDisk() {
		if err := m.raftAnswers(ctx); err != nil {
			return err
		}
		if l, _ := m.leader.get(); l.replica == m.id.Replica {
			_, err := m.Read(ctx, probe)
			if err == nil {
				return nil
			}
			if now, _ := m.leader.get(); now == l && !m.WaitsForDisk() {
				return fmt.Errorf("this leader cannot read: %w", err)
			}
		}
	}
	probe.MaxAge, probe.LocalOnly = kv.Unlimited, true
	if _, err := m.Read(ctx, probe); err != nil {
		return fmt.Errorf("the store does not answer: %w", err)
	}
	return nil
}

// raftAnswers asks raft's loop for entries that no log has: it says so at once, from memory, whatever it knows of others.
func (m *Member) raftAnswers(ctx context.Context) error {
	answered := make(chan struct{})
	_, err := askHost(m, func(h *nodehost.Host) (*nodehost.RequestState, error) {
		asked, err := h.QueryRaftLog(shardID, math.MaxUint64-1, math.MaxUint64, 1)
		if err == nil {
			m.askingRaft.Go(func() {
				<-asked.ResultC()
				close(answered)
			})
		}
		return asked, err
	})
	switch {
	case errors.Is(err, nodehost.ErrSystemBusy):
		return errors.New("raft's loop has not answered the last time either")
	case err != nil: // not begun yet, or over
		return nil //nolint:nilerr // see above
	}
	select {
	case <-answered:
		return nil
	case <-m.halt.done:
		return nil
	case <-ctx.Done():
		return fmt.Errorf("raft's loop does not answer: %w", context.Cause(ctx))
	}
}
