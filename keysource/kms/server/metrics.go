package server

import (
	"net/http"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"

	"kmsfs/keysource/kms/audit"
)

// metrics are what /metrics tells. They name operations and exceptions, and never keys or users.
type metrics struct {
	handler     http.Handler
	calls       *prometheus.CounterVec
	seconds     *prometheus.HistogramVec
	inFlight    prometheus.Gauge
	connections prometheus.Gauge
}

// newMetrics makes the metrics of one server.
func newMetrics(log *audit.Log) *metrics {
	m := &metrics{
		calls: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kmsfs_kms_calls_total",
			Help: "Calls by operation and exception; no exception is success, no operation a call that was not admitted."},
			[]string{"operation", "exception"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kmsfs_kms_call_seconds",
			Help:    "Time from the head of a request to its answer, by operation.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 20}}, []string{"operation"}),
		inFlight:    prometheus.NewGauge(prometheus.GaugeOpts{Name: "kmsfs_kms_calls_in_flight", Help: "Calls under way."}),
		connections: prometheus.NewGauge(prometheus.GaugeOpts{Name: "kmsfs_kms_connections", Help: "Open connections."}),
	}
	lines := prometheus.NewCounterFunc(prometheus.CounterOpts{Name: "kmsfs_kms_audit_sequence",
		Help: "Number of the last line of the audit log."}, func() float64 { return float64(log.Head().Sequence) })
	ready := prometheus.NewGaugeFunc(prometheus.GaugeOpts{Name: "kmsfs_kms_audit_writable",
		Help: "1 while the audit log can be written; else calls are refused."}, func() float64 {
		if log.Ready() != nil {
			return 0
		}
		return 1
	})
	r := prometheus.NewRegistry()
	r.MustRegister(m.calls, m.seconds, m.inFlight, m.connections, lines, ready, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	m.handler = promhttp.HandlerFor(r, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
	return m
}

// done counts a call.
func (m *metrics) done(operation, exception string, took time.Duration) {
	m.calls.WithLabelValues(operation, exception).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}
