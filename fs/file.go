package fs

import (
	"encoding/binary"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"
	"golang.org/x/sys/unix"

	"kmsfs/fs/vault"
)

// fillOpen says what the kernel may cache. Where other hosts append too, it does not know where the end of the file is, and
// would keep what it appends in the wrong place.
func (fs *filesystem) fillOpen(out *fuse.OpenOut, flags uint32) {
	if fs.cached {
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
		return
	}
	out.Fh = fs.handles.Add(1)
	if flags&syscall.O_APPEND != 0 {
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
}

// Open is refused for good on an exclusive mount: the kernel then opens files without asking, and names the node in
// each operation. Another host's changes are only seen where it does ask.
func (fs *filesystem) Open(cancel <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if fs.cached {
		return fuse.ENOSYS
	}
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if err := fs.v.Open(n); err != nil {
		return fs.status("open", in.NodeId, err)
	}
	if in.Flags&syscall.O_TRUNC != 0 {
		ctx := fs.begin(cancel)
		defer ctx.finish()
		if err := fs.v.Truncate(ctx, n, 0, privileges(in.Mode&fuse.OPEN_KILL_SUIDGID != 0)); err != nil {
			fs.v.Release(n)
			return fs.status("open", in.NodeId, err)
		}
	}
	fs.fillOpen(out, in.Flags)
	return fuse.OK
}

func privileges(drop bool) vault.Privileges {
	if drop {
		return vault.DropPrivileges
	}
	return vault.KeepPrivileges
}

// Release ends an opening: on an exclusive mount only that of Create and Tmpfile.
func (fs *filesystem) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	if n := fs.v.Node(in.NodeId); n != nil {
		fs.unlockReleased(n, in)
		fs.v.Release(n)
	}
}

// Read is read(2).
func (fs *filesystem) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return nil, st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	got, err := fs.v.Read(ctx, n, buf, int64(in.Offset))
	if err != nil {
		return nil, fs.status("read", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:got]), fuse.OK
}

// Write is write(2), or the kernel writing back what it cached.
func (fs *filesystem) Write(cancel <-chan struct{}, in *fuse.WriteIn, data []byte) (uint32, fuse.Status) {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	priv := privileges(in.WriteFlags&fuse.WRITE_KILL_SUIDGID != 0)
	var done int
	var err error
	if in.Flags&syscall.O_APPEND != 0 && !fs.cached { // the kernel knows the end of file of some time ago
		done, err = fs.v.Append(ctx, n, data, priv)
	} else {
		done, err = fs.v.Write(ctx, n, data, int64(in.Offset), priv)
	}
	if err != nil {
		if fs.cached && errors.Is(err, vault.ErrNoKey) && ctx.Err() == nil { // else the kernel would show what is not stored
			fs.server.dropLater(in.NodeId)
		}
		return 0, fs.status("write", in.NodeId, err)
	}
	return uint32(done), fuse.OK
}

// Writev is Write of data in pieces.
func (fs *filesystem) Writev(cancel <-chan struct{}, in *fuse.WriteIn, data [][]byte) (uint32, fuse.Status) {
	if len(data) == 1 {
		return fs.Write(cancel, in, data[0])
	}
	var whole []byte
	for _, p := range data {
		whole = append(whole, p...)
	}
	return fs.Write(cancel, in, whole)
}

// Fsync is fsync(2) and fdatasync(2).
func (fs *filesystem) Fsync(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	scope := vault.SyncAll
	if in.FsyncFlags&1 != 0 {
		scope = vault.SyncData
	}
	return fs.status("fsync", in.NodeId, fs.v.Fsync(n, scope))
}

// Fallocate is fallocate(2).
func (fs *filesystem) Fallocate(cancel <-chan struct{}, in *fuse.FallocateIn) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	return fs.status("fallocate", in.NodeId,
		fs.v.Allocate(ctx, n, in.Mode, int64(in.Offset), int64(in.Length), vault.KeepPrivileges)) // SetAttr has seen to them
}

// Lseek is SEEK_DATA and SEEK_HOLE. The kernel does not write back what it caches before it asks, and would be told
// that a hole is where it has data: so it is made to, by having it drop its pages, but only those that may change the
// answer. Most files that are asked for have no hole, and go on being cached.
func (fs *filesystem) Lseek(cancel <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	off, whence := int64(in.Offset), int(in.Whence)
	pos, err := fs.v.Seek(ctx, n, off, whence)
	if fs.cached {
		const toEnd = 0
		again := func(from, length int64) error {
			if err := fs.server.invalidate(in.NodeId, from, length); err != nil {
				return err
			}
			var err error
			pos, err = fs.v.Seek(ctx, n, off, whence)
			return err
		}
		switch {
		case errors.Is(err, syscall.ENXIO): // the end of what has been written back
			err = again(off, toEnd)
		case err == nil && whence == vault.SeekData && pos > off:
			err = again(off, pos-off)
		case err == nil && whence == vault.SeekHole:
			hole := pos
			if err = again(hole, 1); err == nil && pos != hole {
				err = again(pos, toEnd)
			}
		}
	}
	if err != nil {
		return fs.status("lseek", in.NodeId, err)
	}
	out.Offset = uint64(pos)
	return fuse.OK
}

// CopyFileRange is copy_file_range(2).
func (fs *filesystem) CopyFileRange(cancel <-chan struct{}, in *fuse.CopyFileRangeIn) (uint32, fuse.Status) {
	src, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	dst, st := fs.node(in.NodeIdOut)
	if st != fuse.OK {
		return 0, st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	const most = 64 << 20 // of one request; the caller asks again
	n, err := fs.v.CopyRange(ctx, src, int64(in.OffIn), dst, int64(in.OffOut), int64(min(in.Len, most)), vault.KeepPrivileges)
	if err != nil {
		return 0, fs.status("copy_file_range", in.NodeId, err)
	}
	return uint32(n), fuse.OK
}

// Ioctl knows FS_IOC_GETFLAGS and FS_IOC_SETFLAGS, and FS_IOC_FSGETXATTR, by which the kernel asks for the same flags before it
// sets some. Nothing else goes to the backing file system.
func (fs *filesystem) Ioctl(_ <-chan struct{}, in *fuse.IoctlIn, inbuf []byte, _ *fuse.IoctlOut, outbuf []byte) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	switch {
	case in.Cmd == unix.FS_IOC_GETFLAGS && len(outbuf) >= 4:
		flags, err := fs.v.Flags(n)
		if err != nil {
			return fs.status("getflags", in.NodeId, err)
		}
		clear(outbuf)
		binary.NativeEndian.PutUint32(outbuf, flags)
		return fuse.OK
	case in.Cmd == fsGetXattr && len(outbuf) >= 4: // struct fsxattr: its flags come first, the rest is not known
		flags, err := fs.v.Flags(n)
		if err != nil {
			return fs.status("getflags", in.NodeId, err)
		}
		clear(outbuf)
		binary.NativeEndian.PutUint32(outbuf, xflags(flags))
		return fuse.OK
	case in.Cmd == unix.FS_IOC_SETFLAGS && len(inbuf) >= 4:
		return fs.status("setflags", in.NodeId, fs.v.SetFlags(n, binary.NativeEndian.Uint32(inbuf)))
	}
	return fuse.Status(syscall.ENOTTY)
}

const fsGetXattr = 0x801c581f // FS_IOC_FSGETXATTR

// xflags translates the flags of FS_IOC_GETFLAGS to those of FS_IOC_FSGETXATTR, as fileattr_fill_flags of the kernel does.
func xflags(flags uint32) (x uint32) {
	for _, f := range []struct{ flag, x uint32 }{
		{0x10, 0x8}, {0x20, 0x10}, {0x8, 0x20}, {0x80, 0x40}, {0x40, 0x80}, // IMMUTABLE, APPEND, SYNC, NOATIME, NODUMP
		{0x20000000, 0x200}, {0x02000000, 0x8000}, // PROJINHERIT, DAX
	} {
		if flags&f.flag != 0 {
			x |= f.x
		}
	}
	return x
}
