package rest

import (
	"strconv"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
)

// metrics counts requests in plain atomics, an add each, and shows them when asked.
type metrics struct {
	inFlight atomic.Int64
	slow     atomic.Int64
	requests [len(methods) + 1][statusEnd - statusStart]atomic.Int64 // by method and status; the last method is any other
}

var methods = [...]string{"GET", "PUT", "HEAD", "DELETE", "OPTIONS", "POST"}

const statusStart, statusEnd = 200, 512

var requestsDesc = prometheus.NewDesc("holdfast_http_requests_total",
	"Requests answered at /v1, by method and status; 499 is a client that left before the answer.", []string{"method", "code"}, nil)

// newMetrics registers with reg unless that is nil.
func newMetrics(reg prometheus.Registerer, watches *atomic.Int64) *metrics {
	m := &metrics{}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, v *atomic.Int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) })
	}
	reg.MustRegister(m,
		gauge("holdfast_http_requests_in_flight", "Requests at /v1 being served, open watches included.", &m.inFlight),
		gauge("holdfast_http_watches", "Watches open over HTTP.", watches),
		prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "holdfast_http_slow_consumers_total",
			Help: "Watches closed because their client did not read."}, func() float64 { return float64(m.slow.Load()) }),
	)
	return m
}

func (m *metrics) count(method string, status int) {
	i := 0
	for i < len(methods) && methods[i] != method {
		i++
	}
	if status < statusStart || status >= statusEnd {
		status = 500
	}
	m.requests[i][status-statusStart].Add(1)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) { ch <- requestsDesc }

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for i := range m.requests {
		method := "other"
		if i < len(methods) {
			method = methods[i]
		}
		for s := range m.requests[i] {
			if n := m.requests[i][s].Load(); n > 0 {
				ch <- prometheus.MustNewConstMetric(requestsDesc, prometheus.CounterValue, float64(n), method, strconv.Itoa(statusStart+s))
			}
		}
	}
}
