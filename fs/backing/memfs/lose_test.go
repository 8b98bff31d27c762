package memfs_test

import (
	"errors"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/memfs"
)

// TestLoseWrites holds the rules of Linux for what could not be written back.
func TestLoseWrites(t *testing.T) {
	fs := memfs.New(memfs.Config{})
	root := fs.Root()
	open := func() backing.File {
		f, err := root.Open("f", unix.O_RDWR|unix.O_CREAT, 0o600)
		if err != nil {
			t.Fatal(err)
		}
		return f
	}
	write := func(f backing.File, text string, off int64) {
		if _, err := f.WriteAt([]byte(text), off); err != nil {
			t.Fatal(err)
		}
	}
	survives := func(want string, off int64) {
		t.Helper()
		f, err := fs.Crash(memfs.Policy{}).Root().Open("f", unix.O_RDONLY, 0)
		if err != nil {
			t.Fatal(err)
		}
		b := make([]byte, len(want))
		if _, err := f.ReadAt(b, off); err != nil || string(b) != want {
			t.Errorf("a crash leaves %q, %v, want %q", b, err, want)
		}
	}
	a, b := open(), open()
	write(a, "old", 0)
	if err := errors.Join(a.Sync(), root.Sync()); err != nil {
		t.Fatal(err)
	}
	write(a, "new", 0)
	fs.LoseWrites(unix.EIO)
	write(a, "later", 4096)
	late := open()
	for i, f := range []backing.File{a, b, late} {
		if err := f.DataSync(); !errors.Is(err, unix.EIO) {
			t.Errorf("handle %d is told %v", i, err)
		}
		if err := f.Sync(); err != nil {
			t.Errorf("handle %d is told twice: %v", i, err)
		}
	}
	if err := open().Sync(); err != nil {
		t.Errorf("who opens it after all have heard is told %v", err)
	}
	if err := root.SyncFS(); !errors.Is(err, unix.EIO) {
		t.Errorf("syncfs tells %v", err)
	}
	if err := root.SyncFS(); err != nil {
		t.Errorf("syncfs tells twice: %v", err)
	}
	survives("old", 0)
	survives("later", 4096)
	write(a, "new", 0)
	if err := a.DataSync(); err != nil {
		t.Fatal(err)
	}
	survives("new", 0)
}
