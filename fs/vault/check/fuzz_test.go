package check_test

import (
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/keysource/local"
)

// FuzzStored writes over a stored file and cuts it. What does not read is found with keys, and nothing else is; what is found
// without keys is no false alarm.
func FuzzStored(f *testing.F) {
	ks, err := local.Create(ctx, local.Config{Dir: filepath.Join(f.TempDir(), "store")})
	if err != nil {
		f.Fatal(err)
	}
	f.Cleanup(func() { ks.Close() })
	fs := memfs.New(memfs.Config{})
	if err := vault.Create(ctx, fs.Root(), ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/aws/kmsfs"}); err != nil {
		f.Fatal(err)
	}
	v, err := vault.Open(ctx, fs.Root(), ks, vault.Options{})
	if err != nil {
		f.Fatal(err)
	}
	sizes := []int{100, 9000, 600000}
	for i, size := range sizes {
		n, _, err := v.Create(v.Root(), string(rune('a'+i)), 0o644, vault.Caller{})
		if err == nil {
			_, err = v.Write(ctx, n, []byte(strings.Repeat("x", size)), 0, vault.KeepPrivileges)
		}
		if err != nil {
			f.Fatal(err)
		}
	}
	if err := v.Close(); err != nil {
		f.Fatal(err)
	}
	stored, was := make([]string, len(sizes)), make([][]byte, len(sizes))
	v, err = vault.Open(ctx, fs.Root(), ks, vault.Options{Access: vault.ReadOnly})
	if err == nil {
		err = v.ReadDir(v.Root(), func(e vault.DirEntry) bool { stored[e.Name[0]-'a'] = e.Stored; return true })
	}
	if err != nil {
		f.Fatal(err)
	}
	v.Close()
	root := fs.Root()
	for i, name := range stored {
		was[i] = contentOf(f, root, name)
	}
	for _, at := range []uint32{0, 5, 14, 30, 48, 60, 100, 130, 480, 496, 700, 4096, 64 * 4096, 64*4096 + 9, 64*4096 + 600, 65 * 4096} {
		for i := range sizes {
			f.Add(uint8(i), at, []byte{1}, uint32(0))
			f.Add(uint8(i), at, make([]byte, 512), uint32(0))
			f.Add(uint8(i), uint32(0), []byte{}, at+1)
		}
	}
	f.Fuzz(func(t *testing.T, which uint8, at uint32, data []byte, cut uint32) {
		i := int(which) % len(sizes)
		b := append([]byte(nil), was[i]...)
		copy(b[int(at)%len(b):], data)
		if cut > 0 {
			b = b[:int(cut-1)%(len(b)+1)]
		}
		setContent(t, root, stored[i], b)
		defer setContent(t, root, stored[i], was[i])
		v, err := vault.Open(ctx, fs.Root(), ks, vault.Options{Access: vault.ReadOnly})
		if err != nil {
			t.Fatal(err)
		}
		defer v.Close()
		n, _, err := v.LookupStored(v.Root(), stored[i])
		if err != nil {
			t.Fatal(err)
		}
		_, failed := v.Read(ctx, n, make([]byte, 1<<20), 0)
		v.Forget(n, 1)
		with, err := check.Run(ctx, root, check.Options{Vault: v})
		if err != nil {
			t.Fatal(err)
		}
		without, err := check.Run(ctx, root, check.Options{})
		if err != nil {
			t.Fatal(err)
		}
		if bad := serious(with); bad != (failed != nil) {
			t.Errorf("reading says %v, the check %+v", failed, with.Findings)
		}
		if serious(without) && failed == nil {
			t.Errorf("it reads, and the check without keys says %+v", without.Findings)
		}
	})
}

// serious says whether anything but notes was found.
func serious(r *check.Result) bool {
	for _, f := range r.Findings {
		if f.Kind != check.Note {
			return true
		}
	}
	return false
}

func contentOf(t testing.TB, d backing.Dir, name string) []byte {
	t.Helper()
	f, err := d.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	st, err := f.Stat()
	if err != nil {
		t.Fatal(err)
	}
	b := make([]byte, st.Size)
	if _, err := f.ReadAt(b, 0); err != nil {
		t.Fatal(err)
	}
	return b
}

func setContent(t testing.TB, d backing.Dir, name string, b []byte) {
	t.Helper()
	f, err := d.Open(name, syscall.O_RDWR, 0)
	if err == nil {
		err = f.Truncate(0)
	}
	if err == nil {
		_, err = f.WriteAt(b, 0)
	}
	if err != nil {
		t.Fatal(err)
	}
	f.Close()
}
