// Package backingtest holds what every implementation of backing.Dir must do: [Run] is the contract, case by case,
// and [Compare] drives two implementations with the same random operations.
//
// The tests want a process with umask 0, and root for those of owners, devices and trusted attributes.
package backingtest

import (
	"bytes"
	"errors"
	"os"
	"slices"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// Run runs the contract, but for the cases named in without, which are what an implementation says that it lacks. newDir
// returns an empty directory that the test may fill; it need not be closed.
func Run(t *testing.T, newDir func(t *testing.T) backing.Dir, without ...string) {
	cases := []struct {
		name string
		run  func(t *testing.T, d backing.Dir)
	}{
		{"refused names", testNames},
		{"open", testOpen},
		{"open refuses other kinds", testOpenKinds},
		{"open flags", testOpenFlags},
		{"read and write", testReadWrite},
		{"vectors", testVectors},
		{"truncate", testTruncate},
		{"sparse", testSparse},
		{"allocate", testAllocate},
		{"copy range", testCopyRange},
		{"unlinked file", testUnlinked},
		{"tmpfile", testTmpfile},
		{"hard links", testLinks},
		{"directories", testDirs},
		{"removed directory", testRemovedDir},
		{"rename", testRename},
		{"rename directories", testRenameDirs},
		{"rename flags", testRenameFlags},
		{"symlinks", testSymlinks},
		{"no symlink is followed", testNoFollow},
		{"mknod", testMknod},
		{"mode", testMode},
		{"owner", testOwner},
		{"times", testTimes},
		{"birth", testBirth},
		{"xattrs", testXattrs},
		{"xattrs by name", testXattrsAt},
		{"xattr kinds", testXattrKinds},
		{"flags", testFlags},
		{"readdir", testReadDir},
		{"readdir concurrent", testReadDirConcurrent},
		{"lock", testLock},
		{"lock and wait", testLockWait},
		{"use", testUse},
		{"sync", testSync},
		{"statfs", testStatfs},
		{"close", testClose},
	}
	for _, c := range cases {
		if slices.Contains(without, c.name) {
			continue
		}
		t.Run(c.name, func(t *testing.T) { c.run(t, newDir(t)) })
	}
}

// ok stops the test on an error.
func ok(t *testing.T, err error) {
	t.Helper()
	if err != nil {
		t.Fatal(err)
	}
}

// fails wants err to be want.
func fails(t *testing.T, what string, err, want error) {
	t.Helper()
	if !errors.Is(err, want) {
		t.Errorf("%s: got error %v, want %v", what, err, want)
	}
}

// equal wants got to be want.
func equal[T comparable](t *testing.T, what string, got, want T) {
	t.Helper()
	if got != want {
		t.Errorf("%s: got %v, want %v", what, got, want)
	}
}

// root skips the test where it is not run by root.
func root(t *testing.T) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root: run go test as root")
	}
}

// supported skips the test where the file system below has not got what.
func supported(t *testing.T, what string, err error) {
	t.Helper()
	if errors.Is(err, unix.EOPNOTSUPP) || errors.Is(err, unix.ENOTTY) {
		t.Skipf("the file system has no %s: run on ext4 or xfs", what)
	}
	ok(t, err)
}

// open opens or makes name read-write, until the end of the test.
func open(t *testing.T, d backing.Dir, name string, flags int) backing.File {
	t.Helper()
	f, err := d.Open(name, flags|unix.O_RDWR, 0o644)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	t.Cleanup(func() { _ = f.Close() })
	return f
}

// put makes name a file with this content.
func put(t *testing.T, d backing.Dir, name, content string) {
	t.Helper()
	f, err := d.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_TRUNC, 0o644)
	ok(t, err)
	_, err = f.WriteAt([]byte(content), 0)
	ok(t, err)
	ok(t, f.Close())
}

// content returns all of f.
func content(t *testing.T, f backing.File) string {
	t.Helper()
	st, err := f.Stat()
	ok(t, err)
	buf := make([]byte, st.Size+1)
	n, err := f.ReadAt(buf, 0)
	ok(t, err)
	return string(buf[:n])
}

// get returns all of the file name.
func get(t *testing.T, d backing.Dir, name string) string {
	t.Helper()
	f, err := d.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		t.Fatalf("open %s: %v", name, err)
	}
	defer f.Close()
	return content(t, f)
}

// subdir makes name a directory and opens it until the end of the test.
func subdir(t *testing.T, d backing.Dir, name string) backing.Dir {
	t.Helper()
	ok(t, d.Mkdir(name, 0o755))
	sub, err := d.OpenDir(name)
	ok(t, err)
	t.Cleanup(func() { _ = sub.Close() })
	return sub
}

func stat(t *testing.T, d backing.Dir, name string) backing.Stat {
	t.Helper()
	st, err := d.StatAt(name)
	if err != nil {
		t.Fatalf("stat %s: %v", name, err)
	}
	return st
}

// names returns the names in d, sorted.
func names(t *testing.T, d backing.Dir) []string {
	t.Helper()
	var nn []string
	ok(t, d.ReadDir(func(e backing.Entry) bool { nn = append(nn, e.Name); return true }))
	slices.Sort(nn)
	return nn
}

// pattern returns n bytes, no two pages of which are the same.
func pattern(n int) []byte {
	b := bytes.Repeat([]byte("0123456789abcde\n"), n/16+1)[:n]
	for i := 0; i < n; i += 512 {
		b[i] = byte(i >> 9)
	}
	return b
}
