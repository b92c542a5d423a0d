package proxy

import "github.com/prometheus/client_golang/prometheus"

// metrics are what a proxy counts.
type metrics struct {
	reg                         prometheus.Registerer
	all                         []prometheus.Collector
	hits, misses, stale, rounds prometheus.Counter
	evicted, demuxed, moved     prometheus.Counter
	resynced                    prometheus.Counter
	renewals, renewalCalls      prometheus.Counter
}

func newMetrics(p *Proxy, reg prometheus.Registerer) *metrics {
	counter := func(name, help string) prometheus.Counter {
		return prometheus.NewCounter(prometheus.CounterOpts{Name: "holdfast_proxy_" + name, Help: help})
	}
	gauge := func(name, help string, v func(State) float64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "holdfast_proxy_" + name, Help: help}, func() float64 { return v(p.State()) })
	}
	m := &metrics{reg: reg,
		hits:     counter("cache_hits_total", "Reads answered by the cache."),
		misses:   counter("forwarded_reads_total", "Reads answered by the cluster."),
		stale:    counter("stale_reads_total", "Reads answered by the cache because the cluster did not answer."),
		rounds:   counter("rounds_total", "Reads that waited for a progress round."),
		evicted:  counter("cache_evicted_keys_total", "Keys held on demand that had to go: for others, for a write of unknown effect, or because the cluster would not watch them."),
		demuxed:  counter("fed_watches_total", "Watch streams served from the feed."),
		moved:    counter("moved_watches_total", "Watch streams that began on the feed and needed an upstream watch of their own: too slow, or of another kind."),
		resynced: counter("resyncs_total", "Mirrored prefixes that were brought past a compaction by what had changed since."),

		renewals:     counter("renewals_total", "Renewals of leases that clients asked for."),
		renewalCalls: counter("renewal_calls_total", "Requests to the node above that the renewals of leases took."),
	}
	m.all = []prometheus.Collector{m.hits, m.misses, m.stale, m.rounds, m.evicted, m.demuxed, m.moved, m.resynced, m.renewals, m.renewalCalls,
		gauge("cache_held_keys", "Keys held on demand.", func(s State) float64 { return float64(s.Held) }),
		gauge("cache_bytes", "Size of keys and values held.", func(s State) float64 { return float64(s.Bytes) }),
		gauge("cache_age_seconds", "Proven age of the cache, -1 without proof.", func(s State) float64 {
			if s.Age < 0 {
				return -1
			}
			return s.Age.Seconds()
		}),
		gauge("synced_info", "1 if every prefix is mirrored and fed.", func(s State) float64 {
			if s.Synced {
				return 1
			}
			return 0
		}),
	}
	if reg != nil {
		for _, c := range m.all {
			reg.MustRegister(c)
		}
	}
	return m
}

func (m *metrics) unregister() {
	if m.reg != nil {
		for _, c := range m.all {
			m.reg.Unregister(c)
		}
	}
}
