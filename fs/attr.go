package fs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// fillAttr translates attributes.
func fillAttr(a *fuse.Attr, st *vault.Attr) {
	a.Ino = st.Ino
	a.Size = uint64(st.Size)
	a.Blocks = uint64(st.Blocks)
	a.Atime, a.Atimensec = uint64(st.Atim.Sec), uint32(st.Atim.Nsec)
	a.Mtime, a.Mtimensec = uint64(st.Mtim.Sec), uint32(st.Mtim.Nsec)
	a.Ctime, a.Ctimensec = uint64(st.Ctim.Sec), uint32(st.Ctim.Nsec)
	a.Mode = st.Mode
	a.Nlink = st.Nlink
	a.Owner = fuse.Owner{Uid: st.UID, Gid: st.GID}
	a.Rdev = rdev(st.Rdev)
	a.Blksize = 4096
}

// rdev packs a device number as the FUSE protocol does (new_encode_dev of the kernel).
func rdev(dev uint64) uint32 {
	major, minor := unix.Major(dev), unix.Minor(dev)
	return minor&0xff | major<<8 | minor&^0xff<<12
}

// unrdev is the other way round.
func unrdev(v uint32) uint64 {
	return unix.Mkdev(v&0xfff00>>8, v&0xff|v>>12&0xfff00)
}

// fillEntry fills in the answer of whatever looks up or makes a node.
func (fs *filesystem) fillEntry(out *fuse.EntryOut, n *vault.Node, st *vault.Attr) {
	out.NodeId = n.ID()
	out.Generation = 1
	fillAttr(&out.Attr, st)
	out.SetEntryTimeout(fs.timeout)
	out.SetAttrTimeout(fs.timeout)
}

// node returns the node of a request; the kernel names only nodes that it has not forgotten.
func (fs *filesystem) node(id uint64) (*vault.Node, fuse.Status) {
	if n := fs.v.Node(id); n != nil {
		return n, fuse.OK
	}
	return nil, fuse.Status(syscall.ESTALE)
}

// Lookup finds a name. What is not there is answered with a timeout too, so that the kernel need not ask again.
func (fs *filesystem) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Lookup(dir, name)
	if errors.Is(err, syscall.ENOENT) && fs.timeout > 0 {
		out.SetEntryTimeout(fs.timeout)
		return fuse.OK
	}
	if err != nil {
		return fs.status("lookup", h.NodeId, err)
	}
	fs.fillEntry(out, n, &attr)
	return fuse.OK
}

// Forget takes back lookups.
func (fs *filesystem) Forget(id, count uint64) {
	if n := fs.v.Node(id); n != nil {
		fs.v.Forget(n, count)
		if fs.cached && n.Kind() == syscall.S_IFDIR && fs.v.Node(id) == nil {
			fs.listings.drop(id)
		}
	}
}

// GetAttr is stat(2).
func (fs *filesystem) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	attr, err := fs.v.Attr(n)
	if err != nil {
		return fs.status("getattr", in.NodeId, err)
	}
	fillAttr(&out.Attr, &attr)
	out.SetTimeout(fs.timeout)
	return fuse.OK
}

// SetAttr is chmod, chown, truncate and utimensat. A request that sets nothing is chown(2) without an
// owner, or comes before a change of content that is to take the privileges of the file. The kernel, which keeps the times of what it caches, also sends the
// times of files that have just lost their name: there is nothing to be done then.
func (fs *filesystem) SetAttr(cancel <-chan struct{}, in *fuse.SetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	var c vault.SetAttr
	if mode, ok := in.GetMode(); ok {
		c.Mode = &mode
	}
	if uid, ok := in.GetUID(); ok {
		c.UID = &uid
	}
	if gid, ok := in.GetGID(); ok {
		c.GID = &gid
	}
	if size, ok := in.GetSize(); ok {
		s := int64(size)
		if s < 0 {
			return fuse.Status(syscall.EFBIG)
		}
		c.Size = &s
	}
	c.Atime = timeOf(in.Valid, fuse.FATTR_ATIME, fuse.FATTR_ATIME_NOW, in.Atime, in.Atimensec)
	c.Mtime = timeOf(in.Valid, fuse.FATTR_MTIME, fuse.FATTR_MTIME_NOW, in.Mtime, in.Mtimensec)
	c.Privileges = privileges(in.Valid&fuse.FATTR_KILL_SUIDGID != 0)
	const nothing = fuse.FATTR_FH | fuse.FATTR_LOCKOWNER
	switch {
	case in.Valid&^nothing == fuse.FATTR_CTIME: // with the writeback cache chown says so
		c.Privileges = vault.DropPrivileges
	case in.Valid&^nothing == 0: // root's, before it writes, is about the capability alone
		c.Privileges = privileges(in.InHeader.Uid != 0)
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	attr, err := fs.v.SetAttr(ctx, n, c)
	if errors.Is(err, vault.ErrStale) && c.Mode == nil && c.UID == nil && c.GID == nil && c.Size == nil {
		out.Attr.Mode, out.Attr.Ino = n.Kind(), n.Ino()
		return fuse.OK
	}
	if err != nil {
		return fs.status("setattr", in.NodeId, err)
	}
	fillAttr(&out.Attr, &attr)
	out.SetTimeout(fs.timeout)
	return fuse.OK
}

func timeOf(valid, set, now uint32, sec uint64, nsec uint32) *backing.Timespec {
	switch {
	case valid&now != 0:
		return &backing.Timespec{Nsec: backing.UtimeNow}
	case valid&set != 0:
		return &backing.Timespec{Sec: int64(sec), Nsec: int64(nsec)}
	}
	return nil
}

// Statx is stat with the birth time.
func (fs *filesystem) Statx(_ <-chan struct{}, in *fuse.StatxIn, out *fuse.StatxOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	attr, err := fs.v.Attr(n)
	if err != nil {
		return fs.status("statx", in.NodeId, err)
	}
	fillStatx(out, &attr, fs.v.BirthTime(n))
	out.SetTimeout(fs.timeout)
	return fuse.OK
}

func fillStatx(out *fuse.StatxOut, st *vault.Attr, birth backing.Timespec) {
	const basic, btime = 0x7ff, 0x800 // STATX_BASIC_STATS, STATX_BTIME
	moment := func(t backing.Timespec) fuse.SxTime { return fuse.SxTime{Sec: uint64(t.Sec), Nsec: uint32(t.Nsec)} }
	out.Mask = basic
	out.Blksize = 4096
	out.Nlink, out.Uid, out.Gid = st.Nlink, st.UID, st.GID
	out.Mode = uint16(st.Mode)
	out.Ino, out.Size, out.Blocks = st.Ino, uint64(st.Size), uint64(st.Blocks)
	out.Atime, out.Mtime, out.Ctime = moment(st.Atim), moment(st.Mtim), moment(st.Ctim)
	out.RdevMajor, out.RdevMinor = unix.Major(st.Rdev), unix.Minor(st.Rdev)
	if birth != (backing.Timespec{}) {
		out.Mask |= btime
		out.Btime = moment(birth)
	}
}

// StatFs is statfs(2), of the file system that holds the vault.
func (fs *filesystem) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := fs.v.Statfs()
	if err != nil {
		return fs.status("statfs", h.NodeId, err)
	}
	fillStatfs(out, &s)
	return fuse.OK
}

func fillStatfs(out *fuse.StatfsOut, s *backing.Statfs) {
	out.Bsize, out.Frsize = s.Bsize, s.Frsize
	if out.Frsize == 0 {
		out.Frsize = s.Bsize
	}
	out.Blocks, out.Bfree, out.Bavail = s.Blocks, s.Bfree, s.Bavail
	out.Files, out.Ffree, out.NameLen = s.Files, s.Ffree, s.Namelen
}

// Access is asked only of mounts that are root's alone, and root may do everything but run what nobody may run.
func (fs *filesystem) Access(_ <-chan struct{}, in *fuse.AccessIn) fuse.Status {
	const execute = 1
	n, st := fs.node(in.NodeId)
	if st != fuse.OK || in.Mask&execute == 0 || n.Kind() != syscall.S_IFREG {
		return st
	}
	attr, err := fs.v.Attr(n)
	if err == nil && attr.Mode&0o111 == 0 {
		return fuse.EACCES
	}
	return fs.status("access", in.NodeId, err)
}
