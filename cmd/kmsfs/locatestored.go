package main

import (
	"context"
	"errors"
	"path"
	"path/filepath"
	"sort"
	"strings"
	"sync"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/survey"
)

// plained is a stored path in plaintext.
type plained struct {
	Stored string `json:"stored_path"`
	Path   string `json:"path"` // from the root of the vault; "." for the root, and for what belongs to all of the vault
}

// locateStored prints stored paths in plaintext.
func (a *app) locateStored(ctx context.Context, l *locateFlags, o *openedVault, paths []string) error {
	all := []plained{}
	for _, p := range paths {
		stored, err := storedPath(o.plan.Vault, p)
		if err != nil {
			return err
		}
		found, err := o.plainOf(ctx, stored)
		if err != nil {
			return err
		}
		all = append(all, found...)
	}
	if l.out.json {
		return writeJSON(a.stdout, all)
	}
	for _, p := range all {
		if err := a.line(p.Path, l.null); err != nil {
			return err
		}
	}
	return nil
}

// storedPath is an absolute path in the vault's directory, or one from there, as one from there; "" for the directory.
func storedPath(vaultDir, p string) (string, error) {
	if p = filepath.Clean(p); filepath.IsAbs(p) {
		up, err := resolve(filepath.Dir(p))
		if err != nil {
			return "", err
		}
		rel, err := filepath.Rel(vaultDir, filepath.Join(up, filepath.Base(p)))
		if err != nil || rel == ".." || strings.HasPrefix(rel, "../") {
			return "", hintf(faultf(errUsage, "%s is not in the vault %s", p, vaultDir), "name a path in the directory of the vault")
		}
		p = rel
	}
	return path.Clean("/" + p)[1:], nil
}

// plainOf is what a stored path is in plaintext: of a key table, its files.
func (o *openedVault) plainOf(ctx context.Context, stored string) ([]plained, error) {
	if table, ok := strings.CutPrefix(stored, envelope.ControlDir+"/keys/"); ok {
		if id, ok := envelope.ParseTableName(table); ok {
			return o.filesOf(ctx, id)
		}
	}
	if stored == envelope.ControlDir || strings.HasPrefix(stored, envelope.ControlDir+"/") {
		return []plained{{stored, "."}}, nil
	}
	p, err := o.plainPath(stored)
	if err != nil {
		return nil, err
	}
	return []plained{{stored, p}}, nil
}

// plainPath is a stored path in plaintext. Its last name may be a companion or the id file of a directory.
func (o *openedVault) plainPath(stored string) (string, error) {
	n, plain := o.Root(), ""
	parts := strings.Split(stored, "/")
	for i, part := range parts {
		if part == "" {
			continue
		}
		last := i == len(parts)-1
		if last && (part == envelope.DirFileName || part == envelope.DirFileName+".new") {
			break
		}
		if tag, _, _, ok := envelope.ParseCompanion(part); ok && last {
			part = tag
		}
		name, _, err := o.PlainName(n, part)
		var next *vault.Node
		if err == nil && !last {
			next, _, err = o.LookupStored(n, part)
		}
		if n != o.Root() {
			o.Forget(n, 1)
		}
		if err != nil {
			at := strings.Join(parts[:i+1], "/")
			if errors.Is(err, vault.ErrCorrupt) {
				return "", hintf(faultf(err, "%s: this stored name does not open", at),
					"it is of another vault or directory, damaged, or a long name without its companions (%s*)", envelope.CompanionPrefix)
			}
			return "", faultf(err, "%s: %w", at, err)
		}
		plain = path.Join(plain, name)
		if last {
			return plain, nil
		}
		n = next
	}
	if n != o.Root() {
		o.Forget(n, 1)
	}
	if plain == "" {
		plain = "."
	}
	return plain, nil
}

// filesOf are the files whose keys a key table has.
func (o *openedVault) filesOf(ctx context.Context, table uint64) ([]plained, error) {
	top, err := backing.OpenDir(o.plan.Vault)
	if err != nil {
		return nil, err
	}
	defer top.Close()
	var mu sync.Mutex
	var stored []string
	unread, problems, err := survey.Files(ctx, top, func(s survey.Stored) {
		if s.Head.Loc.Table == table {
			mu.Lock()
			stored = append(stored, s.Path)
			mu.Unlock()
		}
	})
	if err != nil {
		return nil, err
	}
	if unread > 0 {
		return nil, faultf(vault.ErrCorrupt, "%d stored files and directories could not be looked at, such as %s: %s", unread, problems[0].Path, problems[0].What)
	}
	sort.Strings(stored)
	all := []plained{}
	for _, s := range stored {
		p, err := o.plainPath(s)
		if err != nil {
			return nil, err
		}
		all = append(all, plained{s, p})
	}
	return all, nil
}
