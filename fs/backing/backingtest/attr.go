package backingtest

import (
	"errors"
	"slices"
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

func testMknod(t *testing.T, d backing.Dir) {
	ok(t, d.Mknod("fifo", unix.S_IFIFO|0o640, 0))
	equal(t, "mode", stat(t, d, "fifo").Mode, unix.S_IFIFO|0o640)
	ok(t, d.Mknod("file", 0o600, 0))
	equal(t, "mode", stat(t, d, "file").Mode, unix.S_IFREG|0o600)
	fails(t, "over a name", d.Mknod("file", unix.S_IFIFO, 0), unix.EEXIST)
	fails(t, "a directory", d.Mknod("dir", unix.S_IFDIR|0o700, 0), unix.EPERM)
	fails(t, "a symlink", d.Mknod("link", unix.S_IFLNK|0o700, 0), unix.EINVAL)
	root(t)
	dev := unix.Mkdev(1, 3)
	err := d.Mknod("null", unix.S_IFCHR|0o600, dev)
	if errors.Is(err, unix.EPERM) {
		t.Skip("no device nodes here: needs CAP_MKNOD in the first user namespace")
	}
	ok(t, err)
	equal(t, "rdev", stat(t, d, "null").Rdev, dev)
	_, err = d.Open("null", unix.O_RDWR, 0)
	fails(t, "open of a device", err, unix.EINVAL)
}

func testMode(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	ok(t, f.Chmod(0o4751))
	equal(t, "chmod", stat(t, d, "a").Mode, unix.S_IFREG|0o4751)
	ok(t, d.ChmodAt("a", 0o600))
	equal(t, "chmod by name", stat(t, d, "a").Mode, unix.S_IFREG|0o600)
	fails(t, "chmod of nothing", d.ChmodAt("x", 0o600), unix.ENOENT)
	sub := subdir(t, d, "d")
	ok(t, sub.Chmod(0o1777))
	equal(t, "chmod of a directory", stat(t, d, "d").Mode, unix.S_IFDIR|0o1777)
	ok(t, d.Unlink("a"))
	ok(t, f.Chmod(0o640))
	st, err := f.Stat()
	ok(t, err)
	equal(t, "chmod without a name", st.Mode, unix.S_IFREG|0o640)
}

func testOwner(t *testing.T, d backing.Dir) {
	root(t)
	f := open(t, d, "a", unix.O_CREAT)
	const same = ^uint32(0)
	owner := func(uid, gid uint32) {
		t.Helper()
		st := stat(t, d, "a")
		equal(t, "uid", st.UID, uid)
		equal(t, "gid", st.GID, gid)
	}
	ok(t, f.Chown(12, 34))
	owner(12, 34)
	ok(t, f.Chown(same, 56))
	owner(12, 56)
	ok(t, d.ChownAt("a", 78, same))
	owner(78, 56)
	ok(t, f.Chmod(0o6755))
	ok(t, f.Chown(same, same))
	equal(t, "suid and sgid", stat(t, d, "a").Mode, unix.S_IFREG|0o755)
	sub := subdir(t, d, "d")
	ok(t, sub.Chown(0, 99))
	ok(t, sub.Chmod(0o2755))
	put(t, sub, "f", "")
	ok(t, sub.Mkdir("e", 0o700))
	equal(t, "group of a file in a setgid directory", stat(t, sub, "f").GID, 99)
	equal(t, "mode of a directory in a setgid directory", stat(t, sub, "e").Mode, unix.S_IFDIR|0o2700)
}

func testTimes(t *testing.T, d backing.Dir) {
	sub := subdir(t, d, "d")
	f := open(t, sub, "a", unix.O_CREAT)
	old := backing.Timespec{Sec: 1e9, Nsec: 123456789}
	omit, now := backing.Timespec{Nsec: backing.UtimeOmit}, backing.Timespec{Nsec: backing.UtimeNow}
	ok(t, f.Utimes(backing.Timespec{Sec: 5, Nsec: 6}, old))
	equal(t, "atime", stat(t, sub, "a").Atim, backing.Timespec{Sec: 5, Nsec: 6})
	equal(t, "mtime", stat(t, sub, "a").Mtim, old)
	ok(t, sub.UtimesAt("a", old, omit))
	equal(t, "atime", stat(t, sub, "a").Atim, old)
	equal(t, "mtime left", stat(t, sub, "a").Mtim, old)
	ok(t, sub.UtimesAt("a", omit, now))
	if stat(t, sub, "a").Mtim == old {
		t.Error("UtimeNow did nothing")
	}
	fails(t, "nonsense", f.Utimes(backing.Timespec{Nsec: 1e9}, old), unix.EINVAL)
	fails(t, "nonsense", sub.UtimesAt("a", backing.Timespec{Nsec: -1}, old), unix.EINVAL)
	fails(t, "utimes of nothing", sub.UtimesAt("x", old, old), unix.ENOENT)

	// changes runs op and wants it to change the mtime of which and no other of a and the directory.
	changes := func(what, which string, op func() error) {
		t.Helper()
		ok(t, f.Utimes(old, old))
		ok(t, sub.Utimes(old, old))
		if err := op(); err != nil {
			t.Fatalf("%s: %v", what, err)
		}
		st, err := f.Stat()
		ok(t, err)
		equal(t, what+" changes mtime of the file", st.Mtim != old, which == "file")
		st, err = sub.Stat()
		ok(t, err)
		equal(t, what+" changes mtime of the directory", st.Mtim != old, which == "dir")
	}
	changes("write", "file", func() error { _, err := f.WriteAt([]byte("x"), 0); return err })
	changes("empty write", "", func() error { _, err := f.WriteAt(nil, 0); return err })
	changes("truncate", "file", func() error { return f.Truncate(0) })
	changes("truncate to the same", "file", func() error { return f.Truncate(0) })
	changes("chmod", "", func() error { return f.Chmod(0o600) })
	changes("mkdir", "dir", func() error { return sub.Mkdir("e", 0o700) })
	changes("rmdir", "dir", func() error { return sub.Rmdir("e") })
	changes("rename", "dir", func() error { return sub.Rename("a", sub, "b", 0) })
	changes("link", "dir", func() error { return sub.Link("b", sub, "c") })
	changes("unlink", "dir", func() error { return sub.Unlink("c") })
}

func testBirth(t *testing.T, d backing.Dir) {
	put(t, d, "a", "x")
	st, err := d.StatBirth("a")
	ok(t, err)
	plain := stat(t, d, "a")
	equal(t, "no birth", plain.Btim, backing.Timespec{})
	if st.Btim != (backing.Timespec{}) && st.Btim.Time().After(st.Ctim.Time()) {
		t.Errorf("born %v after it changed %v", st.Btim, st.Ctim)
	}
	st.Btim = backing.Timespec{}
	equal(t, "the rest", st, plain)
	_, err = d.StatBirth("x")
	fails(t, "of nothing", err, unix.ENOENT)
}

// xattrs is one way to reach the attributes of one object.
type xattrs struct {
	get    func(attr string, buf []byte) (int, error)
	set    func(attr string, value []byte, flags int) error
	remove func(attr string) error
	list   func(buf []byte) (int, error)
}

func testXattrs(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	checkXattrs(t, xattrs{f.Getxattr, f.Setxattr, f.Removexattr, f.Listxattr})
	sub := subdir(t, d, "d")
	checkXattrs(t, xattrs{sub.Getxattr, sub.Setxattr, sub.Removexattr, sub.Listxattr})
}

func testXattrsAt(t *testing.T, d backing.Dir) {
	put(t, d, "a", "")
	checkXattrs(t, xattrs{
		func(attr string, buf []byte) (int, error) { return d.GetxattrAt("a", attr, buf) },
		func(attr string, value []byte, flags int) error { return d.SetxattrAt("a", attr, value, flags) },
		func(attr string) error { return d.RemovexattrAt("a", attr) },
		func(buf []byte) (int, error) { return d.ListxattrAt("a", buf) },
	})
	_, err := d.GetxattrAt("x", "user.a", nil)
	fails(t, "get of nothing", err, unix.ENOENT)
	fails(t, "set of nothing", d.SetxattrAt("x", "user.a", nil, 0), unix.ENOENT)
	fails(t, "remove of nothing", d.RemovexattrAt("x", "user.a"), unix.ENOENT)
	_, err = d.ListxattrAt("x", nil)
	fails(t, "list of nothing", err, unix.ENOENT)
}

func checkXattrs(t *testing.T, x xattrs) {
	t.Helper()
	supported(t, "user xattrs", x.set("user.a", []byte("value"), 0))
	buf := make([]byte, 100)
	n, err := x.get("user.a", buf)
	ok(t, err)
	equal(t, "value", string(buf[:n]), "value")
	n, err = x.get("user.a", nil)
	ok(t, err)
	equal(t, "length", n, 5)
	_, err = x.get("user.a", buf[:4])
	fails(t, "short buffer", err, unix.ERANGE)
	fails(t, "create again", x.set("user.a", nil, unix.XATTR_CREATE), unix.EEXIST)
	fails(t, "replace nothing", x.set("user.b", nil, unix.XATTR_REPLACE), unix.ENODATA)
	fails(t, "other flags", x.set("user.b", nil, 8), unix.EINVAL)
	ok(t, x.set("user.a", []byte("new"), unix.XATTR_REPLACE))
	ok(t, x.set("user.empty", nil, unix.XATTR_CREATE))
	n, err = x.get("user.empty", buf)
	ok(t, err)
	equal(t, "empty value", n, 0)
	n, err = x.list(buf)
	ok(t, err)
	list := strings.Split(strings.TrimSuffix(string(buf[:n]), "\x00"), "\x00")
	slices.Sort(list)
	equal(t, "list", strings.Join(list, " "), "user.a user.empty")
	m, err := x.list(nil)
	ok(t, err)
	equal(t, "length of the list", m, n)
	_, err = x.list(buf[:n-1])
	fails(t, "short buffer for the list", err, unix.ERANGE)
	ok(t, x.remove("user.empty"))
	fails(t, "remove again", x.remove("user.empty"), unix.ENODATA)
	_, err = x.get("user.empty", buf)
	fails(t, "get of what is gone", err, unix.ENODATA)
	for attr, want := range map[string]error{
		"": unix.ERANGE, "user." + strings.Repeat("n", 251): unix.ERANGE, "user": unix.EOPNOTSUPP, "other.a": unix.EOPNOTSUPP,
		"user.": unix.EINVAL, "user.\x00": unix.EINVAL,
	} {
		fails(t, "set "+attr, x.set(attr, []byte("v"), 0), want)
		_, err = x.get(attr, buf)
		fails(t, "get "+attr, err, want)
		fails(t, "remove "+attr, x.remove(attr), want)
	}
	fails(t, "huge value", x.set("user.huge", make([]byte, 65537), 0), unix.E2BIG)
	long := "user." + strings.Repeat("n", 250)
	ok(t, x.set(long, []byte("v"), 0))
	ok(t, x.remove(long))
}

func testXattrKinds(t *testing.T, d backing.Dir) {
	put(t, d, "probe", "")
	supported(t, "user xattrs", d.SetxattrAt("probe", "user.a", nil, 0))
	ok(t, d.Symlink("x", "link"))
	ok(t, d.Mknod("fifo", unix.S_IFIFO|0o600, 0))
	for _, name := range []string{"link", "fifo"} {
		fails(t, "set on "+name, d.SetxattrAt(name, "user.a", []byte("v"), 0), unix.EPERM)
		_, err := d.GetxattrAt(name, "user.a", nil)
		fails(t, "get on "+name, err, unix.ENODATA)
		fails(t, "remove on "+name, d.RemovexattrAt(name, "user.a"), unix.EPERM)
		n, err := d.ListxattrAt(name, nil)
		ok(t, err)
		equal(t, "list on "+name, n, 0)
	}
	root(t)
	buf := make([]byte, 10)
	supported(t, "attributes of symlinks", d.SetxattrAt("link", "trusted.a", []byte("v"), 0))
	n, err := d.GetxattrAt("link", "trusted.a", buf)
	ok(t, err)
	equal(t, "trusted on a symlink", string(buf[:n]), "v")
}

func testFlags(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	flags, err := f.GetFlags()
	supported(t, "inode flags", err)
	const nodump = 0x40 // FS_NODUMP_FL
	supported(t, "inode flags", f.SetFlags(flags|nodump))
	got, err := f.GetFlags()
	ok(t, err)
	equal(t, "flags", got, flags|nodump)
	ok(t, f.SetFlags(flags))
	fails(t, "flags that are not known", f.SetFlags(flags|1<<27), unix.EOPNOTSUPP)
}
