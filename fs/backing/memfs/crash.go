package memfs

import (
	"bytes"
	"maps"
	"slices"
)

// Names says in what order operations on names (create, unlink, rename, link, mkdir, ...) reach the disk. Each is
// whole or absent. Unlike with ext4, no order makes them durable but Sync of the directory and SyncFS.
type Names int

const (
	// InOrder is a journaling file system (ext4, xfs, btrfs): of the operations that were not synced the first n
	// survive, and none before a synced one is lost.
	InOrder Names = iota
	// PerDirectory keeps the order within each directory only; a rename between two is in the order of both.
	PerDirectory
	// Unordered loses any of them, but for what no usable file system does: operations on the same name keep their
	// order, and a name is not removed before the ones that its object was given earlier, nor a directory before what
	// happened in it (soft updates).
	Unordered
)

// Policy says what survives a crash of that which was not synced.
//
// Of a file each page (or sector), its size and its attributes survive independently, each in any state that it had
// since it was last synced: the durable one, the newest or one between. The attributes (mode, owner, times, xattrs)
// of one inode are one state. A file whose name survives has at least its attributes as it was created with.
type Policy struct {
	Names Names
	// Sectors tears pages: each sector of 512 bytes survives by itself, not each page of 4096.
	Sectors bool
	// Choose answers with a number from 0 to n-1, where 0 is the durable state and n-1 the newest, n at least 2; see
	// Random, Enumerator, Durable and Newest. nil is Durable.
	Choose func(n int) int
}

// Crash returns the file system that is found after a power cut now: all of it durable, no handle open, no lock
// held. fs itself is not changed, and may be crashed again under another policy.
func (fs *FS) Crash(p Policy) *FS {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	if p.Choose == nil {
		p.Choose = Durable
	}
	dirs := fs.surviving(p)
	n := New(Config{Now: fs.now})
	n.lastIno = fs.lastIno
	seen := map[*inode]*inode{}
	var revive func(in, parent *inode) *inode
	revive = func(in, parent *inode) *inode {
		if c := seen[in]; c != nil {
			return c
		}
		c := in.survive(p)
		seen[in] = c
		if !c.isDir() {
			return c
		}
		c.parent = parent
		c.nlink = 2
		for _, name := range slices.Sorted(maps.Keys(dirs(in))) {
			child := revive(dirs(in)[name], c)
			c.entries[name] = child
			if child.isDir() {
				c.nlink++
			} else {
				child.nlink++
			}
		}
		c.base = maps.Clone(c.entries)
		return c
	}
	n.root = revive(fs.root, nil)
	return n
}

// surviving chooses among the operations on names, and returns the entries of each directory after them.
func (fs *FS) surviving(p Policy) func(*inode) map[string]*inode {
	keep := make([]bool, len(fs.log))
	for i, op := range fs.log {
		keep[i] = op.durable
	}
	closure(fs.log, keep, p.Names)
	if p.Names == InOrder {
		if first := slices.Index(keep, false); first >= 0 {
			for i := range p.Choose(len(keep) - first + 1) {
				keep[first+i] = true
			}
		}
	} else {
		lost := map[token]bool{}
		for i, op := range fs.log {
			isLost := func(t token) bool { return lost[t] }
			keep[i] = keep[i] || !slices.ContainsFunc(op.needs(p.Names), isLost) && p.Choose(2) == 1
			if !keep[i] {
				for _, t := range op.gives() {
					lost[t] = true
				}
			}
		}
	}
	dirs := map[*inode]map[string]*inode{}
	of := func(dir *inode) map[string]*inode {
		if dirs[dir] == nil {
			dirs[dir] = map[string]*inode{}
			maps.Copy(dirs[dir], dir.base)
		}
		return dirs[dir]
	}
	for i, op := range fs.log {
		if keep[i] {
			op.apply(of)
		}
	}
	return of
}

// survive returns the inode as found after the crash, without names in it and links to it.
func (in *inode) survive(p Policy) *inode {
	c := &inode{ino: in.ino, rdev: in.rdev, btim: in.btim, target: in.target}
	c.meta = choose(p, append(slices.Clone(in.metaOld), in.meta))
	if c.isDir() {
		c.entries = map[string]*inode{}
	}
	if !c.isFile() {
		return c
	}
	d := &in.data
	c.data = content{
		size:  choose(p, append(slices.Clone(d.sizeOld), d.size)),
		pages: map[int64]*page{},
		old:   map[int64][]*page{},
	}
	for _, i := range d.numbers() {
		if i*pageSize >= c.data.size {
			break
		}
		pg := survivor(p, slices.Compact(append(slices.Clone(d.old[i]), d.pages[i])))
		if pg == nil {
			continue
		}
		if tail := c.data.size - i*pageSize; tail < pageSize {
			cut := *pg
			clear(cut[tail:])
			pg = &cut
		}
		c.data.pages[i] = pg
	}
	return c
}

// choose picks one of the versions, the durable one first.
func choose[T any](p Policy, versions []T) T {
	if len(versions) == 1 {
		return versions[0]
	}
	return versions[p.Choose(len(versions))]
}

// survivor picks the surviving page among the versions, of which nil is a hole, or each of its sectors.
func survivor(p Policy, versions []*page) *page {
	if len(versions) == 1 || !p.Sectors {
		return choose(p, versions)
	}
	pg, hole := new(page), true
	for s := 0; s < pageSize; s += sectorSize {
		var states [][]byte // nil in a hole
		for _, v := range versions {
			var b []byte
			if v != nil {
				b = v[s : s+sectorSize]
			}
			if n := len(states); n == 0 || !bytes.Equal(states[n-1], b) {
				states = append(states, b)
			}
		}
		if b := choose(p, states); b != nil {
			copy(pg[s:], b)
			hole = false
		}
	}
	if hole {
		return nil
	}
	return pg
}
