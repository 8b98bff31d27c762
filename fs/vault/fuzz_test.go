package vault_test

import (
	"slices"
	"strings"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// FuzzFile runs an operation list against the model, then settles, reopens and compares.
func FuzzFile(f *testing.F) {
	f.Add([]byte{0, 0, 4, 2, 5, 9, 4, 0, 15, 3, 0, 0, 8, 0, 0, 0, 0, 0, 6, 0, 3, 1, 15, 0, 9, 0, 0, 0, 0, 0, 7, 0, 0, 0, 16, 1})
	f.Add([]byte{12, 0, 0, 0, 9, 9, 0, 0, 15, 2, 4, 2, 4, 0, 0, 2, 0, 0, 0, 0, 0, 2, 8, 1, 4, 0, 12, 1, 0, 0, 14, 0, 3, 0, 0, 0})
	f.Fuzz(func(t *testing.T, list []byte) {
		if len(list) > 60*opSize {
			return
		}
		chunk := 4096
		if len(list) > 0 && list[len(list)-1]%4 == 1 {
			chunk = 16384
		}
		fs := memfs.New(memfs.Config{})
		ks := &memoryKeys{}
		makeVault(t, fs.Root, ks, chunk)
		e := &engine{chunk: int64(chunk), renew: len(list)/opSize%2 == 1}
		e.remount = func() ([]*vault.Vault, error) {
			for _, v := range e.vaults {
				if err := v.Close(); err != nil {
					return nil, err
				}
			}
			return []*vault.Vault{openVault(t, fs.Root, ks, vault.Options{})}, nil
		}
		e.vaults, _ = e.remount()
		err := e.run(list)
		if err == nil {
			if e.vaults, err = e.remount(); err == nil {
				err = e.compareAll()
			}
		}
		e.vaults[0].Close()
		if err != nil {
			t.Fatalf("%v\nafter: %s", err, strings.Join(e.steps, "\n       "))
		}
	})
}

// FuzzStored reads, writes and cuts a file whose stored bytes are arbitrary, or a changed copy of a good one.
func FuzzStored(f *testing.F) {
	f.Add([]byte("KMF1"), uint32(0), false)
	f.Add(make([]byte, 4096), uint32(4096), true)
	f.Add([]byte{0xff}, uint32(6), true)
	f.Fuzz(func(t *testing.T, b []byte, off uint32, good bool) {
		fs := memfs.New(memfs.Config{})
		ks := &memoryKeys{}
		v := newVault(t, fs.Root, ks, vault.Options{})
		if err := put("f", pattern(1, 9000)).do(v); err != nil {
			t.Fatal(err)
		}
		if err := v.Close(); err != nil {
			t.Fatal(err)
		}
		var stored string
		fs.Root().ReadDir(func(e backing.Entry) bool {
			if !strings.HasPrefix(e.Name, ".") {
				stored = e.Name
			}
			return true
		})
		bf, err := fs.Root().Open(stored, syscall.O_RDWR, 0)
		if err != nil {
			t.Fatal(err)
		}
		if good {
			old := make([]byte, 20000)
			n, _ := bf.ReadAt(old, 0)
			for i := range b {
				old[(int(off)+i)%n] ^= b[i]
			}
			b = slices.Clone(old[:n])
		} else {
			bf.Truncate(0)
		}
		if len(b) > 0 {
			bf.WriteAt(b, 0)
		}
		v = openVault(t, fs.Root, ks, vault.Options{})
		defer v.Close()
		n, err := find(v, "f")
		if err != nil {
			t.Fatal(err)
		}
		defer v.Forget(n, 1)
		p := make([]byte, 10000)
		if k, err := v.Read(ctx, n, p, 0); err == nil && string(p[:k]) != string(pattern(1, 9000)) && k > 0 {
			t.Fatalf("%d bytes of other data are read", k)
		}
		v.Getxattr(ctx, n, "user.a")
		v.KeyInfo(n)
		v.Write(ctx, n, []byte("x"), 5000, vault.KeepPrivileges)
		v.Truncate(ctx, n, 100, vault.KeepPrivileges)
		v.Allocate(ctx, n, 3, 0, 5000, vault.KeepPrivileges)
		v.Seek(ctx, n, 0, vault.SeekData)
		v.Truncate(ctx, n, 0, vault.KeepPrivileges)
		v.Flush()
	})
}
