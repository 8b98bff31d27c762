package vault_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"runtime"
	"slices"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// TestHugeSizes gives stored files sizes that no file of this format has, sparse, while nothing says how long they are: no
// request panics, takes memory by what the size claims, or does not end.
func TestHugeSizes(t *testing.T) {
	dir, err := os.MkdirTemp("/dev/shm", "huge") // tmpfs has files of 2^63-1 bytes
	if err != nil {
		t.Skip("no /dev/shm:", err)
	}
	t.Cleanup(func() { os.RemoveAll(dir) })
	for _, size := range []int64{1<<63 - 1, 1 << 62, 1<<60 + 1<<57, 1 << 60, 1 << 50} {
		at := filepath.Join(dir, "v")
		if err := os.Mkdir(at, 0o700); err != nil {
			t.Fatal(err)
		}
		root := func() backing.Dir {
			d, err := backing.OpenDir(at)
			if err != nil {
				t.Fatal(err)
			}
			return d
		}
		ks := &memoryKeys{}
		v := newVault(t, root, ks, vault.Options{})
		for _, s := range []step{put("large", pattern(1, 40000)), put("small", pattern(2, 400))} {
			if err := s.do(v); err != nil {
				t.Fatal(err)
			}
		}
		for _, name := range []string{"large", "small"} {
			s, err := v.StoredName(v.Root(), name)
			if err == nil {
				err = os.Truncate(filepath.Join(at, s.Entry), size)
			}
			if err != nil {
				t.Fatal(err)
			}
		}
		if err := os.Remove(filepath.Join(at, ".kmsfs/lock")); err != nil { // v is killed
			t.Fatal(err)
		}
		w := openVault(t, root, ks, vault.Options{})
		for _, name := range []string{"large", "small"} {
			n, err := find(w, name)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := w.Attr(n); err != nil {
				t.Error(err)
			}
			p := make([]byte, 1<<20)
			_, err = w.Read(ctx, n, p, 0)
			switch tooLong := name == "large" && size > 1<<60+1<<55; {
			case tooLong != errors.Is(err, vault.ErrCorrupt), !tooLong && err != nil:
				t.Errorf("a stored file of %d bytes: %v", size, err)
			case err == nil && string(p[:400]) != string(pattern(2, 400)) && name == "small", err == nil && string(p[:40000]) != string(pattern(1, 40000)) && name == "large":
				t.Errorf("a stored file of %d bytes reads as something else", size)
			}
			const far = 1<<60 - 1<<20
			for _, f := range []func() error{
				func() error { _, err := w.Read(ctx, n, p, far); return err },
				func() error { _, err := w.Read(ctx, n, p, 1<<63-1<<20); return err },
				func() error { _, err := w.Read(ctx, n, p, size-size/64); return err },
				func() error { _, err := w.Seek(ctx, n, 50000, vault.SeekData); return err },
				func() error { _, err := w.Seek(ctx, n, 0, vault.SeekHole); return err },
				func() error { _, err := w.Unsettled(ctx, n); return err },
				func() error { _, err := w.Write(ctx, n, p[:5000], 100, vault.KeepPrivileges); return err },
				func() error { _, err := w.Write(ctx, n, p[:5000], far, vault.KeepPrivileges); return err },
				func() error { return w.Allocate(ctx, n, 3, 0, far, vault.KeepPrivileges) },              // PUNCH_HOLE
				func() error { return w.Allocate(ctx, n, 0x11, 1<<30, far-1<<30, vault.KeepPrivileges) }, // ZERO_RANGE
				func() error { return w.Flush() },
				func() error { return w.Truncate(ctx, n, 100000, vault.KeepPrivileges) },
				func() error { return w.Truncate(ctx, n, 0, vault.KeepPrivileges) },
			} {
				_ = f()
			}
			w.Forget(n, 1)
		}
		if err := errors.Join(w.Close(), v.Close()); err != nil && !errors.Is(err, os.ErrNotExist) {
			t.Log(err)
		}
		if err := os.RemoveAll(at); err != nil {
			t.Fatal(err)
		}
	}
}

// TestPunchSparse punches a hole of 512 GiB in a file of which four chunks are there: what that costs follows from the four, what
// lies around stays, and all space but that of index blocks goes.
func TestPunchSparse(t *testing.T) {
	at := onDisk(t)
	v := newVault(t, at, &memoryKeys{}, vault.Options{})
	const group = 63 * 4096
	offs := []int64{4096, 5 * group, 70*group + 4096, 1 << 38}
	steps := []step{put("f", pattern(1, 4096))}
	for _, off := range append(offs, 1<<40) {
		steps = append(steps, write("f", off, 1, 4096))
	}
	for _, s := range append(steps, flush()) {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	n, err := find(v, "f")
	if err != nil {
		t.Fatal(err)
	}
	st, err := v.Attr(n)
	if err != nil {
		t.Fatal(err)
	}
	had := st.Blocks
	if err := errors.Join(allocate("f", 3, 4096, 1<<39).do(v), v.Flush()); err != nil {
		t.Fatal(err)
	}
	p := make([]byte, 4096)
	for _, off := range append(offs, 0, 1<<40) {
		if _, err := v.Read(ctx, n, p, off); err != nil {
			t.Fatal(err)
		}
		want := pattern(1, 4096)
		if slices.Contains(offs, off) {
			clear(want)
		}
		if !bytes.Equal(p, want) {
			t.Errorf("what is at %d is not what is to be there", off)
		}
	}
	if st, err = v.Attr(n); err != nil {
		t.Fatal(err)
	}
	if had-st.Blocks < int64(len(offs))*8 {
		t.Errorf("%d blocks of 512 bytes before, %d after", had, st.Blocks)
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}

// TestManyAttributes plants attributes of all the space that they may take: a listing holds one of them at a time.
func TestManyAttributes(t *testing.T) {
	at, fs := inMemory()
	v := newVault(t, at, &memoryKeys{}, vault.Options{})
	for _, s := range []step{mkdir("d"), setxattr("d", "value")} {
		if err := s.do(v); err != nil {
			t.Fatal(err)
		}
	}
	n, err := find(v, "d")
	if err != nil {
		t.Fatal(err)
	}
	s, err := v.StoredName(v.Root(), "d")
	if err != nil {
		t.Fatal(err)
	}
	const many, most = 500, 64 << 10
	for i := range many {
		if err := fs.Root().SetxattrAt(s.Entry, fmt.Sprintf("user.k.%d", i), make([]byte, most), 0); err != nil {
			t.Fatal(err)
		}
	}
	var before, after runtime.MemStats
	runtime.ReadMemStats(&before)
	if _, err := v.Listxattr(ctx, n); !damaged(err) {
		t.Errorf("%v, want EIO", err)
	}
	runtime.ReadMemStats(&after)
	if took := after.TotalAlloc - before.TotalAlloc; took > many*most/10 {
		t.Errorf("%d bytes for attributes of which the first is forged", took)
	}
	v.Forget(n, 1)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
}
