package reverse

import (
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

const (
	sIFMT  = syscall.S_IFMT
	sIFREG = syscall.S_IFREG
	sIFDIR = syscall.S_IFDIR
	sIFLNK = syscall.S_IFLNK
)

// role is what a node of the view is.
type role uint8

const (
	plain      role = iota // something of the source
	dirFile                // .kmsfs.dir of a directory
	companion              // of a long name
	controlDir             // .kmsfs; from here on of the state
	config                 // vault.json
	keysDir                // .kmsfs/keys
	keyTable
)

// Node is something in the view that somebody refers to. It is found by [View.Lookup] and [View.LookupEntry], each of which
// adds a reference that [View.Forget] takes away.
type Node struct {
	id     uint64
	role   role
	parent *Node  // nil of the root
	name   string // of something plain its name in the source, else that in the view
	path   string // of something plain, from the root of the source
	top    string // of a directory, the path at which its file system is entered; see View.topOf
	kind   uint32 // S_IFMT bits
	dev    uint64 // in the source
	srcIno uint64
	ino    uint64 // in the view

	refs, pins int64 // of the caller, and of children; guarded by table.mu
	dead       bool  // guarded by table.mu

	mu        sync.Mutex        // guards what follows; a leaf
	long      map[string]string // of a directory: the names of its long entries, as last listed
	seen      version           // of the file what may be cached
	opens     int               // handles of the file
	held      int64             // its stored size for as long as it has handles, and heldPlain that in the source
	heldPlain int64
	told      int64 // its stored size in the attributes that were shown last
}

// ID returns the number that names the node while it is referred to; the root's is 1.
func (n *Node) ID() uint64 { return n.id }

// Ino returns the inode number in the view.
func (n *Node) Ino() uint64 { return n.ino }

// Kind returns the S_IFMT bits.
func (n *Node) Kind() uint32 { return n.kind }

// OfState says whether n is of the state, which changes at any time: a key table, vault.json, or a directory of these.
func (n *Node) OfState() bool { return n.role >= controlDir }

// dirID is the id of the directory n.
func (v *View) dirID(n *Node) envelope.DirID { return v.vk.ReverseDirID(n.path) }

// topOf is the path at which the file system of the directory at path, on dev, is entered: top where that of the directory that it
// is in is the same, and none for that of the root.
func (v *View) topOf(top string, dirDev uint64, path string, dev uint64) string {
	switch dev {
	case v.rootDev:
		return ""
	case dirDev:
		return top
	}
	return path
}

// join is the path of name in a directory.
func join(dir, name string) string {
	if dir == "" {
		return name
	}
	return dir + "/" + name
}

// child names a node by where it is.
type child struct {
	parent uint64
	role   role
	name   string
}

// table is the nodes that are referred to.
type table struct {
	mu   sync.RWMutex
	v    *View
	root *Node
	byID map[uint64]*Node
	at   map[child]*Node
	next uint64
}

func (t *table) start(v *View, st *backing.Stat) {
	t.v, t.next = v, 1
	t.root = &Node{id: 1, kind: sIFDIR, dev: st.Dev, srcIno: st.Ino, ino: v.inoOf(st), refs: 1}
	t.byID, t.at = map[uint64]*Node{1: t.root}, map[child]*Node{}
}

func (t *table) count() int {
	t.mu.RLock()
	defer t.mu.RUnlock()
	return len(t.byID)
}

// intern returns the node at a place with one reference more. st is of the source, or of the state; ino is what the view shows.
func (t *table) intern(at child, parent *Node, st *backing.Stat, ino uint64) *Node {
	t.mu.Lock()
	defer t.mu.Unlock()
	n := t.at[at]
	if n == nil || n.dev != st.Dev || n.srcIno != st.Ino || n.kind != st.Mode&sIFMT || n.outgrown(st.Size) { // another file has taken the name
		t.next++
		n = &Node{id: t.next, role: at.role, parent: parent, name: at.name, kind: st.Mode & sIFMT, dev: st.Dev, srcIno: st.Ino, ino: ino}
		if at.role == plain {
			n.path = join(parent.path, at.name)
			n.top = t.v.topOf(parent.top, parent.dev, n.path, st.Dev)
		}
		t.byID[n.id], t.at[at] = n, n
		parent.pins++
	}
	n.refs++
	return n
}

// outgrown says whether the file is open with another size than that of the source now.
func (n *Node) outgrown(size int64) bool {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.opens > 0 && n.heldPlain != size
}

// Node returns the node with the given id, nil where there is none.
func (v *View) Node(id uint64) *Node {
	v.nodes.mu.RLock()
	defer v.nodes.mu.RUnlock()
	return v.nodes.byID[id]
}

// Root returns the root directory.
func (v *View) Root() *Node { return v.nodes.root }

// Forget takes count references from n.
func (v *View) Forget(n *Node, count uint64) {
	t := &v.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	n.refs -= int64(count)
	for n != nil && n != t.root && n.refs <= 0 && n.pins == 0 && !n.dead {
		n.dead = true
		delete(t.byID, n.id)
		if at := (child{n.parent.id, n.role, n.name}); t.at[at] == n {
			delete(t.at, at)
		}
		v.dirs.drop(n)
		n = n.parent
		n.pins--
	}
}
