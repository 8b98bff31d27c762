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

// BenchmarkSequential writes and reads 1 MiB at a time.
func BenchmarkSequential(b *testing.B) {
	v := newVault(b, diskTop(b), testStore(b), vault.Options{Opens: vault.Untracked})
	defer v.Close()
	ctx, p := context.Background(), bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		b.Fatal(err)
	}
	const most = 64
	for _, op := range []struct {
		name string
		do   func(off int64) error
	}{
		{"write", func(off int64) error { _, err := v.Write(ctx, n, p, off, vault.KeepPrivileges); return err }},
		{"overwrite", func(off int64) error { _, err := v.Write(ctx, n, p, off, vault.KeepPrivileges); return err }},
		{"read", func(off int64) error { _, err := v.Read(ctx, n, p, off); return err }},
	} {
		b.Run(op.name, func(b *testing.B) {
			b.SetBytes(int64(len(p)))
			b.ReportAllocs()
			for i := 0; b.Loop(); i++ {
				if op.name == "write" && i%most == 0 {
					if err := v.Truncate(ctx, n, 0, vault.KeepPrivileges); err != nil {
						b.Fatal(err)
					}
				}
				if err := op.do(int64(i%most) << 20); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

// BenchmarkRandom reads and overwrites 4 KiB at random places of a file of 64 MiB.
func BenchmarkRandom(b *testing.B) {
	v := newVault(b, diskTop(b), testStore(b), vault.Options{Opens: vault.Untracked})
	defer v.Close()
	ctx, p := context.Background(), bytes.Repeat([]byte("0123456789abcdef"), 1<<16)
	n, _, err := v.Create(v.Root(), "file", 0o644, who)
	if err != nil {
		b.Fatal(err)
	}
	const size = 64 << 20
	for off := int64(0); off < size; off += int64(len(p)) {
		if _, err := v.Write(ctx, n, p, off, vault.KeepPrivileges); err != nil {
			b.Fatal(err)
		}
	}
	at := func(i int) int64 { return int64(uint64(i)*0x9e3779b97f4a7c15>>40) % (size / 4096) * 4096 }
	b.Run("read", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := v.Read(ctx, n, p[:4096], at(i)); err != nil {
				b.Fatal(err)
			}
		}
	})
	b.Run("overwrite", func(b *testing.B) {
		b.ReportAllocs()
		for i := 0; b.Loop(); i++ {
			if _, err := v.Write(ctx, n, p[:4096], at(i), vault.KeepPrivileges); err != nil {
				b.Fatal(err)
			}
		}
	})
}
