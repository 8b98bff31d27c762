package rewrap

import (
	"context"
	"fmt"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
)

// Subtree returns the ids of the files at and below path, a plaintext path from the root of the open vault; "" is the root.
// Files without a data key have none. A file that has another name elsewhere belongs to the subtree.
func Subtree(ctx context.Context, v *vault.Vault, path string) (map[envelope.FileID]bool, error) {
	n := v.Root()
	for part := range strings.SplitSeq(path, "/") {
		if part == "" || part == "." {
			continue
		}
		next, _, err := v.Lookup(n, part)
		if n != v.Root() {
			v.Forget(n, 1)
		}
		if err != nil {
			return nil, fmt.Errorf("the path in the vault: %w", err)
		}
		n = next
	}
	ids := map[envelope.FileID]bool{}
	err := collect(ctx, v, n, ids)
	if n != v.Root() {
		v.Forget(n, 1)
	}
	return ids, err
}

// collect notes the files at and below n.
func collect(ctx context.Context, v *vault.Vault, n *vault.Node, ids map[envelope.FileID]bool) error {
	if err := ctx.Err(); err != nil {
		return err
	}
	switch n.Kind() {
	case syscall.S_IFREG:
		r, err := v.KeyInfo(n)
		if err == nil && r != nil {
			ids[r.ID] = true
		}
		return err
	case syscall.S_IFDIR:
	default:
		return nil
	}
	var entries []vault.DirEntry
	if err := v.ReadDir(n, func(e vault.DirEntry) bool {
		entries = append(entries, e)
		return true
	}); err != nil {
		return err
	}
	for _, e := range entries {
		if e.Kind != 0 && e.Kind != syscall.S_IFREG && e.Kind != syscall.S_IFDIR {
			continue
		}
		child, _, err := v.LookupStored(n, e.Stored)
		if err != nil {
			return err
		}
		err = collect(ctx, v, child, ids)
		v.Forget(child, 1)
		if err != nil {
			return err
		}
	}
	return nil
}
