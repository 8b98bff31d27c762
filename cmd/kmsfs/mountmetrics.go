package main

import (
	"context"
	"errors"
	"log/slog"
	"net"
	"net/http"
	"sync/atomic"
	"time"

	"github.com/prometheus/client_golang/prometheus"
	"github.com/prometheus/client_golang/prometheus/collectors"
	"github.com/prometheus/client_golang/prometheus/promhttp"
	"golang.org/x/sys/unix"

	"kmsfs/keysource"
)

// mountMetrics are what a mount tells a monitor. They name operations, kinds of error and errnos, and never CMKs, keys, paths
// or users.
type mountMetrics struct {
	registry *prometheus.Registry
	attempts *prometheus.CounterVec
	seconds  *prometheus.HistogramVec
	panics   atomic.Uint64 // of the keysource
}

// newMountMetrics makes the metrics of one mount; watch adds what is to be read of it.
func newMountMetrics() *mountMetrics {
	m := &mountMetrics{registry: prometheus.NewRegistry(),
		attempts: prometheus.NewCounterVec(prometheus.CounterOpts{Name: "kmsfs_keysource_attempts_total",
			Help: "Calls of the keysource by operation and result, each attempt for itself."}, []string{"operation", "result"}),
		seconds: prometheus.NewHistogramVec(prometheus.HistogramOpts{Name: "kmsfs_keysource_attempt_seconds",
			Help:    "Time that an attempt took, by operation.",
			Buckets: []float64{.0001, .00025, .0005, .001, .0025, .005, .01, .025, .05, .1, .25, 1, 5, 20}}, []string{"operation"}),
	}
	m.registry.MustRegister(m.attempts, m.seconds, collectors.NewGoCollector(),
		collectors.NewProcessCollector(collectors.ProcessCollectorOpts{}))
	return m
}

// call counts an attempt.
func (m *mountMetrics) call(operation string, err error, took time.Duration) {
	m.attempts.WithLabelValues(operation, resultOf(err)).Inc()
	m.seconds.WithLabelValues(operation).Observe(took.Seconds())
}

// resultOf is the kind of an error of a keysource.
func resultOf(err error) string {
	if err == nil {
		return "ok"
	}
	for _, k := range []struct {
		kind error
		name string
	}{
		{context.Canceled, "canceled"}, {context.DeadlineExceeded, "timeout"},
		{keysource.ErrThrottled, "throttled"}, {keysource.ErrDenied, "denied"}, {keysource.ErrDisabled, "disabled"},
		{keysource.ErrInvalidState, "invalid_state"}, {keysource.ErrNotFound, "not_found"},
		{keysource.ErrInvalidCiphertext, "invalid_ciphertext"}, {keysource.ErrIncorrectKey, "incorrect_key"},
		{keysource.ErrUnavailable, "unavailable"},
	} {
		if errors.Is(err, k.kind) {
			return k.name
		}
	}
	return "other"
}

// handler shows the metrics as text.
func (m *mountMetrics) handler() http.Handler {
	return promhttp.HandlerFor(m.registry, promhttp.HandlerOpts{MaxRequestsInFlight: 4})
}

// watch has the counters of a mount read at each look. It is open until looks have ended.
func (m *mountMetrics) watch(of *mounted) error { return m.registry.Register(mountCollector{of}) }

// mountCollector reads the counters of a mount.
type mountCollector struct{ m *mounted }

// Describe implements prometheus.Collector: the metrics follow from what there is.
func (c mountCollector) Describe(chan<- *prometheus.Desc) {}

// Collect implements prometheus.Collector.
func (c mountCollector) Collect(out chan<- prometheus.Metric) {
	emit := func(kind prometheus.ValueType, name, help string, value float64, pair ...string) {
		var label, text []string
		if len(pair) == 2 {
			label, text = pair[:1], pair[1:]
		}
		out <- prometheus.MustNewConstMetric(prometheus.NewDesc("kmsfs_"+name, help, label, nil), kind, value, text...)
	}
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	if k, ok := c.m.keys.(purger); ok {
		s := k.Stats()
		const asked = "Data keys that were asked of the cache, by what answered: hit, miss (a call), joined (the call of another), grace " +
			"(a key past its time, the keysource being out of reach), refusal (one that was remembered)."
		for answer, n := range map[string]uint64{"hit": s.Hits, "miss": s.Misses, "joined": s.Joined, "grace": s.Stale, "refusal": s.Refused} {
			emit(counter, "key_cache_requests_total", asked, float64(n), "answer", answer)
		}
		emit(counter, "key_cache_evicted_total", "Data keys that left the cache.", float64(s.Evicted))
		emit(gauge, "key_cache_entries", "Data keys in the cache.", float64(s.Count))
	}
	if c.m.view != nil {
		v := c.m.view.Stats()
		emit(counter, "keys_made_total", "Data keys made for new files.", float64(v.KeysMade))
		emit(gauge, "open_files", "Files that are open.", float64(v.OpenFiles))
		emit(gauge, "nodes", "Files and directories that the kernel knows.", float64(v.Nodes))
	} else {
		c.vault(emit)
	}
	f := c.m.server.Stats()
	emit(counter, "corrupt_total", "Operations refused because what is stored is damaged or forged.", float64(f.Corrupt))
	panics := f.Panics + c.m.metrics.panics.Load()
	if c.m.vault != nil {
		panics += c.m.vault.Stats().Panics
	}
	emit(counter, "panics_total", "Requests and deferred work that a bug has failed; the log has the stack.", float64(panics))
	emit(gauge, "requests_under_way", "Requests that are being answered.", float64(f.UnderWay))
	emit(gauge, "requests_hung", "Of these, the ones that have taken longer than 30 s.", float64(f.Hung))
	emit(gauge, "oldest_request_seconds", "How long the oldest of them has taken, 0 where there is none.", f.Oldest.Seconds())
	for no, n := range f.Failed {
		emit(counter, "operations_failed_total", "Operations that failed, by errno.", float64(n), "errno", unix.ErrnoName(no))
	}
}

// vault has the counters of a vault.
func (c mountCollector) vault(emit func(kind prometheus.ValueType, name, help string, value float64, pair ...string)) {
	const counter, gauge = prometheus.CounterValue, prometheus.GaugeValue
	v := c.m.vault.Stats()
	emit(gauge, "keys_ahead", "Data keys made ahead of need, by state.", float64(v.KeysAtHand), "state", "at_hand")
	emit(gauge, "keys_ahead", "Data keys made ahead of need, by state.", float64(v.KeysComing), "state", "coming")
	emit(counter, "keys_made_total", "Data keys made for new files.", float64(v.KeysMade))
	emit(counter, "key_failures_total", "Data keys for new files that could not be made.", float64(v.KeyFailures))
	emit(counter, "read_ahead_fetched_total", "Data keys decrypted before they were asked for.", float64(v.AheadFetched))
	emit(counter, "read_ahead_used_total", "Of these, the ones that then were asked for.", float64(v.AheadUsed))
	emit(gauge, "open_files", "Stored files that are open.", float64(v.OpenFiles))
	emit(gauge, "open_directories", "Stored directories that are open.", float64(v.OpenDirs))
	emit(gauge, "nodes", "Files and directories that the kernel knows.", float64(v.Nodes))
	emit(gauge, "journal_bytes", "Bytes in the journal that are not in their place yet.", float64(v.JournalBytes))
}

// checkMetricsAddress refuses addresses that others than this machine reach: the metrics are open to whoever connects.
func checkMetricsAddress(address string) error {
	host, _, err := net.SplitHostPort(address)
	ip := net.ParseIP(host)
	if err != nil || host != "localhost" && (ip == nil || !ip.IsLoopback()) {
		return hintf(faultf(errUsage, "--metrics-listen: %q is not an address of this machine alone", address), "--metrics-listen 127.0.0.1:9464")
	}
	return nil
}

// listenMetrics listens at address, where it is not empty.
func listenMetrics(address string) (net.Listener, error) {
	if address == "" {
		return nil, nil
	}
	l, err := net.Listen("tcp", address)
	if err != nil {
		return nil, hintf(err, "ss -ltnp shows who listens; --metrics-listen names another address")
	}
	if at, ok := l.Addr().(*net.TCPAddr); !ok || !at.IP.IsLoopback() { // what localhost means is not ours to say
		l.Close()
		return nil, checkMetricsAddress(l.Addr().String())
	}
	return l, nil
}

// serveMetrics serves GET /metrics at l, and nothing else. The caller stops it; where l is nil there is nothing to stop.
func serveMetrics(l net.Listener, m *mountMetrics, log *slog.Logger) *controlServer {
	if l == nil {
		return nil
	}
	s := newControlServer(log)
	s.page(controlMetrics, m.handler())
	s.start(l)
	return s
}
