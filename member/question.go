package member

import (
	"bytes"
	"context"

	"holdfast/kv"
)

// questionMark begins a request that Config.Answer answers. No command begins with a zero: that is its format's version.
var questionMark = []byte{0, '?'}

// Ask puts a question of the level above to the member with that replica id, and returns what its Config.Answer says. It
// fails with UpstreamUnavailable if that member cannot be asked.
func (m *Member) Ask(ctx context.Context, replica uint64, request []byte) ([]byte, error) {
	if replica == m.id.Replica {
		if m.cfg.Answer == nil {
			return nil, kv.Errorf(kv.Unsupported, "this member answers no questions")
		}
		return m.cfg.Answer(ctx, request), nil
	}
	b, err := m.sendTo(ctx, replica, append(bytes.Clone(questionMark), request...))
	if err != nil {
		return nil, kv.Errorf(kv.UpstreamUnavailable, "member %d cannot be asked: %w", replica, err)
	}
	return b, nil
}

// RecordChanges is another number after each change of the cluster's own records, as applied here. See kv.SetRecord.
func (m *Member) RecordChanges() uint64 { return m.store.RecordChanges() }

// Leads reports whether this replica leads, as far as it knows.
func (m *Member) Leads() bool {
	l, _ := m.leader.get()
	return l.replica == m.id.Replica
}
