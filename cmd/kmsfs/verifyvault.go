package main

import (
	"context"
	"errors"
	"fmt"
	"path/filepath"
	"slices"
	"strings"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/manifest"
	"kmsfs/keysource"
)

// verifying is a vault that is being verified.
type verifying struct {
	a    *app
	v    *verifyFlags
	plan mountPlan
	top  backing.Dir
	keys keysource.Keysource // nil: without keys
	out  *verifyOutput
	info *verifyInfo
}

// verifyVault looks for damage in the vault at path.
func (a *app) verifyVault(ctx context.Context, v *verifyFlags, path string, out *verifyOutput) (info verifyInfo, err error) {
	began := time.Now()
	info = verifyInfo{Vault: path, Result: check.Result{Findings: []check.Finding{}}}
	s := &verifying{a: a, v: v, out: out, info: &info, plan: mountPlan{Vault: path}}
	if s.top, err = backing.OpenDir(path); err != nil {
		return info, explain(err, s.plan)
	}
	defer s.top.Close()
	defer func() { info.Seconds = time.Since(began).Seconds() }()
	plan, err := v.vaultPlan(path)
	switch {
	case err == nil:
		s.plan = plan
	case !errors.Is(err, envelope.ErrCorrupt) && !errors.Is(err, vault.ErrNotVault) || errors.Is(err, errUsage):
		return info, err
	}
	damaged := err != nil // the config, which the check tells
	if !v.noKeys && !damaged {
		if s.keys, err = a.openKeysFor(ctx, &v.storeFlags, s.plan, oneUse); err != nil {
			return info, keysource.WithHint(err, noKeysHint(keysource.Hint(err)))
		}
		defer s.keys.Close()
	}
	if v.repair && !damaged {
		free, err := s.alone(ctx)
		if err != nil {
			return info, err
		}
		defer free()
	}
	if err := s.run(ctx); err != nil {
		return info, err
	}
	if v.want != nil {
		if err := s.compare(ctx); err != nil {
			return info, err
		}
	}
	if v.repair && s.keys != nil {
		return info, s.repair(ctx)
	}
	return info, s.confirm(ctx)
}

func noKeysHint(hint string) string {
	const more = "--no-keys looks at the structure alone"
	if hint == "" {
		return more
	}
	return hint + "; " + more
}

// open opens the vault for reading; nil without keys.
func (s *verifying) open(ctx context.Context) (*vault.Vault, error) {
	if s.keys == nil {
		return nil, nil
	}
	o, err := openWith(ctx, s.plan, s.keys, vault.ReadOnly)
	if err != nil {
		return nil, err
	}
	return o.Vault, nil
}

// with calls f with the vault opened anew. What of the vault itself is damaged is a finding, and what can be told without
// keys is looked at all the same.
func (s *verifying) with(ctx context.Context, f func(o check.Options) (*check.Result, error)) (*check.Result, error) {
	o := check.Options{Progress: s.out.progress}
	var broken *check.Finding
	v, err := s.open(ctx)
	switch {
	case err == nil:
	case (errors.Is(err, vault.ErrCorrupt) || errors.Is(err, envelope.ErrCorrupt)) && !errors.Is(err, envelope.ErrUnsupported):
		broken = &check.Finding{Kind: check.Config, Stored: envelope.ControlDir + "/vault.json", What: oneLine(err.Error()), Err: err}
	default:
		return nil, err
	}
	if v != nil {
		o.Vault = v
		s.info.Keys = true
		defer v.Close()
	}
	r, err := f(o)
	told := err == nil && slices.ContainsFunc(r.Findings, func(f check.Finding) bool { return strings.HasPrefix(f.Stored, envelope.ControlDir+"/") && f.Damage() })
	if err == nil && broken != nil && !told {
		r.Findings = append([]check.Finding{*broken}, r.Findings...)
	}
	return r, err
}

// run looks at all of the vault.
func (s *verifying) run(ctx context.Context) error {
	r, err := s.with(ctx, func(o check.Options) (*check.Result, error) { return check.Run(ctx, s.top, o) })
	if err == nil {
		s.info.Result = *r
	}
	return err
}

// again looks at the findings once more.
func (s *verifying) again(ctx context.Context) error {
	r, err := s.with(ctx, func(o check.Options) (*check.Result, error) { return check.Again(ctx, s.top, o, s.info.Findings) })
	if err == nil {
		s.info.Findings = r.Findings
		s.info.Gone += r.Gone
	}
	return err
}

// pauses are those before findings are looked at again: a mount, here or elsewhere, may have been at work.
func pauses() []time.Duration { return []time.Duration{0, time.Second, 2 * time.Second} }

// How long a mount is frozen at most, how much of that is used, and how often it is tried.
const (
	freezeFor  = 10 * time.Second
	freezeUsed = 8 * time.Second
	freezeTry  = 3
)

// confirm leaves of the findings those that are no changes under way. The config is replaced as a whole, and never is.
func (s *verifying) confirm(ctx context.Context) error {
	for _, pause := range pauses() {
		if !slices.ContainsFunc(s.info.Findings, func(f check.Finding) bool { return f.Kind != check.Config }) {
			return nil
		}
		select {
		case <-time.After(pause):
		case <-ctx.Done():
			return context.Cause(ctx)
		}
		if err := s.again(ctx); err != nil {
			return err
		}
	}
	mounts := mountsOf(s.plan.Vault)
	for range freezeTry {
		if len(s.info.Findings) == 0 || len(mounts) == 0 {
			return nil
		}
		if s.info.Unconfirmed = s.frozen(ctx); s.info.Unconfirmed == "" {
			return nil
		}
	}
	return ctx.Err()
}

// frozen looks at the findings with the mounts of the vault frozen, and returns why that was not possible.
func (s *verifying) frozen(ctx context.Context) string {
	thaw, err := s.a.freezeVault(ctx, s.plan.Vault, freezeFor)
	if err != nil {
		return oneLine(err.Error())
	}
	look, cancel := context.WithTimeout(ctx, freezeUsed)
	defer cancel()
	err = s.again(look)
	if e := thaw(); err == nil {
		err = e
	}
	switch {
	case err == nil:
		return ""
	case errors.Is(err, context.DeadlineExceeded):
		return "it takes longer than a mount may be frozen"
	}
	return oneLine(err.Error())
}

// alone puts in place what a mount that died has left, and takes the lock of the vault until free is called.
func (s *verifying) alone(ctx context.Context) (free func(), err error) {
	o, err := openWith(ctx, s.plan, s.keys, vault.ReadWrite)
	if err != nil {
		return nil, err
	}
	if err := o.Vault.Close(); err != nil {
		return nil, explain(err, s.plan)
	}
	lock, err := vault.Lock(s.top)
	if err != nil {
		return nil, explain(err, s.plan)
	}
	return func() { lock.Close() }, nil
}

// repair moves what is damaged aside.
func (s *verifying) repair(ctx context.Context) error {
	cfg, err := vault.ReadConfig(s.top)
	if err != nil {
		return explain(err, s.plan)
	}
	s.info.Mended, err = check.MendTables(s.top, cfg.Volume, s.info.Findings)
	if err == nil && len(s.info.Mended) > 0 {
		err = s.run(ctx)
	}
	if err != nil {
		return err
	}
	if s.info.Bytes == 0 && slices.ContainsFunc(s.info.Findings, func(f check.Finding) bool { return f.Kind == check.NoRecord }) {
		return hintf(faultf(vault.ErrCorrupt, "no file opens in %s; nothing was moved", s.plan.Vault),
			"kmsfs fsck --repair %s mends a key table that has lost its header alone; else restore %s/%s/keys from a backup first", quote(s.plan.Vault),
			quote(s.plan.Vault), envelope.ControlDir)
	}
	moved, err := check.Repair(ctx, s.top, cfg.Volume, s.info.Findings, time.Now())
	for _, m := range moved {
		s.info.Moved = append(s.info.Moved, movedInfo{m.Stored, m.To})
	}
	if errors.Is(err, check.ErrMendable) {
		return hintf(faultf(vault.ErrCorrupt, "%w; nothing was moved", err), "kmsfs fsck --repair %s makes it anew, with all data keys in it", quote(s.plan.Vault))
	}
	return err
}

// compare holds the vault against the manifest.
func (s *verifying) compare(ctx context.Context) error {
	m := s.v.want
	r := &manifestResult{Created: stamp(m.Created), Signer: fmt.Sprintf("%x", []byte(m.Signer)), Differences: []manifest.Difference{}}
	signer := s.v.signed
	v, err := s.open(ctx)
	if err != nil {
		return err
	}
	if v != nil {
		signer = v.ManifestSigner()
		v.Close()
	}
	r.Trusted = signer != nil
	if err := m.Verify(signer); err != nil {
		return hintf(faultf(err, "the manifest %s: %w", s.v.manifest, err), "get it again from where it is kept; kmsfs manifest of the vault prints its key")
	}
	if s.info.Volume != "" && m.Head.VolumeID != s.info.Volume {
		return hintf(faultf(manifest.ErrSignature, "the manifest %s is of another vault", s.v.manifest), "volume ids: %s, and of the vault %s", m.Head.VolumeID, s.info.Volume)
	}
	diff, err := m.Compare(ctx, s.top, s.out.progress)
	if err != nil {
		return explain(err, s.plan)
	}
	r.Differences = append(r.Differences, diff...)
	s.info.Manifest = r
	return nil
}

// shown is how a path of stored or plaintext names is shown to people.
func shown(path string) string {
	if path == "" {
		return "."
	}
	return oneLine(filepath.Clean(path))
}
