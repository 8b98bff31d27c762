package main

import (
	"context"
	"encoding/json"
	"sync"
	"time"

	"kmsfs/fs/vault"
)

// reencryptRequest is what a daemon is asked to reencrypt.
type reencryptRequest struct {
	Only   string    `json:"only"` // from the root of the vault
	From   string    `json:"from"` // CMK or key material
	Before time.Time `json:"created_before"`
	DryRun bool      `json:"dry_run"`
}

// request is the flags as a request.
func (r *reencryptFlags) request() reencryptRequest {
	return reencryptRequest{r.only, r.from, r.before, r.dryRun}
}

// reencryptPart is what a daemon has done since it told last.
type reencryptPart struct {
	Files    int64    `json:"files,omitempty"`
	Done     int64    `json:"done,omitempty"`
	Bytes    int64    `json:"bytes,omitempty"`
	Troubles []string `json:"troubles,omitempty"`
}

// tellEvery is how often a daemon tells how far it is.
const tellEvery = 100 * time.Millisecond

// reencryptMounted has the daemon of a mount do it.
func (a *app) reencryptMounted(ctx context.Context, m mountEntry, request reencryptRequest, out *reencryptOutput) error {
	began := false
	err := a.control(ctx, m, "reencrypt", request, func(line json.RawMessage) error {
		began = true
		var part reencryptPart
		if err := json.Unmarshal(line, &part); err != nil {
			return err
		}
		out.add(part)
		return nil
	})
	if !began {
		err = beforeRun(err)
	}
	return err
}

// reencrypt is the verb of the control socket. It ends with the caller, and with the mount.
func (m *mounted) reencrypt(p mountPlan) controlHandler {
	return func(ctx context.Context, body json.RawMessage, send func(any) error) error {
		var request reencryptRequest
		if err := json.Unmarshal(body, &request); err != nil {
			return faultf(errUsage, "reencrypt: %w", err)
		}
		if p.Shared && !request.DryRun {
			return hintf(faultf(errUsage, "%s is mounted with --shared", p.Vault),
				"kmsfs umount it on each host, then kmsfs reencrypt %s", quote(p.Vault))
		}
		if !m.alone.CompareAndSwap(nobody, reencrypting) {
			return m.inUse(p)
		}
		defer m.alone.Store(nobody)
		if p.ReadOnly && !request.DryRun {
			return hintf(faultf(vault.ErrReadOnly, "%s is mounted read-only at %s", p.Vault, p.Mountpoint),
				"kmsfs umount %s, then kmsfs reencrypt %s", quote(p.Mountpoint), quote(p.Vault))
		}
		from, err := chooser(ctx, m.keys, request.From)
		if err != nil {
			return explain(err, p)
		}
		var mu sync.Mutex
		var part reencryptPart
		told := time.Now()
		tell := func(add func(), always bool) error {
			mu.Lock()
			defer mu.Unlock()
			add()
			if now := time.Now(); !always && now.Sub(told) < tellEvery {
				return nil
			} else {
				told = now
			}
			line := part
			part = reencryptPart{}
			return send(line)
		}
		run := &reencryption{v: m.vault, file: func(f vault.Reencrypted) {
			_ = tell(func() { part.count(f, request.DryRun) }, false) // a caller who is gone ends ctx
		}, o: vault.ReencryptOptions{Before: request.Before, From: from, DryRun: request.DryRun,
			Progress: func(n int64) { _ = tell(func() { part.Bytes += n }, false) }}}
		err = run.all(ctx, request.Only)
		if e := tell(func() {}, true); err == nil {
			err = e
		}
		return err
	}
}

// count adds what came of a file.
func (p *reencryptPart) count(f vault.Reencrypted, dryRun bool) {
	p.Files++
	if f.Err != nil {
		p.Troubles = append(p.Troubles, oneLine(f.Err.Error()))
	} else if f.Done {
		p.Done++
		if dryRun {
			p.Bytes += f.Bytes
		}
	}
}
