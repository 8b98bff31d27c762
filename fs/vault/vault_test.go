package vault_test

import (
	"bytes"
	"context"
	"errors"
	"math/rand/v2"
	"path/filepath"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
	"kmsfs/keysource/local"
)

var who = vault.Caller{Umask: 0o022}

func testStore(t testing.TB) keysource.Keysource {
	t.Helper()
	dir := t.TempDir()
	ks, err := local.Create(context.Background(), local.Config{Dir: filepath.Join(dir, "store")})
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { ks.Close() })
	return ks
}

// newVault makes a vault in dir and opens it.
func newVault(t testing.TB, top func() backing.Dir, ks keysource.Keysource, o vault.Options) *vault.Vault {
	t.Helper()
	d := top()
	if err := vault.Create(context.Background(), d, ks, vault.CreateConfig{Keysource: "local:store", Key: "alias/aws/kmsfs"}); err != nil {
		t.Fatal(err)
	}
	d.Close()
	return openVault(t, top, ks, o)
}

func openVault(t testing.TB, top func() backing.Dir, ks keysource.Keysource, o vault.Options) *vault.Vault {
	t.Helper()
	v, err := vault.Open(context.Background(), top(), ks, o)
	if err != nil {
		t.Fatal(err)
	}
	return v
}

func TestReadWriteModel(t *testing.T) {
	for _, where := range []string{"memfs", "disk"} {
		t.Run(where, func(t *testing.T) {
			ks := testStore(t)
			var top func() backing.Dir
			if where == "memfs" {
				fs := memfs.New(memfs.Config{})
				top = func() backing.Dir { return fs.Root() }
			} else {
				dir := t.TempDir()
				top = func() backing.Dir {
					d, err := backing.OpenDir(dir)
					if err != nil {
						t.Fatal(err)
					}
					return d
				}
			}
			v := newVault(t, top, ks, vault.Options{})
			n, _, err := v.Create(v.Root(), "file", 0o644, who)
			if err != nil {
				t.Fatal(err)
			}
			ctx := context.Background()
			var model []byte
			r := rand.New(rand.NewPCG(1, 2))
			sizes := []int64{0, 1, 100, 3967, 3968, 3969, 4095, 4096, 4097, 8192, 63 * 4096, 63*4096 + 1, 63*4096 - 1, 3 * 63 * 4096, 1 << 20, 1<<20 + 17}
			pick := func() int64 { return sizes[r.IntN(len(sizes))] + int64(r.IntN(3)) - 1 }
			for step := range 1500 {
				switch op := r.IntN(10); {
				case op < 4:
					off := max(pick(), 0)
					p := make([]byte, max(1, pick()%300000))
					for i := range p {
						p[i] = byte(r.Uint32())
					}
					if _, err := v.Write(ctx, n, p, off, vault.KeepPrivileges); err != nil {
						t.Fatalf("step %d: write %d at %d: %v", step, len(p), off, err)
					}
					if need := int(off) + len(p); need > len(model) {
						model = append(model, make([]byte, need-len(model))...)
					}
					copy(model[off:], p)
				case op < 6:
					size := max(pick(), 0)
					if err := v.Truncate(ctx, n, size, vault.KeepPrivileges); err != nil {
						t.Fatalf("step %d: truncate %d: %v", step, size, err)
					}
					if int(size) <= len(model) {
						model = model[:size:size]
					} else {
						model = append(model, make([]byte, int(size)-len(model))...)
					}
				case op == 6 && len(model) > 0:
					off, length := max(pick(), 0), max(pick(), 1)
					if err := v.Allocate(ctx, n, 3, off, length, vault.KeepPrivileges); err != nil {
						t.Fatalf("step %d: punch: %v", step, err)
					}
					for i := off; i < min(off+length, int64(len(model))); i++ {
						model[i] = 0
					}
				case op == 7:
					if err := v.Flush(); err != nil {
						t.Fatal(err)
					}
				case op == 8 && r.IntN(4) == 0:
					v.Release(n)
					if err := v.Close(); err != nil {
						t.Fatalf("step %d: close: %v", step, err)
					}
					v = openVault(t, top, ks, vault.Options{})
					n, _, err = v.Lookup(v.Root(), "file")
					if err != nil {
						t.Fatal(err)
					}
					if err := v.Open(n); err != nil {
						t.Fatal(err)
					}
				}
				st, err := v.Attr(n)
				if err != nil || st.Size != int64(len(model)) {
					t.Fatalf("step %d: size %d, want %d (%v)", step, st.Size, len(model), err)
				}
				if step%7 == 0 {
					got := make([]byte, len(model)+10)
					m, err := v.Read(ctx, n, got, 0)
					if err != nil || !bytes.Equal(got[:m], model) {
						i := 0
						for i < min(m, len(model)) && got[i] == model[i] {
							i++
						}
						t.Fatalf("step %d: read %d bytes, want %d; first difference at %d; %v", step, m, len(model), i, err)
					}
				} else if len(model) > 0 {
					off := r.IntN(len(model))
					got := make([]byte, r.IntN(400000)+1)
					m, err := v.Read(ctx, n, got, int64(off))
					want := model[off:min(off+len(got), len(model))]
					if err != nil || !bytes.Equal(got[:m], want) {
						t.Fatalf("step %d: read at %d differs (%v)", step, off, err)
					}
				}
			}
			v.Release(n)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
		})
	}
}

func TestNames(t *testing.T) {
	ks := testStore(t)
	dir := t.TempDir()
	top := func() backing.Dir {
		d, err := backing.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	v := newVault(t, top, ks, vault.Options{})
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
