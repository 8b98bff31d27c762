package main

import (
	"context"
	"encoding/json"
	"errors"
	"fmt"
	iofs "io/fs"
	"log/slog"
	"os"
	"path/filepath"
	"slices"
	"sort"
	"strings"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/survey"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// knownName is the file in a key store's directory that tells which vaults were made or mounted with it.
const knownName = "vaults.json"

// Bounds of the list of known vaults: how many there are, and how old a note may get before it is made anew.
const (
	knownMost = 10000
	knownAge  = 24 * time.Hour
)

// knownVault is one vault in the list.
type knownVault struct {
	Path     string    `json:"path"`
	VolumeID string    `json:"volume_id"`
	Seen     time.Time `json:"seen"`
}

// readKnown reads the list of a key store; none is no error.
func readKnown(store string) ([]knownVault, error) {
	b, err := os.ReadFile(filepath.Join(store, knownName))
	if errors.Is(err, iofs.ErrNotExist) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	var list []knownVault
	if err := json.Unmarshal(b, &list); err != nil {
		return nil, fmt.Errorf("%s: %w", filepath.Join(store, knownName), err)
	}
	return list, nil
}

// noteVault notes that the vault at path belongs to a local key store. It only warns where that fails: the note keeps no
// more than a CMK from being deleted by mistake.
func noteVault(url, path string, cfg *envelope.Config, log *slog.Logger) {
	u, err := keysource.ParseURL(url)
	if err != nil || u.Scheme != keysource.SchemeLocal {
		return
	}
	err = noteKnown(u.Path, path, cfg.Volume.String(), time.Now())
	if err != nil && !errors.Is(err, unix.EROFS) { // from read-only media no CMK can be deleted either
		log.Warn("the key store cannot note which vaults need its CMKs", "err", err)
	}
}

func noteKnown(store, path, volume string, now time.Time) error {
	return changeKnown(store, func(list []knownVault) ([]knownVault, error) {
		kept := list[:0]
		for _, k := range list {
			if k.Path != path {
				kept = append(kept, k)
			} else if k.VolumeID == volume && now.Sub(k.Seen) < knownAge && now.After(k.Seen) {
				return nil, nil
			}
		}
		list = append(kept, knownVault{path, volume, now.UTC().Truncate(time.Second)})
		sort.Slice(list, func(i, j int) bool { return list[i].Seen.After(list[j].Seen) })
		if len(list) > knownMost {
			return nil, fmt.Errorf("%s has %d vaults: take out those that are gone", filepath.Join(store, knownName), len(list)-1)
		}
		return list, nil
	})
}

// knownStore is the directory of the default key store, "" where there is none.
func (a *app) knownStore() string {
	dir, err := a.defaultStore()
	if err != nil {
		return ""
	}
	return dir
}

// checkNamed refuses the keysource at url, which the vault at path names itself, where that is not to be believed: who can write the
// vault could put one of his own there, and would have the key of all that is written from then on. The default key store knows
// its vaults; a vault that it knows and that names another keysource is not the one it was, nor is one with a key store in it.
func checkNamed(store, path, url string) error {
	u, err := keysource.ParseURL(url)
	if err != nil {
		return nil // who opens it says so
	}
	if u.Scheme == keysource.SchemeLocal {
		if u.Path, err = filepath.Abs(u.Path); err == nil && inside(u.Path, path) {
			return hintf(faultf(errForeign, "the vault %s names a key store within itself, %s", path, u.Path),
				"who can write the vault may have put it there; --key-store %s opens it all the same", quote(u.Path))
		}
		if u.Path == store {
			return nil
		}
	}
	known, err := readKnown(store)
	if store == "" || errors.Is(err, iofs.ErrPermission) {
		return nil
	}
	if err != nil {
		return err
	}
	for _, k := range known {
		if k.Path == path {
			return hintf(faultf(errForeign, "the vault %s was of the key store %s, and names %s now", path, store, u),
				"another vault is in its place; --keysource %s opens it all the same", quote(u.String()))
		}
	}
	return nil
}

// forgetKnown takes the vault at path out of the list of a key store that is not at url: another one was made there.
func forgetKnown(store, path, url string) error {
	u, err := keysource.ParseURL(url)
	if err != nil || store == "" || u.Scheme == keysource.SchemeLocal && u.Path == store {
		return err
	}
	if known, err := readKnown(store); err != nil || !slices.ContainsFunc(known, func(k knownVault) bool { return k.Path == path }) {
		return nil
	}
	return changeKnown(store, func(list []knownVault) ([]knownVault, error) {
		return slices.DeleteFunc(list, func(k knownVault) bool { return k.Path == path }), nil
	})
}

// changeKnown replaces the list of a key store by what change makes of it, unless that is nil.
func changeKnown(store string, change func([]knownVault) ([]knownVault, error)) error {
	dir, err := os.Open(store)
	if err != nil {
		return err
	}
	defer dir.Close() // and with it the lock
	if err := unix.Flock(int(dir.Fd()), unix.LOCK_EX); err != nil {
		return err
	}
	list, err := readKnown(store)
	if err == nil {
		list, err = change(list)
	}
	if err != nil || list == nil {
		return err
	}
	f, err := os.CreateTemp(store, knownName+".")
	if err != nil {
		return err
	}
	defer os.Remove(f.Name())
	err = writeJSON(f, list)
	if err == nil {
		err = f.Sync()
	}
	if e := f.Close(); err == nil {
		err = e
	}
	if err == nil {
		err = os.Rename(f.Name(), filepath.Join(store, knownName))
	}
	if err == nil {
		err = dir.Sync()
	}
	return err
}

// checkUnneeded refuses to let a CMK go that a known vault needs, or may need.
func (a *app) checkUnneeded(ctx context.Context, k *keyFlags, s *local.Store, key string) error {
	dir, err := k.storeDir(a)
	if err != nil {
		return err
	}
	known, err := readKnown(dir)
	if err != nil {
		return hintf(faultf(errUnproven, "%w", err), "--force deletes the CMK all the same")
	}
	r := &resolver{open: func() (keysource.Keysource, error) { return retried{s}, nil }}
	md, err := s.DescribeKey(ctx, keysource.KeyRef(key))
	if err != nil {
		return err
	}
	m, err := matchKey(ctx, md.ARN, r)
	if err != nil {
		return err
	}
	var needed, unproven []string
	for _, v := range known {
		uses, err := usesOf(ctx, v, m)
		switch {
		case err != nil:
			unproven = append(unproven, fmt.Sprintf("%s (%v)", v.Path, err))
		case len(uses.Uses) > 0:
			var words []string
			for _, u := range uses.Uses {
				words = append(words, fmt.Sprintf("%s: %d", u.Place, u.Count))
			}
			needed = append(needed, v.Path+" ("+strings.Join(words, ", ")+")")
		case len(uses.Unproven) > 0:
			unproven = append(unproven, fmt.Sprintf("%s (%s)", v.Path, uses.Unproven[0]))
		}
	}
	switch {
	case len(needed) > 0:
		return hintf(faultf(errKeyNeeded, "the CMK is needed by %s", strings.Join(needed, "; ")),
			"kmsfs rewrap --from %s --to KEY VAULT, then try again; --force deletes it all the same", md.KeyID)
	case len(unproven) > 0:
		return hintf(faultf(errUnproven, "it cannot be told whether the CMK is needed by %s", strings.Join(unproven, "; ")),
			"mount them or take them out of %s; --force deletes it all the same", filepath.Join(dir, knownName))
	}
	return nil
}

// usesOf looks through a known vault, which must be the one that was noted.
func usesOf(ctx context.Context, v knownVault, m survey.Match) (*survey.Uses, error) {
	top, err := backing.OpenDir(v.Path)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	uses, err := survey.FindUses(ctx, top, m, sidecar.ScanOptions{})
	if err == nil && uses.Volume.String() != v.VolumeID {
		err = errors.New("another vault is there now")
	}
	return uses, err
}
