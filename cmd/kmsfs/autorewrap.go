package main

import (
	"context"
	"errors"
	"log/slog"
	"math/rand/v2"
	"runtime"
	"sync"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
	"kmsfs/fs/vault/rewrap"
	"kmsfs/keysource"
)

// How an automatic rewrap goes: seldom, and gently.
const (
	autoRewrapEvery = time.Hour
	autoRewrapFirst = 2 * time.Second // after the mount
	autoRewrapRPS   = 50.0            // of a KMS, whose other users go first
	autoRewrapCalls = 4
	autoRewrapEnd   = 2 * time.Second // is waited for at the end of the mount: a call may hang, and the keysource ends it
)

// waitFor waits for g, and no longer than the time.
func waitFor(g *sync.WaitGroup, most time.Duration) {
	done := make(chan struct{})
	go func() {
		g.Wait()
		close(done)
	}()
	select {
	case <-done:
	case <-time.After(most):
	}
}

// autoRewrap rewraps what is behind the current key material or CMK, at first soon and then every so often, until ctx ends.
// Hosts of a shared vault do not begin at the same time.
func (m *mounted) autoRewrap(ctx context.Context, p mountPlan, log *slog.Logger) {
	every := p.AutoRewrapEvery
	if every == 0 {
		every = autoRewrapEvery
	}
	wait := min(autoRewrapFirst, every)
	if p.Shared {
		wait += rand.N(min(time.Minute, every))
	}
	for {
		t := time.NewTimer(wait)
		select {
		case <-ctx.Done():
			t.Stop()
			return
		case <-t.C:
		}
		if err := bug.Guard(log, func() error { return m.rewrapOnce(ctx, p, log) }); err != nil && ctx.Err() == nil {
			log.Error("automatic rewrap failed; it will be tried again", "err", err, "in", every.String(), "hint", "kmsfs rewrap "+quote(p.Vault))
		}
		wait = every
	}
}

// rewrapOnce counts what is behind, which costs one DescribeKey a CMK and a read of the key tables, and rewraps it.
func (m *mounted) rewrapOnce(ctx context.Context, p mountPlan, log *slog.Logger) error {
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return err
	}
	defer top.Close()
	ks := m.keys
	if c, ok := ks.(*keysource.Cache); ok { // records of a time with branch keys
		if ks, err = keysource.NewBranch(c, keysource.DefaultBranchLimits(), nil); err != nil { // not closed: that would close the cache
			return err
		}
	}
	o := rewrap.Options{DryRun: true, Log: log}
	found, err := rewrap.Run(ctx, top, ks, o)
	if err != nil || found.Behind == 0 && !found.VolumeKey {
		return err
	}
	log.Warn("automatic rewrap begins", "keys", found.Behind)
	o.DryRun, o.Concurrency, o.RPS = false, autoRewrapCalls, autoRewrapRPS
	if u, err := keysource.ParseURL(m.vault.Config().Keysource); err == nil && u.Scheme == keysource.SchemeLocal {
		o.Concurrency, o.RPS = max(1, runtime.NumCPU()/4), 2000
	}
	done, err := rewrap.Run(ctx, top, ks, o)
	if errors.Is(err, context.Canceled) {
		log.Warn("automatic rewrap was interrupted by the end of the mount; it goes on with the next", "keys", done.Rewrapped)
		return err
	}
	log.Warn("automatic rewrap ended", "keys", done.Rewrapped, "failed", done.Failed)
	return err
}
