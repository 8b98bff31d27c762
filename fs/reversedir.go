package fs

import (
	"sync"
	"syscall"
	"time"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/vault/reverse"
)

// reverseList is what an open directory held when it was read from the start.
type reverseList struct {
	mu      sync.Mutex
	loaded  bool
	entries []reverse.Entry
}

// OpenDir opens a directory.
func (fs *reverseFS) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if _, st := fs.node(in.NodeId); st != fuse.OK {
		return st
	}
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.next++
	out.Fh, fs.lists[fs.next] = fs.next, &reverseList{}
	return fuse.OK
}

// ReleaseDir closes a directory.
func (fs *reverseFS) ReleaseDir(in *fuse.ReleaseIn) {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	delete(fs.lists, in.Fh)
}

// list calls add with the entries behind in.Offset, and their places, until it returns false.
func (fs *reverseFS) list(cancel <-chan struct{}, in *fuse.ReadIn, add func(n *reverse.Node, e reverse.Entry, place uint64) bool) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	fs.mu.Lock()
	l := fs.lists[in.Fh]
	fs.mu.Unlock()
	if l == nil {
		return fuse.EBADF
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if in.Offset == 0 || !l.loaded {
		ctx := fs.waiting(cancel)
		entries, err := fs.v.List(ctx, n)
		ctx.finish()
		if err != nil {
			return fs.status("readdir", in.NodeId, err)
		}
		l.entries = append([]reverse.Entry{{Name: ".", Ino: n.Ino(), Kind: syscall.S_IFDIR}, {Name: "..", Kind: syscall.S_IFDIR}}, entries...)
		l.loaded = true
	}
	for i := in.Offset; i < uint64(len(l.entries)) && add(n, l.entries[i], i+1); i++ {
	}
	return fuse.OK
}

// waiting is begin for what may take as long as it likes, until the caller is interrupted.
func (fs *reverseFS) waiting(cancel <-chan struct{}) *opContext {
	const forEver = 1000 * time.Hour
	ctx := fs.begin(cancel)
	ctx.end = time.Now().Add(forEver)
	return ctx
}

// ReadDir lists names.
func (fs *reverseFS) ReadDir(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(cancel, in, func(_ *reverse.Node, e reverse.Entry, place uint64) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind, Off: place})
	})
}

// ReadDirPlus lists names and looks each up.
func (fs *reverseFS) ReadDirPlus(cancel <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	return fs.list(cancel, in, func(n *reverse.Node, e reverse.Entry, place uint64) bool {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind, Off: place})
		if entry == nil {
			return false
		}
		if place <= 2 {
			return true // "." and ".." are not looked up
		}
		child, attr, err := fs.v.LookupEntry(n, e)
		if err != nil {
			return true // the kernel looks it up itself
		}
		fillReverse(entry, child, &attr)
		out.FixMode(attr.Mode)
		return true
	})
}
