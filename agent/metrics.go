package agent

import (
	"strings"

	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/transport"
)

// figures are the metrics of the node as a whole and of its socket for other nodes, read when they are asked for. What
// belongs to a part, the part counts.
type figures struct{ a *Agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	infoDesc  = desc("agent_info", "1; the labels are the version, and what the node is: member or proxy.", "version", "mode")
	readyDesc = desc("agent_ready", "1 while /readyz answers 200.")
	endDesc   = desc("agent_certificate_end_seconds", "When this node's certificate ends, in seconds since 1970; absent before it has one.")

	uplinkDesc = desc("proxy_uplink_lost", "1 while nothing comes back from the cluster.")
	rttDesc    = desc("proxy_uplink_rtt_seconds", "Smoothed round trip to the node above, 0 until it is measured.")
	lossDesc   = desc("proxy_uplink_loss_ratio", "Share of the packets to the node above that were lost.")

	linksDesc       = desc("transport_links", "Connections to other nodes that are not known to be lost, by protocol.", "protocol")
	sentDesc        = desc("transport_sent_bytes_total", "Bytes sent to other nodes, IP and UDP headers left out.")
	receivedDesc    = desc("transport_received_bytes_total", "Bytes received from other nodes, IP and UDP headers left out.")
	packetsDesc     = desc("transport_packets_sent_total", "Packets sent to other nodes.")
	packetsLostDesc = desc("transport_packets_lost_total", "Packets to other nodes that were found lost.")
	lossesDesc      = desc("transport_links_lost_total", "Times that a connection was found lost.")
	dialsDesc       = desc("transport_dials_total", "Attempts to reach another node, one for each address.")
	failedDesc      = desc("transport_dials_failed_total", "Attempts to reach another node that came to nothing.")
	refusedDesc     = desc("transport_handshakes_refused_total", "Handshakes in which one end refused the other, by reason.", "reason")
	busyDesc        = desc("transport_handshakes_busy_total", "Incoming handshakes refused because too many were under way.")
	validatedDesc   = desc("transport_handshakes_validated_total", "Incoming handshakes that had to prove their address first, under load.")
)

// linkProtocols are what transport_links counts; what else there is belongs to one of these.
var linkProtocols = []transport.Protocol{transport.Raft, transport.Uplink}

// Describe sends nothing: which metrics there are depends on what the node is.
func (figures) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (f figures) Collect(to chan<- prometheus.Metric) {
	s := f.a.Report()
	gauge := func(d *prometheus.Desc, v float64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.GaugeValue, v, labels...)
	}
	gauge(infoDesc, 1, s.Version, s.Mode)
	gauge(readyDesc, bit(s.Ready))
	if s.Proxy != nil {
		gauge(uplinkDesc, bit(s.Proxy.UplinkLost))
		if l, ok := uplinkOf(s); ok {
			gauge(rttDesc, l.RTTMillis/1000)
			gauge(lossDesc, l.LossShare)
		}
	}
	if f.a.net == nil {
		return
	}
	if id := f.a.net.identity.Load(); id != nil && id.Joined() {
		gauge(endDesc, float64(id.Info().NotAfter.Unix()))
	}
	for _, p := range linkProtocols {
		gauge(linksDesc, float64(liveLinks(s, p)), strings.TrimPrefix(strings.TrimSuffix(string(p), "/1"), "holdfast-"))
	}
	if f.a.net.ep != nil {
		countPackets(f.a.net.ep.Counters(), to)
	}
}

// uplinkOf is the connection that a proxy goes by.
func uplinkOf(s api.Status) (api.LinkStatus, bool) {
	for _, l := range s.Links {
		if l.Protocol == string(transport.Uplink) && l.Address == s.Proxy.Upstream {
			return l, true
		}
	}
	return api.LinkStatus{}, false
}

func liveLinks(s api.Status, p transport.Protocol) (n int) {
	for _, l := range s.Links {
		if l.Protocol == string(p) && !l.Lost {
			n++
		}
	}
	return n
}

func countPackets(n transport.Counters, to chan<- prometheus.Metric) {
	count := func(d *prometheus.Desc, v uint64, labels ...string) {
		to <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(v), labels...)
	}
	count(sentDesc, n.BytesSent)
	count(receivedDesc, n.BytesReceived)
	count(packetsDesc, n.PacketsSent)
	count(packetsLostDesc, n.PacketsLost)
	count(lossesDesc, n.Losses)
	count(dialsDesc, n.Dials)
	count(failedDesc, n.DialsFailed)
	count(busyDesc, n.Busy)
	count(validatedDesc, n.Retries)
	for reason, times := range n.Refused {
		count(refusedDesc, times, reason)
	}
}

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
