package etcd

import (
	"strings"
	"sync/atomic"

	"github.com/prometheus/client_golang/prometheus"
	"google.golang.org/grpc"
	"google.golang.org/grpc/codes"
)

// metrics counts calls under the names that dashboards for etcd know. They are plain atomics, an add each, shown when
// asked. The set of methods is fixed by learn before the first call.
type metrics struct {
	methods        map[string]*method // by full name
	sent, received atomic.Int64       // bytes of messages
	watches        atomic.Int64       // open now
}

// method counts the calls of one method.
type method struct {
	labels       [3]string // type, service, method
	started      atomic.Int64
	handled      [codes.Unauthenticated + 1]atomic.Int64
	msgsReceived atomic.Int64
	msgsSent     atomic.Int64
}

var (
	methodLabels = []string{"grpc_type", "grpc_service", "grpc_method"}
	startedDesc  = prometheus.NewDesc("grpc_server_started_total", "Calls begun.", methodLabels, nil)
	handledDesc  = prometheus.NewDesc("grpc_server_handled_total", "Calls answered, by code.", append([]string{"grpc_code"}, methodLabels...), nil)
	inDesc       = prometheus.NewDesc("grpc_server_msg_received_total", "Messages received.", methodLabels, nil)
	outDesc      = prometheus.NewDesc("grpc_server_msg_sent_total", "Messages sent.", methodLabels, nil)
	sentDesc     = prometheus.NewDesc("etcd_network_client_grpc_sent_bytes_total", "Bytes of messages sent to gRPC clients.", nil, nil)
	watchesDesc  = prometheus.NewDesc("holdfast_etcd_watches", "Watches open over gRPC.", nil, nil)
	receivedDesc = prometheus.NewDesc("etcd_network_client_grpc_received_bytes_total", "Bytes of messages received from gRPC clients.", nil, nil)
)

// newMetrics registers with reg unless that is nil.
func newMetrics(reg prometheus.Registerer) *metrics {
	m := &metrics{methods: map[string]*method{}}
	if reg != nil {
		reg.MustRegister(m)
	}
	return m
}

// learn takes in what a server serves.
func (m *metrics) learn(services map[string]grpc.ServiceInfo) {
	for service, info := range services {
		for _, one := range info.Methods {
			m.methods["/"+service+"/"+one.Name] = &method{labels: [3]string{kind(one), service, one.Name}}
		}
	}
}

func kind(m grpc.MethodInfo) string {
	switch {
	case m.IsClientStream && m.IsServerStream:
		return "bidi_stream"
	case m.IsServerStream:
		return "server_stream"
	case m.IsClientStream:
		return "client_stream"
	}
	return "unary"
}

// end counts the answer to a call.
func (m *method) end(code codes.Code) {
	if int(code) >= len(m.handled) {
		code = codes.Unknown
	}
	m.handled[code].Add(1)
}

// Describe implements prometheus.Collector.
func (m *metrics) Describe(ch chan<- *prometheus.Desc) {
	for _, d := range []*prometheus.Desc{startedDesc, handledDesc, inDesc, outDesc, sentDesc, receivedDesc, watchesDesc} {
		ch <- d
	}
}

// Collect implements prometheus.Collector.
func (m *metrics) Collect(ch chan<- prometheus.Metric) {
	show := func(d *prometheus.Desc, n int64, labels ...string) {
		ch <- prometheus.MustNewConstMetric(d, prometheus.CounterValue, float64(n), labels...)
	}
	for _, one := range m.methods {
		l := one.labels[:]
		show(startedDesc, one.started.Load(), l...)
		show(inDesc, one.msgsReceived.Load(), l...)
		show(outDesc, one.msgsSent.Load(), l...)
		for code := range one.handled {
			if n := one.handled[code].Load(); n > 0 || codes.Code(code) == codes.OK {
				show(handledDesc, n, append([]string{codeName(codes.Code(code))}, l...)...)
			}
		}
	}
	show(sentDesc, m.sent.Load())
	show(receivedDesc, m.received.Load())
	ch <- prometheus.MustNewConstMetric(watchesDesc, prometheus.GaugeValue, float64(m.watches.Load()))
}

// codeName is a code as the metrics library of gRPC writes it.
func codeName(c codes.Code) string { return strings.ReplaceAll(c.String(), " ", "") }
