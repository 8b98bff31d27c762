package backing

import (
	"golang.org/x/sys/unix"
)

// The calls of Dir that act on a name.

func (d *dir) StatAt(name string) (Stat, error) {
	if err := CheckName(name); err != nil {
		return Stat{}, err
	}
	var st unix.Stat_t
	if err := eintr(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); err != nil {
		return Stat{}, err
	}
	return statOf(&st), nil
}

func (d *dir) StatBirth(name string) (Stat, error) {
	if err := CheckName(name); err != nil {
		return Stat{}, err
	}
	var st unix.Statx_t
	err := eintr(func() error {
		return unix.Statx(d.fd, name, unix.AT_SYMLINK_NOFOLLOW, unix.STATX_BASIC_STATS|unix.STATX_BTIME, &st)
	})
	if err == unix.ENOSYS { // before Linux 4.11, or a seccomp filter of that age
		return d.StatAt(name)
	}
	if err != nil {
		return Stat{}, err
	}
	s := statxOf(&st)
	if st.Mask&unix.STATX_BTIME != 0 {
		s.Btim = Timespec{st.Btime.Sec, int64(st.Btime.Nsec)}
	}
	return s, nil
}

// statxOf converts what statx(2) tells, but for the birth time.
func statxOf(st *unix.Statx_t) Stat {
	return Stat{
		Dev: unix.Mkdev(st.Dev_major, st.Dev_minor), Ino: st.Ino, Mode: uint32(st.Mode), Nlink: st.Nlink,
		UID: st.Uid, GID: st.Gid, Rdev: unix.Mkdev(st.Rdev_major, st.Rdev_minor),
		Size: int64(st.Size), Blocks: int64(st.Blocks), Blksize: st.Blksize,
		Atim: Timespec{st.Atime.Sec, int64(st.Atime.Nsec)},
		Mtim: Timespec{st.Mtime.Sec, int64(st.Mtime.Nsec)},
		Ctim: Timespec{st.Ctime.Sec, int64(st.Ctime.Nsec)},
	}
}

func (d *dir) Mkdir(name string, mode uint32) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return eintr(func() error { return unix.Mkdirat(d.fd, name, mode) })
}

func (d *dir) Mknod(name string, mode uint32, dev uint64) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return eintr(func() error { return unix.Mknodat(d.fd, name, mode, int(dev)) })
}

func (d *dir) Symlink(target, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return eintr(func() error { return unix.Symlinkat(target, d.fd, name) })
}

func (d *dir) Readlink(name string) (string, error) {
	if err := CheckName(name); err != nil {
		return "", err
	}
	// A target is at most PATH_MAX with its NUL, here and on every file system of Linux.
	var buf [unix.PathMax]byte
	var n int
	err := eintr(func() (err error) { n, err = unix.Readlinkat(d.fd, name, buf[:]); return err })
	if err != nil {
		return "", err
	}
	return string(buf[:n]), nil
}

func (d *dir) Unlink(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return eintr(func() error { return unix.Unlinkat(d.fd, name, 0) })
}

func (d *dir) Rmdir(name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return eintr(func() error { return unix.Unlinkat(d.fd, name, unix.AT_REMOVEDIR) })
}

func (d *dir) Rename(name string, to Dir, newName string, flags uint32) error {
	t, err := d.pair(name, to, newName)
	if err != nil {
		return err
	}
	if err := CheckRename(flags); err != nil {
		return err
	}
	if flags == unix.RENAME_NOREPLACE && d.sys.noNoRepl.Load() {
		return d.renameNew(name, t, newName)
	}
	err = eintr(func() error { return unix.Renameat2(d.fd, name, t.fd, newName, uint(flags)) })
	if err == unix.EINVAL && flags == unix.RENAME_NOREPLACE { // or a directory is to be moved into itself
		if err = d.renameNew(name, t, newName); err == nil {
			d.sys.noNoRepl.Store(true)
		}
	}
	return err
}

// renameNew is RENAME_NOREPLACE where the file system has not got it (GlusterFS, NFS). A link, which replaces nothing, does
// it; for a directory rename(2), which replaces an empty directory at most: the caller's are never empty.
func (d *dir) renameNew(name string, t *dir, newName string) error {
	st, err := d.StatAt(name)
	if err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR {
		if err := d.Link(name, t, newName); err != nil {
			return err
		}
		return d.Unlink(name)
	}
	if _, err := t.StatAt(newName); err != unix.ENOENT {
		if err == nil {
			err = unix.EEXIST
		}
		return err
	}
	err = eintr(func() error { return unix.Renameat(d.fd, name, t.fd, newName) })
	if err == unix.ENOTEMPTY || err == unix.ENOTDIR {
		return unix.EEXIST
	}
	return err
}

func (d *dir) Link(name string, to Dir, newName string) error {
	t, err := d.pair(name, to, newName)
	if err != nil {
		return err
	}
	return eintr(func() error { return unix.Linkat(d.fd, name, t.fd, newName, 0) }) // no AT_SYMLINK_FOLLOW
}

// pair checks both names of a rename or link.
func (d *dir) pair(name string, to Dir, newName string) (*dir, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	if err := CheckName(newName); err != nil {
		return nil, err
	}
	t, ok := to.(*dir)
	if !ok {
		return nil, unix.EXDEV
	}
	return t, nil
}

func (d *dir) LinkFile(f File, name string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	from, ok := f.(*file)
	if !ok {
		return unix.EXDEV
	}
	if !d.sys.noLinkFD.Load() {
		err := eintr(func() error { return unix.Linkat(from.fd, "", d.fd, name, unix.AT_EMPTY_PATH) })
		if err != unix.ENOENT {
			return err
		}
		// ENOENT says "no right to AT_EMPTY_PATH" as well as "nothing left to link": /proc decides.
	}
	err := eintr(func() error {
		return unix.Linkat(unix.AT_FDCWD, procFD(from.fd), d.fd, name, unix.AT_SYMLINK_FOLLOW)
	})
	if err == nil {
		d.sys.noLinkFD.Store(true)
	}
	return err
}

func (d *dir) ChmodAt(name string, mode uint32) error {
	if err := CheckName(name); err != nil {
		return err
	}
	if !d.sys.noFchmodat.Load() {
		err := eintr(func() error { return unix.Fchmodat(d.fd, name, mode, unix.AT_SYMLINK_NOFOLLOW) })
		if err != unix.EOPNOTSUPP {
			return err
		}
		// package unix says EOPNOTSUPP both for a kernel without fchmodat2 and for a symbolic link.
	}
	fd, err := openat(d.fd, name, unix.O_PATH|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	var st unix.Stat_t
	if err := unix.Fstat(fd, &st); err != nil {
		return err
	}
	if st.Mode&unix.S_IFMT == unix.S_IFLNK { // older kernels change it, to no effect
		return unix.EOPNOTSUPP
	}
	if err := eintr(func() error { return unix.Chmod(procFD(fd), mode) }); err != nil {
		return err
	}
	d.sys.noFchmodat.Store(true)
	return nil
}

func (d *dir) ChownAt(name string, uid, gid uint32) error {
	if err := CheckName(name); err != nil {
		return err
	}
	return eintr(func() error {
		return unix.Fchownat(d.fd, name, int(int32(uid)), int(int32(gid)), unix.AT_SYMLINK_NOFOLLOW)
	})
}

func (d *dir) UtimesAt(name string, atime, mtime Timespec) error {
	if err := CheckName(name); err != nil {
		return err
	}
	ts := timespecs(atime, mtime)
	return eintr(func() error { return unix.UtimesNanoAt(d.fd, name, ts[:], unix.AT_SYMLINK_NOFOLLOW) })
}
