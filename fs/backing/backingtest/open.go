package backingtest

import (
	"strings"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

func testNames(t *testing.T, d backing.Dir) {
	put(t, d, "a", "")
	for _, name := range []string{"", ".", "..", "a/b", "/", "a/", "a\x00b"} {
		_, err := d.Open(name, unix.O_RDONLY, 0)
		fails(t, "open", err, unix.EINVAL)
		_, _, err = d.OpenStat(name, unix.O_RDWR|unix.O_CREAT, 0o600)
		fails(t, "openstat", err, unix.EINVAL)
		_, err = d.OpenDir(name)
		fails(t, "opendir", err, unix.EINVAL)
		_, err = d.StatAt(name)
		fails(t, "stat", err, unix.EINVAL)
		_, err = d.StatBirth(name)
		fails(t, "statbirth", err, unix.EINVAL)
		fails(t, "mkdir", d.Mkdir(name, 0o755), unix.EINVAL)
		fails(t, "mknod", d.Mknod(name, unix.S_IFIFO|0o600, 0), unix.EINVAL)
		fails(t, "symlink", d.Symlink("x", name), unix.EINVAL)
		_, err = d.Readlink(name)
		fails(t, "readlink", err, unix.EINVAL)
		fails(t, "unlink", d.Unlink(name), unix.EINVAL)
		fails(t, "rmdir", d.Rmdir(name), unix.EINVAL)
		fails(t, "rename from", d.Rename(name, d, "b", 0), unix.EINVAL)
		fails(t, "rename to", d.Rename("a", d, name, 0), unix.EINVAL)
		fails(t, "link from", d.Link(name, d, "b"), unix.EINVAL)
		fails(t, "link to", d.Link("a", d, name), unix.EINVAL)
		fails(t, "linkfile", d.LinkFile(open(t, d, "a", 0), name), unix.EINVAL)
		fails(t, "chmod", d.ChmodAt(name, 0), unix.EINVAL)
		fails(t, "chown", d.ChownAt(name, 0, 0), unix.EINVAL)
		fails(t, "utimes", d.UtimesAt(name, backing.Timespec{}, backing.Timespec{}), unix.EINVAL)
		_, err = d.GetxattrAt(name, "user.a", nil)
		fails(t, "getxattr", err, unix.EINVAL)
		fails(t, "setxattr", d.SetxattrAt(name, "user.a", nil, 0), unix.EINVAL)
		fails(t, "removexattr", d.RemovexattrAt(name, "user.a"), unix.EINVAL)
		_, err = d.ListxattrAt(name, nil)
		fails(t, "listxattr", err, unix.EINVAL)
		_, err = d.Lock(name, backing.LockExclusive)
		fails(t, "lock", err, unix.EINVAL)
	}
	long := strings.Repeat("n", 256)
	_, err := d.Open(long, unix.O_RDWR|unix.O_CREAT, 0o600)
	fails(t, "open of a long name", err, unix.ENAMETOOLONG)
	fails(t, "rename to a long name", d.Rename("a", d, long, 0), unix.ENAMETOOLONG)
	put(t, d, long[:255], "x")
	put(t, d, "...", "")
	put(t, d, "\xff\n\\", "")
	equal(t, "a", strings.Join(names(t, d), ","), "...,a,"+long[:255]+",\xff\n\\")
}

func testOpen(t *testing.T, d backing.Dir) {
	_, err := d.Open("a", unix.O_RDWR, 0)
	fails(t, "open of nothing", err, unix.ENOENT)
	f, st, err := d.OpenStat("a", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o640)
	ok(t, err)
	equal(t, "mode", st.Mode, unix.S_IFREG|0o640)
	equal(t, "nlink", st.Nlink, 1)
	fst, err := f.Stat()
	ok(t, err)
	equal(t, "stat of handle", fst.Ino, st.Ino)
	equal(t, "stat by name", stat(t, d, "a"), fst)
	_, err = d.Open("a", unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0)
	fails(t, "exclusive", err, unix.EEXIST)
	put(t, d, "a", "hello")
	equal(t, "O_CREAT keeps", content(t, open(t, d, "a", unix.O_CREAT)), "hello")
	g, st, err := d.OpenStat("a", unix.O_WRONLY|unix.O_TRUNC, 0)
	ok(t, err)
	equal(t, "size after O_TRUNC", st.Size, 0)
	ok(t, g.Close())
	ok(t, f.Close())
}

func testOpenKinds(t *testing.T, d backing.Dir) {
	ok(t, d.Mkdir("dir", 0o755))
	ok(t, d.Symlink("file", "link"))
	ok(t, d.Symlink("nothing", "dangling"))
	ok(t, d.Mknod("fifo", unix.S_IFIFO|0o600, 0))
	ok(t, d.Mknod("sock", unix.S_IFSOCK|0o600, 0))
	put(t, d, "file", "x")
	for _, flags := range []int{unix.O_RDONLY, unix.O_WRONLY, unix.O_RDWR, unix.O_RDWR | unix.O_CREAT, unix.O_RDONLY | unix.O_CREAT, unix.O_RDWR | unix.O_TRUNC} {
		for name, want := range map[string]error{
			"dir": unix.EISDIR, "link": unix.ELOOP, "dangling": unix.ELOOP, "fifo": unix.EINVAL, "sock": unix.EINVAL,
		} {
			_, err := d.Open(name, flags, 0o600)
			fails(t, "open "+name, err, want)
			_, _, err = d.OpenStat(name, flags, 0o600)
			fails(t, "openstat "+name, err, want)
		}
	}
	for _, name := range []string{"dir", "link", "dangling", "fifo"} {
		_, err := d.Open(name, unix.O_RDWR|unix.O_CREAT|unix.O_EXCL, 0o600)
		fails(t, "exclusive open of "+name, err, unix.EEXIST)
	}
	for _, name := range []string{"file", "link", "dangling", "fifo"} {
		_, err := d.OpenDir(name)
		fails(t, "opendir "+name, err, unix.ENOTDIR)
	}
	_, err := d.StatAt("nothing")
	fails(t, "the target of dangling", err, unix.ENOENT)
	equal(t, "content", get(t, d, "file"), "x")
}

func testOpenFlags(t *testing.T, d backing.Dir) {
	put(t, d, "a", "hello")
	for _, flags := range []int{unix.O_APPEND, unix.O_PATH, unix.O_DIRECTORY, unix.O_TMPFILE, unix.O_ACCMODE, unix.O_DIRECT} {
		_, err := d.Open("a", flags|unix.O_RDWR, 0)
		fails(t, "open with a flag that is not known", err, unix.EINVAL)
	}
	f, err := d.Open("a", unix.O_RDONLY|unix.O_CLOEXEC|unix.O_NOFOLLOW|unix.O_NONBLOCK|unix.O_NOATIME, 0)
	ok(t, err)
	_, err = f.WriteAt([]byte("x"), 0)
	fails(t, "write of a file open for reading", err, unix.EBADF)
	fails(t, "truncate of a file open for reading", f.Truncate(0), unix.EINVAL)
	fails(t, "allocate of a file open for reading", f.Allocate(0, 0, 1), unix.EBADF)
	ok(t, f.Sync())
	ok(t, f.Close())
	f, err = d.Open("a", unix.O_WRONLY|unix.O_SYNC, 0)
	ok(t, err)
	_, err = f.ReadAt(make([]byte, 1), 0)
	fails(t, "read of a file open for writing", err, unix.EBADF)
	_, err = f.WriteAt([]byte("J"), 0)
	ok(t, err)
	ok(t, f.Close())
	equal(t, "content", get(t, d, "a"), "Jello")
}

func testClose(t *testing.T, d backing.Dir) {
	f := open(t, d, "a", unix.O_CREAT)
	ok(t, f.Close())
	fails(t, "second close", f.Close(), unix.EBADF)
	sub := subdir(t, d, "d")
	dup, err := sub.Dup()
	ok(t, err)
	ok(t, sub.Close())
	fails(t, "second close", sub.Close(), unix.EBADF)
	put(t, dup, "x", "y")
	equal(t, "by the other handle", get(t, dup, "x"), "y")
	ok(t, dup.Close())
}
