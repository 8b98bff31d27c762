package vault_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"kmsfs/fs/vault"
)

func TestNames(t *testing.T) {
	v := newVault(t, onDisk(t), testStore(t), vault.Options{})
	long := string(bytes.Repeat([]byte("x"), 255))
	for _, name := range []string{"a", long, "ümläut", long[:161], long[:160]} {
		n, _, err := v.Create(v.Root(), name, 0o600, who)
		if err != nil {
			t.Fatal(err)
		}
		v.Release(n)
		v.Forget(n, 1)
	}
	d, _, err := v.Mkdir(v.Root(), "dir", 0o755, who)
	if err != nil {
		t.Fatal(err)
	}
	if err := v.Rename(v.Root(), long, d, long[:200], 0); err != nil {
		t.Fatal(err)
	}
	if _, _, err := v.Lookup(v.Root(), long); !errors.Is(err, syscall.ENOENT) {
		t.Fatalf("renamed name is still there: %v", err)
	}
	if _, _, err := v.Symlink(d, "link", "target", who); err != nil {
		t.Fatal(err)
	}
	if err := v.Rmdir(v.Root(), "dir"); !errors.Is(err, syscall.ENOTEMPTY) {
		t.Fatalf("rmdir of a full directory: %v", err)
	}
	var got []string
	if err := v.ReadDir(d, func(e vault.DirEntry) bool { got = append(got, e.Name); return true }); err != nil {
		t.Fatal(err)
	}
	if len(got) != 2 {
		t.Fatalf("listed %q", got)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
