package server

import (
	"context"
	"crypto/rand"
	"errors"
	"log/slog"
	"net/http"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/keysource"
	"kmsfs/keysource/kms"
	"kmsfs/keysource/kms/audit"
	"kmsfs/keysource/kms/identity"
	"kmsfs/keysource/kms/sigv4"
)

// Users answers who signs with an access key; *identity.Directory is one.
type Users interface {
	// Lookup is safe for concurrent use; false where there is no such access key or it is disabled.
	Lookup(accessKeyID string) (*identity.Identity, bool)
}

// Config says what a server serves. The zero value of what is not needed is the default.
type Config struct {
	// Service answers; needed.
	Service *kms.Service
	// Users may call; needed.
	Users Users
	// Audit is the log of calls; needed.
	Audit *audit.Log
	// Due is called once a minute, for a key store to carry out what is due on its day where nobody calls; nil is nothing.
	Due func(ctx context.Context) error
	// Account and Region are those of the key store; needed. Requests must be signed for the region.
	Account, Region string
	// Timeout is the longest that a call may take; 0 is 20 s.
	Timeout time.Duration
	// MaxConnections is how many connections are served at once, others wait; 0 is 1024.
	MaxConnections int
	// Grace is how long calls may go on after Serve was told to end; 0 is 15 s.
	Grace time.Duration
	// Clock is the time; nil is keysource.SystemClock.
	Clock keysource.Clock
	// Logger is for people; nil is none.
	Logger *slog.Logger
	// Bug returns what is to be logged of a panic, as pairs for Logger, without what it may hold: no value and no arguments
	// of functions. It is called in the deferred function that has recovered; nil: nothing more.
	Bug func(panicked any) []any
}

// Server serves the protocol. It is an http.Handler and safe for concurrent use.
type Server struct {
	cfg        Config
	verifier   *sigv4.Verifier
	operations map[string]kms.Operation
	metrics    *metrics
	buffers    bufferPool
	bodies     bodyRoom
	start      time.Time
	nextWarn   atomic.Int64 // when a refused request may be logged again
	unlogged   atomic.Int64 // how many were not
}

// New makes a server.
func New(cfg Config) (*Server, error) {
	if cfg.Service == nil || cfg.Users == nil || cfg.Audit == nil || cfg.Account == "" || cfg.Region == "" {
		return nil, errors.New("server: the configuration is not complete")
	}
	if cfg.Timeout == 0 {
		cfg.Timeout = 20 * time.Second
	}
	if cfg.MaxConnections == 0 {
		cfg.MaxConnections = 1024
	}
	if cfg.Grace == 0 {
		cfg.Grace = 15 * time.Second
	}
	if cfg.Clock == nil {
		cfg.Clock = keysource.SystemClock{}
	}
	if cfg.Logger == nil {
		cfg.Logger = slog.New(slog.DiscardHandler)
	}
	s := &Server{cfg: cfg, operations: kms.Operations(), metrics: newMetrics(cfg.Audit), bodies: newBodyRoom(), start: time.Now()}
	s.verifier = sigv4.New(sigv4.Config{Region: cfg.Region, Service: "kms", Clock: cfg.Clock, Decoy: rand.Text(),
		Credentials: func(accessKeyID string) (sigv4.Credential, bool) {
			id, ok := cfg.Users.Lookup(accessKeyID)
			if !ok {
				return sigv4.Credential{}, false
			}
			return sigv4.Credential{Secret: string(id.Secret)}, true
		}})
	return s, nil
}

// now is a clock for durations, in nanoseconds.
func (s *Server) now() int64 { return int64(time.Since(s.start)) }

// Serve serves the listeners, which it closes, until ctx ends; then calls that are under way have Config.Grace. It
// returns nil after a graceful end.
func (s *Server) Serve(ctx context.Context, listeners ...*Listener) error {
	h := &http.Server{
		Handler:           s,
		ReadHeaderTimeout: 10 * time.Second,
		ReadTimeout:       30 * time.Second,
		WriteTimeout:      s.cfg.Timeout + 10*time.Second,
		IdleTimeout:       2 * time.Minute,
		MaxHeaderBytes:    16 << 10,
		HTTP2:             &http.HTTP2Config{MaxConcurrentStreams: 8},
		ErrorLog:          slog.NewLogLogger(s.cfg.Logger.Handler(), slog.LevelDebug), // what clients do wrong
	}
	ended := make(chan error, len(listeners))
	slots := make(chan struct{}, s.cfg.MaxConnections)
	for _, l := range listeners {
		limited := l.limit(slots, s.metrics.connections)
		go func() { ended <- h.Serve(limited) }()
	}
	if s.cfg.Due != nil {
		going, end := context.WithCancel(ctx)
		var ended sync.WaitGroup
		ended.Go(func() { s.carryOut(going) })
		defer ended.Wait()
		defer end()
	}
	var err error
	left := len(listeners)
	select {
	case <-ctx.Done():
	case err = <-ended: // a listener failed
		left--
	}
	grace, cancel := context.WithTimeout(context.WithoutCancel(ctx), s.cfg.Grace)
	defer cancel()
	if e := h.Shutdown(grace); e != nil {
		err = errors.Join(err, e, h.Close())
	}
	for range left {
		if e := <-ended; !errors.Is(e, http.ErrServerClosed) {
			err = errors.Join(err, e)
		}
	}
	return err
}

// refused logs a request that was not authenticated, at most one a second.
func (s *Server) refused(c *call, err error) {
	now, next := s.now(), s.nextWarn.Load()
	if now < next || !s.nextWarn.CompareAndSwap(next, now+int64(time.Second)) {
		s.unlogged.Add(1)
		return
	}
	s.cfg.Logger.Warn("a request was not authenticated", slog.String("from", sourceName(c.r)), slog.String("request", c.call.RequestID),
		slog.String("error", failureOf(err).code), slog.Int64("others", s.unlogged.Swap(0)))
}
