package memfs

import (
	"strings"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// The calls of Dir that make, move and remove names. The order of the checks is that of fs/namei.c of Linux.

func (d *dir) Mkdir(name string, mode uint32) error {
	if err := d.reach(name); err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	_, err := d.make(name, unix.S_IFDIR|mode&0o1777) // vfs_mkdir drops the other two bits
	return err
}

func (d *dir) Mknod(name string, mode uint32, dev uint64) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	switch mode & unix.S_IFMT {
	case 0:
		mode |= unix.S_IFREG
	case unix.S_IFREG, unix.S_IFIFO, unix.S_IFSOCK, unix.S_IFCHR, unix.S_IFBLK:
	case unix.S_IFDIR:
		return unix.EPERM
	default:
		return unix.EINVAL
	}
	if err := d.reach(name); err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	in, err := d.make(name, mode&(unix.S_IFMT|0o7777))
	if err == nil && (in.kind() == unix.S_IFCHR || in.kind() == unix.S_IFBLK) {
		in.rdev = dev
	}
	return err
}

func (d *dir) Symlink(target, name string) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	switch {
	case strings.IndexByte(target, 0) >= 0:
		return unix.EINVAL
	case target == "":
		return unix.ENOENT
	case len(target) > targetMax:
		return unix.ENAMETOOLONG
	}
	if err := d.reach(name); err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	in, err := d.make(name, unix.S_IFLNK|0o777)
	if err == nil {
		in.target = target
	}
	return err
}

func (d *dir) Readlink(name string) (string, error) {
	in, err := d.find(name)
	if err != nil {
		return "", err
	}
	defer d.fs.mu.Unlock()
	if in.kind() != unix.S_IFLNK {
		return "", unix.EINVAL
	}
	return in.target, nil
}

func (d *dir) Unlink(name string) error {
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	if in.isDir() {
		return unix.EISDIR
	}
	d.fs.rename(change{d.in, name, nil})
	return nil
}

func (d *dir) Rmdir(name string) error {
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	switch {
	case !in.isDir():
		return unix.ENOTDIR
	case len(in.entries) > 0:
		return unix.ENOTEMPTY
	}
	d.fs.rename(change{d.in, name, nil})
	return nil
}

// pair checks the names and directories of a rename or link.
func (d *dir) pair(name string, to backing.Dir, newName string) (*dir, error) {
	if err := backing.CheckName(name); err != nil {
		return nil, err
	}
	if err := backing.CheckName(newName); err != nil {
		return nil, err
	}
	t, ok := to.(*dir)
	if !ok || t.fs != d.fs {
		return nil, unix.EXDEV
	}
	return t, nil
}

func (d *dir) Rename(name string, to backing.Dir, newName string, flags uint32) error {
	t, err := d.pair(name, to, newName)
	if err != nil {
		return err
	}
	if err := backing.CheckRename(flags); err != nil {
		return err
	}
	from, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	if err := t.holdable(newName); err != nil {
		return err
	}
	exchange := flags == unix.RENAME_EXCHANGE
	dst := t.in.entries[newName]
	switch {
	case dst != nil && flags == unix.RENAME_NOREPLACE:
		return unix.EEXIST
	case dst == nil && exchange:
		return unix.ENOENT
	case from.holds(t.in):
		return unix.EINVAL
	case dst != nil && dst.holds(d.in) && exchange:
		return unix.EINVAL
	case dst != nil && dst.holds(d.in):
		return unix.ENOTEMPTY
	case from == dst:
		return nil
	}
	if exchange {
		d.fs.rename(change{d.in, name, dst}, change{t.in, newName, from})
		return nil
	}
	switch {
	case dst == nil:
	case from.isDir() && !dst.isDir():
		return unix.ENOTDIR
	case !from.isDir() && dst.isDir():
		return unix.EISDIR
	case len(dst.entries) > 0:
		return unix.ENOTEMPTY
	}
	d.fs.rename(change{d.in, name, nil}, change{t.in, newName, from})
	return nil
}

// holds reports whether the directory in is other or above it.
func (in *inode) holds(other *inode) bool {
	for ; other != nil; other = other.parent {
		if in == other {
			return true
		}
	}
	return false
}

func (d *dir) Link(name string, to backing.Dir, newName string) error {
	t, err := d.pair(name, to, newName)
	if err != nil {
		return err
	}
	in, err := d.find(name)
	if err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	return t.link(in, newName)
}

func (d *dir) LinkFile(f backing.File, name string) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	from, ok := f.(*file)
	if !ok || from.fs != d.fs {
		return unix.EXDEV
	}
	if err := d.lock(); err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	if from.closed {
		return unix.EBADF
	}
	return d.link(from.in, name)
}

// link gives in the name in d. Call with fs.mu held.
func (d *dir) link(in *inode, name string) error {
	if err := d.holdable(name); err != nil {
		return err
	}
	switch {
	case d.in.entries[name] != nil:
		return unix.EEXIST
	case in.isDir():
		return unix.EPERM
	case in.nlink == 0 && !in.linkable:
		return unix.ENOENT
	}
	in.linkable = false
	d.fs.rename(change{d.in, name, in})
	return nil
}
