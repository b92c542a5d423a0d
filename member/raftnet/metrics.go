package raftnet

import (
	"fmt"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/transport/courier"
)

// metrics is what a Net counts.
type metrics struct {
	mail                                       func() map[string]courier.Stats
	bulk                                       func() map[string]Bulk
	sent, received, chunks, unreachable, quiet prometheus.Counter
	drops                                      *prometheus.CounterVec // batches, by reason
	asks                                       *prometheus.CounterVec // questions to others, by outcome
}

func newMetrics(mail func() map[string]courier.Stats, bulk func() map[string]Bulk) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Namespace: "holdfast", Subsystem: "raftnet", Name: name, Help: help})
	}
	return &metrics{
		mail:        mail,
		bulk:        bulk,
		sent:        counter("batches_sent_total", "Batches of raft messages queued for other members."),
		received:    counter("batches_received_total", "Batches of raft messages taken in from other members."),
		quiet:       counter("quiet_total", "Heartbeats, and answers to them, that were not sent because both ends knew."),
		chunks:      counter("snapshot_chunks_sent_total", "Chunks of snapshots sent."),
		unreachable: counter("unreachable_total", "Reports to raft that a member cannot be reached or missed something."),
		asks: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "raftnet", Name: "asks_total",
			Help: "Questions to other members, by outcome: answered or failed.",
		}, []string{"outcome"}),
		drops: prometheus.NewCounterVec(prometheus.CounterOpts{
			Namespace: "holdfast", Subsystem: "raftnet", Name: "dropped_total",
			Help: "What was dropped, by reason: batches (queue_full, behind, link, overtaken, repeated, ancient, refused), snapshots (snapshot, no_room), questions (ask, asks_full), streams of neither (refused, streams_full), connections of copies (copied).",
		}, []string{"reason"}),
	}
}

func (m *metrics) dropped(reason string, n int) {
	if n > 0 {
		m.drops.WithLabelValues(reason).Add(float64(n))
	}
}

func (m *metrics) all() []prometheus.Collector {
	return []prometheus.Collector{m.sent, m.received, m.chunks, m.unreachable, m.quiet, m.drops, m.asks, links{m}}
}

// links reports how the link to each member is doing, by what couriers have done there.
type links struct{ m *metrics }

func linkDesc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_raftnet_link_"+name, help, append([]string{"peer"}, labels...), nil)
}

var (
	linkRTT     = linkDesc("rtt_seconds", "Smoothed round trip to a member; 0 until it is measured.")
	linkLoss    = linkDesc("loss_ratio", "Share of the datagrams to a member that were lost, a moving average.")
	linkCopies  = linkDesc("copies", "How often what matters is sent to a member from the start.")
	linkBursty  = linkDesc("bursty", "1 while losses on the way to a member come in runs.")
	linkPaths   = linkDesc("paths", "Connections to a member that carry datagrams.")
	linkWaiting = linkDesc("waiting", "Messages to a member that are not acknowledged yet.")
	linkBytes   = linkDesc("datagram_bytes_total", "Bytes of datagrams to a member, by purpose: first, copy, repeat, retry or ack.", "purpose")
	linkRetries = linkDesc("retries_total", "Messages to a member sent again for want of an acknowledgement.")
	linkGivenUp = linkDesc("given_up_total", "Messages to a member that were never acknowledged.")
	linkBulk    = linkDesc("bulk_bytes_total", "Bytes of snapshots given to connections to a member, those sent again included.")
	linkPace    = linkDesc("bulk_pace_bytes_per_second", "How fast a snapshot goes to a member at present, 0 if none does.")
	linkRefused = linkDesc("refused_total", "Messages to a member that went over a stream for want of room among the unacknowledged.")
)

// Describe is of prometheus.Collector.
func (links) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{
		linkRTT, linkLoss, linkCopies, linkBursty, linkPaths, linkWaiting, linkBytes, linkRetries, linkGivenUp, linkRefused, linkBulk, linkPace,
	} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (l links) Collect(ch chan<- prometheus.Metric) {
	for peer, s := range l.m.mail() {
		gauge := func(d *prometheus.Desc, v float64) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, peer)
		}
		count := func(d *prometheus.Desc, v uint64, labels ...string) {
			ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), append([]string{peer}, labels...)...)
		}
		gauge(linkRTT, s.RTT.Seconds())
		gauge(linkLoss, s.Loss)
		gauge(linkCopies, float64(s.CopiesNow))
		bursty := 0.0
		if s.Bursty {
			bursty = 1
		}
		gauge(linkBursty, bursty)
		gauge(linkPaths, float64(s.Paths))
		gauge(linkWaiting, float64(s.Waiting))
		count(linkBytes, s.First, "first")
		count(linkBytes, s.Copies, "copy")
		count(linkBytes, s.Repeats, "repeat")
		count(linkBytes, s.Retries, "retry")
		count(linkBytes, s.Acks, "ack")
		count(linkRetries, s.RetriedCount)
		count(linkGivenUp, s.GivenUp)
		count(linkRefused, s.Refused)
	}
	for peer, b := range l.m.bulk() {
		ch <- prometheus.MustNewConstMetric(linkBulk, prometheus.CounterValue, float64(b.Sent), peer)
		ch <- prometheus.MustNewConstMetric(linkPace, prometheus.GaugeValue, b.Pace, peer)
	}
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
