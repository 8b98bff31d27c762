package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"time"

	"kmsfs/keysource"
)

// startControl opens the control socket of a mount. A daemon that cannot have one serves without it.
func (a *app) startControl(m *mounted, p mountPlan, log *slog.Logger) *controlServer {
	dir := controlDir(a.uid, a.env("XDG_RUNTIME_DIR"))
	var l *controlListener
	err := makeControlDir(dir, a.uid)
	if err == nil {
		l, err = listenControl(context.Background(), controlSocket(dir, p.Mountpoint), a.uid)
	}
	if err != nil {
		log.Warn("no control socket: kmsfs ctl cannot reach this mount", "err", err)
		return nil
	}
	s := newControlServer(log)
	s.handle("purge", m.purge)
	s.page(controlMetrics, m.metrics.handler())
	if m.view != nil { // nothing is written to it
		s.start(l)
		return s
	}
	s.handle("reencrypt", m.reencrypt(p))
	s.handle("flush", func(ctx context.Context, _ json.RawMessage, send func(any) error) error { return m.flush(p, send) })
	f := &freezer{m: m, p: p, log: log}
	m.thaw = func() { f.letGo(f.frozen()) }
	s.handle("freeze", f.freeze)
	s.handle("thaw", f.thaw)
	s.start(l)
	return s
}

// purgeInfo says what a purge has wiped.
type purgeInfo struct {
	// Cached data keys or branch keys of the cache, and keys Ahead of need that were given up.
	Cached int `json:"cached"`
	Ahead  int `json:"ahead"`
}

// purger is a keysource that keeps keys.
type purger interface {
	Purge()
	Stats() keysource.CacheStats
}

// purge wipes the data keys that the mount keeps: what is needed again is asked for again. First those of the keysource, so
// that what the vault makes anew is new.
func (m *mounted) purge(_ context.Context, _ json.RawMessage, send func(any) error) error {
	var info purgeInfo
	if k, ok := m.keys.(purger); ok {
		info.Cached = k.Stats().Count
		k.Purge()
	}
	if m.view != nil {
		info.Ahead = m.view.Purge()
		return send(info)
	}
	info.Ahead = m.vault.Stats().KeysAtHand
	m.vault.Purge()
	return send(info)
}

// flushInfo says how long a flush took.
type flushInfo struct {
	Seconds float64 `json:"seconds"`
}

// flush makes what was written durable in the vault, with all deferred work.
func (m *mounted) flush(p mountPlan, send func(any) error) error {
	began := time.Now()
	if err := m.server.Sync(); err != nil {
		return err
	}
	if err := m.vault.Flush(); err != nil {
		return err
	}
	return send(flushInfo{time.Since(began).Seconds()})
}
