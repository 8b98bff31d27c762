package fs

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/reverse"
)

// reverseTimeout is how long the kernel may believe what it knows of a source that others change.
const reverseTimeout = time.Second

// reverseFS is the translation for a directory shown in reverse. What it does not have the kernel is told so once (ENOSYS); it
// refuses all changes by itself, the mount being read-only.
type reverseFS struct {
	base
	v *reverse.View

	mu    sync.Mutex // a leaf
	next  uint64     // handle
	files map[uint64]*reverse.Handle
	lists map[uint64]*reverseList
}

// MountReverse shows v on dir, read-only. When it returns without an error, the mount answers.
func MountReverse(v *reverse.View, dir string, o Options) (*Server, error) {
	o.complete()
	o.subtype, o.ReadOnly = reverseType, true
	raw := &reverseFS{v: v, files: map[uint64]*reverse.Handle{}, lists: map[uint64]*reverseList{}}
	raw.start(o)
	raw.statfs = func() error { _, err := v.Statfs(); return err }
	fo := raw.requests()
	fo.EnableAcl = o.AllowOther
	fo.EnableSymlinkCaching = true
	fo.ExtraCapabilities = fuse.CAP_READDIRPLUS_AUTO | fuse.CAP_ASYNC_DIO
	s, err := serveOn(dir, raw, &raw.base, fo, o)
	if err != nil {
		return nil, err
	}
	return s.begin(o)
}

func (fs *reverseFS) node(id uint64) (*reverse.Node, fuse.Status) {
	if n := fs.v.Node(id); n != nil {
		return n, fuse.OK
	}
	return nil, fuse.Status(syscall.ESTALE)
}

func reverseAge(n *reverse.Node) time.Duration {
	if n.OfState() {
		return 0
	}
	return reverseTimeout
}

func fillReverse(out *fuse.EntryOut, n *reverse.Node, st *backing.Stat) {
	out.NodeId = n.ID()
	out.Generation = 1
	fillAttr(&out.Attr, st)
	out.SetEntryTimeout(reverseAge(n))
	out.SetAttrTimeout(reverseAge(n))
}

// Lookup finds a name.
func (fs *reverseFS) Lookup(_ <-chan struct{}, h *fuse.InHeader, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Lookup(dir, name)
	if err != nil {
		return fs.status("lookup", h.NodeId, err)
	}
	fillReverse(out, n, &attr)
	return fuse.OK
}

// Forget takes back lookups.
func (fs *reverseFS) Forget(id, count uint64) {
	if n := fs.v.Node(id); n != nil {
		fs.v.Forget(n, count)
	}
}

// GetAttr is stat(2).
func (fs *reverseFS) GetAttr(_ <-chan struct{}, in *fuse.GetAttrIn, out *fuse.AttrOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	attr, err := fs.v.Attr(n)
	if err != nil {
		return fs.status("getattr", in.NodeId, err)
	}
	fillAttr(&out.Attr, &attr)
	out.SetTimeout(reverseAge(n))
	return fuse.OK
}

// Readlink returns the target of a symbolic link.
func (fs *reverseFS) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return nil, st
	}
	target, err := fs.v.Readlink(n)
	return []byte(target), fs.status("readlink", h.NodeId, err)
}

// Open opens a file for reading. What the kernel has cached of it stays where it is what it was.
func (fs *reverseFS) Open(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if in.Flags&syscall.O_ACCMODE != syscall.O_RDONLY {
		return fuse.EROFS
	}
	h, caching, err := fs.v.Open(n)
	if err != nil {
		return fs.status("open", in.NodeId, err)
	}
	switch caching {
	case reverse.CacheOn:
		out.OpenFlags |= fuse.FOPEN_KEEP_CACHE
	case reverse.CacheNot:
		out.OpenFlags |= fuse.FOPEN_DIRECT_IO
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.next++
	out.Fh, fs.files[fs.next] = fs.next, h
	return fuse.OK
}

func (fs *reverseFS) handle(fh uint64) (*reverse.Handle, fuse.Status) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if h := fs.files[fh]; h != nil {
		return h, fuse.OK
	}
	return nil, fuse.EBADF
}

// Release closes a file.
func (fs *reverseFS) Release(_ <-chan struct{}, in *fuse.ReleaseIn) {
	fs.mu.Lock()
	h := fs.files[in.Fh]
	delete(fs.files, in.Fh)
	fs.mu.Unlock()
	if h != nil {
		h.Close()
	}
}

// Read is read(2).
func (fs *reverseFS) Read(cancel <-chan struct{}, in *fuse.ReadIn, buf []byte) (fuse.ReadResult, fuse.Status) {
	h, st := fs.handle(in.Fh)
	if st != fuse.OK {
		return nil, st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	got, err := h.Read(ctx, buf, int64(in.Offset))
	if err != nil {
		return nil, fs.status("read", in.NodeId, err)
	}
	return fuse.ReadResultData(buf[:got]), fuse.OK
}

// Lseek is SEEK_DATA and SEEK_HOLE.
func (fs *reverseFS) Lseek(_ <-chan struct{}, in *fuse.LseekIn, out *fuse.LseekOut) fuse.Status {
	h, st := fs.handle(in.Fh)
	if st != fuse.OK {
		return st
	}
	pos, err := h.Seek(int64(in.Offset), int(in.Whence))
	out.Offset = uint64(pos)
	return fs.status("lseek", in.NodeId, err)
}

// GetXAttr is getxattr(2).
func (fs *reverseFS) GetXAttr(_ <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	if name == "security.selinux" {
		return 0, fuse.Status(syscall.EOPNOTSUPP) // ls(1) then stops asking
	}
	value, err := fs.v.Getxattr(n, name)
	if err != nil {
		return 0, fs.status("getxattr", h.NodeId, err)
	}
	return fit(dest, value)
}

// ListXAttr is listxattr(2).
func (fs *reverseFS) ListXAttr(_ <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	names, err := fs.v.Listxattr(n)
	if err != nil {
		return 0, fs.status("listxattr", h.NodeId, err)
	}
	var list []byte
	for _, name := range names {
		list = append(append(list, name...), 0)
	}
	return fit(dest, list)
}

// StatFs is statfs(2), of the file system that holds the source.
func (fs *reverseFS) StatFs(_ <-chan struct{}, h *fuse.InHeader, out *fuse.StatfsOut) fuse.Status {
	s, err := fs.v.Statfs()
	if err != nil {
		return fs.status("statfs", h.NodeId, err)
	}
	fillStatfs(out, &s)
	return fuse.OK
}
