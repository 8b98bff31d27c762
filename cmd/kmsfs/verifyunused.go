package main

import (
	"context"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strconv"
	"strings"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/survey"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

// vaultUses is what verify --key-unused has found in one vault.
type vaultUses struct {
	Vault    string       `json:"vault"`
	VolumeID string       `json:"volume_id"`
	Records  int64        `json:"records"`
	Uses     []survey.Use `json:"uses"`
	Unproven []string     `json:"unproven,omitempty"`
}

// parseShard reads I/N.
func parseShard(s string) (o sidecar.ScanOptions, err error) {
	if s == "" {
		return o, nil
	}
	i, n, ok := strings.Cut(s, "/")
	shard, err := strconv.Atoi(i)
	shards, err2 := strconv.Atoi(n)
	if !ok || err != nil || err2 != nil || shard < 1 || shard > shards || shards > 1<<20 {
		return o, hintf(faultf(errUsage, "--shard: %q is not I/N with I from 1 to N", s), "--shard 1/4, --shard 2/4, ... on as many machines")
	}
	return sidecar.ScanOptions{Shard: shard - 1, Shards: shards}, nil
}

// verifyUnused looks through all vaults in paths.
func (a *app) verifyUnused(ctx context.Context, v *verifyFlags, paths []string) error {
	o, err := parseShard(v.shard)
	if err != nil {
		return err
	}
	vaults, err := vaultsIn(paths)
	if err != nil {
		return err
	}
	var all []vaultUses
	needed, unproven := 0, 0
	for _, path := range vaults {
		uses, err := a.usesIn(ctx, v, path, o)
		if ctx.Err() != nil || errors.Is(err, errUsage) {
			return err
		}
		if err != nil { // the others are looked at all the same
			uses.Unproven = append(uses.Unproven, oneLine(err.Error()))
		}
		all = append(all, uses)
		if len(uses.Uses) > 0 {
			needed++
		}
		if len(uses.Unproven) > 0 {
			unproven++
		}
	}
	if v.out.json {
		err = writeJSON(a.stdout, all)
	} else {
		err = a.writeUses(all)
	}
	switch {
	case err != nil:
		return err
	case needed > 0:
		return hintf(faultf(errKeyNeeded, "%s is needed by %d of %d vaults", v.keyUnused, needed, len(vaults)), "kmsfs rewrap moves a vault to another CMK or material; a backup needs it for as long as it is kept")
	case unproven > 0:
		return hintf(faultf(errUnproven, "in %d of %d vaults it cannot be told", unproven, len(vaults)), "mend or remove what is named above, and try again")
	}
	return nil
}

// writeUses prints what was found for people.
func (a *app) writeUses(all []vaultUses) error {
	for _, v := range all {
		if len(v.Uses) == 0 && len(v.Unproven) == 0 {
			fmt.Fprintf(a.stdout, "%s: nothing of %d records\n", v.Vault, v.Records)
		}
		for _, u := range v.Uses {
			if _, err := fmt.Fprintf(a.stdout, "%s: %s: %d, such as %s\n", v.Vault, u.Place, u.Count, oneLine(u.Examples[0])); err != nil {
				return err
			}
		}
		for i, why := range v.Unproven {
			if i == 20 {
				fmt.Fprintf(a.stderr, "kmsfs: warning: %s: and %d more; --json has them\n", v.Vault, len(v.Unproven)-i)
				break
			}
			fmt.Fprintf(a.stderr, "kmsfs: warning: %s: %s\n", v.Vault, oneLine(why))
		}
	}
	return nil
}

// usesIn looks through one vault.
func (a *app) usesIn(ctx context.Context, v *verifyFlags, path string, o sidecar.ScanOptions) (vaultUses, error) {
	out := vaultUses{Vault: path, Uses: []survey.Use{}}
	top, err := backing.OpenDir(path)
	if err != nil {
		return out, err
	}
	defer top.Close()
	cfg, err := readConfig(path)
	if err != nil {
		return out, err
	}
	r := &resolver{other: v.dir != "" || v.url != "", open: func() (keysource.Keysource, error) {
		return a.surveySource(ctx, &statusFlags{storeFlags: v.storeFlags}, path, newConfigInfo(cfg))
	}}
	defer r.close()
	m, err := matchKey(ctx, v.keyUnused, r)
	if err != nil {
		return out, err
	}
	uses, err := survey.FindUses(ctx, top, m, o)
	if err != nil {
		return out, err
	}
	out.VolumeID, out.Records, out.Unproven = uses.Volume.String(), uses.Records, uses.Unproven
	out.Uses = append(out.Uses, uses.Uses...)
	return out, nil
}

// resolver asks a keysource about CMKs, which it opens when it is first needed.
type resolver struct {
	open  func() (keysource.Keysource, error)
	other bool // it may not be the one that the vault uses: what it does not know may be known there
	ks    keysource.Keysource
	err   error
	known map[string]keysource.KeyMetadata
}

func (r *resolver) describe(ctx context.Context, ref string) (keysource.KeyMetadata, error) {
	if r.ks == nil && r.err == nil {
		r.ks, r.err = r.open()
	}
	if r.err != nil {
		return keysource.KeyMetadata{}, r.err
	}
	if m, ok := r.known[ref]; ok {
		return m, nil
	}
	m, err := r.ks.DescribeKey(ctx, keysource.KeyRef(ref))
	if err == nil {
		if r.known == nil {
			r.known = map[string]keysource.KeyMetadata{}
		}
		r.known[ref] = m
	}
	return m, err
}

func (r *resolver) close() {
	if r.ks != nil {
		r.ks.Close()
	}
}

// matchKey says what is use of key, which is a key material id or a reference to a CMK.
func matchKey(ctx context.Context, key string, r *resolver) (survey.Match, error) {
	if keysource.IsKeyMaterialID(key) {
		return survey.Match{
			Wrapping: func(w envelope.Wrapping) bool {
				own, known := ownWrapping(w.Blob)
				_, material, ok := local.PeekBlob(own)
				return !known || w.KeyMaterialID == key || ok && material == key
			},
			Key: func(ref string) (bool, error) {
				m, err := r.describe(ctx, ref)
				if errors.Is(err, keysource.ErrNotFound) && !r.other {
					return false, nil
				}
				return err == nil && m.CurrentKeyMaterialID == key, err
			},
		}, nil
	}
	ref := keysource.KeyRef(key)
	if _, err := ref.Parse(); err != nil {
		return survey.Match{}, faultf(errUsage, "%w", err)
	}
	if ref.IsAlias() {
		m, err := r.describe(ctx, key)
		if err != nil {
			return survey.Match{}, hintf(faultf(err, "%s: %w", key, err), "name the CMK by its ARN or id, or its keysource with --keysource")
		}
		ref = keysource.KeyRef(m.ARN)
	}
	id := string(ref)
	if i := strings.LastIndex(id, ":key/"); i >= 0 {
		id = id[i+len(":key/"):]
	}
	return survey.Match{
		Wrapping: func(w envelope.Wrapping) bool {
			own, known := ownWrapping(w.Blob)
			keyID, _, ok := local.PeekBlob(own)
			return !known || ref.Matches(w.KeyARN) || ok && keyID == id
		},
		Key: func(other string) (bool, error) {
			if !keysource.KeyRef(other).IsAlias() {
				return other == id || ref.Matches(other), nil
			}
			m, err := r.describe(ctx, other)
			if errors.Is(err, keysource.ErrNotFound) && !r.other { // an alias that is gone names nothing
				return false, nil
			}
			return err == nil && ref.Matches(m.ARN), err
		},
	}, nil
}

// ownWrapping is the part of a wrapped key that the CMK itself has made; false where that cannot be told, so that it may be any
// CMK.
func ownWrapping(blob []byte) (own []byte, ok bool) {
	if inner, ok := keysource.BranchWrapping(blob); ok {
		return inner, true
	}
	return blob, !keysource.IsBranchBlob(blob)
}

// vaultsIn finds the vaults in paths, each of which must have one.
func vaultsIn(paths []string) (vaults []string, err error) {
	for _, path := range paths {
		found, err := vaultsBelow(path)
		if err != nil {
			return nil, err
		}
		if len(found) == 0 {
			return nil, faultf(errNotKMSFS, "there is no vault in %s", path)
		}
		vaults = append(vaults, found...)
	}
	return vaults, nil
}

// vaultsBelow finds the vaults in path, which may be one itself. Symbolic links are not followed.
func vaultsBelow(path string) ([]string, error) {
	path, err := resolve(path)
	if err != nil {
		return nil, err
	}
	if m, err := mountAt(path); err == nil {
		return []string{m.Vault}, nil
	}
	var found []string
	err = filepath.WalkDir(path, func(p string, e os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if e.IsDir() {
			if st, err := os.Lstat(filepath.Join(p, envelope.ControlDir)); err == nil && st.IsDir() { // with or without a config
				found = append(found, p)
				return filepath.SkipDir
			}
		}
		return nil
	})
	return found, err
}
