package member

import (
	"context"

	"holdfast/kv"
)

// passes refuses early what the state machine would refuse for an alarm, to spare the log, and what some member of the
// cluster may not know. This replica may lag behind, so a refusal is given as of now.
func (m *Member) passes(ctx context.Context, c *kv.Command) error {
	if m.gate(c) == nil {
		return nil
	}
	if err := m.rounds.join(ctx); err != nil {
		return err
	}
	if err := m.gate(c); err != nil {
		return err
	}
	return nil
}

func (m *Member) gate(c *kv.Command) *kv.Error {
	if need, have := featureOf(c.Ops), m.store.Feature(); need > have {
		return kv.Errorf(kv.Unsupported, "this command needs feature level %d and the cluster is at %d: "+
			"it rises once every member runs a version that knows it", need, have)
	}
	return m.store.Barred(*c)
}

// featureOf is the feature level that ops need.
func featureOf(ops []kv.Op) (level uint64) {
	for _, op := range ops {
		switch op := op.(type) {
		case kv.SetAlarm, kv.Audit, kv.LeaseGrant, kv.LeaseRevoke:
			level = max(level, kv.FeatureAdmin)
		case kv.SetAuth, kv.SetDevice, kv.SetScope:
			level = max(level, kv.FeatureAuth)
		case kv.Each:
			for _, c := range op.Commands {
				level = max(level, featureOf(c.Ops))
			}
		}
	}
	return level
}
