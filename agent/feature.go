package agent

import (
	"context"
	"sync"
	"time"

	"holdfast/kv"
	"holdfast/member"
)

// featureLook is how often a leader asks whether all members know the feature level of its version, while some may not.
const featureLook = 5 * time.Second

// raiseFeature has a cluster use what this version brings, once every member knows of it: until then a member of the former
// version can be among them, and an upgraded one may go back. It ends when there is nothing to raise any more.
func (a *Agent) raiseFeature(ctx context.Context, m *member.Member) {
	t := time.NewTicker(featureLook)
	defer t.Stop()
	for m.Condition().Feature < kv.FeatureNewest {
		if r := a.roll.Load(); r != nil && m.FeatureLags() && r.allKnow(ctx, kv.FeatureNewest) {
			if err := m.RaiseFeature(ctx); err == nil {
				a.opts.Log.Info("feature level raised: every member knows it, and none can go back to the former version", "feature_level", kv.FeatureNewest)
			} else if ctx.Err() == nil {
				a.opts.Log.Warn("the feature level is not raised yet", "feature_level", kv.FeatureNewest, "err", err)
			}
		}
		select {
		case <-t.C:
		case <-ctx.Done():
			return
		}
	}
}

// allKnow asks all other members whether their version knows a feature level. One that does not answer may not know it.
func (r *roll) allKnow(ctx context.Context, level uint64) bool {
	var mu sync.Mutex
	all := true
	r.others(func(s member.Seat) {
		got, err := r.ask(ctx, s.Replica, question{Roll: &rollQuestion{}})
		mu.Lock()
		defer mu.Unlock()
		all = all && err == nil && got.Self.Feature >= level
	})
	return all
}
