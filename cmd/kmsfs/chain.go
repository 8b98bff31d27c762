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
	"kmsfs/keysource"
	"kmsfs/keysource/awskms"
	"kmsfs/keysource/passphrase"
)

// mounted is a chain from key store to kernel.
type mounted struct {
	keys         keysource.Keysource
	vault        *vault.Vault
	server       *kfs.Server
	metrics      *mountMetrics
	thaw         func()      // nil where nothing can freeze it
	reencrypting atomic.Bool // one at a time
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
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return nil, explain(err, p)
	}
	cfg, err := vault.ReadConfig(top)
	if err != nil {
		top.Close()
		return nil, explain(err, p)
	}
	if p.Shared {
		if err := checkSharedStorage(p.Vault); err != nil {
			top.Close()
			return nil, err
		}
	}
	if p.Keysource == "" {
		p.Keysource = cfg.Keysource
	}
	p.Init = false // the vault exists: a new key store could not open it
	ks, err := openKeysource(ctx, p, p.Keysource, secret, nil)
	if err != nil {
		top.Close()
		if errors.Is(err, errNoKeyStore) {
			err = hintf(err, "--key-store DIR names the directory where the key store of this vault is now")
		}
		return nil, err
	}
	if u, e := keysource.ParseURL(p.Keysource); e != nil {
		err = e
	} else {
		m.keys, err = p.Keys.decorate(keysource.NewObserved(ks, m.metrics.call), u.Branch)
	}
	if err != nil {
		top.Close()
		return nil, err
	}
	noteVault(p.Keysource, p.Vault, cfg, log)
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
		return nil, explain(err, p)
	}
	m.server, err = kfs.Mount(m.vault, p.Mountpoint, kfs.Options{
		Source: p.Vault, AllowOther: p.AllowOther, ReadOnly: p.ReadOnly, Suid: p.Suid, Dev: p.Dev, NoExec: p.NoExec, Log: log,
		Idle: debug.FreeOSMemory, // else what a burst has used stays for minutes
	})
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
	if m.vault != nil {
		err = m.vault.Close()
	}
	if m.keys != nil {
		m.keys.Close()
	}
	return err
}
