package backingtest

import (
	"errors"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

func testLinks(t *testing.T, d backing.Dir) {
	sub := subdir(t, d, "d")
	put(t, d, "a", "one")
	ok(t, d.Link("a", sub, "b"))
	equal(t, "nlink", stat(t, d, "a").Nlink, 2)
	equal(t, "ino", stat(t, d, "a").Ino, stat(t, sub, "b").Ino)
	put(t, sub, "b", "two")
	equal(t, "content", get(t, d, "a"), "two")
	fails(t, "link over a name", d.Link("a", sub, "b"), unix.EEXIST)
	fails(t, "link of nothing", d.Link("x", sub, "c"), unix.ENOENT)
	fails(t, "link of a directory", d.Link("d", d, "e"), unix.EPERM)
	ok(t, d.Rename("a", sub, "b", 0)) // of the same file: nothing happens
	equal(t, "nlink after renaming onto itself", stat(t, d, "a").Nlink, 2)
	ok(t, d.Unlink("a"))
	equal(t, "nlink after unlink", stat(t, sub, "b").Nlink, 1)
	f := open(t, sub, "b", 0)
	ok(t, d.LinkFile(f, "c"))
	equal(t, "content", get(t, d, "c"), "two")
	ok(t, d.Symlink("c", "s"))
	ok(t, d.Link("s", d, "t"))
	equal(t, "a link of a symlink", stat(t, d, "t").Mode&unix.S_IFMT, unix.S_IFLNK)
}

func testDirs(t *testing.T, d backing.Dir) {
	sub := subdir(t, d, "d")
	equal(t, "mode", stat(t, d, "d").Mode, unix.S_IFDIR|0o755)
	dirLinks(t, d, "d", 2)
	put(t, sub, "f", "")
	ok(t, sub.Mkdir("e", 0o700))
	dirLinks(t, d, "d", 3)
	fails(t, "mkdir over a name", sub.Mkdir("f", 0o700), unix.EEXIST)
	fails(t, "rmdir with content", d.Rmdir("d"), unix.ENOTEMPTY)
	fails(t, "rmdir of a file", sub.Rmdir("f"), unix.ENOTDIR)
	fails(t, "rmdir of nothing", sub.Rmdir("x"), unix.ENOENT)
	fails(t, "unlink of a directory", d.Unlink("d"), unix.EISDIR)
	fails(t, "unlink of nothing", d.Unlink("x"), unix.ENOENT)
	ok(t, sub.Rmdir("e"))
	dirLinks(t, d, "d", 2)
	st, err := sub.Stat()
	ok(t, err)
	equal(t, "stat of the handle", st.Ino, stat(t, d, "d").Ino)
	ok(t, d.Rename("d", d, "moved", 0))
	equal(t, "the handle follows", strings.Join(names(t, sub), ","), "f")
}

// dirLinks wants a directory to have n links, or 1 where the file system does not count them (btrfs).
func dirLinks(t *testing.T, d backing.Dir, name string, n uint32) {
	t.Helper()
	if got := stat(t, d, name).Nlink; got != n && got != 1 {
		t.Errorf("nlink of %s: got %d, want %d", name, got, n)
	}
}

func testRemovedDir(t *testing.T, d backing.Dir) {
	sub := subdir(t, d, "d")
	ok(t, d.Rmdir("d"))
	put(t, d, "a", "")
	_, err := sub.Open("x", unix.O_RDWR|unix.O_CREAT, 0o600)
	fails(t, "create", err, unix.ENOENT)
	_, err = sub.StatAt("x")
	fails(t, "stat", err, unix.ENOENT)
	fails(t, "mkdir", sub.Mkdir("x", 0o700), unix.ENOENT)
	fails(t, "symlink", sub.Symlink("t", "x"), unix.ENOENT)
	fails(t, "rename into it", d.Rename("a", sub, "x", 0), unix.ENOENT)
	fails(t, "link into it", d.Link("a", sub, "x"), unix.ENOENT)
	fails(t, "readdir", sub.ReadDir(func(backing.Entry) bool { return true }), unix.ENOENT)
	st, err := sub.Stat()
	ok(t, err)
	equal(t, "nlink", st.Nlink, 0)
}

func testRename(t *testing.T, d backing.Dir) {
	sub := subdir(t, d, "d")
	put(t, d, "a", "one")
	ino := stat(t, d, "a").Ino
	ok(t, d.Rename("a", sub, "b", 0))
	equal(t, "ino", stat(t, sub, "b").Ino, ino)
	_, err := d.StatAt("a")
	fails(t, "the old name", err, unix.ENOENT)
	put(t, d, "a", "two")
	ok(t, sub.Rename("b", d, "a", 0))
	equal(t, "over another", get(t, d, "a"), "one")
	fails(t, "of nothing", d.Rename("x", d, "y", 0), unix.ENOENT)
	ok(t, d.Rename("a", d, "a", 0))
	fails(t, "file over directory", d.Rename("a", d, "d", 0), unix.EISDIR)
	fails(t, "directory over file", d.Rename("d", d, "a", 0), unix.ENOTDIR)
	fails(t, "other flags", d.Rename("a", d, "b", unix.RENAME_WHITEOUT), unix.EINVAL)
	fails(t, "both flags", d.Rename("a", d, "b", unix.RENAME_NOREPLACE|unix.RENAME_EXCHANGE), unix.EINVAL)
}

func testRenameDirs(t *testing.T, d backing.Dir) {
	a := subdir(t, d, "a")
	b := subdir(t, d, "b")
	c := subdir(t, a, "c")
	put(t, c, "f", "x")
	fails(t, "into itself", d.Rename("a", a, "x", 0), unix.EINVAL)
	fails(t, "below itself", d.Rename("a", c, "x", 0), unix.EINVAL)
	fails(t, "over the parent", a.Rename("c", d, "a", 0), unix.ENOTEMPTY)
	if err := d.Rename("b", a, "c", 0); !errors.Is(err, unix.EEXIST) { // what rename(2) allows too, and xfs says
		fails(t, "over a full one", err, unix.ENOTEMPTY)
	}
	dirLinks(t, d, "a", 3)
	ok(t, a.Rename("c", d, "b", 0)) // over the empty one
	dirLinks(t, d, "a", 2)
	st, err := b.Stat()
	ok(t, err)
	equal(t, "nlink of the one renamed over", st.Nlink, 0)
	equal(t, "content", get(t, c, "f"), "x")
	ok(t, d.Rename("b", a, "c", 0))
	dirLinks(t, d, "a", 3)
}

func testRenameFlags(t *testing.T, d backing.Dir) {
	sub := subdir(t, d, "d")
	put(t, d, "a", "one")
	put(t, sub, "b", "two")
	fails(t, "noreplace", d.Rename("a", sub, "b", unix.RENAME_NOREPLACE), unix.EEXIST)
	fails(t, "noreplace of itself", d.Rename("a", d, "a", unix.RENAME_NOREPLACE), unix.EEXIST)
	ok(t, d.Rename("a", d, "c", unix.RENAME_NOREPLACE))
	fails(t, "exchange with nothing", d.Rename("c", d, "x", unix.RENAME_EXCHANGE), unix.ENOENT)
	ok(t, d.Rename("c", sub, "b", unix.RENAME_EXCHANGE))
	equal(t, "exchanged", get(t, d, "c")+get(t, sub, "b"), "twoone")
	fails(t, "exchange with the parent", sub.Rename("b", d, "d", unix.RENAME_EXCHANGE), unix.EINVAL)
	ok(t, d.Rename("c", d, "d", unix.RENAME_EXCHANGE)) // a file and a full directory
	equal(t, "kinds", stat(t, d, "c").Mode&unix.S_IFMT, unix.S_IFDIR)
	equal(t, "content", get(t, sub, "b"), "one")
}

func testSymlinks(t *testing.T, d backing.Dir) {
	target := strings.Repeat("t/", 511) // xfs takes no more than 1023 bytes, ext4 one block with the NUL
	ok(t, d.Symlink(target, "a"))
	got, err := d.Readlink("a")
	ok(t, err)
	equal(t, "target", got, target)
	equal(t, "size", stat(t, d, "a").Size, int64(len(target)))
	equal(t, "mode", stat(t, d, "a").Mode, unix.S_IFLNK|0o777)
	fails(t, "over a name", d.Symlink("x", "a"), unix.EEXIST)
	fails(t, "empty", d.Symlink("", "b"), unix.ENOENT)
	fails(t, "NUL", d.Symlink("a\x00", "b"), unix.EINVAL)
	fails(t, "too long", d.Symlink(strings.Repeat("t", 4096), "b"), unix.ENAMETOOLONG)
	put(t, d, "f", "")
	_, err = d.Readlink("f")
	fails(t, "readlink of a file", err, unix.EINVAL)
	_, err = d.Readlink("x")
	fails(t, "readlink of nothing", err, unix.ENOENT)
	ok(t, d.Unlink("a"))
}

func testNoFollow(t *testing.T, d backing.Dir) {
	put(t, d, "file", "x")
	ok(t, d.ChmodAt("file", 0o600))
	ok(t, d.Symlink("file", "link"))
	before := stat(t, d, "file")
	fails(t, "chmod", d.ChmodAt("link", 0o777), unix.EOPNOTSUPP)
	fails(t, "setxattr", d.SetxattrAt("link", "user.a", []byte("v"), 0), unix.EPERM)
	_, err := d.GetxattrAt("link", "user.a", nil)
	fails(t, "getxattr", err, unix.ENODATA)
	fails(t, "lock", lockErr(d.Lock("link", backing.LockExclusive)), unix.ELOOP)
	ok(t, d.UtimesAt("link", backing.Timespec{Sec: 1}, backing.Timespec{Sec: 2}))
	equal(t, "mtime of the link", stat(t, d, "link").Mtim, backing.Timespec{Sec: 2})
	if err := d.ChownAt("link", 12, 34); err == nil {
		equal(t, "owner of the link", stat(t, d, "link").UID, 12)
	}
	equal(t, "the file", stat(t, d, "file"), before)
	sub := subdir(t, d, "d")
	ok(t, d.Symlink("d", "dl"))
	_, err = d.OpenDir("dl")
	fails(t, "opendir", err, unix.ENOTDIR)
	put(t, sub, "f", "")
	ok(t, d.Rename("link", d, "file", 0))
	equal(t, "renamed over", stat(t, d, "file").Mode&unix.S_IFMT, unix.S_IFLNK)
}

func lockErr(_ backing.File, err error) error { return err }
