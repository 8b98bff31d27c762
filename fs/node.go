package fs

import (
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/vault"
)

func caller(h *fuse.InHeader, umask uint32) vault.Caller {
	return vault.Caller{UID: h.Uid, GID: h.Gid, Umask: umask}
}

// Mknod makes a device, fifo, socket or file.
func (fs *filesystem) Mknod(_ <-chan struct{}, in *fuse.MknodIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Mknod(dir, name, in.Mode, unrdev(in.Rdev), caller(&in.InHeader, in.Umask))
	if err != nil {
		return fs.status("mknod", in.NodeId, err)
	}
	fs.fillEntry(out, n, &attr)
	return fuse.OK
}

// Mkdir makes a directory.
func (fs *filesystem) Mkdir(_ <-chan struct{}, in *fuse.MkdirIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Mkdir(dir, name, in.Mode, caller(&in.InHeader, in.Umask))
	if err != nil {
		return fs.status("mkdir", in.NodeId, err)
	}
	fs.fillEntry(out, n, &attr)
	return fuse.OK
}

// Symlink makes a symbolic link.
func (fs *filesystem) Symlink(_ <-chan struct{}, h *fuse.InHeader, target, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Symlink(dir, name, target, caller(h, 0))
	if err != nil {
		return fs.status("symlink", h.NodeId, err)
	}
	fs.fillEntry(out, n, &attr)
	return fuse.OK
}

// Readlink returns the target of a symbolic link.
func (fs *filesystem) Readlink(_ <-chan struct{}, h *fuse.InHeader) ([]byte, fuse.Status) {
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return nil, st
	}
	target, err := fs.v.Readlink(n)
	if err != nil {
		return nil, fs.status("readlink", h.NodeId, err)
	}
	return []byte(target), fuse.OK
}

// Link gives a file another name.
func (fs *filesystem) Link(_ <-chan struct{}, in *fuse.LinkIn, name string, out *fuse.EntryOut) fuse.Status {
	dir, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	n, st := fs.node(in.Oldnodeid)
	if st != fuse.OK {
		return st
	}
	attr, err := fs.v.Link(n, dir, name)
	if err != nil {
		return fs.status("link", in.NodeId, err)
	}
	fs.v.Refer(n)
	fs.fillEntry(out, n, &attr)
	return fuse.OK
}

// Unlink removes a name.
func (fs *filesystem) Unlink(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("unlink", h.NodeId, fs.v.Unlink(dir, name))
}

// Rmdir removes an empty directory.
func (fs *filesystem) Rmdir(_ <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	dir, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("rmdir", h.NodeId, fs.v.Rmdir(dir, name))
}

// Rename moves, replaces or exchanges names.
func (fs *filesystem) Rename(_ <-chan struct{}, in *fuse.RenameIn, from, to string) fuse.Status {
	dir, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	newDir, st := fs.node(in.Newdir)
	if st != fuse.OK {
		return st
	}
	return fs.status("rename", in.NodeId, fs.v.Rename(dir, from, newDir, to, in.Flags))
}

// Create makes and opens a file.
func (fs *filesystem) Create(cancel <-chan struct{}, in *fuse.CreateIn, name string, out *fuse.CreateOut) fuse.Status {
	dir, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Create(dir, name, in.Mode, caller(&in.InHeader, in.Umask))
	for tries := 0; tries < createTries && errors.Is(err, syscall.EEXIST) && in.Flags&syscall.O_EXCL == 0; tries++ { // another host was faster
		if n, attr, err = fs.openFound(cancel, dir, in, name); errors.Is(err, syscall.ENOENT) || errors.Is(err, vault.ErrStale) && attr.Ino == 0 {
			n, attr, err = fs.v.Create(dir, name, in.Mode, caller(&in.InHeader, in.Umask)) // it has gone again
		}
	}
	if err != nil {
		return fs.status("create", in.NodeId, err)
	}
	fs.fillEntry(&out.EntryOut, n, &attr)
	fs.fillOpen(&out.OpenOut, in.Flags)
	return fuse.OK
}

// createTries is how often what other hosts make and remove meanwhile is tried anew.
const createTries = 100

// openFound opens, for one who creates it, a file that another host has made. The kernel takes it for new, and does not ask
// whether the caller may open it: where that is not the owner it is ErrStale, with attr, and the kernel looks the name up anew.
func (fs *filesystem) openFound(cancel <-chan struct{}, dir *vault.Node, in *fuse.CreateIn, name string) (*vault.Node, vault.Attr, error) {
	n, attr, err := fs.v.Lookup(dir, name)
	if err != nil {
		return nil, vault.Attr{}, err
	}
	const owner = 0o600
	if n.Kind() != syscall.S_IFREG || in.Uid != 0 && in.Uid != attr.UID || in.Uid != 0 && attr.Mode&owner != owner {
		fs.v.Forget(n, 1)
		return nil, attr, vault.ErrStale
	}
	if err = fs.v.Open(n); err == nil && in.Flags&syscall.O_TRUNC != 0 {
		ctx := fs.begin(cancel)
		defer ctx.finish()
		if err = fs.v.Truncate(ctx, n, 0, vault.DropPrivileges); err != nil {
			fs.v.Release(n)
		}
		attr.Size = 0
	}
	if err != nil {
		fs.v.Forget(n, 1)
		return nil, vault.Attr{}, err
	}
	return n, attr, nil
}

// Tmpfile makes and opens a file without a name.
func (fs *filesystem) Tmpfile(_ <-chan struct{}, in *fuse.CreateIn, out *fuse.CreateOut) fuse.Status {
	dir, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	n, attr, err := fs.v.Tmpfile(dir, in.Mode, caller(&in.InHeader, in.Umask))
	if err != nil {
		return fs.status("tmpfile", in.NodeId, err)
	}
	fs.fillEntry(&out.EntryOut, n, &attr)
	fs.fillOpen(&out.OpenOut, in.Flags)
	return fuse.OK
}
