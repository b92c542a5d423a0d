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
	lines    [statusEnd - statusStart]atomic.Int64                   // of batches, by status
	ends     *prometheus.CounterVec                                  // of batches, by code
}

var methods = [...]string{"GET", "PUT", "HEAD", "DELETE", "OPTIONS", "POST"}

const statusStart, statusEnd = 200, 512

var requestsDesc = prometheus.NewDesc("holdfast_http_requests_total",
	"Requests answered at /v1, by method and status; 499 is a client that left before the answer.", []string{"method", "code"}, nil)

var linesDesc = prometheus.NewDesc("holdfast_http_batch_lines_total", "Lines of batches answered, by status.", []string{"code"}, nil)

// newMetrics registers with reg unless that is nil.
func newMetrics(reg prometheus.Registerer, watches, batches *atomic.Int64) *metrics {
	m := &metrics{ends: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "holdfast_http_batches_total",
		Help: "Batches ended, by what the last line said: ok, the code of a problem, or unread where the client took no answers."}, []string{"end"})}
	if reg == nil {
		return m
	}
	gauge := func(name, help string, v *atomic.Int64) prometheus.Collector {
		return prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: name, Help: help}, func() float64 { return float64(v.Load()) })
	}
	reg.MustRegister(m, m.ends,
		gauge("holdfast_http_requests_in_flight", "Requests at /v1 being served, open watches included.", &m.inFlight),
		gauge("holdfast_http_watches", "Watches and long-polls open over HTTP.", watches),
		gauge("holdfast_http_batches", "Batches open over HTTP.", batches),
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
	m.requests[i][statusIndex(status)].Add(1)
}

func statusIndex(status int) int {
	if status < statusStart || status >= statusEnd {
		status = 500
	}
	return status - statusStart
}

// batchLine counts a line of a batch.
func (m *metrics) batchLine(status int) { m.lines[statusIndex(status)].Add(1) }

// batchEnded counts a batch.
func (m *metrics) batchEnded(code string) { m.ends.WithLabelValues(code).Inc() }

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	ch <- requestsDesc
	ch <- linesDesc
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	for s := range m.lines {
		if n := m.lines[s].Load(); n > 0 {
			ch <- prometheus.MustNewConstMetric(linesDesc, prometheus.CounterValue, float64(n), strconv.Itoa(statusStart+s))
		}
	}
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
