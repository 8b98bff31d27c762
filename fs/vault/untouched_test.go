package vault_test

import (
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"syscall"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// TestReadingTouchesNothing: a vault that was open for writing, but only read, is as it was: bytes, times and inodes of all that
// is stored. A backup tool then has nothing to copy.
func TestReadingTouchesNothing(t *testing.T) {
	dir, ks := t.TempDir(), testStore(t)
	at := func() backing.Dir {
		d, err := backing.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
	v := newVault(t, at, ks, vault.Options{})
	for i, size := range []int{0, 1, 3968, 3969, 100_000, 2_000_000} {
		n, _, err := v.Create(v.Root(), fmt.Sprint(i), 0o600, who)
		if err != nil {
			t.Fatal(err)
		}
		for range 2 { // the second time through the journal
			if _, err := v.Write(ctx, n, make([]byte, size), 0, 0); err != nil {
				t.Fatal(err)
			}
		}
		v.Release(n)
		v.Forget(n, 1)
	}
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	before := backupView(t, dir)
	v = openVault(t, at, ks, vault.Options{JournalFor: time.Millisecond, KeepEvery: time.Millisecond})
	for i := range 6 {
		n, a, err := v.Lookup(v.Root(), fmt.Sprint(i))
		if err != nil {
			t.Fatal(err)
		}
		if _, err := v.Read(ctx, n, make([]byte, a.Size), 0); err != nil {
			t.Fatal(err)
		}
		v.Forget(n, 1)
	}
	time.Sleep(20 * time.Millisecond)
	if err := v.Close(); err != nil {
		t.Fatal(err)
	}
	after := backupView(t, dir)
	for path, was := range before {
		if after[path] != was {
			t.Errorf("%s: was %.60q, is %.60q", path, was, after[path])
		}
	}
	if len(after) != len(before) {
		t.Errorf("%d files and directories, were %d", len(after), len(before))
	}
}

// backupView is what a backup tool sees of all below dir.
func backupView(t *testing.T, dir string) map[string]string {
	t.Helper()
	all := map[string]string{}
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil {
			return err
		}
		i, err := e.Info()
		if err != nil {
			return err
		}
		st := i.Sys().(*syscall.Stat_t)
		text := fmt.Sprint(st.Ino, st.Mode, st.Nlink, st.Size, st.Mtim, st.Ctim)
		if e.Type().IsRegular() {
			b, err := os.ReadFile(path)
			if err != nil {
				return err
			}
			text += string(b)
		}
		all[path] = text
		return nil
	})
	if err != nil {
		t.Fatal(err)
	}
	return all
}
