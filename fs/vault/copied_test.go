package vault_test

import (
	"os"
	"path/filepath"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// In a copy that kept no hard links, deleting one of the two files that it made of one leaves the other readable; in the vault itself
// the key of a deleted file goes.
func TestCopyWithoutLinks(t *testing.T) {
	dir := t.TempDir()
	copied := filepath.Join(t.TempDir(), "copy")
	at := func(dir string) place {
		return func() backing.Dir {
			d, err := backing.OpenDir(dir)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
	}
	ks := testStore(t)
	makeVault(t, at(dir), ks, 4096)
	v := openVault(t, at(dir), ks, vault.Options{})
	n, _, err := v.Create(v.Root(), "a", 0o644, who)
	if err == nil {
		_, err = v.Write(ctx, n, []byte("content"), 0, vault.KeepPrivileges)
	}
	if err == nil {
		_, err = v.Link(n, v.Root(), "b")
	}
	if err != nil {
		t.Fatal(err)
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
		t.Fatal(err)
	}
	read := func(v *vault.Vault, name string) error {
		n, _, err := v.Lookup(v.Root(), name)
		if err != nil {
			return err
		}
		defer v.Forget(n, 1)
		b := make([]byte, 100)
		k, err := v.Read(ctx, n, b, 0)
		if err == nil && string(b[:k]) != "content" {
			t.Errorf("%s: got %q", name, b[:k])
		}
		return err
	}
	for round, claim := range []bool{false, true} {
		v = openVault(t, at(copied), ks, vault.Options{})
		if claim { // wrongly: two files have one key
			if err := v.Claim(); err != nil {
				t.Fatal(err)
			}
		}
		if round == 0 {
			if err := v.Unlink(v.Root(), "a"); err != nil {
				t.Fatal(err)
			}
		} else if err := v.Unlink(v.Root(), "b"); err != nil {
			t.Fatal(err)
		}
		if err := v.Flush(); err != nil {
			t.Fatal(err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		if round == 0 {
			v = openVault(t, at(copied), ks, vault.Options{})
			if err := read(v, "b"); err != nil {
				t.Errorf("the other file: %v", err)
			}
			v.Close()
		}
	}
	v = openVault(t, at(dir), ks, vault.Options{}) // the vault itself is no copy
	if err := read(v, "a"); err != nil {
		t.Error(err)
	}
	before := recordsOnDisk(t, dir)
	for _, name := range []string{"a", "b"} {
		if err := v.Unlink(v.Root(), name); err != nil {
			t.Fatal(err)
		}
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	if after := recordsOnDisk(t, dir); before != 1 || after != 0 {
		t.Errorf("%d records before the file was deleted, and %d after", before, after)
	}
	if n := recordsOnDisk(t, copied); n != 0 {
		t.Errorf("%d records in the copy that was claimed", n)
	}
}

// recordsOnDisk counts those of closed vaults in dir, which have no spare ones.
func recordsOnDisk(t *testing.T, dir string) (n int) {
	t.Helper()
	tables, err := filepath.Glob(filepath.Join(dir, ".kmsfs/keys/*"))
	if err != nil {
		t.Fatal(err)
	}
	for _, table := range tables {
		b, err := os.ReadFile(table)
		if err != nil {
			t.Fatal(err)
		}
		for off := 512; off+512 <= len(b); off += 512 {
			if string(b[off:off+4]) == "KMR1" {
				n++
			}
		}
	}
	return n
}
