package member

import (
	"github.com/prometheus/client_golang/prometheus"

	"holdfast/kv"
)

// addEtcd adds what dashboards made for etcd look for, under etcd's names: only what means the same here. The figures of
// the backend are those of the state file, whose commits are a flush's and not a write's, so how long they take is not
// among them.
func (x *metrics) addEtcd() {
	x.walSeconds = prometheus.NewHistogram(prometheus.HistogramOpts{
		Name: "etcd_disk_wal_fsync_duration_seconds", Help: "How long a sync of the raft log takes.",
		Buckets: prometheus.ExponentialBuckets(0.001, 2, 14), // etcd's
	})
	gauge := func(name, help string, value func(*Member) float64) {
		x.gauges = append(x.gauges, newGauge(name, help, prometheus.GaugeValue, value))
	}
	counter := func(name, help string, value func(*Member) float64) {
		x.gauges = append(x.gauges, newGauge(name, help, prometheus.CounterValue, value))
	}
	gauge("etcd_mvcc_db_total_size_in_bytes", "Size of the state file.", func(m *Member) float64 { return float64(m.store.Stats().FileBytes) })
	gauge("etcd_mvcc_db_total_size_in_use_in_bytes", "Bytes of the state file that hold something.", func(m *Member) float64 {
		st := m.store.Stats()
		return float64(st.FileBytes - st.FreeBytes)
	})
	gauge("etcd_server_quota_backend_bytes", "Size of the state at which writes are refused, 0 for none.", func(m *Member) float64 { return float64(max(m.cfg.Quota, 0)) })
	gauge("etcd_debugging_mvcc_current_revision", "Newest revision.", func(m *Member) float64 { return float64(m.store.Revision()) })
	gauge("etcd_debugging_mvcc_compact_revision", "Revision of the last compaction.", func(m *Member) float64 { return float64(m.store.CompactRevision()) })
	gauge("etcd_server_has_leader", "1 while this replica knows a leader.", func(m *Member) float64 { return bit(m.leaderKnown()) })
	gauge("etcd_server_is_leader", "1 while this replica leads.", func(m *Member) float64 {
		l, _ := m.leader.get()
		return bit(l.replica == m.id.Replica)
	})
	counter("etcd_server_leader_changes_seen_total", "Times that a leader was seen that was not known right before.", func(m *Member) float64 { return float64(m.leader.seen()) })
	gauge("etcd_server_proposals_committed_total", "Newest log index known to be committed.", func(m *Member) float64 { return float64(m.committed()) })
	gauge("etcd_server_proposals_applied_total", "Newest log index applied.", func(m *Member) float64 { return float64(m.store.Applied()) })
	gauge("etcd_server_proposals_pending", "Proposals under way.", func(m *Member) float64 { return float64(m.metrics.pending.Load()) })
	counter("etcd_server_proposals_failed_total", "Proposals that came to nothing, or to nothing known.", func(m *Member) float64 { return float64(m.metrics.failed.Load()) })
}

func newGauge(name, help string, kind prometheus.ValueType, value func(*Member) float64) gauge {
	return gauge{prometheus.NewDesc(name, help, nil, nil), kind, value}
}

// ended counts the end of a proposal. A refusal that is part of the history is no failure.
func (x *metrics) ended(err error) {
	x.pending.Add(-1)
	switch kv.CodeOf(err) {
	case kv.NoLeader, kv.OutcomeUnknown, kv.Busy, kv.Internal:
		x.failed.Add(1)
	}
}
