package backing

import (
	"strconv"

	"golang.org/x/sys/unix"
)

// dir is a directory of the real file system.
type dir struct{ handle }

// OpenDir opens the directory at path, the root below which no symbolic link is followed (in path itself they are).
// What it holds is only a descriptor: a rename of path changes nothing for it. Close lets go of it; the handles that
// were opened from it live on.
func OpenDir(path string) (Dir, error) {
	sys := newSystem()
	d, err := sys.openDir(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY)
	if err != nil {
		return nil, err
	}
	if st, err := d.Statfs(); err == nil {
		sys.fuse = st.Type == unix.FUSE_SUPER_MAGIC
	}
	return d, nil
}

func (s *system) openDir(at int, path string, flags int) (Dir, error) {
	fd, err := openat(at, path, flags, 0)
	if err != nil {
		return nil, err
	}
	return &dir{handle{fd: fd, sys: s}}, nil
}

func openat(at int, path string, flags int, mode uint32) (fd int, err error) {
	for {
		fd, err = unix.Openat(at, path, flags|unix.O_CLOEXEC, mode)
		if err != unix.EINTR {
			return fd, err
		}
	}
}

// procFD is the path of an open descriptor: how older kernels reach by descriptor what newer calls name.
func procFD(fd int) string { return "/proc/self/fd/" + strconv.Itoa(fd) }

func (d *dir) Open(name string, flags int, mode uint32) (File, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	flags, err := CheckFlags(flags)
	if err != nil {
		return nil, err
	}
	const fresh = unix.O_CREAT | unix.O_EXCL
	if flags&fresh == fresh { // whatever it makes is a regular file
		fd, err := openat(d.fd, name, flags|openAdded, mode)
		if err != nil {
			return nil, err
		}
		return &file{handle: handle{fd: fd, sys: d.sys}}, nil
	}
	var st unix.Stat_t
	switch err := eintr(func() error { return unix.Fstatat(d.fd, name, &st, unix.AT_SYMLINK_NOFOLLOW) }); {
	case err == unix.ENOENT && flags&unix.O_CREAT != 0:
	case err != nil:
		return nil, err
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return nil, refusal(st.Mode)
	}
	f, _, err := d.OpenStat(name, flags, mode)
	return f, err
}

func (d *dir) OpenStat(name string, flags int, mode uint32) (File, Stat, error) {
	if err := CheckName(name); err != nil {
		return nil, Stat{}, err
	}
	flags, err := CheckFlags(flags)
	if err != nil {
		return nil, Stat{}, err
	}
	// O_NONBLOCK: a FIFO must not wait for its other end. On regular files it has no effect.
	fd, err := openat(d.fd, name, flags|openAdded, mode)
	if err != nil {
		if err == unix.ENXIO || err == unix.ENODEV { // a FIFO without reader, a socket, a device without driver
			err = unix.EINVAL
		}
		return nil, Stat{}, err
	}
	f := &file{handle: handle{fd: fd, sys: d.sys}}
	st, err := f.Stat()
	if err == nil && st.Mode&unix.S_IFMT != unix.S_IFREG {
		err = refusal(st.Mode)
	}
	if err != nil {
		_ = f.Close()
		return nil, Stat{}, err
	}
	return f, st, nil
}

// refusal is why Open does not open what has this mode.
func refusal(mode uint32) error {
	switch mode & unix.S_IFMT {
	case unix.S_IFDIR:
		return unix.EISDIR
	case unix.S_IFLNK:
		return unix.ELOOP
	}
	return unix.EINVAL
}

func (d *dir) Tmpfile(mode uint32) (File, error) {
	fd, err := openat(d.fd, ".", unix.O_TMPFILE|unix.O_RDWR, mode)
	if err != nil {
		return nil, err
	}
	return &file{handle: handle{fd: fd, sys: d.sys}}, nil
}

func (d *dir) OpenDir(name string) (Dir, error) {
	if err := CheckName(name); err != nil {
		return nil, err
	}
	return d.sys.openDir(d.fd, name, unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW)
}

func (d *dir) Dup() (Dir, error) {
	fd, err := unix.FcntlInt(uintptr(d.fd), unix.F_DUPFD_CLOEXEC, 0)
	if err != nil {
		return nil, err
	}
	return &dir{handle{fd: fd, sys: d.sys}}, nil
}

func (d *dir) Statfs() (Statfs, error) {
	var st unix.Statfs_t
	if err := eintr(func() error { return unix.Fstatfs(d.fd, &st) }); err != nil {
		return Statfs{}, err
	}
	return Statfs{
		Bsize: uint32(st.Bsize), Frsize: uint32(st.Frsize),
		Blocks: st.Blocks, Bfree: st.Bfree, Bavail: st.Bavail,
		Files: st.Files, Ffree: st.Ffree,
		Namelen: uint32(st.Namelen), Type: int64(st.Type),
	}, nil
}

func (d *dir) Sync() error {
	return d.do(func() error { return unix.Fsync(d.fd) })
}

func (d *dir) SyncFS() error {
	return eintr(func() error { return unix.Syncfs(d.fd) })
}
