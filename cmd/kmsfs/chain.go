package main

import (
	"context"
	"errors"
	"log/slog"
	"runtime/debug"
	"sync/atomic"

	"kmsfs/envelope"
	kfs "kmsfs/fs"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/bug"
	"kmsfs/fs/vault/reverse"
	"kmsfs/keysource"
	"kmsfs/keysource/awskms"
	"kmsfs/keysource/passphrase"
)

// mounted is a chain from key store to kernel.
type mounted struct {
	keys    keysource.Keysource
	vault   *vault.Vault  // nil in reverse
	view    *reverse.View // in reverse
	server  *kfs.Server
	metrics *mountMetrics
	thaw    func()       // nil where nothing can freeze it
	end     func() error // before the vault is closed; nil: nothing
	alone   atomic.Int32 // nobody, or what goes on that must be alone
}

// What must be alone on a mount.
const (
	nobody int32 = iota
	reencrypting
	freezing
)

// inUse is the error of what finds that it would not be alone.
func (m *mounted) inUse(p mountPlan) error {
	if m.alone.Load() == freezing {
		return hintf(faultf(errBusy, "%s is frozen", p.Mountpoint), "kmsfs ctl thaw %s", quote(p.Mountpoint))
	}
	return hintf(faultf(errBusy, "%s is being reencrypted", p.Vault), "try again when kmsfs reencrypt has ended")
}

// keysAhead is how many data keys a mount decrypts ahead of need; the cache has room for more.
const keysAhead = 4096

// mountChain is the whole chain: the keysource that the vault names, metrics, retry, cache and branch keys over it, the vault, the
// mount.
func mountChain(ctx context.Context, p mountPlan, secret passphrase.Source, log *slog.Logger) (_ *mounted, err error) {
	m := &mounted{metrics: newMountMetrics()}
	defer func() {
		if err != nil {
			m.close()
		}
	}()
	if p.Reverse {
		err = m.reverseChain(ctx, p, secret, log)
	} else {
		err = m.vaultChain(ctx, p, secret, log)
	}
	if err != nil {
		return nil, err
	}
	if err = m.metrics.watch(m); err != nil {
		_ = m.server.UnmountLazily()
		<-m.server.Done()
		return nil, err
	}
	return m, nil
}

// vaultChain opens a vault and mounts it.
func (m *mounted) vaultChain(ctx context.Context, p mountPlan, secret passphrase.Source, log *slog.Logger) error {
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return explain(err, p)
	}
	if p.Shared {
		if err := checkSharedStorage(p.Vault); err != nil {
			top.Close()
			return err
		}
	}
	if err = m.chainKeys(ctx, &p, top, secret, log); err != nil {
		top.Close()
		return err
	}
	opts := vault.Options{Log: log, Deadline: p.Keys.timeout() + deadlineMargin, Opens: vault.Untracked, // an exclusive mount lets the kernel open without asking
		OpenFiles: openFiles(), OpenDirs: openFiles(), KeysAhead: keysAhead, KeyMaxAge: p.Keys.maxAge(), ConfirmEvery: p.Keys.confirmEvery()}
	if b, ok := m.keys.(*keysource.Branch); ok {
		opts.Renew = b.Renew
	}
	if p.Shared {
		opts.Sharing = vault.Shared
	}
	if p.ReadOnly {
		opts.Access = vault.ReadOnly
	}
	if m.vault, err = vault.Open(ctx, top, m.keys, opts); err != nil { // top is the vault's, also when it fails
		if errors.Is(err, keysource.ErrNotFound) {
			err = faultf(envelope.ErrWrongKey, "this keysource lacks the CMK of the vault %s: %v", p.Vault, err)
		}
		return explain(err, p)
	}
	if p.Freshness != "" {
		fresh := freshness{p.Freshness, log}
		if err = fresh.begin(ctx, m.vault, p.Vault); err != nil {
			return err
		}
		m.end = func() error { return fresh.end(m.vault, p.Vault) }
	}
	m.server, err = kfs.Mount(m.vault, p.Mountpoint, kfs.Options{
		Source: p.Vault, AllowOther: p.AllowOther, ReadOnly: p.ReadOnly, Suid: p.Suid, Dev: p.Dev, NoExec: p.NoExec, Log: log,
		Idle: debug.FreeOSMemory, // else what a burst has used stays for minutes
	})
	return err
}

// chainKeys opens the keysource of the vault in top, with metrics, retry, cache and branch keys over it.
func (m *mounted) chainKeys(ctx context.Context, p *mountPlan, top backing.Dir, secret passphrase.Source, log *slog.Logger) error {
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		return explain(err, *p)
	}
	if p.Keysource == "" {
		p.Keysource = cfg.Keysource
		if err := checkNamed(p.KnownStore, p.Vault, p.Keysource); err != nil {
			return err
		}
	}
	p.Init = false // the vault exists: a new key store could not open it
	ks, err := openKeysource(ctx, *p, p.Keysource, secret, nil)
	if err != nil {
		if errors.Is(err, errNoKeyStore) {
			err = hintf(err, "--key-store DIR names the directory where the key store of this vault is now")
		}
		return err
	}
	u, err := keysource.ParseURL(p.Keysource)
	if err != nil {
		return err
	}
	guarded := keysource.NewGuarded(ks, func(operation string, v any) {
		m.metrics.panics.Add(1)
		log.Error("a bug in the keysource", append([]any{"op", operation}, bug.Attrs(v)...)...)
	})
	if m.keys, err = p.Keys.decorate(keysource.NewObserved(guarded, m.metrics.call), u.Branch); err != nil {
		return err
	}
	noteVault(p.Keysource, p.Vault, cfg, log)
	return nil
}

// openKeysource opens the keysource at url. created is told of a key store that was made, which p.Init allows.
func openKeysource(ctx context.Context, p mountPlan, url string, secret passphrase.Source, created func(string)) (keysource.Keysource, error) {
	u, err := keysource.ParseURL(url)
	if err != nil {
		return nil, err
	}
	return keysource.Openers{
		keysource.SchemeLocal: func(ctx context.Context, u keysource.URL) (keysource.Keysource, error) {
			l := localStore{dir: u.Path, keyFile: p.MasterKeyFile, secret: secret, sealNew: p.SealNew, created: created}
			if p.Init {
				l.absent = absenceCreates
			}
			s, err := l.open(ctx)
			if err != nil {
				return nil, err // not a nil *local.Store in an interface
			}
			return s, nil
		},
		keysource.SchemeAWSKMS: func(ctx context.Context, u keysource.URL) (keysource.Keysource, error) {
			c, err := awskms.Open(ctx, awskms.FromURL(u))
			if err != nil {
				return nil, err
			}
			return c, nil
		},
	}.Open(ctx, u)
}

// close ends what there is of the chain. Nothing is mounted any more.
func (m *mounted) close() error {
	var err error
	if m.end != nil {
		err = m.end()
	}
	if m.vault != nil {
		err = errors.Join(err, m.vault.Close())
	}
	if m.view != nil {
		err = m.view.Close()
	}
	if m.keys != nil {
		m.keys.Close()
	}
	return err
}
