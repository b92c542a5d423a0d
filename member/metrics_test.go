package member

import (
	"strings"
	"testing"

	"github.com/prometheus/client_golang/prometheus"
	dto "github.com/prometheus/client_model/go"

	"holdfast/kv"
)

// gathered returns the values of a registry by name and labels.
func gathered(t *testing.T, r *prometheus.Registry) map[string]float64 {
	t.Helper()
	families, err := r.Gather()
	if err != nil {
		t.Fatal(err)
	}
	values := make(map[string]float64)
	for _, f := range families {
		for _, m := range f.Metric {
			name := f.GetName()
			for _, l := range m.Label {
				name += "," + l.GetName() + "=" + l.GetValue()
			}
			values[name] = value(m)
		}
	}
	return values
}

func value(m *dto.Metric) float64 {
	switch {
	case m.Counter != nil:
		return m.Counter.GetValue()
	case m.Histogram != nil:
		return float64(m.Histogram.GetSampleCount())
	default:
		return m.Gauge.GetValue()
	}
}

func TestMetricsTellWhatHappened(t *testing.T) {
	r := prometheus.NewRegistry()
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Metrics = r })
	own := gathered(t, r)["holdfast_member_proposals_total,outcome=ok"] // what it writes by itself
	m.put("k", "v")
	m.put("k", "w")
	if _, err := m.Do(t.Context(), put("", "v")); err == nil {
		t.Fatal("an empty key was stored")
	}
	got := gathered(t, r)
	for name, want := range map[string]float64{
		"holdfast_member_proposals_total,outcome=invalid": 1,
		"holdfast_member_revision":                        3,
		"holdfast_member_leader_known":                    1,
		"holdfast_member_leader":                          1,
		"holdfast_member_writes_refused":                  0,
		"holdfast_member_log_held_seconds":                0,
		"holdfast_member_log_held_total":                  0,
		"holdfast_member_voters":                          1,
		"holdfast_member_voters_wanted":                   3,
		"holdfast_member_learners":                        0,
		"holdfast_member_leader_changes_total":            1,
		"holdfast_member_commands_held":                   0,
		"holdfast_member_refused_writes_total":            0,
		"holdfast_member_applied_index":                   float64(m.store.Applied()),
	} {
		if v, ok := got[name]; !ok || v != want {
			t.Errorf("%s is %v, %t, want %v", name, v, ok, want)
		}
	}
	// One of its own writes, its name on the list of members, may come late.
	if ok := got["holdfast_member_proposals_total,outcome=ok"]; ok < own+2 || ok > own+3 {
		t.Errorf("%v proposals went well, want %v and at most one of its own", ok, own+2)
	}
	for _, name := range []string{"commit_seconds", "log_syncs_total", "log_written_bytes_total", "overlay_bytes", "disk_free_bytes"} {
		if got["holdfast_member_"+name] <= 0 {
			t.Errorf("%s is %v", name, got["holdfast_member_"+name])
		}
	}
	for name := range got {
		if !strings.HasPrefix(name, "holdfast_member_") && !strings.HasPrefix(name, "etcd_") {
			t.Errorf("%s has another prefix", name)
		}
	}
	m.close()
	if left := gathered(t, r); len(left) > 0 {
		t.Errorf("after the end there are still %v", left)
	}
}

func TestStatusAnswersFromMemory(t *testing.T) {
	m := start(t, t.TempDir(), quiet)
	m.put("k", "v")
	st := m.Status()
	if st.Leader != 1 || st.ReplicaID != 1 || st.Term == 0 || st.Revision != 2 || st.Applied == 0 || st.Epoch.IsZero() ||
		st.DiskFreeBytes <= 0 || st.OverlayBytes <= 0 || st.WritesRefused != "" {
		t.Errorf("%+v", st)
	}
	within(t, logPoll, "the size of the log is known", func() bool { return m.Status().LogBytes > 0 })
}

// Dashboards made for etcd find their series, and the same facts in them.
func TestMetricsUnderEtcdsNames(t *testing.T) {
	r := prometheus.NewRegistry()
	m := start(t, t.TempDir(), quiet, func(c *Config) { c.Metrics, c.Quota = r, 64<<20 })
	m.put("k", "v")
	got, c := gathered(t, r), m.Condition()
	for name, want := range map[string]float64{
		"etcd_mvcc_db_total_size_in_bytes":        float64(c.DBSize),
		"etcd_mvcc_db_total_size_in_use_in_bytes": float64(c.DBInUse),
		"etcd_server_quota_backend_bytes":         64 << 20,
		"etcd_debugging_mvcc_current_revision":    2,
		"etcd_debugging_mvcc_compact_revision":    0,
		"etcd_server_has_leader":                  1,
		"etcd_server_is_leader":                   1,
		"etcd_server_leader_changes_seen_total":   1,
		"etcd_server_proposals_committed_total":   float64(c.Committed),
		"etcd_server_proposals_applied_total":     float64(c.Applied),
		"etcd_server_proposals_pending":           0,
		"etcd_server_proposals_failed_total":      0,
		"holdfast_member_feature_level":           float64(kv.FeatureNewest),
		"holdfast_member_alarms":                  0,
		"holdfast_member_backups":                 0,
	} {
		if v, there := got[name]; v != want || !there {
			t.Errorf("%s is %v (there: %v), want %v", name, v, there, want)
		}
	}
	if n := got["etcd_disk_wal_fsync_duration_seconds"]; n < 2 {
		t.Errorf("%v syncs of the log were measured", n)
	}
	if _, err := m.Do(t.Context(), kv.Command{Ops: []kv.Op{kv.SetAlarm{Alarm: kv.Alarm{Member: 9, Kind: kv.AlarmNoSpace}, Raise: true}}}); err != nil {
		t.Fatal(err)
	}
	if v := gathered(t, r)["holdfast_member_alarms"]; v != 1 {
		t.Errorf("%v alarms", v)
	}
	m.metrics.pending.Add(1)
	m.metrics.ended(unknown("a test"))
	if v := gathered(t, r)["etcd_server_proposals_failed_total"]; v != 1 {
		t.Errorf("%v proposals failed", v)
	}
}
