package memfs

import (
	"maps"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// maxVersions bounds how many states that may survive a crash are remembered of one thing. Past it the second oldest
// is forgotten, never the oldest, which is the durable one.
const maxVersions = 64

// meta is what one inode says of itself. A value is never changed once it is old: xattrs is replaced, not written.
type meta struct {
	mode             uint32 // with type
	uid, gid         uint32
	flags            uint32
	atim, mtim, ctim backing.Timespec
	xattrs           map[string]string
}

// inode is a file, directory or other object.
type inode struct {
	ino  uint64
	rdev uint64
	btim backing.Timespec

	meta
	metaOld []meta // since the last sync, the durable one first

	nlink    uint32
	linkable bool // made by Tmpfile and never linked
	target   string
	data     content

	// Of a directory.
	entries map[string]*inode
	base    map[string]*inode // entries before the first op of FS.log
	parent  *inode
	dead    bool // removed

	failed writeErrors // of the content

	flock, ranges locks // of Dir.Lock and of File.LockWait; Linux keeps the two apart
	using         locks // of File.Use
}

// newInode makes an inode without a name. Call with fs.mu held.
func (fs *FS) newInode(mode uint32) *inode {
	fs.lastIno++
	now := fs.stamp()
	in := &inode{ino: fs.lastIno, btim: now, meta: meta{mode: mode, atim: now, mtim: now, ctim: now}}
	if in.isDir() {
		in.entries = map[string]*inode{}
		in.base = map[string]*inode{}
	}
	return in
}

func (in *inode) kind() uint32 { return in.mode & unix.S_IFMT }
func (in *inode) isDir() bool  { return in.kind() == unix.S_IFDIR }
func (in *inode) isFile() bool { return in.kind() == unix.S_IFREG }

// change remembers the present meta as one that may survive a crash; the caller then changes it.
func (in *inode) change() {
	in.metaOld = remember(in.metaOld, in.meta)
}

// remember appends v to the versions in old, within maxVersions.
func remember[T any](old []T, v T) []T {
	if len(old) >= maxVersions {
		old = append(old[:1], old[2:]...)
	}
	return append(old, v)
}

func (in *inode) stat() backing.Stat {
	st := backing.Stat{
		Dev: 1, Ino: in.ino, Mode: in.mode, Nlink: in.nlink, UID: in.uid, GID: in.gid, Rdev: in.rdev,
		Blksize: pageSize, Atim: in.atim, Mtim: in.mtim, Ctim: in.ctim,
	}
	switch in.kind() {
	case unix.S_IFREG:
		st.Size = in.data.size
		st.Blocks = in.data.blocks()
	case unix.S_IFDIR:
		st.Size, st.Blocks = pageSize, pageSize/512
	case unix.S_IFLNK:
		st.Size = int64(len(in.target))
	}
	return st
}

// touch sets ctime, and mtime where the content has changed.
func (fs *FS) touch(in *inode, content bool) {
	now := fs.stamp()
	in.ctim = now
	if content {
		in.mtim = now
	}
}

// dropCapability is file_remove_privs of the kernel as root meets it: a change of content or owner removes the
// file's capabilities, but leaves the suid bits to those with CAP_FSETID.
func (in *inode) dropCapability() {
	if _, ok := in.xattrs["security.capability"]; ok {
		in.change()
		in.setXattr("security.capability", "", false)
	}
}

// setXattr replaces the map of attributes by one with name set to value, or gone.
func (in *inode) setXattr(name, value string, keep bool) {
	m := maps.Clone(in.xattrs)
	if m == nil {
		m = map[string]string{}
	}
	if keep {
		m[name] = value
	} else {
		delete(m, name)
	}
	in.xattrs = m
}

func (fs *FS) chmod(in *inode, mode uint32) error {
	if in.kind() == unix.S_IFLNK {
		return unix.EOPNOTSUPP
	}
	in.change()
	in.mode = in.kind() | mode&0o7777
	fs.touch(in, false)
	return nil
}

func (fs *FS) chown(in *inode, uid, gid uint32) error {
	in.dropCapability()
	in.change()
	const same = ^uint32(0)
	if uid != same {
		in.uid = uid
	}
	if gid != same {
		in.gid = gid
	}
	if !in.isDir() { // chown_common of the kernel, whoever calls
		in.mode &^= unix.S_ISUID
		if in.mode&unix.S_IXGRP != 0 {
			in.mode &^= unix.S_ISGID
		}
	}
	fs.touch(in, false)
	return nil
}

// checkTimes returns EINVAL where utimensat(2) would.
func checkTimes(ts ...backing.Timespec) error {
	for _, t := range ts {
		if t.Nsec != backing.UtimeNow && t.Nsec != backing.UtimeOmit && (t.Nsec < 0 || t.Nsec >= 1e9) {
			return unix.EINVAL
		}
	}
	return nil
}

func (fs *FS) utimes(in *inode, atime, mtime backing.Timespec) error {
	if err := checkTimes(atime, mtime); err != nil {
		return err
	}
	if atime.Nsec == backing.UtimeOmit && mtime.Nsec == backing.UtimeOmit {
		return nil
	}
	in.change()
	now := fs.stamp()
	set := func(to *backing.Timespec, t backing.Timespec) {
		switch t.Nsec {
		case backing.UtimeNow:
			*to = now
		case backing.UtimeOmit:
		default:
			*to = t
		}
	}
	set(&in.atim, atime)
	set(&in.mtim, mtime)
	in.ctim = now
	return nil
}

// userFlags are the flags that SetFlags keeps, FS_SECRM_FL to FS_NOATIME_FL without compression, FS_DIRSYNC_FL and
// FS_TOPDIR_FL of linux/fs.h; others are EOPNOTSUPP.
const userFlags = 0x300fb

func (fs *FS) setFlags(in *inode, flags uint32) error {
	if flags&^userFlags != 0 {
		return unix.EOPNOTSUPP
	}
	in.change()
	in.flags = flags
	fs.touch(in, false)
	return nil
}
