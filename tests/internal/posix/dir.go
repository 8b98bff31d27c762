package posix

import (
	"bytes"
	"fmt"
	"strings"
	"syscall"

	"golang.org/x/sys/unix"
)

// Dir is an FS over a directory of this machine, by real system calls.
type Dir struct{ root string }

// NewDir returns the tree under root, an absolute path.
func NewDir(root string) Dir { return Dir{root: root} }

// Root returns the path that NewDir was given.
func (d Dir) Root() string { return d.root }

// path does not clean: "a/" and "a/." are other questions to the kernel than "a".
func (d Dir) path(rel string) string { return d.root + "/" + rel }

// Open adds O_CLOEXEC, and O_NONBLOCK so that a FIFO cannot stop the test.
func (d Dir) Open(path string, flags int, mode uint32) (File, error) {
	fd, err := retry(func() (int, error) {
		return unix.Open(d.path(path), flags|unix.O_CLOEXEC|unix.O_NONBLOCK, mode)
	})
	if err != nil {
		return nil, err
	}
	return dirFile(fd), nil
}

// Mkdir is mkdir(2).
func (d Dir) Mkdir(path string, mode uint32) error { return unix.Mkdir(d.path(path), mode) }

// Mknod is mknod(2).
func (d Dir) Mknod(path string, mode uint32, dev uint64) error {
	return unix.Mknod(d.path(path), mode, int(dev))
}

// Symlink is symlink(2).
func (d Dir) Symlink(value, path string) error { return unix.Symlink(value, d.path(path)) }

// Readlink is readlink(2) with room for every target.
func (d Dir) Readlink(path string) (string, error) {
	buf := make([]byte, 2*unix.PathMax)
	n, err := unix.Readlink(d.path(path), buf)
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

// Link is linkat(2) without AT_SYMLINK_FOLLOW.
func (d Dir) Link(old, path string) error { return unix.Link(d.path(old), d.path(path)) }

// Unlink is unlink(2).
func (d Dir) Unlink(path string) error { return unix.Unlink(d.path(path)) }

// Rmdir is rmdir(2).
func (d Dir) Rmdir(path string) error { return unix.Rmdir(d.path(path)) }

// Rename is renameat2(2).
func (d Dir) Rename(old, path string, flags uint32) error {
	return unix.Renameat2(unix.AT_FDCWD, d.path(old), unix.AT_FDCWD, d.path(path), uint(flags))
}

// ReadDir reads the directory by getdents64(2), so that the type in each entry is the file system's own word.
func (d Dir) ReadDir(path string) ([]Entry, error) {
	fd, err := unix.Open(d.path(path), unix.O_RDONLY|unix.O_DIRECTORY|unix.O_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	defer unix.Close(fd)
	var entries []Entry
	buf := make([]byte, 32<<10)
	for {
		n, err := unix.Getdents(fd, buf)
		if err != nil || n <= 0 {
			return entries, err
		}
		entries = appendDirents(entries, buf[:n])
	}
}

// appendDirents decodes struct linux_dirent64: ino 8, off 8, reclen 2, type 1, name.
func appendDirents(entries []Entry, b []byte) []Entry {
	for len(b) > 0 {
		reclen := int(b[16]) | int(b[17])<<8
		name := b[19:reclen]
		name = name[:bytes.IndexByte(name, 0)]
		if s := string(name); s != "." && s != ".." {
			entries = append(entries, Entry{Name: s, Kind: uint32(b[18]) << 12})
		}
		b = b[reclen:]
	}
	return entries
}

// Stat asks both fstatat(2) and statx(2) and fails where they differ.
func (d Dir) Stat(path string) (Stat, error) {
	var st unix.Stat_t
	if err := unix.Lstat(d.path(path), &st); err != nil {
		return Stat{}, err
	}
	var sx unix.Statx_t
	if err := unix.Statx(unix.AT_FDCWD, d.path(path), unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS, &sx); err != nil {
		return Stat{}, err
	}
	got, ext := fromStat(&st), fromStatx(&sx)
	if got != ext {
		return Stat{}, fmt.Errorf("stat and statx of %q disagree: %+v, %+v", path, got, ext)
	}
	return got, nil
}

func fromStat(st *unix.Stat_t) Stat {
	return Stat{
		Mode: st.Mode, Nlink: uint32(st.Nlink), UID: st.Uid, GID: st.Gid, Ino: st.Ino, Rdev: uint64(st.Rdev), Size: st.Size,
		Atime: Time{st.Atim.Sec, st.Atim.Nsec}, Mtime: Time{st.Mtim.Sec, st.Mtim.Nsec},
	}
}

func fromStatx(sx *unix.Statx_t) Stat {
	return Stat{
		Mode: uint32(sx.Mode), Nlink: sx.Nlink, UID: sx.Uid, GID: sx.Gid, Ino: sx.Ino,
		Rdev: unix.Mkdev(sx.Rdev_major, sx.Rdev_minor), Size: int64(sx.Size),
		Atime: Time{sx.Atime.Sec, int64(sx.Atime.Nsec)}, Mtime: Time{sx.Mtime.Sec, int64(sx.Mtime.Nsec)},
	}
}

// Chmod is chmod(2), which follows a link.
func (d Dir) Chmod(path string, mode uint32) error { return unix.Chmod(d.path(path), mode) }

// Chown is lchown(2).
func (d Dir) Chown(path string, uid, gid int) error { return unix.Lchown(d.path(path), uid, gid) }

// Utimes is utimensat(2) with AT_SYMLINK_NOFOLLOW.
func (d Dir) Utimes(path string, atime, mtime Time) error {
	ts := []unix.Timespec{{Sec: atime.Sec, Nsec: atime.Nsec}, {Sec: mtime.Sec, Nsec: mtime.Nsec}}
	return unix.UtimesNanoAt(unix.AT_FDCWD, d.path(path), ts, unix.AT_SYMLINK_NOFOLLOW)
}

// Truncate is truncate(2).
func (d Dir) Truncate(path string, size int64) error { return unix.Truncate(d.path(path), size) }

// Setxattr is lsetxattr(2).
func (d Dir) Setxattr(path, attr string, value []byte, flags int) error {
	return unix.Lsetxattr(d.path(path), attr, value, flags)
}

// Getxattr asks for the length first, then for the value, and fails where the two calls differ.
func (d Dir) Getxattr(path, attr string) ([]byte, error) {
	return whole(func(buf []byte) (int, error) { return unix.Lgetxattr(d.path(path), attr, buf) })
}

// Listxattr gives the names of llistxattr(2).
func (d Dir) Listxattr(path string) ([]string, error) {
	b, err := whole(func(buf []byte) (int, error) { return unix.Llistxattr(d.path(path), buf) })
	if err != nil || len(b) == 0 {
		return nil, err
	}
	return strings.Split(strings.TrimSuffix(string(b), "\x00"), "\x00"), nil
}

// Removexattr is lremovexattr(2).
func (d Dir) Removexattr(path, attr string) error { return unix.Lremovexattr(d.path(path), attr) }

// whole calls get for the length, then for that many bytes.
func whole(get func([]byte) (int, error)) ([]byte, error) {
	n, err := get(nil)
	if err != nil || n == 0 {
		return nil, err
	}
	buf := make([]byte, n)
	m, err := get(buf)
	if err != nil {
		return nil, err
	}
	if m != n {
		return nil, fmt.Errorf("asked for the length: %d bytes, for the value: %d", n, m)
	}
	return buf, nil
}

// retry calls f again while a signal interrupts it: the Go runtime sends SIGURG to preempt.
func retry[T any](f func() (T, error)) (T, error) {
	for {
		v, err := f()
		if err != syscall.EINTR {
			return v, err
		}
	}
}
