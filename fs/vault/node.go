package vault

import (
	"maps"
	"sync"
	"sync/atomic"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// A Node is one stored file, directory, symlink or device that somebody refers to: what an inode is to a kernel.
// It is found by [Vault.Lookup] and its kin, each of which adds a reference that [Vault.Forget] takes away.
//
// Lock order: Vault.links, Vault.several, dirState.names, file.mu, nodes.mu, Node.mu, dirState.mu. Of dirState.names one
// is held at a time, but by who holds several. No lock is held while the keysource works.
type Node struct {
	id   uint64
	dev  uint64
	ino  uint64
	kind uint32 // S_IFMT bits

	refs int64 // of the caller (the kernel's lookups); guarded by nodes.mu
	pins int64 // of the vault: children's locations, the open file; guarded by nodes.mu
	dead bool  // collected: no longer in the table, and holds nothing; guarded by nodes.mu

	locks userLocks // of programs, on shared mounts

	mu    sync.Mutex // guards what follows
	place place
	more  []place // further known names (hard links)
	dir   *dirState
	file  *file
	wait  chan struct{} // closed when the file that is being opened is there, or has failed
	opens int           // handles of callers
	last  *remembered   // of what is no file nor directory and has lost its last name

	mtime backing.Timespec // set by the caller, who keeps the times of what it writes; see Opens
	timed bool             // mtime is set

	forgotten bool // refs is 0
	memoKnown bool // memo is the locator of the closed file's record
	memo      envelope.Locator
}

// place is where a node is found: a directory and the stored name in it.
type place struct {
	dir   *Node
	entry string
}

// ID returns the number that names the node while it is referred to; the root's is 1.
func (n *Node) ID() uint64 { return n.id }

// Ino returns the inode number of the stored file.
func (n *Node) Ino() uint64 { return n.ino }

// Kind returns the S_IFMT bits.
func (n *Node) Kind() uint32 { return n.kind }

// loc returns one place of the node; false where no name of it is known (any more).
func (n *Node) loc() (dir *Node, entry string, ok bool) {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.place.dir, n.place.entry, n.place.dir != nil
}

type inoKey struct{ dev, ino uint64 }

// nodes is the table of all nodes referred to.
type nodes struct {
	mu    sync.RWMutex
	byIno map[inoKey]*Node
	byID  map[uint64]*Node
	next  atomic.Uint64
	most  int // of the nodes since the maps were made: they do not shrink by themselves
}

// shrink makes the maps anew when most of what they held has gone. t.mu is held.
func (t *nodes) shrink() {
	const few = 8192
	if t.most < few || len(t.byID) > t.most/8 {
		return
	}
	byIno, byID := make(map[inoKey]*Node, len(t.byIno)), make(map[uint64]*Node, len(t.byID))
	maps.Copy(byIno, t.byIno)
	maps.Copy(byID, t.byID)
	t.byIno, t.byID, t.most = byIno, byID, len(byID)
}

func (t *nodes) init(root *Node) {
	t.byIno = map[inoKey]*Node{{root.dev, root.ino}: root}
	t.byID = map[uint64]*Node{1: root}
	t.next.Store(1)
	root.id, root.refs = 1, 1
}

func (t *nodes) get(id uint64) *Node {
	t.mu.RLock()
	n := t.byID[id]
	t.mu.RUnlock()
	return n
}

// intern returns the node of st with one reference more, making it if need be, and adds place to its names.
func (t *nodes) intern(st *backing.Stat, at place) *Node {
	key := inoKey{st.Dev, st.Ino}
	t.mu.Lock()
	n := t.byIno[key]
	if n == nil || n.kind != st.Mode&sIFMT { // another host has deleted what had the number
		n = &Node{id: t.next.Add(1), dev: st.Dev, ino: st.Ino, kind: st.Mode & sIFMT}
		t.byIno[key] = n
		t.byID[n.id] = n
		t.most = max(t.most, len(t.byID))
	}
	if n.refs++; n.refs == 1 {
		n.mu.Lock()
		n.forgotten = false
		n.mu.Unlock()
	}
	t.addPlace(n, at)
	t.mu.Unlock()
	return n
}

// addPlace notes a name of n. t.mu is held.
func (t *nodes) addPlace(n *Node, at place) {
	if at.dir == nil || n.dead {
		return
	}
	added, left := n.addPlace(at)
	if added {
		at.dir.pins++
	}
	if left != nil {
		left.pins--
		t.collect(left)
	}
}

// addPlace notes a name of n. added is false where it was known; left is the directory that n is no longer in.
func (n *Node) addPlace(at place) (added bool, left *Node) {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.place == at {
		return false, nil
	}
	if n.place.dir == nil {
		n.place = at
		return true, nil
	}
	if n.kind == sIFDIR { // a directory has one name: it was moved by another host
		left = n.place.dir
		n.place = at
		return true, left
	}
	old := n.place
	n.place = at // the one seen last is the likeliest to be still there
	for i, p := range n.more {
		if p == at {
			n.more[i] = old
			return false, nil
		}
	}
	n.more = append(n.more, old)
	return true, nil
}

// dropPlace forgets a name of n.
func (t *nodes) dropPlace(n *Node, at place) {
	t.mu.Lock()
	if n.dead {
		t.mu.Unlock()
		return
	}
	n.mu.Lock()
	found := true
	switch {
	case n.place == at && len(n.more) > 0:
		n.place = n.more[len(n.more)-1]
		n.more = n.more[:len(n.more)-1]
	case n.place == at:
		n.place = place{}
	default:
		found = false
		for i, p := range n.more {
			if p == at {
				n.more = append(n.more[:i], n.more[i+1:]...)
				found = true
				break
			}
		}
	}
	n.mu.Unlock()
	if found {
		at.dir.pins--
		t.collect(at.dir)
	}
	t.mu.Unlock()
}

// detach takes a node out of the table by inode, so that a new file that gets the same inode number is not taken
// for it. It stays known by its id until it is forgotten.
func (t *nodes) detach(n *Node) {
	t.mu.Lock()
	key := inoKey{n.dev, n.ino}
	if t.byIno[key] == n {
		delete(t.byIno, key)
	}
	t.mu.Unlock()
}

// pin keeps n in the table; ok is false where it is no longer there.
func (t *nodes) pin(n *Node) (ok bool) {
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.dead {
		return false
	}
	n.pins++
	return true
}

func (t *nodes) unpin(n *Node) {
	t.mu.Lock()
	n.pins--
	t.collect(n)
	t.mu.Unlock()
}

// collect drops n where nothing refers to it any more, and then, perhaps, its directories. t.mu is held.
func (t *nodes) collect(n *Node) (gone bool) {
	if n.dead {
		return true
	}
	if n.refs > 0 || n.pins > 0 || n.id == 1 {
		return false
	}
	n.dead = true
	key := inoKey{n.dev, n.ino}
	if t.byIno[key] == n {
		delete(t.byIno, key)
	}
	delete(t.byID, n.id)
	t.shrink()
	n.mu.Lock()
	up, more := n.place.dir, n.more
	n.place, n.more = place{}, nil
	d := n.dir
	n.dir = nil
	n.mu.Unlock()
	if d != nil {
		d.discard()
	}
	for _, p := range more {
		p.dir.pins--
		t.collect(p.dir)
	}
	if up != nil {
		up.pins--
		t.collect(up) // as deep as the tree
	}
	return true
}

// Node returns the node with the given id, nil where there is none (a caller's bug, or a stale handle of NFS).
func (v *Vault) Node(id uint64) *Node { return v.nodes.get(id) }

// Root returns the root directory.
func (v *Vault) Root() *Node { return v.root }

// Forget takes count references from n.
func (v *Vault) Forget(n *Node, count uint64) {
	v.nodes.mu.Lock()
	n.refs -= int64(count)
	idle := n.refs <= 0
	if idle {
		n.mu.Lock()
		n.forgotten = true
		n.mu.Unlock()
	}
	gone := v.nodes.collect(n)
	v.nodes.mu.Unlock()
	if idle && !gone {
		v.retireIdle(n)
	}
}

// NodeCount returns how many nodes are referred to.
func (v *Vault) NodeCount() int {
	v.nodes.mu.RLock()
	defer v.nodes.mu.RUnlock()
	return len(v.nodes.byID)
}

// byInode returns the node of a stored inode, nil where it is not referred to.
func (t *nodes) byInode(dev, ino uint64) *Node {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return t.byIno[inoKey{dev, ino}]
}

// addName notes a new name of n.
func (t *nodes) addName(n *Node, at place) {
	t.mu.Lock()
	t.addPlace(n, at)
	t.mu.Unlock()
}

// move notes that n has moved; a nil n is not referred to.
func (t *nodes) move(n *Node, from, to place) {
	if n == nil || from == to {
		return
	}
	t.mu.Lock()
	t.addPlace(n, to)
	t.mu.Unlock()
	t.dropPlace(n, from)
}
