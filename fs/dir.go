package fs

import (
	"errors"
	"slices"
	"sync"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/vault"
)

// listings are what directories held when they were last listed from the start: on an exclusive mount by the number of the
// node, on a shared one by that of the handle.
type listings struct {
	mu   sync.Mutex
	next uint64 // handle
	of   map[uint64]*listing
	kept int // entries of all
}

// listing is what a directory held. Where several list it at the same time each goes on behind the entry that it has had
// last: an entry keeps its place when another one lists from the start, and what is new comes behind.
type listing struct {
	mu      sync.Mutex
	entries []vault.DirEntry
	places  []uint64 // of the entries, ascending; 0 is the start
	last    uint64   // place given
	loaded  bool
	readers int // who have begun and not come to the end
	counted int // of listings.kept
}

// mostListed is how many entries are kept for those who may have stopped half way; whoever goes on in a listing that has
// been forgotten goes on in a new one.
const mostListed = 1 << 16

// OpenDir is refused for good on an exclusive mount, as Open is: the kernel then lists, and keeps what is listed, without
// opening and closing.
func (fs *filesystem) OpenDir(_ <-chan struct{}, in *fuse.OpenIn, out *fuse.OpenOut) fuse.Status {
	if fs.cached {
		return fuse.ENOSYS
	}
	if _, st := fs.node(in.NodeId); st != fuse.OK {
		return st
	}
	l := &fs.listings
	l.mu.Lock()
	l.next++
	out.Fh = l.next
	l.mu.Unlock()
	return fuse.OK
}

// ReleaseDir closes a directory.
func (fs *filesystem) ReleaseDir(in *fuse.ReleaseIn) { fs.listings.drop(in.Fh) }

// get returns the listing of key, empty where there was none.
func (l *listings) get(key uint64) *listing {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of == nil {
		l.of = map[uint64]*listing{}
	}
	one := l.of[key]
	if one == nil {
		one = &listing{}
		l.of[key] = one
	}
	return one
}

// count notes how many entries the listing of key has, and forgets others where there are too many.
func (l *listings) count(key uint64, one *listing) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.of[key] != one {
		return
	}
	l.kept += len(one.entries) - one.counted
	one.counted = len(one.entries)
	for k, o := range l.of {
		if l.kept <= mostListed {
			return
		}
		if k != key {
			l.kept -= o.counted
			delete(l.of, k)
		}
	}
}

func (l *listings) drop(key uint64) {
	l.mu.Lock()
	defer l.mu.Unlock()
	if one := l.of[key]; one != nil {
		l.kept -= one.counted
		delete(l.of, key)
	}
}

// load lists n anew. one.mu is held.
func (one *listing) load(v *vault.Vault, n *vault.Node) error {
	old := make(map[string]uint64, len(one.entries))
	for i, e := range one.entries {
		old[e.Stored] = one.places[i]
	}
	var fresh []vault.DirEntry
	kept := map[uint64]vault.DirEntry{}
	if err := v.ReadDir(n, func(e vault.DirEntry) bool {
		if at, ok := old[e.Stored]; ok {
			kept[at] = e
		} else {
			fresh = append(fresh, e)
		}
		return true
	}); err != nil {
		return err
	}
	entries, places := make([]vault.DirEntry, 0, len(kept)+len(fresh)), make([]uint64, 0, len(kept)+len(fresh))
	for _, at := range one.places {
		if e, ok := kept[at]; ok {
			entries, places = append(entries, e), append(places, at)
		}
	}
	for _, e := range fresh {
		one.last++
		entries, places = append(entries, e), append(places, one.last)
	}
	one.entries, one.places, one.loaded = entries, places, true
	return nil
}

// list calls add with the entries behind the place in.Offset, and their places, until it returns false: "." and "..",
// then what the vault lists.
func (fs *filesystem) list(n *vault.Node, in *fuse.ReadIn, add func(e vault.DirEntry, place uint64) bool) error {
	const dots = 2
	key := in.Fh
	if fs.cached {
		key = in.NodeId
	}
	entries, places, err := fs.listings.get(key).read(fs, key, n, in.Offset == 0)
	if err != nil {
		return err
	}
	for i, e := range [dots]vault.DirEntry{{Name: ".", Ino: n.Ino(), Kind: syscall.S_IFDIR}, {Name: "..", Kind: syscall.S_IFDIR}} {
		if in.Offset <= uint64(i) && !add(e, uint64(i)+1) {
			return nil
		}
	}
	first, _ := slices.BinarySearch(places, max(in.Offset, dots)-dots+1)
	if first == len(places) && in.Offset >= dots {
		fs.listings.get(key).leave(fs, key)
	}
	for i := first; i < len(places) && add(entries[i], places[i]+dots); i++ {
	}
	return nil
}

// read returns what the directory n held, and the places; afresh is true of one who begins. They are not changed later.
func (one *listing) read(fs *filesystem, key uint64, n *vault.Node, afresh bool) ([]vault.DirEntry, []uint64, error) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if afresh || !one.loaded {
		if err := one.load(fs.v, n); err != nil {
			return nil, nil, err
		}
		one.readers++
		fs.listings.count(key, one)
	}
	return one.entries, one.places, nil
}

// leave notes that one who has read has come to the end.
func (one *listing) leave(fs *filesystem, key uint64) {
	one.mu.Lock()
	defer one.mu.Unlock()
	if one.readers--; one.readers <= 0 {
		fs.listings.drop(key)
	}
}

// ReadDir lists names.
func (fs *filesystem) ReadDir(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("readdir", in.NodeId, fs.list(n, in, func(e vault.DirEntry, place uint64) bool {
		return out.AddDirEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind, Off: place})
	}))
}

// ReadDirPlus lists names and looks each up: by the stored name that it was listed with, which is not sealed again.
func (fs *filesystem) ReadDirPlus(_ <-chan struct{}, in *fuse.ReadIn, out *fuse.DirEntryList) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("readdirplus", in.NodeId, fs.list(n, in, func(e vault.DirEntry, place uint64) bool {
		entry := out.AddDirLookupEntry(fuse.DirEntry{Name: e.Name, Ino: e.Ino, Mode: e.Kind, Off: place})
		if entry == nil {
			return false
		}
		if e.Stored == "" {
			return true // "." and ".." are not looked up
		}
		child, attr, err := fs.v.LookupStored(n, e.Stored)
		if err != nil {
			if !errors.Is(err, syscall.ENOENT) {
				fs.status("readdirplus", in.NodeId, err)
			}
			return true // the kernel looks it up itself
		}
		fs.fillEntry(entry, child, &attr)
		out.FixMode(attr.Mode)
		return true
	}))
}

// FsyncDir makes the names in a directory durable.
func (fs *filesystem) FsyncDir(_ <-chan struct{}, in *fuse.FsyncIn) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("fsyncdir", in.NodeId, fs.v.Fsync(n, vault.SyncAll))
}
