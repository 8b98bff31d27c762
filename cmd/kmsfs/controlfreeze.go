package main

import (
	"context"
	"encoding/json"
	"errors"
	"log/slog"
	"sync"
	"time"

	kfs "kmsfs/fs"
)

// freezeMost is the longest that a mount may stay frozen.
const freezeMost = time.Hour

// freezeRequest is the request of freeze, and frozenInfo the answer.
type freezeRequest struct {
	Seconds float64 `json:"seconds"`
}

type frozenInfo struct {
	Until time.Time `json:"until"`
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

	mu    sync.Mutex // a leaf
	open  func()     // nil: not frozen
	since time.Time
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
	if err := syncMount(f.p.Mountpoint); err != nil { // so that little is to be written once writers are held
		return err
	}
	timeout := time.Duration(r.Seconds * float64(time.Second))
	ctx, cancel := context.WithTimeout(ctx, timeout)
	defer cancel()
	began := time.Now()
	open, err := f.m.server.Freeze(ctx)
	if errors.Is(err, kfs.ErrFrozen) {
		return hintf(faultf(errBusy, "%s is frozen already", f.p.Mountpoint), "kmsfs ctl thaw %s", quote(f.p.Mountpoint))
	} else if err != nil {
		return hintf(faultf(errBusy, "writes to %s did not end in time; it is not frozen", f.p.Mountpoint), "try again, with a longer --timeout")
	}
	f.mu.Lock()
	f.open, f.since = open, began
	f.timer = time.AfterFunc(time.Until(began.Add(timeout)), func() {
		if f.letGo() {
			f.log.Warn("thawed, as the time was up", "after", timeout)
		}
	})
	f.mu.Unlock()
	if err := f.m.vault.Flush(); err != nil {
		f.letGo()
		return err
	}
	if !f.frozen() {
		return hintf(faultf(errBusy, "what was written to %s was not durable in time; it is not frozen", f.p.Mountpoint),
			"try again, with a longer --timeout")
	}
	if err := send(frozenInfo{began.Add(timeout)}); err != nil { // nobody knows that it is frozen
		f.letGo()
		return err
	}
	return nil
}

func (f *freezer) frozen() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.open != nil
}

// letGo thaws; false where there was nothing to thaw.
func (f *freezer) letGo() bool {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.open == nil {
		return false
	}
	f.timer.Stop()
	f.open()
	f.open = nil
	return true
}

// thaw lets go. Where the time was up before, it says so: a copy taken meanwhile may not be of one moment.
func (f *freezer) thaw(_ context.Context, _ json.RawMessage, send func(any) error) error {
	f.mu.Lock()
	since := f.since
	f.mu.Unlock()
	if !f.letGo() {
		return hintf(faultf(errNotFrozen, "%s is not frozen, or no longer: its time was up", f.p.Mountpoint),
			"take a copy that was made meanwhile again, with a longer --timeout of kmsfs ctl freeze")
	}
	return send(thawedInfo{time.Since(since).Seconds()})
}

// checkFreeze refuses a time that is none.
func checkFreeze(seconds float64) error {
	if !(seconds > 0 && seconds <= freezeMost.Seconds()) {
		return hintf(faultf(errUsage, "a mount is frozen for more than 0 and at most %v", freezeMost), "--timeout 60s")
	}
	return nil
}
