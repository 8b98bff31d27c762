package main

import (
	"context"
	"encoding/json"
	"log/slog"
	"sync"
	"time"
)

// freezeMost is the longest that a mount may stay frozen.
const freezeMost = time.Hour

// freezeRequest is the request of freeze, and frozenInfo the answer. The ID is the caller's choice, or empty.
type freezeRequest struct {
	Seconds float64 `json:"seconds"`
	ID      string  `json:"id,omitempty"`
}

type frozenInfo struct {
	Until time.Time `json:"until"`
}

// thawRequest thaws what was frozen under its ID and nothing else; without one, whatever is frozen.
type thawRequest struct {
	ID string `json:"id,omitempty"`
}

// thawedInfo says for how long a mount was frozen.
type thawedInfo struct {
	Seconds float64 `json:"seconds"`
}

// freezer holds what would change the vault of a mount, until it is told to let go or the time is up.
type freezer struct {
	m   *mounted
	p   mountPlan
	log *slog.Logger

	mu  sync.Mutex // a leaf
	now *frozen    // nil: not frozen
}

// frozen is one time that a mount is frozen.
type frozen struct {
	id    string
	since time.Time
	open  func()
	timer *time.Timer
}

// freeze flushes, holds writers, and makes durable what they had done until then. The time runs from its beginning, so that it
// holds nobody for longer.
func (f *freezer) freeze(ctx context.Context, in json.RawMessage, send func(any) error) error {
	var r freezeRequest
	if err := json.Unmarshal(in, &r); err != nil {
		return faultf(errUsage, "%w", err)
	}
	if err := checkFreeze(r.Seconds); err != nil {
		return err
	}
	if err := f.m.server.Sync(); err != nil { // so that little is to be written once writers are held
		return err
	}
	timeout := time.Duration(r.Seconds * float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	h := &frozen{id: r.ID, since: time.Now()}
	if err := f.hold(ctx, h, timeout); err != nil {
		return err
	}
	if err := f.m.vault.Flush(); err != nil {
		f.letGo(h)
		return err
	}
	if f.frozen() != h {
		return hintf(faultf(errBusy, "what was written to %s was not durable in time; it is not frozen", f.p.Mountpoint),
			"try again, with a longer --timeout")
	}
	if err := send(frozenInfo{h.since.Add(timeout)}); err != nil { // nobody knows that it is frozen
		f.letGo(h)
		return err
	}
	return nil
}

// hold holds writers until h is let go, and for the time at most. A reencryption writes too, but not through the mount: there
// is none while the mount is frozen.
func (f *freezer) hold(ctx context.Context, h *frozen, timeout time.Duration) error {
	if !f.m.alone.CompareAndSwap(nobody, freezing) {
		return f.m.inUse(f.p)
	}
	open, err := f.m.server.Freeze(ctx)
	if err != nil {
		f.m.alone.Store(nobody)
		return hintf(faultf(errBusy, "writes to %s did not end in time; it is not frozen", f.p.Mountpoint), "try again, with a longer --timeout")
	}
	h.open = func() {
		open()
		f.m.alone.Store(nobody)
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	f.now = h
	h.timer = time.AfterFunc(time.Until(h.since.Add(timeout)), func() {
		if f.letGo(h) {
			f.log.Warn("thawed, as the time was up", "after", timeout)
		}
	})
	return nil
}

// frozen is what the mount is frozen by, or nil.
func (f *freezer) frozen() *frozen {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.now
}

// letGo ends h; false where that has ended, or is nil.
func (f *freezer) letGo(h *frozen) bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if h == nil || f.now != h {
		return false
	}
	h.timer.Stop()
	h.open()
	f.now = nil
	return true
}

// thaw lets go. Where the time was up before, it says so: a copy taken meanwhile may not be of one moment.
func (f *freezer) thaw(_ context.Context, in json.RawMessage, send func(any) error) error {
	var r thawRequest
	if err := json.Unmarshal(in, &r); err != nil {
		return faultf(errUsage, "%w", err)
	}
	h := f.frozen()
	if h != nil && r.ID != "" && h.id != r.ID {
		h = nil // frozen anew, by somebody else
	}
	if !f.letGo(h) {
		return hintf(faultf(errNotFrozen, "%s is not frozen, or no longer: its time was up", f.p.Mountpoint),
			"take a copy that was made meanwhile again, with a longer --timeout")
	}
	return send(thawedInfo{time.Since(h.since).Seconds()})
}

// checkFreeze refuses a time that is none.
func checkFreeze(seconds float64) error {
	if !(seconds > 0 && seconds <= freezeMost.Seconds()) {
		return hintf(faultf(errUsage, "a mount is frozen for more than 0 and at most %v", freezeMost), "--timeout 60s")
	}
	return nil
}
