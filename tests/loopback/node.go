package main

import (
	"context"
	"fmt"
	"path/filepath"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fs"
	"github.com/hanwen/go-fuse/v2/fuse"
)

// newRoot is go-fuse's loopback root, with two things mended.
func newRoot(original string, writeback bool) (fs.InodeEmbedder, error) {
	root, err := fs.NewLoopbackRoot(original)
	if err != nil {
		return nil, err
	}
	inner, ok := root.(*fs.LoopbackNode)
	if !ok {
		return nil, fmt.Errorf("go-fuse's loopback root is a %T", root)
	}
	w := &node{inner, writeback}
	inner.RootData.RootNode = w
	return w, nil
}

// node is go-fuse's loopback node. It opens files that are to be written for reading too where the kernel caches
// writes, because the kernel then reads the rest of a page that a program writes in part; and it keeps the suid, sgid
// and sticky bits of what it makes, which LoopbackNode loses in os.FileMode and in chown.
type node struct {
	*fs.LoopbackNode
	writeback bool
}

// WrapChild makes every node below one of these.
func (n *node) WrapChild(_ context.Context, child fs.InodeEmbedder) fs.InodeEmbedder {
	return &node{child.(*fs.LoopbackNode), n.writeback}
}

// Open is LoopbackNode.Open with flags mended.
func (n *node) Open(ctx context.Context, flags uint32) (fs.FileHandle, uint32, syscall.Errno) {
	return n.LoopbackNode.Open(ctx, n.flags(flags))
}

// Create is LoopbackNode.Create with flags and mode mended.
func (n *node) Create(ctx context.Context, name string, flags, mode uint32, out *fuse.EntryOut) (
	*fs.Inode, fs.FileHandle, uint32, syscall.Errno) {
	inode, file, fuseFlags, errno := n.LoopbackNode.Create(ctx, name, n.flags(flags), mode, out)
	if errno == 0 {
		errno = n.setIDs(name, mode, out)
	}
	return inode, file, fuseFlags, errno
}

// Mkdir is LoopbackNode.Mkdir with the mode mended.
func (n *node) Mkdir(ctx context.Context, name string, mode uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	inode, errno := n.LoopbackNode.Mkdir(ctx, name, mode, out)
	if errno == 0 {
		errno = n.setIDs(name, mode, out)
	}
	return inode, errno
}

// Mknod is LoopbackNode.Mknod with the mode mended.
func (n *node) Mknod(ctx context.Context, name string, mode, dev uint32, out *fuse.EntryOut) (*fs.Inode, syscall.Errno) {
	inode, errno := n.LoopbackNode.Mknod(ctx, name, mode, dev, out)
	if errno == 0 {
		errno = n.setIDs(name, mode, out)
	}
	return inode, errno
}

func (n *node) flags(flags uint32) uint32 {
	if n.writeback && flags&syscall.O_ACCMODE == syscall.O_WRONLY {
		flags = flags&^syscall.O_ACCMODE | syscall.O_RDWR
	}
	return flags
}

// setIDs gives a new file the suid, sgid and sticky bits that it was asked for.
func (n *node) setIDs(name string, mode uint32, out *fuse.EntryOut) syscall.Errno {
	if mode&0o7000 == 0 {
		return 0
	}
	path := filepath.Join(n.RootData.Path, n.Path(n.Root()), name)
	if err := syscall.Chmod(path, mode&0o7777); err != nil {
		return fs.ToErrno(err)
	}
	var st syscall.Stat_t
	if err := syscall.Lstat(path, &st); err != nil {
		return fs.ToErrno(err)
	}
	out.FromStat(&st)
	return 0
}
