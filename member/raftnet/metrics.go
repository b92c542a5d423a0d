package raftnet

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics is what a Net counts.
type metrics struct {
	sent, received, chunks, unreachable prometheus.Counter
	drops                               *prometheus.CounterVec // batches, by reason
	asks                                *prometheus.CounterVec // questions to others, by outcome
}

func newMetrics() *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "holdfast", Subsystem: "raftnet", Name: name, Help: help})
	}
	return &metrics{
		sent:        counter("batches_sent_total", "Batches of raft messages queued for other members."),
		received:    counter("batches_received_total", "Batches of raft messages taken in from other members."),
		chunks:      counter("snapshot_chunks_sent_total", "Chunks of snapshots sent."),
		unreachable: counter("unreachable_total", "Reports to raft that a member cannot be reached or missed something."),
		asks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "raftnet", Name: "asks_total",
			Help: "Questions to other members, by outcome: answered or failed.",
		}, []string{"outcome"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "raftnet", Name: "dropped_total",
			Help: "What was dropped, by reason: batches (queue_full, link, overtaken, repeated, ancient, refused), snapshots (snapshot, snapshots_full), questions (ask, asks_full), streams of neither (refused, streams_full).",
		}, []string{"reason"}),
	}
}

func (m *metrics) dropped(reason string, n int) {
	if n > 0 {
		m.drops.WithLabelValues(reason).Add(float64(n))
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.sent, m.received, m.chunks, m.unreachable, m.drops, m.asks}
}

func (m *metrics) register(r prometheus.Registerer) error {
	if r == nil {
		return nil
	}
	for i, c := range m.all() {
		if err := r.Register(c); err != nil {
			for _, c := range m.all()[:i] {
				r.Unregister(c)
			}
			return fmt.Errorf("register metrics of raftnet: %w", err)
		}
	}
	return nil
}

func (m *metrics) unregister(r prometheus.Registerer) {
	if r == nil {
		return
	}
	for _, c := range m.all() {
		r.Unregister(c)
	}
}
