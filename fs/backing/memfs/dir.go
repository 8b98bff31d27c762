package memfs

import (
	"maps"
	"slices"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// dir is an open directory.
type dir struct{ handle }

const (
	nameMax   = 255
	targetMax = unix.PathMax - 1
)

// reach locks and checks that name can be looked up. Where it returns an error, the lock is not held.
func (d *dir) reach(name string) error {
	if err := backing.CheckName(name); err != nil {
		return err
	}
	if err := d.lock(); err != nil {
		return err
	}
	if err := d.holdable(name); err != nil {
		d.fs.mu.Unlock()
		return err
	}
	return nil
}

// holdable is how a lookup fails in a directory that is gone, and of a name too long, in this order. Call with fs.mu
// held.
func (d *dir) holdable(name string) error {
	switch {
	case d.closed:
		return unix.EBADF
	case d.in.dead:
		return unix.ENOENT
	case len(name) > nameMax:
		return unix.ENAMETOOLONG
	}
	return nil
}

// find locks and looks name up. Where it returns an error, the lock is not held.
func (d *dir) find(name string) (*inode, error) {
	if err := d.reach(name); err != nil {
		return nil, err
	}
	in, ok := d.in.entries[name]
	if !ok {
		d.fs.mu.Unlock()
		return nil, unix.ENOENT
	}
	return in, nil
}

// make puts a new inode at name, which must be free, and returns it. Call with fs.mu held.
func (d *dir) make(name string, mode uint32) (*inode, error) {
	if _, ok := d.in.entries[name]; ok {
		return nil, unix.EEXIST
	}
	in := d.fresh(mode)
	d.fs.rename(change{d.in, name, in})
	return in, nil
}

// fresh makes an inode that belongs into d, without a name: a setgid directory gives it its group.
func (d *dir) fresh(mode uint32) *inode {
	in := d.fs.newInode(mode)
	if d.in.mode&unix.S_ISGID != 0 {
		in.gid = d.in.gid
		if in.isDir() {
			in.mode |= unix.S_ISGID
		}
	}
	return in
}

func (d *dir) Open(name string, flags int, mode uint32) (backing.File, error) {
	f, _, err := d.OpenStat(name, flags, mode)
	return f, err
}

func (d *dir) OpenStat(name string, flags int, mode uint32) (backing.File, backing.Stat, error) {
	f, err := d.open(name, flags, mode)
	if err != nil {
		return nil, backing.Stat{}, err
	}
	st, err := f.Stat()
	return f, st, err
}

func (d *dir) open(name string, flags int, mode uint32) (*file, error) {
	if err := backing.CheckName(name); err != nil {
		return nil, err
	}
	flags, err := backing.CheckFlags(flags)
	if err != nil {
		return nil, err
	}
	if err := d.reach(name); err != nil {
		return nil, err
	}
	defer d.fs.mu.Unlock()
	in, ok := d.in.entries[name]
	switch {
	case !ok && flags&unix.O_CREAT != 0:
		if in, err = d.make(name, unix.S_IFREG|mode&0o7777); err != nil {
			return nil, err
		}
		flags &^= unix.O_TRUNC
	case !ok:
		return nil, unix.ENOENT
	case flags&(unix.O_CREAT|unix.O_EXCL) == unix.O_CREAT|unix.O_EXCL:
		return nil, unix.EEXIST
	case in.kind() == unix.S_IFLNK:
		return nil, unix.ELOOP
	case in.isDir():
		return nil, unix.EISDIR
	case !in.isFile():
		return nil, unix.EINVAL
	}
	if flags&unix.O_TRUNC != 0 {
		in.data.truncate(0)
		in.dropCapability()
		d.fs.touch(in, true)
	}
	return &file{handle{fs: d.fs, in: in, told: in.failed.since()}, flags}, nil
}

func (d *dir) Tmpfile(mode uint32) (backing.File, error) {
	if err := d.lock(); err != nil {
		return nil, err
	}
	defer d.fs.mu.Unlock()
	if d.in.dead {
		return nil, unix.ENOENT
	}
	in := d.fresh(unix.S_IFREG | mode&0o7777)
	in.linkable = true
	return &file{handle{fs: d.fs, in: in, told: in.failed.since()}, unix.O_RDWR}, nil
}

func (d *dir) OpenDir(name string) (backing.Dir, error) {
	in, err := d.find(name)
	if err != nil {
		return nil, err
	}
	defer d.fs.mu.Unlock()
	if !in.isDir() {
		return nil, unix.ENOTDIR
	}
	return &dir{handle{fs: d.fs, in: in, told: d.fs.failed.since()}}, nil
}

func (d *dir) Dup() (backing.Dir, error) {
	if err := d.lock(); err != nil {
		return nil, err
	}
	defer d.fs.mu.Unlock()
	return &dir{handle{fs: d.fs, in: d.in, told: d.fs.failed.since()}}, nil
}

// ReadDir gives the entries as they were when it began, by name.
func (d *dir) ReadDir(f func(backing.Entry) bool) error {
	if err := d.lock(); err != nil {
		return err
	}
	if d.in.dead {
		d.fs.mu.Unlock()
		return unix.ENOENT
	}
	var entries []backing.Entry
	for _, name := range slices.Sorted(maps.Keys(d.in.entries)) {
		in := d.in.entries[name]
		entries = append(entries, backing.Entry{Name: name, Ino: in.ino, Kind: in.kind()})
	}
	d.fs.mu.Unlock()
	for _, e := range entries {
		if !f(e) {
			break
		}
	}
	return nil
}

func (d *dir) Statfs() (backing.Statfs, error) {
	if err := d.lock(); err != nil {
		return backing.Statfs{}, err
	}
	defer d.fs.mu.Unlock()
	const total = 1 << 28 // 1 TiB
	return backing.Statfs{
		Bsize: pageSize, Frsize: pageSize, Blocks: total, Bfree: total, Bavail: total,
		Files: total, Ffree: total - d.fs.lastIno, Namelen: nameMax, Type: unix.TMPFS_MAGIC,
	}, nil
}

func (d *dir) Sync() error {
	if err := d.lock(); err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	d.fs.syncInode(d.in)
	d.fs.syncNames(d.in)
	return nil
}

func (d *dir) SyncFS() error {
	if err := d.lock(); err != nil {
		return err
	}
	defer d.fs.mu.Unlock()
	d.fs.syncAll()
	return d.fs.failed.tell(&d.told)
}
