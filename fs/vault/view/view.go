// Package view shows the plaintext of an open vault as a backing.Dir, so that what works on a directory by these calls works
// on a vault without a mount too: listing, copying, archiving, synchronizing.
//
// Start with [Root]. What is made belongs to the user of this process, and a write keeps setuid and setgid bits, as for root.
// Errors are those of the vault, which wrap those of the system calls; vault.ErrCorrupt is what does not open.
//
// Locks (Dir.Lock, File.LockWait) are not there: EOPNOTSUPP. All methods are safe for concurrent use, but Close. Handles are
// closed before the vault.
package view

import (
	"context"
	"fmt"
	"os"
	"strings"
	"sync/atomic"
	"syscall"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// view is what all handles of one Root share. The context bounds the calls of the keysource: those of backing.Dir take none.
type view struct {
	ctx context.Context
	v   *vault.Vault
	who vault.Caller
}

// Root returns the root directory of v. ctx bounds what the keysource is asked for.
func Root(ctx context.Context, v *vault.Vault) backing.Dir {
	s := &view{ctx, v, vault.Caller{UID: uint32(os.Geteuid()), GID: uint32(os.Getegid())}}
	return &dir{meta{s: s, n: v.Root()}}
}

// meta is an open node: a directory, or a file.
type meta struct {
	s      *view
	n      *vault.Node // referred to
	closed atomic.Bool
}

// forget gives up a reference; the root has none.
func (s *view) forget(n *vault.Node) {
	if n != s.v.Root() {
		s.v.Forget(n, 1)
	}
}

// close gives up the node, once.
func (m *meta) close() error {
	if m.closed.Swap(true) {
		return syscall.EBADF
	}
	m.s.forget(m.n)
	return nil
}

// Stat implements backing.Meta.
func (m *meta) Stat() (backing.Stat, error) { return m.s.v.Attr(m.n) }

func (m *meta) set(c vault.SetAttr) error {
	_, err := m.s.v.SetAttr(m.s.ctx, m.n, c)
	return err
}

// Chmod implements backing.Meta.
func (m *meta) Chmod(mode uint32) error { return m.set(vault.SetAttr{Mode: &mode}) }

// Chown implements backing.Meta.
func (m *meta) Chown(uid, gid uint32) error { return m.set(owner(uid, gid)) }

// owner is a change of owner and group, but for those that are -1.
func owner(uid, gid uint32) (c vault.SetAttr) {
	c.Privileges = vault.DropPrivileges // also where nothing changes
	if uid != ^uint32(0) {
		c.UID = &uid
	}
	if gid != ^uint32(0) {
		c.GID = &gid
	}
	return c
}

// Utimes implements backing.Meta.
func (m *meta) Utimes(atime, mtime backing.Timespec) error {
	return m.set(vault.SetAttr{Atime: moment(atime), Mtime: moment(mtime)})
}

// moment is a time to set, nil for none.
func moment(t backing.Timespec) *backing.Timespec {
	switch t.Nsec {
	case backing.UtimeOmit:
		return nil
	case backing.UtimeNow:
		now := time.Now()
		return &backing.Timespec{Sec: now.Unix(), Nsec: int64(now.Nanosecond())}
	}
	return &t
}

// checkAttr refuses the names of attributes that the kernel refuses.
func checkAttr(attr string) error {
	space, name, ok := strings.Cut(attr, ".")
	switch {
	case len(attr) == 0 || len(attr) > 255:
		return syscall.ERANGE
	case strings.IndexByte(attr, 0) >= 0, ok && name == "" && (space == "user" || space == "trusted" || space == "security"):
		return syscall.EINVAL
	}
	return nil
}

// mayChange refuses attributes of the user namespace where the kernel does: on all but files and directories.
func (m *meta) mayChange(attr string) error {
	if kind := m.n.Kind(); strings.HasPrefix(attr, "user.") && kind != unix.S_IFREG && kind != unix.S_IFDIR {
		return syscall.EPERM
	}
	return checkAttr(attr)
}

// Getxattr implements backing.Meta.
func (m *meta) Getxattr(attr string, buf []byte) (int, error) {
	if err := checkAttr(attr); err != nil {
		return 0, err
	}
	value, err := m.s.v.Getxattr(m.s.ctx, m.n, attr)
	return fill(buf, value, err)
}

// Setxattr implements backing.Meta.
func (m *meta) Setxattr(attr string, value []byte, flags int) error {
	if err := m.mayChange(attr); err != nil {
		return err
	}
	return m.s.v.Setxattr(m.s.ctx, m.n, attr, value, flags)
}

// Removexattr implements backing.Meta.
func (m *meta) Removexattr(attr string) error {
	if err := m.mayChange(attr); err != nil {
		return err
	}
	return m.s.v.Removexattr(m.s.ctx, m.n, attr)
}

// Listxattr implements backing.Meta.
func (m *meta) Listxattr(buf []byte) (int, error) {
	names, err := m.s.v.Listxattr(m.s.ctx, m.n)
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return fill(buf, list, err)
}

// checkName refuses what is no name, and what is too long.
func checkName(name string) error {
	if len(name) > envelope.NameMax {
		return syscall.ENAMETOOLONG
	}
	return backing.CheckName(name)
}

// fill is the end of Getxattr and Listxattr.
func fill(buf, value []byte, err error) (int, error) {
	switch {
	case err != nil:
		return 0, err
	case len(buf) == 0:
		return len(value), nil
	case len(buf) < len(value):
		return 0, syscall.ERANGE
	}
	return copy(buf, value), nil
}

// GetFlags implements backing.Meta.
func (m *meta) GetFlags() (uint32, error) { return m.s.v.Flags(m.n) }

// SetFlags implements backing.Meta.
func (m *meta) SetFlags(flags uint32) error { return m.s.v.SetFlags(m.n, flags) }

// dir is an open directory.
type dir struct{ meta }

// Close implements backing.Meta.
func (d *dir) Close() error { return d.close() }

// lookup finds name; the caller forgets the node.
func (d *dir) lookup(name string) (*vault.Node, backing.Stat, error) {
	if err := checkName(name); err != nil {
		return nil, backing.Stat{}, err
	}
	return d.s.v.Lookup(d.n, name)
}

// at calls f with the node of name.
func (d *dir) at(name string, f func(m *meta) error) error {
	n, _, err := d.lookup(name)
	if err != nil {
		return err
	}
	defer d.s.forget(n)
	return f(&meta{s: d.s, n: n})
}

// made ends what makes something.
func (d *dir) made(n *vault.Node, _ backing.Stat, err error) error {
	if err == nil {
		d.s.forget(n)
	}
	return err
}

// OpenDir implements backing.Dir.
func (d *dir) OpenDir(name string) (backing.Dir, error) {
	n, _, err := d.lookup(name)
	if err != nil {
		return nil, err
	}
	if n.Kind() != unix.S_IFDIR {
		d.s.forget(n)
		return nil, syscall.ENOTDIR
	}
	return &dir{meta{s: d.s, n: n}}, nil
}

// Dup implements backing.Dir.
func (d *dir) Dup() (backing.Dir, error) {
	if d.n != d.s.v.Root() {
		d.s.v.Refer(d.n)
	}
	return &dir{meta{s: d.s, n: d.n}}, nil
}

// StatAt implements backing.Dir.
func (d *dir) StatAt(name string) (backing.Stat, error) {
	n, st, err := d.lookup(name)
	if err == nil {
		d.s.forget(n)
	}
	return st, err
}

// StatBirth implements backing.Dir.
func (d *dir) StatBirth(name string) (backing.Stat, error) {
	n, st, err := d.lookup(name)
	if err == nil {
		st.Btim = d.s.v.BirthTime(n)
		d.s.forget(n)
	}
	return st, err
}

// Mkdir implements backing.Dir.
func (d *dir) Mkdir(name string, mode uint32) error {
	if err := checkName(name); err != nil {
		return err
	}
	return d.made(d.s.v.Mkdir(d.n, name, mode, d.s.who))
}

// Mknod implements backing.Dir.
func (d *dir) Mknod(name string, mode uint32, dev uint64) error {
	if err := checkName(name); err != nil {
		return err
	}
	return d.made(d.s.v.Mknod(d.n, name, mode, dev, d.s.who))
}

// Symlink implements backing.Dir.
func (d *dir) Symlink(target, name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	switch {
	case target == "":
		return syscall.ENOENT
	case strings.IndexByte(target, 0) >= 0:
		return syscall.EINVAL
	case len(target) > envelope.TargetMax:
		return syscall.ENAMETOOLONG
	}
	return d.made(d.s.v.Symlink(d.n, name, target, d.s.who))
}

// Readlink implements backing.Dir.
func (d *dir) Readlink(name string) (target string, err error) {
	err = d.at(name, func(m *meta) (err error) {
		target, err = d.s.v.Readlink(m.n)
		return err
	})
	return target, err
}

// Unlink implements backing.Dir.
func (d *dir) Unlink(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return d.s.v.Unlink(d.n, name)
}

// Rmdir implements backing.Dir.
func (d *dir) Rmdir(name string) error {
	if err := checkName(name); err != nil {
		return err
	}
	return d.s.v.Rmdir(d.n, name)
}

// Rename implements backing.Dir.
func (d *dir) Rename(name string, to backing.Dir, newName string, flags uint32) error {
	t, ok := to.(*dir)
	if !ok || t.s.v != d.s.v {
		return syscall.EXDEV
	}
	for _, err := range []error{checkName(name), checkName(newName), backing.CheckRename(flags)} {
		if err != nil {
			return err
		}
	}
	return d.s.v.Rename(d.n, name, t.n, newName, flags)
}

// Link implements backing.Dir.
func (d *dir) Link(name string, to backing.Dir, newName string) error {
	t, ok := to.(*dir)
	if !ok || t.s.v != d.s.v {
		return syscall.EXDEV
	}
	if err := checkName(newName); err != nil {
		return err
	}
	return d.at(name, func(m *meta) error {
		_, err := d.s.v.Link(m.n, t.n, newName)
		return err
	})
}

// LinkFile implements backing.Dir.
func (d *dir) LinkFile(f backing.File, name string) error {
	t, ok := f.(*file)
	if !ok || t.s.v != d.s.v {
		return syscall.EXDEV
	}
	if err := checkName(name); err != nil {
		return err
	}
	_, err := d.s.v.Link(t.n, d.n, name)
	return err
}

// ChmodAt implements backing.Dir.
func (d *dir) ChmodAt(name string, mode uint32) error {
	return d.at(name, func(m *meta) error { return m.Chmod(mode) })
}

// ChownAt implements backing.Dir.
func (d *dir) ChownAt(name string, uid, gid uint32) error {
	return d.at(name, func(m *meta) error { return m.Chown(uid, gid) })
}

// UtimesAt implements backing.Dir.
func (d *dir) UtimesAt(name string, atime, mtime backing.Timespec) error {
	return d.at(name, func(m *meta) error { return m.Utimes(atime, mtime) })
}

// GetxattrAt implements backing.Dir.
func (d *dir) GetxattrAt(name, attr string, buf []byte) (k int, err error) {
	err = d.at(name, func(m *meta) (err error) {
		k, err = m.Getxattr(attr, buf)
		return err
	})
	return k, err
}

// SetxattrAt implements backing.Dir.
func (d *dir) SetxattrAt(name, attr string, value []byte, flags int) error {
	return d.at(name, func(m *meta) error { return m.Setxattr(attr, value, flags) })
}

// RemovexattrAt implements backing.Dir.
func (d *dir) RemovexattrAt(name, attr string) error {
	return d.at(name, func(m *meta) error { return m.Removexattr(attr) })
}

// ListxattrAt implements backing.Dir.
func (d *dir) ListxattrAt(name string, buf []byte) (k int, err error) {
	err = d.at(name, func(m *meta) (err error) {
		k, err = m.Listxattr(buf)
		return err
	})
	return k, err
}

// ReadDir implements backing.Dir. The list is made first, so that f may change the directory. A directory with names that do
// not open is vault.ErrCorrupt, after f has had those that do: who copies or compares it must know that it is not all.
func (d *dir) ReadDir(f func(backing.Entry) bool) error {
	var list []backing.Entry
	var lost []string
	if err := d.s.v.List(d.n, func(e vault.DirEntry, err error) bool {
		switch {
		case err == nil:
			list = append(list, backing.Entry{Name: e.Name, Ino: e.Ino, Kind: e.Kind})
		case d.n != d.s.v.Root() || e.Stored != "lost+found": // which is of the file system that the vault is all of
			lost = append(lost, e.Stored)
		}
		return true
	}); err != nil {
		return err
	}
	for _, e := range list {
		if !f(e) {
			return nil
		}
	}
	if len(lost) > 0 {
		return fmt.Errorf("%w: %d stored names do not open, the first is %q", vault.ErrCorrupt, len(lost), lost[0])
	}
	return nil
}

// Statfs implements backing.Dir.
func (d *dir) Statfs() (backing.Statfs, error) { return d.s.v.Statfs() }

// Sync implements backing.Dir.
func (d *dir) Sync() error { return d.s.v.Fsync(d.n, vault.SyncAll) }

// SyncFS implements backing.Dir.
func (d *dir) SyncFS() error { return d.s.v.Flush() }

// Lock implements backing.Dir; there are no locks here.
func (d *dir) Lock(name string, _ backing.LockMode) (backing.File, error) {
	if err := checkName(name); err != nil {
		return nil, err
	}
	if st, err := d.StatAt(name); err == nil && st.Mode&unix.S_IFMT == unix.S_IFLNK {
		return nil, syscall.ELOOP
	}
	return nil, syscall.EOPNOTSUPP
}
