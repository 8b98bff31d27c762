package fs

import (
	"errors"
	"strings"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/vault"
)

// unsupported says whether an attribute is refused as such. ls(1) and others then stop asking for it on this mount,
// which "there is none" does not make them do.
func (fs *filesystem) unsupported(name string) bool {
	return !fs.acl && strings.HasPrefix(name, "system.posix_acl_")
}

// GetXAttr is getxattr(2).
func (fs *filesystem) GetXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string, dest []byte) (uint32, fuse.Status) {
	if fs.unsupported(name) {
		return 0, fuse.Status(syscall.EOPNOTSUPP)
	}
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	value, err := fs.v.Getxattr(ctx, n, name)
	if err != nil {
		if name == "security.selinux" && errors.Is(err, syscall.ENODATA) {
			return 0, fuse.Status(syscall.EOPNOTSUPP)
		}
		return 0, fs.status("getxattr", h.NodeId, err)
	}
	return fit(dest, value)
}

// fit answers a request for bytes: of their number where dest is empty.
func fit(dest, value []byte) (uint32, fuse.Status) {
	if len(dest) > 0 && len(dest) < len(value) {
		return uint32(len(value)), fuse.ERANGE
	}
	copy(dest, value)
	return uint32(len(value)), fuse.OK
}

// ListXAttr is listxattr(2).
func (fs *filesystem) ListXAttr(cancel <-chan struct{}, h *fuse.InHeader, dest []byte) (uint32, fuse.Status) {
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return 0, st
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	names, err := fs.v.Listxattr(ctx, n)
	if err != nil {
		return 0, fs.status("listxattr", h.NodeId, err)
	}
	var list []byte
	for _, name := range names {
		if !fs.unsupported(name) {
			list = append(append(list, name...), 0)
		}
	}
	return fit(dest, list)
}

// SetXAttr is setxattr(2).
func (fs *filesystem) SetXAttr(cancel <-chan struct{}, in *fuse.SetXAttrIn, name string, value []byte) fuse.Status {
	if fs.unsupported(name) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	if err := fs.mayChange(n, name, &in.InHeader); err != nil {
		return fs.status("setxattr", in.NodeId, err)
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	return fs.status("setxattr", in.NodeId, fs.v.Setxattr(ctx, n, name, value, int(in.Flags)))
}

// RemoveXAttr is removexattr(2).
func (fs *filesystem) RemoveXAttr(cancel <-chan struct{}, h *fuse.InHeader, name string) fuse.Status {
	if fs.unsupported(name) {
		return fuse.Status(syscall.EOPNOTSUPP)
	}
	n, st := fs.node(h.NodeId)
	if st != fuse.OK {
		return st
	}
	if err := fs.mayChange(n, name, h); err != nil {
		return fs.status("removexattr", h.NodeId, err)
	}
	ctx := fs.begin(cancel)
	defer ctx.finish()
	return fs.status("removexattr", h.NodeId, fs.v.Removexattr(ctx, n, name))
}

// mayChange keeps an encryption zone to the owner of the directory and root: the kernel lets everybody who may write to it.
func (fs *filesystem) mayChange(n *vault.Node, name string, h *fuse.InHeader) error {
	if name != vault.XattrZone || h.Uid == 0 {
		return nil
	}
	attr, err := fs.v.Attr(n)
	if err == nil && attr.UID != h.Uid {
		err = syscall.EPERM
	}
	return err
}
