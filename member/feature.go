package member

import (
	"context"

	"holdfast/internal/wire"
	"holdfast/kv"
)

// ownFeature is the feature level that a leader may set without asking anybody: this version's where it is alone, as when it
// founds a cluster, else the one that every version knows which can be in a cluster of several.
func (m *Member) ownFeature() uint64 {
	if m.store.Epoch().IsZero() || len(m.voterIDs()) <= 1 && len(m.Roster().Seats) <= 1 {
		return kv.FeatureNewest
	}
	return kv.FeatureAdmin
}

// FeatureLags reports whether this member leads a cluster whose feature level is below that of its version.
func (m *Member) FeatureLags() bool {
	return m.nonce.Load() != 0 && m.store.Feature() < kv.FeatureNewest
}

// RaiseFeature raises the feature level of the cluster to this version's. A member that does not know that level stops:
// the caller has asked each of them.
func (m *Member) RaiseFeature(ctx context.Context) error {
	if !m.FeatureLags() {
		return nil
	}
	_, err := m.propose(ctx, wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{kv.SetFeature{Level: kv.FeatureNewest}}}))
	return err
}
