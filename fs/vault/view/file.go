package view

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// file is an open regular file.
type file struct {
	meta
	access int // O_RDONLY, O_WRONLY or O_RDWR
	sync   vault.SyncScope
	syncs  bool // each write is durable
}

// Open implements backing.Dir.
func (d *dir) Open(name string, flags int, mode uint32) (backing.File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	flags, err := backing.CheckFlags(flags)
	if err != nil {
		return nil, err
	}
	for {
		n, err := d.openNode(name, flags, mode)
		if errors.Is(err, syscall.EEXIST) && flags&unix.O_EXCL == 0 { // made by another meanwhile
			continue
		}
		if err != nil {
			return nil, err
		}
		f := &file{meta: meta{s: d.s, n: n}, access: flags & unix.O_ACCMODE, syncs: flags&(unix.O_SYNC|unix.O_DSYNC) != 0}
		if flags&unix.O_SYNC != unix.O_SYNC {
			f.sync = vault.SyncData
		}
		return f, nil
	}
}

// openNode returns the node, open and referred to.
func (d *dir) openNode(name string, flags int, mode uint32) (*vault.Node, error) {
	n, _, err := d.lookup(name)
	switch {
	case err == nil && flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL:
		err = syscall.EEXIST
	case err == nil:
		err = d.openOld(n, flags)
	case errors.Is(err, syscall.ENOENT) && flags&unix.O_CREAT != 0:
		n, _, err = d.s.v.Create(d.n, name, mode, d.s.who)
		return n, err
	}
	if err != nil && n != nil {
		d.s.forget(n)
	}
	return n, err
}

// openOld opens what was there.
func (d *dir) openOld(n *vault.Node, flags int) error {
	switch n.Kind() {
	case unix.S_IFREG:
	case unix.S_IFDIR:
		return syscall.EISDIR
	case unix.S_IFLNK:
		return syscall.ELOOP
	default:
		return syscall.EINVAL
	}
	if d.s.v.ReadOnly() && flags&(unix.O_ACCMODE|unix.O_TRUNC) != 0 {
		return vault.ErrReadOnly
	}
	if err := d.s.v.Open(n); err != nil {
		return err
	}
	if flags&unix.O_TRUNC == 0 {
		return nil
	}
	err := d.s.v.Truncate(d.s.ctx, n, 0, vault.KeepPrivileges)
	if err != nil {
		d.s.v.Release(n)
	}
	return err
}

// OpenStat implements backing.Dir.
func (d *dir) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	f, err := d.Open(name, flags, mode)
	if err != nil {
		return nil, backing.Stat{}, err
	}
	st, err := f.Stat()
	if err != nil {
		f.Close()
		return nil, st, err
	}
	return f, st, nil
}

// Tmpfile implements backing.Dir.
func (d *dir) Tmpfile(mode uint32) (backing.File, error) {
	n, _, err := d.s.v.Tmpfile(d.n, mode, d.s.who)
	if err != nil {
		return nil, err
	}
	return &file{meta: meta{s: d.s, n: n}, access: unix.O_RDWR}, nil
}

// Close implements backing.Meta.
func (f *file) Close() error {
	if f.closed.Swap(true) {
		return syscall.EBADF
	}
	f.s.v.Release(f.n)
	f.s.forget(f.n)
	return nil
}

// may fails unless the file was opened for an access other than not.
func (f *file) may(not int) error {
	if f.access == not || f.closed.Load() {
		return syscall.EBADF
	}
	return nil
}

// ReadAt implements backing.File.
func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.may(unix.O_WRONLY); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	return f.s.v.Read(f.s.ctx, f.n, p, off)
}

// WriteAt implements backing.File.
func (f *file) WriteAt(p []byte, off int64) (int, error) {
	if err := f.may(unix.O_RDONLY); err != nil {
		return 0, err
	}
	if off < 0 {
		return 0, syscall.EINVAL
	}
	n, err := f.s.v.Write(f.s.ctx, f.n, p, off, vault.KeepPrivileges)
	if err == nil && f.syncs && len(p) > 0 {
		err = f.s.v.Fsync(f.n, f.sync)
	}
	return n, err
}

// WritevAt implements backing.File.
func (f *file) WritevAt(bufs [][]byte, off int64) (int, error) {
	done := 0
	for _, b := range bufs {
		n, err := f.WriteAt(b, off+int64(done))
		done += n
		if err != nil {
			return done, err
		}
	}
	return done, nil
}

// Truncate implements backing.File.
func (f *file) Truncate(size int64) error {
	switch {
	case f.may(unix.O_RDONLY) != nil, size < 0: // as ftruncate(2)
		return syscall.EINVAL
	}
	return f.s.v.Truncate(f.s.ctx, f.n, size, vault.KeepPrivileges)
}

// Allocate implements backing.File.
func (f *file) Allocate(mode uint32, off, n int64) error {
	if err := f.may(unix.O_RDONLY); err != nil {
		return err
	}
	return f.s.v.Allocate(f.s.ctx, f.n, mode, off, n, vault.KeepPrivileges)
}

// Seek implements backing.File.
func (f *file) Seek(off int64, whence int) (int64, error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, syscall.EINVAL
	}
	if off < 0 {
		return 0, syscall.ENXIO
	}
	return f.s.v.Seek(f.s.ctx, f.n, off, whence)
}

// CopyRange implements backing.File.
func (f *file) CopyRange(to backing.File, off, dstOff, n int64) (int64, error) {
	t, ok := to.(*file)
	if !ok || t.s.v != f.s.v {
		return 0, syscall.EXDEV
	}
	if err := errors.Join(f.may(unix.O_WRONLY), t.may(unix.O_RDONLY)); err != nil {
		return 0, syscall.EBADF
	}
	if off < 0 || dstOff < 0 || n < 0 {
		return 0, syscall.EINVAL
	}
	return f.s.v.CopyRange(f.s.ctx, f.n, off, t.n, dstOff, n, vault.KeepPrivileges)
}

// Sync implements backing.File.
func (f *file) Sync() error { return f.s.v.Fsync(f.n, vault.SyncAll) }

// DataSync implements backing.File.
func (f *file) DataSync() error { return f.s.v.Fsync(f.n, vault.SyncData) }

// LockWait implements backing.File; there are no locks here.
func (f *file) LockWait(backing.LockMode) error { return syscall.EOPNOTSUPP }

// Unlock implements backing.File.
func (f *file) Unlock() error { return syscall.EOPNOTSUPP }

// Use implements backing.File.
func (f *file) Use() error { return syscall.EOPNOTSUPP }

// InUse implements backing.File.
func (f *file) InUse() (bool, error) { return false, syscall.EOPNOTSUPP }

// WillNeed implements backing.File. The vault reads ahead by itself.
func (f *file) WillNeed(int64, int64) {}
