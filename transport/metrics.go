package transport

import (
	"github.com/prometheus/client_golang/prometheus"
)

// Metrics reports what the endpoint counts, summed over its connections: there may be ten thousand.
func (e *Endpoint) Metrics() prometheus.Collector { return collector{e} }

type collector struct{ ep *Endpoint }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_transport_"+name, help, labels, nil)
}

var (
	descConns      = desc("connections", "Connections to other nodes, both ways, by the way that packets travel.", "way")
	descLost       = desc("connections_lost", "Connections on which something was sent and nothing comes back.")
	descWindows    = desc("window_bytes", "What receive windows have grown by, out of 128 MiB.")
	descOpened     = desc("connections_opened_total", "Connections opened, both ways.")
	descHandshakes = desc("handshakes_failed_total", "Incoming handshakes that did not finish.")
	descRefused    = desc("refused_total", "Handshakes in which one end refused the other, by reason.", "reason")
	descTurned     = desc("turned_away_total", "Incoming attempts turned away at a limit: busy (connections or handshakes), full (only places for members left), tcp (connections over TCP), measuring (measurements of keep-alives); retry are those that had to prove their address first.", "limit")
	descMoves      = desc("moves_total", "Connections of this node that changed to another way while they lived, by that way.", "way")
	descKeepAlive  = desc("keep_alive_seconds", "How long an uplink of this node may be silent before it says something, to stay in the memory of NATs; 0: for ever.")
	descFound      = desc("keep_alive_found_seconds", "When that was measured, in seconds since 1970; 0 while it is not known.")
	descShort      = desc("keep_alive_short", "1 if a NAT forgets this node even before the shortest keep-alive, 15 s.")
	descMeasured   = desc("keep_alive_measurements_total", "Measurements of how long a NAT keeps a mapping, by outcome: found, short (less than 15 s), failed (no verdict).", "outcome")
	descReroutes   = desc("reroutes_total", "Changes of this machine's addresses or routes that connections of it had to follow.")
	descLosses     = desc("losses_total", "How often a connection was found lost.")
	descBytes      = desc("bytes_total", "Bytes of QUIC packets, without UDP and IP, by direction.", "direction")
	descPackets    = desc("packets_total", "QUIC packets, sent, received, and of those sent the ones that were lost.", "what")
	descDatagrams  = desc("datagrams_total", "Datagrams handed to QUIC, and dropped before because newer ones came.", "what")
)

// Describe is of prometheus.Collector.
func (collector) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{descConns, descLost, descWindows, descOpened, descHandshakes, descRefused,
		descTurned, descMoves, descKeepAlive, descFound, descShort, descMeasured, descReroutes, descLosses, descBytes, descPackets, descDatagrams} {
		ch <- d
	}
}

// Collect is of prometheus.Collector.
func (c collector) Collect(ch chan<- prometheus.Metric) {
	n := c.ep.Counters()
	gauge := func(d *prometheus.Desc, v int, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, float64(v), labels...)
	}
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	gauge(descConns, n.Open-n.OverTCP, string(OverUDP))
	gauge(descConns, n.OverTCP, string(OverTCP))
	gauge(descLost, n.Lost)
	gauge(descWindows, int(n.WindowBytes))
	count(descOpened, n.Opened)
	count(descHandshakes, n.HandshakesFailed)
	for reason, v := range n.Refused {
		count(descRefused, v, reason)
	}
	for limit, v := range map[string]uint64{"busy": n.Busy, "full": n.Full, "tcp": n.TCPFull, "measuring": n.MappingsFull, "retry": n.Retries} {
		count(descTurned, v, limit)
	}
	for way, v := range n.Moves {
		count(descMoves, v, string(way))
	}
	keep := c.ep.KeepAlive()
	ch <- prometheus.MustNewConstMetric(descKeepAlive, prometheus.GaugeValue, keep.Every.Seconds())
	found, short := 0, 0
	if !keep.Found.IsZero() {
		found = int(keep.Found.Unix())
	}
	gauge(descFound, found)
	if keep.Short {
		short = 1
	}
	gauge(descShort, short)
	for outcome, v := range keep.Measurements {
		count(descMeasured, v, outcome)
	}
	count(descReroutes, n.Reroutes)
	count(descLosses, n.Losses)
	count(descBytes, n.BytesSent, "sent")
	count(descBytes, n.BytesReceived, "received")
	count(descPackets, n.PacketsSent, "sent")
	count(descPackets, n.PacketsReceived, "received")
	count(descPackets, n.PacketsLost, "lost")
	count(descDatagrams, n.DatagramsSent, "sent")
	count(descDatagrams, n.DatagramsDropped, "dropped")
}
