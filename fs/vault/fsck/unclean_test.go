package fsck_test

import (
	"bytes"
	"errors"
	"syscall"
	"testing"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/fsck"
	"kmsfs/fs/vault/tree/treetest"
	"kmsfs/fs/vault/view"
)

// TestUnclean: a mount that was killed is told of without a look at any file wherever it has left one as it was being written; one that
// was unmounted, or has written nothing, is not.
func TestUnclean(t *testing.T) {
	base := newBed(t)
	for name, change := range map[string]func(root, a backing.Dir) error{
		"nothing": func(root, a backing.Dir) error { return nil },
		"a new file": func(root, a backing.Dir) error {
			treetest.WriteFile(t, root, "new", bytes.Repeat([]byte("new"), 50_000))
			return nil
		},
		"a small file":  func(root, a backing.Dir) error { treetest.WriteFile(t, root, "new", []byte("new")); return nil },
		"written over":  writes("file3", "over", 5000),
		"appended":      writes("file3", "more", 300_000),
		"small, over":   writes("file1", "over", 5),
		"small, grown":  writes("file1", string(make([]byte, 9000)), 50),
		"far behind":    writes("file3", "far", 10<<20),
		"cut":           truncates("file3", 100_000),
		"cut to little": truncates("file3", 100),
		"cut to none":   truncates("file3", 0),
		"extended":      truncates("file3", 5<<20),
		"punched": func(root, a backing.Dir) error {
			f, err := a.Open("file3", syscall.O_RDWR, 0)
			if err != nil {
				return err
			}
			return errors.Join(f.Allocate(3, 4096, 100_000), f.Close())
		},
		"an attribute": func(root, a backing.Dir) error { return a.SetxattrAt("file0", "user.x", []byte("value"), 0) },
		"names": func(root, a backing.Dir) error {
			return errors.Join(root.Mkdir("dir", 0o700), a.Rename("file1", root, "moved", 0), a.Unlink("file2"))
		},
	} {
		t.Run(name, func(t *testing.T) {
			b := *base
			b.t, b.fs = t, base.fs.WithHook(nil)
			v, err := vault.Open(t.Context(), b.fs.Root(), b.ks, vault.Options{})
			b.must(err)
			root := view.Root(t.Context(), v)
			b.must(change(root, b.dir(root, "a")))
			killed := b.fs.Kill()
			unclean, err := fsck.Unclean(killed.Root())
			b.must(err)
			b.must(v.Close())
			if after, err := fsck.Unclean(b.fs.Root()); after || err != nil {
				t.Errorf("after an unmount: %v, %v", after, err)
			}
			ro, err := vault.Open(t.Context(), killed.Root(), b.ks, vault.Options{Access: vault.ReadOnly})
			b.must(err)
			defer ro.Close()
			r, err := fsck.Find(t.Context(), killed.Root(), ro, fsck.Options{})
			b.must(err)
			loose := false
			for _, f := range r.Findings {
				loose = loose || f.Kind == fsck.Unsettled
			}
			if loose && !unclean || unclean && name == "nothing" {
				t.Errorf("unsettled: %v, told: %v", loose, unclean)
			}
			left, _, err := b.repair(killed)
			b.must(err)
			if why := clean(left); why != "" {
				t.Error(why)
			}
			if unclean, err := fsck.Unclean(killed.Root()); unclean || err != nil {
				t.Errorf("after it was mended: %v, %v", unclean, err)
			}
		})
	}
}

func writes(name, data string, off int64) func(root, a backing.Dir) error {
	return func(_, a backing.Dir) error {
		f, err := a.Open(name, syscall.O_RDWR, 0)
		if err != nil {
			return err
		}
		_, err = f.WriteAt([]byte(data), off)
		return errors.Join(err, f.Close())
	}
}

func truncates(name string, size int64) func(root, a backing.Dir) error {
	return func(_, a backing.Dir) error {
		f, err := a.Open(name, syscall.O_RDWR, 0)
		if err != nil {
			return err
		}
		return errors.Join(f.Truncate(size), f.Close())
	}
}
