package main

import (
	"context"
	"errors"
	"path/filepath"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// openedVault is a vault that a verb works on without a mount.
type openedVault struct {
	*vault.Vault
	keys keysource.Keysource
	plan mountPlan // Vault is its directory, Keysource the URL
}

// vaultPlan finds the vault at path, which may be a mountpoint of it, and its keysource.
func (s *storeFlags) vaultPlan(path string) (p mountPlan, err error) {
	if p.Vault, err = resolve(path); err != nil {
		return p, err
	}
	if !holdsVault(p.Vault) {
		if m, err := mountAt(p.Vault); err == nil {
			p.Vault = m.Vault
		}
	}
	if p.Keysource, err = s.fromURL(); err != nil {
		return p, err
	}
	cfg, err := readConfig(p.Vault)
	if err != nil {
		return p, explain(err, p)
	}
	if p.Keysource == "" {
		p.Keysource = cfg.Keysource
	}
	if s.masterKeyFile != "" {
		p.MasterKeyFile, err = filepath.Abs(s.masterKeyFile)
	}
	return p, err
}

// openKeys opens the keysource of a plan, with retry, cache and branch keys over it; it asks for a passphrase where that is
// needed.
func (a *app) openKeys(ctx context.Context, s *storeFlags, p mountPlan) (keysource.Keysource, error) {
	return a.openKeysFor(ctx, s, p, manyUses)
}

// uses says how often one key is asked for.
type uses uint8

const (
	manyUses uses = iota
	oneUse        // a key store of this machine then needs no cache
)

// openKeysFor is openKeys.
func (a *app) openKeysFor(ctx context.Context, s *storeFlags, p mountPlan, often uses) (keysource.Keysource, error) {
	if named, err := s.fromURL(); err != nil {
		return nil, err
	} else if named == "" { // it is what the vault says
		if err := checkNamed(a.knownStore(), p.Vault, p.Keysource); err != nil {
			return nil, err
		}
	}
	secret, _, err := s.source(a)
	if err != nil {
		return nil, err
	}
	secret, forget := remembered(secret)
	defer forget()
	u, err := keysource.ParseURL(p.Keysource)
	if err != nil {
		return nil, explain(err, p)
	}
	ks, err := openKeysource(ctx, p, p.Keysource, secret, nil)
	if err != nil {
		return nil, explain(err, p)
	}
	if often == oneUse && u.Scheme == keysource.SchemeLocal {
		return ks, nil
	}
	keys, err := p.Keys.decorate(ks, u.Branch)
	if err != nil {
		ks.Close()
		return nil, err
	}
	return keys, nil
}

// openVault opens the vault at path, or that is mounted there. For writing nobody else may have it open; one that is open for
// reading takes no lock and writes nothing. The vault and its keysource are closed by close.
func (a *app) openVault(ctx context.Context, s *storeFlags, path string, access vault.Access) (*openedVault, error) {
	p, err := s.vaultPlan(path)
	if err != nil {
		return nil, err
	}
	return a.openPlan(ctx, s, p, access)
}

// openPlan is openVault of the vault that vaultPlan has found.
func (a *app) openPlan(ctx context.Context, s *storeFlags, p mountPlan, access vault.Access) (*openedVault, error) {
	keys, err := a.openKeys(ctx, s, p)
	if err != nil {
		return nil, err
	}
	o, err := openWith(ctx, p, keys, access)
	if err != nil {
		keys.Close()
	}
	return o, err
}

// openWith opens the vault of a plan with keys, which are closed with it, but not where it fails.
func openWith(ctx context.Context, p mountPlan, keys keysource.Keysource, access vault.Access) (*openedVault, error) {
	top, err := backing.OpenDir(p.Vault)
	if err != nil {
		return nil, explain(err, p)
	}
	v, err := vault.Open(ctx, top, keys, vault.Options{Access: access, Deadline: p.Keys.timeout() + deadlineMargin,
		OpenFiles: openFiles(), OpenDirs: openFiles(), KeysAhead: keysAhead})
	if err != nil {
		return nil, explain(err, p)
	}
	return &openedVault{v, keys, p}, nil
}

// close ends it; what was written is durable then, unless there is an error.
func (o *openedVault) close() error {
	err := o.Vault.Close()
	o.keys.Close()
	return err
}

// closeInto closes o, and is for a defer: err is that of closing where there was none before.
func (o *openedVault) closeInto(err *error) {
	if e := o.close(); e != nil {
		*err = errors.Join(*err, e)
	}
}
