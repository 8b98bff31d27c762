package vault_test

import (
	"bytes"
	"fmt"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
	"kmsfs/fs/vault"
)

// storedFile opens the only stored file of a vault in memory.
func storedFile(t *testing.T, top backing.Dir) backing.File {
	t.Helper()
	var f backing.File
	if err := top.ReadDir(func(e backing.Entry) bool {
		if e.Name == ".kmsfs" {
			return true
		}
		var err error
		if f, err = top.Open(e.Name, syscall.O_RDWR, 0); err != nil {
			t.Fatal(err)
		}
		return false
	}); err != nil || f == nil {
		t.Fatal("no stored file", err)
	}
	return f
}

// TestNeverSynced: ext4 may have the size of a file that was never synced, and none of its blocks. It is empty, and can be
// written. A file of which a part is there was damaged.
func TestNeverSynced(t *testing.T) {
	for _, size := range []int{1, 1000, 3968, 5000, 300000} {
		for _, part := range []string{"zeros", "hole", "block"} {
			at, fs := inMemory()
			ks := &memoryKeys{}
			makeVault(t, at, ks, 4096)
			v := openVault(t, at, ks, vault.Options{})
			n, _, err := v.Create(v.Root(), "file", 0o644, who)
			if err != nil {
				t.Fatal(err)
			}
			if _, err := v.Write(ctx, n, bytes.Repeat([]byte{7}, size), 0, vault.KeepPrivileges); err != nil {
				t.Fatal(err)
			}
			v.Forget(n, 1)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			f := storedFile(t, fs.Root())
			st, err := f.Stat()
			if err != nil {
				t.Fatal(err)
			}
			zeros := make([]byte, st.Size)
			switch part {
			case "hole":
				if err := f.Truncate(0); err != nil {
					t.Fatal(err)
				}
				if err := f.Truncate(st.Size); err != nil {
					t.Fatal(err)
				}
			case "block":
				if zeros = zeros[:min(4096, st.Size)]; int64(len(zeros)) == st.Size {
					continue
				}
				fallthrough
			default:
				if _, err := f.WriteAt(zeros, 0); err != nil {
					t.Fatal(err)
				}
			}
			f.Close()
			v = openVault(t, at, ks, vault.Options{})
			if n, _, err = v.Lookup(v.Root(), "file"); err != nil {
				t.Fatal(err)
			}
			b := make([]byte, 100)
			got, err := v.Read(ctx, n, b, 0)
			if part == "block" {
				if err == nil {
					t.Errorf("%d bytes: without its first block %d bytes of a file were read", size, got)
				}
			} else {
				if got != 0 || err != nil {
					t.Errorf("%d bytes, %s: read %d, %v", size, part, got, err)
				}
				if _, err := v.Write(ctx, n, []byte("anew"), 2, vault.KeepPrivileges); err != nil {
					t.Errorf("%d bytes, %s: write: %v", size, part, err)
				}
			}
			v.Forget(n, 1)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			if part == "block" {
				continue
			}
			v = openVault(t, at, ks, vault.Options{})
			if n, _, err = v.Lookup(v.Root(), "file"); err != nil {
				t.Fatal(err)
			}
			got, err = v.Read(ctx, n, b, 0)
			if string(b[:got]) != "\x00\x00anew" || err != nil {
				t.Errorf("%d bytes, %s: then %q, %v", size, part, b[:got], err)
			}
			v.Forget(n, 1)
			v.Close()
		}
	}
}

// TestCutUnsynced cuts a file that has grown and was not synced: whatever a power cut leaves of that, the file can be read,
// and is as long as it was at some time.
func TestCutUnsynced(t *testing.T) {
	looked := 0
	for at := int64(0); ; at++ {
		k := &killer{at: -1, pages: true}
		fs := memfs.New(memfs.Config{Hook: k.hook})
		ks := &memoryKeys{}
		makeVault(t, fs.Root, ks, 4096)
		v := openVault(t, fs.Root, ks, vault.Options{})
		n, _, err := v.Create(v.Root(), "file", 0o644, who)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Write(ctx, n, bytes.Repeat([]byte{7}, 8192), 0, vault.KeepPrivileges); err != nil {
			t.Fatal(err)
		}
		if err := v.Fsync(n, vault.SyncAll); err != nil {
			t.Fatal(err)
		}
		if err := v.Fsync(v.Root(), vault.SyncAll); err != nil {
			t.Fatal(err)
		}
		k.arm(at)
		_, err = v.Write(ctx, n, bytes.Repeat([]byte{8}, 20000), 8192, vault.KeepPrivileges)
		if err == nil {
			err = v.Truncate(ctx, n, 17000, vault.KeepPrivileges)
		}
		done := err == nil
		for seed := range uint64(60) {
			crashed := fs.Crash(memfs.Policy{Sectors: seed%2 == 0, Choose: memfs.Random(seed<<20 | uint64(at))})
			if why := lookAfterCut(t, crashed, ks); why != "" {
				t.Fatalf("moment %d, policy %d: %s", at, seed, why)
			}
			looked++
		}
		v.Close()
		if done {
			break
		}
	}
	if looked < 600 {
		t.Errorf("only %d crashes were looked at", looked)
	}
}

func lookAfterCut(t *testing.T, fs *memfs.FS, ks *memoryKeys) string {
	v := openVault(t, fs.Root, ks, vault.Options{})
	defer v.Close()
	n, _, err := v.Lookup(v.Root(), "file")
	if err != nil {
		return err.Error()
	}
	defer v.Forget(n, 1)
	b := make([]byte, 30000)
	got, err := v.Read(ctx, n, b, 0)
	if err != nil {
		return err.Error()
	}
	if got < 8192 || !bytes.Equal(b[:8192], bytes.Repeat([]byte{7}, 8192)) {
		return fmt.Sprintf("of %d bytes what was synced is not there", got)
	}
	for i, c := range b[8192:got] {
		if c != 8 && c != 0 {
			return fmt.Sprintf("byte %d is %d", 8192+i, c)
		}
	}
	return ""
}
