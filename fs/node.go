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
	if errors.Is(err, syscall.EEXIST) && in.Flags&syscall.O_EXCL == 0 { // another host was faster
		if n, attr, err = fs.v.Lookup(dir, name); err == nil {
			if err = fs.v.Open(n); err == nil && in.Flags&syscall.O_TRUNC != 0 {
				ctx := fs.begin(cancel)
				err = fs.v.Truncate(ctx, n, 0, vault.DropPrivileges)
				ctx.finish()
				attr.Size = 0
			}
		}
	}
	if err != nil {
		return fs.status("create", in.NodeId, err)
	}
	fs.fillEntry(&out.EntryOut, n, &attr)
	fs.fillOpen(&out.OpenOut, in.Flags)
	return fuse.OK
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
