package member

import (
	"fmt"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/kv"
)

// metrics is what a member counts, and a collector of the rest, which is read from memory when it is asked for.
type metrics struct {
	m             *Member
	proposals     *prometheus.CounterVec // by outcome
	accepted      prometheus.Counter     // the one of them that nearly all count in: to find it by its label costs more than to count
	audits        *prometheus.CounterVec // by result
	commitSeconds prometheus.Histogram
	gauges        []gauge

	pending    atomic.Int64  // proposals under way
	failed     atomic.Uint64 // proposals that came to nothing, or to nothing known
	walSeconds prometheus.Histogram
}

type gauge struct {
	desc  *prometheus.Desc
	kind  prometheus.ValueType
	value func(*Member) float64
}

const namespace, subsystem = "holdfast", "member"

// commitBuckets span a lone commit on a fast disk and one over a bad link.
var commitBuckets = []float64{0.0005, 0.001, 0.0025, 0.005, 0.01, 0.025, 0.05, 0.1, 0.25, 1, 5}

func newMetrics(m *Member) *metrics {
	x := &metrics{
		m: m,
		proposals: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "proposals_total",
			Help: "Commands asked for, by outcome: ok or the code of the error.",
		}, []string{"outcome"}),
		audits: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "audits_total",
			Help: "Comparisons of this replica with the leader: same, different, or skipped.",
		}, []string{"result"}),
		commitSeconds: prometheus.NewHistogram(prometheus.HistogramOpts{
			Namespace: namespace, Subsystem: subsystem, Name: "commit_seconds",
			Help: "Time from proposal to answer.", Buckets: commitBuckets,
		}),
	}
	x.accepted = x.proposals.WithLabelValues(kv.OK.String())
	x.gauge("applied_index", "Index of the newest log entry applied.", func(m *Member) float64 { return float64(m.store.Applied()) })
	x.gauge("durable_index", "Index up to which the state file holds the log.", func(m *Member) float64 { return float64(m.store.Durable()) })
	x.gauge("revision", "Newest revision.", func(m *Member) float64 { return float64(m.store.Revision()) })
	x.gauge("compact_revision", "Oldest revision that can be read, 0 for all.", func(m *Member) float64 { return float64(m.store.CompactRevision()) })
	x.gauge("overlay_bytes", "Memory of changes that are not in the state file yet.", func(m *Member) float64 { return float64(m.overlayBytes()) })
	x.gauge("state_bytes", "Size of the state file.", func(m *Member) float64 { return float64(m.store.Stats().FileBytes) })
	x.gauge("log_bytes", "Size of the raft log and its snapshots.", func(m *Member) float64 { return float64(m.logSize.Load()) })
	x.gauge("disk_free_bytes", "Free space on the file system of the data dir.", func(m *Member) float64 { return float64(m.space.bytes.Load()) })
	x.gauge("leader_known", "1 while this replica knows a leader.", func(m *Member) float64 { return bit(m.leaderKnown()) })
	x.gauge("leader", "1 while this replica leads.", func(m *Member) float64 {
		l, _ := m.leader.get()
		return bit(l.replica == m.id.Replica)
	})
	x.counter("leader_changes_total", "Times that another leader was seen, since the start.", func(m *Member) float64 { return float64(m.leader.seen()) })
	x.gauge("voters", "Members with a vote, on the list of members as known here.", func(m *Member) float64 { return float64(m.seats(SeatVoter)) })
	x.gauge("learners", "Members that have a seat and no vote yet.", func(m *Member) float64 { return float64(m.seats(SeatJoining)) })
	x.gauge("leaving", "Members that are to be removed as soon as a quorum is left.", func(m *Member) float64 { return float64(m.seats(SeatLeaving)) })
	x.gauge("away", "Voters that are out of reach for so long that their seat is free.", func(m *Member) float64 {
		r, n := m.Roster(), 0
		for _, s := range r.Seats {
			n += int(bit(s.Away))
		}
		return float64(n)
	})
	x.gauge("voters_wanted", "How many members with a vote the cluster wants.", func(m *Member) float64 { return float64(m.Roster().Voters) })
	x.gauge("commands_held", "1 while commands wait here for a leader that takes over.", func(m *Member) float64 { return bit(m.door.isShut()) })
	x.gauge("leases", "Leases that this replica looks after as the leader, 0 on others.", func(m *Member) float64 { n, _, _ := m.lessor.count(); return float64(n) })
	x.counter("lease_renewals_total", "Renewals of leases that this replica answered as the leader.", func(m *Member) float64 { _, n, _ := m.lessor.count(); return float64(n) })
	x.counter("leases_expired_total", "Leases that this replica has had revoked as the leader because their time was over.", func(m *Member) float64 { _, _, n := m.lessor.count(); return float64(n) })
	x.gauge("writes_refused", "1 while writes are refused for want of disk space.", func(m *Member) float64 { return bit(m.space.why() != "") })
	x.counter("refused_writes_total", "Writes refused for want of disk space.", func(m *Member) float64 { return float64(m.space.refused.Load()) })
	x.counter("log_syncs_total", "Syncs of files and folders of the raft log.", func(m *Member) float64 { return float64(m.fs.syncs.Load()) })
	x.gauge("log_held_seconds", "For how long the disk has held back a write of the raft log, 0 if it does not.", func(m *Member) float64 { return m.stall.held().Seconds() })
	x.counter("log_held_total", "Times that the disk held back a write of the raft log for longer than an election timeout.", func(m *Member) float64 { return float64(m.stall.stalls()) })
	x.gauge("alarms", "Alarms that stand in the cluster.", func(m *Member) float64 { return float64(len(m.store.Alarms())) })
	x.gauge("feature_level", "Feature level of the cluster.", func(m *Member) float64 { return float64(m.store.Feature()) })
	x.gauge("backups", "Copies of the state that are being read.", func(m *Member) float64 { return float64(len(m.backups)) })
	x.addEtcd()
	x.counter("log_written_bytes_total", "Bytes written to the raft log and its snapshots.", func(m *Member) float64 { return float64(m.fs.written.Load()) })
	return x
}

func (x *metrics) gauge(name, help string, value func(*Member) float64) {
	x.add(name, help, prometheus.GaugeValue, value)
}

func (x *metrics) counter(name, help string, value func(*Member) float64) {
	x.add(name, help, prometheus.CounterValue, value)
}

func (x *metrics) add(name, help string, kind prometheus.ValueType, value func(*Member) float64) {
	desc := prometheus.NewDesc(prometheus.BuildFQName(namespace, subsystem, name), help, nil, nil)
	x.gauges = append(x.gauges, gauge{desc, kind, value})
}

// Describe implements prometheus.Collector.
func (x *metrics) Describe(ch chan<- *prometheus.Desc) {
	x.proposals.Describe(ch)
	x.commitSeconds.Describe(ch)
	x.audits.Describe(ch)
	x.walSeconds.Describe(ch)
	for _, g := range x.gauges {
		ch <- g.desc
	}
}

// Collect implements prometheus.Collector. It never blocks on the disk or on a quorum.
func (x *metrics) Collect(ch chan<- prometheus.Metric) {
	x.proposals.Collect(ch)
	x.commitSeconds.Collect(ch)
	x.audits.Collect(ch)
	x.walSeconds.Collect(ch)
	for _, g := range x.gauges {
		ch <- prometheus.MustNewConstMetric(g.desc, g.kind, g.value(x.m))
	}
}

func (x *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	if err := r.Register(x); err != nil {
		return fmt.Errorf("register metrics of the member: %w", err)
	}
	return nil
}

func (x *metrics) unregister(r prometheus.Registerer) {
	if r != nil {
		r.Unregister(x)
	}
}

func (x *metrics) proposed(err error) {
	if err == nil {
		x.accepted.Inc()
		return
	}
	x.proposals.WithLabelValues(kv.CodeOf(err).String()).Inc()
}

// seats counts the members of a state, on the list as known here.
func (m *Member) seats(state SeatState) (n int) {
	for _, s := range m.Roster().Seats {
		if s.State == state {
			n++
		}
	}
	return n
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
