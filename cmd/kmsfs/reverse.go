package main

import (
	"context"
	"errors"
	iofs "io/fs"
	"log/slog"
	"path/filepath"
	"runtime/debug"
	"syscall"

	"github.com/spf13/pflag"

	kfs "kmsfs/fs"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/reverse"
	"kmsfs/keysource"
	"kmsfs/keysource/passphrase"
)

// reversePlan says whether and how a plain directory is shown in reverse: Vault of the mountPlan is that directory then.
type reversePlan struct {
	Reverse       bool
	State         string // directory of vault.json and the key tables
	OneFileSystem bool
}

// add defines the flags.
func (r *reversePlan) add(f *pflag.FlagSet) {
	f.BoolVar(&r.Reverse, "reverse", false, "show the plain directory VAULT as an encrypted, read-only vault, the same each time, for backup tools")
	f.StringVar(&r.State, "state", "", "with --reverse: `DIR` of its vault.json and key tables (default VAULT/"+reverse.StateName+", which is not shown)")
	f.BoolVar(&r.OneFileSystem, "one-file-system", false, "with --reverse: show directories of other file systems as empty")
}

// finish completes and checks the plan.
func (r *reversePlan) finish(p *mountPlan) error {
	switch {
	case !r.Reverse && r.State != "":
		return hintf(faultf(errUsage, "--state is nothing without --reverse"), "add --reverse")
	case !r.Reverse && r.OneFileSystem:
		return hintf(faultf(errUsage, "--one-file-system is nothing without --reverse"), "add --reverse")
	case !r.Reverse:
		return nil
	case p.Shared:
		return hintf(faultf(errUsage, "--reverse and --shared do not go together"), "leave out --shared: each host has a state of its own (--state DIR)")
	case p.Freshness != "":
		return hintf(faultf(errUsage, "--reverse and --freshness do not go together"), "leave out --freshness: nothing is stored")
	case p.AutoRewrap:
		return hintf(faultf(errUsage, "--reverse and --auto-rewrap do not go together"), "kmsfs rewrap on the directory of the state")
	}
	p.ReadOnly = true
	if r.State == "" {
		r.State = filepath.Join(p.Vault, reverse.StateName)
	}
	var err error
	r.State, err = resolve(r.State)
	return err
}

// storage is p with Vault being the directory that holds vault.json.
func (p mountPlan) storage() mountPlan {
	if p.Reverse {
		p.Vault = p.State
	}
	return p
}

// checkReverse refuses to show a directory within itself.
func checkReverse(p mountPlan) error {
	if p.Vault == "/" {
		return hintf(faultf(errOverlap, "the mountpoint %s is inside the source /", p.Mountpoint),
			"mount --bind / DIR shows / without what is mounted in it: name DIR in place of /")
	}
	for _, d := range []struct{ what, path string }{{"source", p.Vault}, {"state", p.State}} {
		if inside(p.Mountpoint, d.path) || inside(d.path, p.Mountpoint) {
			return hintf(faultf(errOverlap, "the mountpoint %s and the %s %s are one inside the other", p.Mountpoint, d.what, d.path),
				"name a mountpoint outside of %s", quote(d.path))
		}
	}
	return nil
}

// reverseChain is the chain of a plain directory that is shown in reverse: as mountChain, with the view in place of the vault.
func (m *mounted) reverseChain(ctx context.Context, p mountPlan, secret passphrase.Source, log *slog.Logger) error {
	src, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explainSource(err, p)
	}
	state, err := backing.OpenDir(p.State)
	if err != nil {
		src.Close()
		if errors.Is(err, iofs.ErrNotExist) {
			err = vault.ErrNotVault
		}
		return explainReverse(err, p)
	}
	at := p.storage()
	if err := m.chainKeys(ctx, &at, state, secret, log); err != nil {
		src.Close()
		state.Close()
		return explainReverse(err, p)
	}
	p.Keysource = at.Keysource
	o := reverse.Options{Log: log, Deadline: p.Keys.timeout() + deadlineMargin, KeyMaxAge: p.Keys.confirmEvery(), OpenDirs: openFiles()}
	if b, ok := m.keys.(*keysource.Branch); ok {
		o.Renew = b.Renew
	}
	if p.OneFileSystem {
		o.Scope = reverse.OneFileSystem
	}
	if m.view, err = reverse.Open(ctx, src, state, m.keys, o); err != nil { // src and state are the view's, also when it fails
		return explainReverse(err, p)
	}
	view := m.view
	m.server, err = kfs.MountReverse(view, p.Mountpoint, kfs.Options{
		Source: p.Vault, AllowOther: p.AllowOther, Suid: p.Suid, Dev: p.Dev, NoExec: p.NoExec, Log: log,
		Idle: func() { view.Rest(); debug.FreeOSMemory() },
	})
	if err != nil {
		return err
	}
	m.view.PrepareLater()
	return nil
}

// explainSource names the source in an error about it.
func explainSource(err error, p mountPlan) error {
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return hintf(faultf(syscall.ENOENT, "the source %s does not exist", p.Vault), "name the plain directory to show")
	case errors.Is(err, syscall.ENOTDIR):
		return hintf(faultf(syscall.ENOTDIR, "the source %s is not a directory", p.Vault), "name the plain directory to show")
	}
	return hintf(faultf(err, "the source %s: %w", p.Vault, err), "ls -ld %s", quote(p.Vault))
}

// explainReverse is explain for the state.
func explainReverse(err error, p mountPlan) error {
	again := "kmsfs mount --reverse --init " + quote(p.Vault) + " " + quote(p.Mountpoint)
	if p.State != filepath.Join(p.Vault, reverse.StateName) {
		again = "kmsfs mount --reverse --init --state " + quote(p.State) + " " + quote(p.Vault) + " " + quote(p.Mountpoint)
	}
	switch {
	case errors.Is(err, vault.ErrNotVault):
		return hintf(faultf(vault.ErrNotVault, "%s has no state of a reverse mount: %s is missing", p.Vault, p.State), "%s; or --state DIR names where it is", again)
	case errors.Is(err, vault.ErrLocked):
		return hintf(faultf(vault.ErrLocked, "the state %s is in use by another reverse mount", p.State), "kmsfs status shows the mounts; --state DIR names another state")
	case errors.Is(err, syscall.EROFS):
		return hintf(faultf(syscall.EROFS, "the state %s is on a read-only file system", p.State), "--state DIR names a directory that can be written to")
	}
	if keysource.Hint(err) != "" {
		return err
	}
	return explain(err, p.storage())
}
