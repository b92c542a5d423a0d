package agent

import (
	"github.com/prometheus/client_golang/prometheus"

	"holdfast/api"
	"holdfast/transport"
)

// figures are the metrics of the node as a whole, read when they are asked for. What belongs to a part, the part
// counts.
type figures struct{ a *Agent }

func desc(name, help string, labels ...string) *prometheus.Desc {
	return prometheus.NewDesc("holdfast_"+name, help, labels, nil)
}

var (
	infoDesc   = desc("agent_info", "1; the labels are the version, and what the node is: member or proxy.", "version", "mode")
	readyDesc  = desc("agent_ready", "1 while /readyz answers 200.")
	endDesc    = desc("agent_certificate_end_seconds", "When this node's certificate ends, in seconds since 1970; absent before it has one.")
	budgetDesc = desc("agent_link_budget_bytes", "link.budget: what the links of this node may carry in a day of UTC; 0 without one.")
	usedDesc   = desc("agent_link_budget_used_bytes", "What they have carried today, both ways, with the headers of IP; 0 without a budget.")

	uplinkDesc = desc("proxy_uplink_lost", "1 while nothing comes back from the cluster.")
	rttDesc    = desc("proxy_uplink_rtt_seconds", "Smoothed round trip to the node above, 0 until it is measured.")
	lossDesc   = desc("proxy_uplink_loss_ratio", "Share of the packets to the node above that were lost.")
)

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
	var budget api.BudgetStatus
	if s.Budget != nil {
		budget = *s.Budget
	}
	gauge(budgetDesc, float64(budget.LimitBytes))
	gauge(usedDesc, float64(budget.UsedBytes))
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

func bit(b bool) float64 {
	if b {
		return 1
	}
	return 0
}
