package queue

import "github.com/prometheus/client_golang/prometheus"

// metrics are what a queue counts. Gauges are read from Status when they are asked for.
type metrics struct {
	reg     prometheus.Registerer
	all     []prometheus.Collector
	queued  prometheus.Counter
	refused prometheus.Counter
	dropped prometheus.Counter
	ends    *prometheus.CounterVec
}

func newMetrics(q *Queue, reg prometheus.Registerer) *metrics {
	gauge := func(name, help string, v func(Status) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_queue_" + name, Help: help},
			func() float64 { return v(q.Status()) })
	}
	m := &metrics{reg: reg,
		queued:  prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_queue_acknowledged_total", Help: "Writes acknowledged by this disk (202)."}),
		refused: prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_queue_refused_total", Help: "Writes refused because the queue or the disk was full."}),
		dropped: prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_queue_dropped_total", Help: "Acknowledged writes given up because the queue was full (on-full)."}),
		ends:    prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_queue_ended_total", Help: "Writes that left the queue, by state."}, []string{"state"}),
	}
	m.all = []prometheus.Collector{m.queued, m.refused, m.dropped, m.ends,
		gauge("depth_ops", "Writes acknowledged by this disk and not settled.", func(s Status) float64 { return float64(s.Depth) }),
		gauge("pending_bytes", "Size of those writes.", func(s Status) float64 { return float64(s.Bytes) }),
		gauge("memory_bytes", "What those writes take in memory.", func(s Status) float64 { return float64(s.Memory) }),
		gauge("disk_bytes", "Size of the queue's segments.", func(s Status) float64 { return float64(s.Disk) }),
		gauge("oldest_seconds", "Age of the oldest of those writes.", func(s Status) float64 { return s.Oldest.Seconds() }),
		gauge("kept_ops", "Conflicts, rejections and the like that wait to be looked at.", func(s Status) float64 { return float64(s.Kept) }),
	}
	for s := range states {
		if s.Ended() {
			m.ends.WithLabelValues(s.String())
		}
	}
	if reg != nil {
		for _, c := range m.all {
			reg.MustRegister(c)
		}
	}
	return m
}

func (m *metrics) ended(s State) { m.ends.WithLabelValues(s.String()).Inc() }

func (m *metrics) unregister() {
	if m.reg != nil {
		for _, c := range m.all {
			m.reg.Unregister(c)
		}
	}
}
