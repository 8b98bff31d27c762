package main

import (
	"context"
	"errors"
	iofs "io/fs"
	"path/filepath"

	"github.com/spf13/pflag"

	"kmsfs/keysource"
	"kmsfs/keysource/local"
	"kmsfs/keysource/passphrase"
)

// storeFlags name a key store and what opens it.
type storeFlags struct {
	secretFlags
	dir string
	url string
}

// addOverrides defines the flags that take the place of what a vault says of its keysource.
func (s *storeFlags) addOverrides(f *pflag.FlagSet) {
	f.StringVar(&s.dir, "key-store", "", "`DIR` of the key store, in place of the one that the vault names")
	f.StringVar(&s.url, "keysource", "", "`URL` of the keysource, in place of the one that the vault names")
	s.secretFlags.add(f)
}

// fromURL returns the key source URL of --key-store or --keysource, "" where neither is given.
func (s *storeFlags) fromURL() (string, error) {
	switch {
	case s.dir != "" && s.url != "":
		return "", hintf(faultf(errUsage, "--key-store and --keysource say the same thing twice"), "leave one of them out")
	case s.dir != "":
		return localURL(s.dir)
	case s.url != "":
		u, err := keysource.ParseURL(s.url)
		if err != nil {
			return "", faultf(errUsage, "--keysource: %w", err)
		}
		if u.Scheme == keysource.SchemeLocal {
			return localURL(u.Path)
		}
		return u.String(), nil
	}
	return "", nil
}

// orDefault is fromURL with the default key store where none is named.
func (s *storeFlags) orDefault(a *app) (string, error) {
	u, err := s.fromURL()
	if u != "" || err != nil {
		return u, err
	}
	dir, err := a.defaultStore()
	if err != nil {
		return "", err
	}
	return localURL(dir)
}

// localURL is the URL of the key store in dir, absolute.
func localURL(dir string) (string, error) {
	abs, err := filepath.Abs(dir)
	if err != nil {
		return "", err
	}
	return keysource.URL{Scheme: keysource.SchemeLocal, Path: abs}.String(), nil
}

// defaultStore is the directory of the key store where none is named.
func (a *app) defaultStore() (string, error) {
	if a.uid == 0 {
		return "/var/lib/kmsfs", nil
	}
	if data := a.env("XDG_DATA_HOME"); filepath.IsAbs(data) {
		return filepath.Join(data, "kmsfs"), nil
	}
	home := a.env("HOME")
	if !filepath.IsAbs(home) {
		return "", hintf(faultf(errUsage, "HOME is not set: no place for the key store"), "--key-store DIR")
	}
	return filepath.Join(home, ".local", "share", "kmsfs"), nil
}

// absence says what to do where there is no key store.
type absence int

// The two answers to a missing key store.
const (
	absenceFails absence = iota
	absenceCreates
)

// localStore says how to open a key store.
type localStore struct {
	dir     string
	absent  absence
	keyFile string
	secret  passphrase.Source
	sealNew bool         // a new store is sealed under a passphrase
	created func(string) // is told of a new store; nil: nobody is
	event   func(local.Event)
}

// open opens the key store, or makes it where it is missing.
func (l localStore) open(ctx context.Context) (*local.Store, error) {
	cfg := local.Config{Dir: l.dir, Master: local.Master{KeyFile: l.keyFile, Passphrase: l.secret}, Event: l.event}
	s, err := local.Open(ctx, cfg)
	if err == nil || !errors.Is(err, iofs.ErrNotExist) || errors.Is(err, local.ErrMasterKey) {
		return s, err
	}
	if l.absent == absenceFails {
		return nil, hintf(faultf(errNoKeyStore, "no key store in %s", l.dir),
			"--key-store DIR names another; kmsfs key create --key-store %s makes one", quote(l.dir))
	}
	if !l.sealNew {
		cfg.Master.Passphrase = nil
	}
	s, err = local.Create(ctx, cfg)
	if errors.Is(err, keysource.ErrAlreadyExists) { // another process was faster
		cfg.Master.Passphrase = l.secret
		return local.Open(ctx, cfg)
	}
	if err == nil && l.created != nil {
		l.created(l.dir)
	}
	return s, err
}
