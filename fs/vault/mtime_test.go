package vault_test

import (
	"bytes"
	"io/fs"
	"os"
	"path/filepath"
	"strings"
	"testing"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// TestCopyByTime: what is written over is in the stored file under another time than what was there before. A copy of the stored
// file that was taken before it was in its place is taken again by who compares sizes and times, though the time that shows
// stays the same; also where the vault was killed in between.
func TestCopyByTime(t *testing.T) {
	for _, size := range []int{1000, 300_000} {
		for _, killed := range []bool{false, true} {
			dir, ks := t.TempDir(), testStore(t)
			at := onDiskAt(t, dir)
			v := newVault(t, at, ks, vault.Options{Opens: vault.Untracked, JournalFor: time.Hour})
			n, _, err := v.Create(v.Root(), "f", 0o600, who)
			if err != nil {
				t.Fatal(err)
			}
			set := backing.Timespec{Sec: 1_000_000_000, Nsec: 123_456_789}
			write := func(b byte) {
				t.Helper()
				if _, err := v.Write(ctx, n, bytes.Repeat([]byte{b}, size), 0, 0); err != nil {
					t.Fatal(err)
				}
				if _, err := v.SetAttr(ctx, n, vault.SetAttr{Mtime: &set}); err != nil {
					t.Fatal(err)
				}
			}
			shows := func(when string) {
				t.Helper()
				if a, err := v.Attr(n); err != nil || a.Mtim != set {
					t.Errorf("size %d, killed %v: %s: the time that shows is %v, %v", size, killed, when, a.Mtim, err)
				}
			}
			write('a')
			if err := v.Flush(); err != nil {
				t.Fatal(err)
			}
			inPlace := onlyStored(t, dir)
			write('b') // stands in the journal
			shows("in the journal")
			journal := onlyStored(t, dir)
			if journal.content != inPlace.content {
				t.Fatal("the journal is not used: the test shows nothing")
			}
			if killed {
				copied := t.TempDir()
				if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
					t.Fatal(err)
				}
				at = onDiskAt(t, copied)
				if err := os.Chtimes(onlyStored(t, copied).path, time.Time{}, journal.mtime); err != nil {
					t.Fatal(err)
				}
				if err := v.Close(); err != nil {
					t.Fatal(err)
				}
				v, dir = openVault(t, at, ks, vault.Options{}), copied
				if n, _, err = v.Lookup(v.Root(), "f"); err != nil {
					t.Fatal(err)
				}
			} else if err := v.Flush(); err != nil {
				t.Fatal(err)
			}
			after := onlyStored(t, dir)
			if after.content == journal.content || after.mtime.Unix() == journal.mtime.Unix() {
				t.Errorf("size %d, killed %v: another content: %v; times %v and %v", size, killed, after.content != journal.content,
					journal.mtime, after.mtime)
			}
			shows("in place")
			v.Forget(n, 1)
			if err := v.Close(); err != nil {
				t.Fatal(err)
			}
			if end := onlyStored(t, dir); !end.mtime.Equal(set.Time()) {
				t.Errorf("size %d, killed %v: closed: the stored time is %v", size, killed, end.mtime)
			}
		}
	}
}

// onDiskAt is the directory dir.
func onDiskAt(t *testing.T, dir string) place {
	return func() backing.Dir {
		d, err := backing.OpenDir(dir)
		if err != nil {
			t.Fatal(err)
		}
		return d
	}
}

// oneStored is the only stored file of a vault.
type oneStored struct {
	path, content string
	mtime         time.Time
}

func onlyStored(t *testing.T, dir string) (f oneStored) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, e fs.DirEntry, err error) error {
		if err != nil || !e.Type().IsRegular() || strings.Contains(path, "/.kmsfs/") {
			return err
		}
		b, err := os.ReadFile(path)
		i, e2 := e.Info()
		if err == nil && e2 == nil {
			f = oneStored{path, string(b), i.ModTime()}
		}
		return err
	})
	if err != nil || f.path == "" {
		t.Fatalf("stored file: %v", err)
	}
	return f
}
