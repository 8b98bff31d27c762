package vault_test

import (
	"bytes"
	"context"
	"fmt"
	"os"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// diskTop returns what opens a directory of a temporary file system, /dev/shm where there is one.
func diskTop(b *testing.B) func() backing.Dir {
	b.Helper()
	base := "/dev/shm"
	if _, err := os.Stat(base); err != nil {
		base = ""
	}
	dir, err := os.MkdirTemp(base, "kmsfs-bench-")
	if err != nil {
		b.Fatal(err)
	}
	b.Cleanup(func() { os.RemoveAll(dir) })
	return func() backing.Dir {
		d, err := backing.OpenDir(dir)
		if err != nil {
			b.Fatal(err)
		}
		return d
	}
}

// BenchmarkCreate makes, writes and removes a file of 100 bytes.
func BenchmarkCreate(b *testing.B) {
	v := newVault(b, diskTop(b), testStore(b), vault.Options{Opens: vault.Untracked})
	defer v.Close()
	ctx, p := context.Background(), bytes.Repeat([]byte("x"), 100)
	b.ReportAllocs()
	for i := 0; b.Loop(); i++ {
		name := fmt.Sprintf("f%05d", i)
		n, _, err := v.Create(v.Root(), name, 0o644, who)
		if err != nil {
			b.Fatal(err)
		}
		if _, err := v.Write(ctx, n, p, 0, vault.KeepPrivileges); err != nil {
			b.Fatal(err)
		}
		if err := v.Unlink(v.Root(), name); err != nil {
			b.Fatal(err)
		}
		v.Forget(n, 1)
	}
}
