package member

import (
	"context"
	"time"

	"holdfast/internal/wire"
	"holdfast/kv"
)

const (
	// DefaultQuota is etcd's.
	DefaultQuota = 2 << 30

	// quotaPause is how often a member that is written to looks at how much it holds. What comes in between goes beyond
	// the quota: 25 MB at 100 MB/s.
	quotaPause = 250 * time.Millisecond
	// quotaPoll is how often a member looks while its alarm stands, and after it could not raise or disarm it. Space
	// comes back from deletions, which are applied, but is free only when they have been swept.
	quotaPoll = time.Second
	// quotaShare is the part of the quota by which a member has to be below it before writes go on.
	quotaShare = 16
	// quotaOverlay is the part of the quota beyond which what waits in memory is written before it is counted: in
	// memory it takes more.
	quotaOverlay = 64
)

// keepQuota raises AlarmNoSpace for this replica when what it holds goes beyond Config.Quota, and disarms it when it no
// longer does. Free pages of the state file do not count: they are used again. While nothing is applied, and no alarm of
// this replica stands, it does nothing.
func (m *Member) keepQuota(ctx context.Context) error {
	if m.cfg.Quota < 0 {
		return nil
	}
	select {
	case <-m.ready: // before, this replica may be replaying what is past
	case <-ctx.Done():
		return nil
	}
	for ctx.Err() == nil {
		applied := m.applied.next()
		err := m.lookAtQuota(ctx)
		if err != nil && ctx.Err() == nil {
			m.cfg.Log.Warn("the quota could not be seen to, trying again", "err", err)
		}
		if err != nil || m.alarmed() {
			pause(ctx, quotaPoll)
			continue
		}
		select {
		case <-applied:
			pause(ctx, quotaPause)
		case <-ctx.Done():
		}
	}
	return nil
}

// lookAtQuota raises or disarms the alarm if that is due.
func (m *Member) lookAtQuota(ctx context.Context) error {
	if m.store.Feature() < kv.FeatureAdmin {
		return nil
	}
	quota, alarmed := m.cfg.Quota, m.alarmed()
	if alarmed {
		if err := m.reclaim(ctx); err != nil {
			return err
		}
	}
	used := m.used()
	switch {
	case !alarmed && used > quota && m.overlayBytes() > quota/quotaOverlay:
		if err := m.store.Flush(); err != nil {
			return err
		}
		if used = m.used(); used <= quota {
			return nil
		}
	case !alarmed && used <= quota, alarmed && used > quota-quota/quotaShare:
		return nil
	}
	if err := m.setAlarm(ctx, kv.AlarmNoSpace, !alarmed); err != nil {
		return err
	}
	if alarmed {
		m.cfg.Log.Info("below the quota again, writes go on unless another member refuses them", "used", used, "quota", quota)
		return nil
	}
	m.cfg.Log.Warn("quota reached: writes are refused until there is room; delete keys and compact, or set a larger quota "+
		"(store.quota)", "used", used, "quota", quota)
	return nil
}

// reclaim frees what compactions have given up, without waiting for the next flush.
func (m *Member) reclaim(ctx context.Context) error {
	if st := m.store.Stats(); st.Compact > st.Swept {
		return m.store.Sweep(ctx, st.Compact)
	}
	return nil
}

// used is how many bytes the state takes: of the state file, what is not free for reuse, and what waits to go there.
func (m *Member) used() int64 {
	st := m.store.Stats()
	return st.FileBytes - st.FreeBytes + st.OverlayBytes
}

// alarmed reports whether an AlarmNoSpace of this replica stands.
func (m *Member) alarmed() bool {
	for _, a := range m.store.Alarms() {
		if a.Kind == kv.AlarmNoSpace && a.Member == m.id.Replica {
			return true
		}
	}
	return false
}

// setAlarm raises or disarms an alarm of this replica.
func (m *Member) setAlarm(ctx context.Context, kind kv.AlarmKind, raise bool) error {
	op := kv.SetAlarm{Alarm: kv.Alarm{Member: m.id.Replica, Kind: kind}, Raise: raise}
	_, err := m.propose(ctx, wire.AppendCommand(nil, kv.Command{Ops: []kv.Op{op}}))
	return err
}
