package fs

import (
	"errors"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/vault"
)

// handles are the open directories.
type handles struct {
	mu   sync.Mutex
	next uint64
	open map[uint64]*listing
}

// listing is an open directory: what it held when it was opened or rewound.
type listing struct {
	mu      sync.Mutex
	entries []vault.DirEntry
	loaded  bool
}

// OpenDir opens a directory for listing. The kernel keeps what it has listed.
func (fs *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if _, st := fs.node(in.NodeId); st != fuse.OK {
		return st
	}
	h := &fs.handles
	h.mu.Lock()
	if h.open == nil {
		h.open = map[uint64]*listing{}
	}
	h.next++
	h.open[h.next] = &listing{}
	out.Fh = h.next
	h.mu.Unlock()
	if fs.cached {
		out.OpenFlags |= fuse.FOPEN_CACHE_DIR | fuse.FOPEN_KEEP_CACHE
	}
	return fuse.OK
}

// ReleaseDir closes a directory.
func (fs *filesystem) ReleaseDir(in *fuse.ReleaseIn) {
	fs.handles.mu.Lock()
	delete(fs.handles.open, in.Fh)
	fs.handles.mu.Unlock()
}

// list returns the entries from offset on: 0 is ".", 1 "..", then what the vault lists.
func (fs *filesystem) list(n *vault.Node, in *fuse.ReadIn) ([]vault.DirEntry, error) {
	fs.handles.mu.Lock()
	l := fs.handles.open[in.Fh]
	fs.handles.mu.Unlock()
	if l == nil {
		return nil, syscall.EBADF
	}
	l.mu.Lock()
	defer l.mu.Unlock()
	if !l.loaded || in.Offset == 0 {
		l.entries = append(l.entries[:0],
			vault.DirEntry{Name: ".", Ino: n.Ino(), Kind: syscall.S_IFDIR}, vault.DirEntry{Name: "..", Kind: syscall.S_IFDIR})
		if err := fs.v.ReadDir(n, func(e vault.DirEntry) bool {
			l.entries = append(l.entries, e)
			return true
		}); err != nil {
			return nil, err
		}
		l.loaded = true
	}
	if in.Offset >= uint64(len(l.entries)) {
		return nil, nil
	}
	return l.entries[in.Offset:], nil
}

// ReadDir lists names.
func (fs *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	entries, err := fs.list(n, in)
	if err != nil {
		return fs.status("readdir", in.NodeId, err)
	}
	for _, e := range entries {
		if !out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind}) {
			break
		}
	}
	return fuse.OK
}

// ReadDirPlus lists names and looks each up: by the stored name that it was listed with, which is not sealed again.
func (fs *filesystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	entries, err := fs.list(n, in)
	if err != nil {
		return fs.status("readdirplus", in.NodeId, err)
	}
	for _, e := range entries {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind})
		if entry == nil {
			break
		}
		if e.Stored == "" {
			continue // "." and ".." are not looked up
		}
		child, attr, err := fs.v.LookupStored(n, e.Stored)
		if err != nil {
			if !errors.Is(err, syscall.ENOENT) {
				fs.status("readdirplus", in.NodeId, err)
			}
			continue // the kernel looks it up itself
		}
		fs.fillEntry(entry, child, &attr)
		out.FixMode(attr.Mode)
	}
	return fuse.OK
}

// FsyncDir makes the names in a directory durable.
func (fs *filesystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("fsyncdir", in.NodeId, fs.v.Fsync(n, vault.SyncAll))
}
