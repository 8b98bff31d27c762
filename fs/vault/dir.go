package vault

import (
	"container/list"
	"errors"
	"fmt"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// dirState is what is known of an open directory. It is made once per directory node.
type dirState struct {
	id    envelope.DirID
	names sync.RWMutex // held for reading while a name in it is used, for writing while names come, go or change place

	removed bool // the directory has no name any more: nothing is made in it; guarded by names

	mu    sync.Mutex
	h     backing.Dir // nil while closed
	users int
	gone  bool // discarded: close at the last put
	kept  bool // it has lost its name: h could not be opened again
	elem  *list.Element
	acl   aclState // whether the directory has a default ACL
	zone  string   // the CMK of its encryption zone, "" where it is none
}

// aclState says whether a directory has a default ACL.
type aclState uint8

const (
	aclUnknown aclState = iota
	aclNone
	aclSome
)

// isNameless says whether the directory has lost its name.
func (d *dirState) isNameless() bool {
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.kept
}

// discard closes the handle as soon as nobody uses it.
func (d *dirState) discard() {
	d.mu.Lock()
	d.gone = true
	h := d.h
	if d.users == 0 {
		d.h = nil
	} else {
		h = nil
	}
	d.mu.Unlock()
	if h != nil {
		h.Close()
	}
}

// keep notes that the directory loses its name and is not to be closed before the node is forgotten. h is a handle of it,
// which it takes.
func (d *dirState) keep(h backing.Dir) {
	d.mu.Lock()
	d.kept = true
	if d.h == nil && !d.gone {
		d.h, h = h, nil
	}
	d.mu.Unlock()
	if h != nil {
		h.Close()
	}
}

// orphan returns the state of a directory that has lost its name, in use until put; nil for everything else.
func (n *Node) orphan() *dirState {
	d := n.openDir()
	if d == nil {
		return nil
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if !d.kept || d.h == nil {
		return nil
	}
	d.users++
	return d
}

// dirCache bounds how many directory handles are open.
type dirCache struct {
	mu  sync.Mutex
	lru *list.List // of *dirState, most recently opened first
	max int
}

// opened notes that d has got a handle, and closes the one that was opened longest ago and is not in use.
func (c *dirCache) opened(d *dirState) {
	c.mu.Lock()
	d.elem = c.lru.PushFront(d)
	var drop []backing.Dir
	for e, tries := c.lru.Back(), 0; e != nil && c.lru.Len() > c.max && tries < 8; tries++ {
		prev := e.Prev()
		o := e.Value.(*dirState)
		if o.mu.TryLock() {
			switch {
			case o.kept: // until the node is forgotten
				c.lru.Remove(e)
				o.elem = nil
			case o.users == 0:
				if o.h != nil {
					drop = append(drop, o.h)
					o.h = nil
				}
				c.lru.Remove(e)
				o.elem = nil
			default:
				c.lru.MoveToFront(e)
			}
			o.mu.Unlock()
		}
		e = prev
	}
	c.mu.Unlock()
	for _, h := range drop {
		h.Close()
	}
}

// close closes all handles.
func (c *dirCache) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for e := c.lru.Front(); e != nil; e = e.Next() {
		e.Value.(*dirState).discard()
	}
	c.lru.Init()
}

// state returns the directory state of n, reading the directory's id at the first call.
func (v *Vault) state(n *Node) (*dirState, error) {
	n.mu.Lock()
	d := n.dir
	n.mu.Unlock()
	if d != nil {
		return d, nil
	}
	if n.kind != sIFDIR {
		return nil, syscall.ENOTDIR
	}
	if err := v.withRoom(func() (err error) { d, err = v.openState(n); return err }); err != nil {
		return nil, err
	}
	h := d.h
	n.mu.Lock()
	if n.dir != nil {
		d = n.dir
		n.mu.Unlock()
		h.Close()
		return d, nil
	}
	n.dir = d
	n.mu.Unlock()
	v.dirs.opened(d)
	return d, nil
}

// openState opens directory n and reads its id.
func (v *Vault) openState(n *Node) (*dirState, error) {
	h, err := v.openNodeDir(n)
	if err != nil {
		return nil, err
	}
	id, zone, err := v.readDirFile(h)
	if err != nil {
		h.Close()
		return nil, n.fail("open directory", err)
	}
	return &dirState{id: id, h: h, zone: zone}, nil
}

// readDirFile reads the id of the directory h, and its encryption zone.
func (v *Vault) readDirFile(h backing.Dir) (id envelope.DirID, zone string, err error) {
	b, err := dirFile(h)
	if errors.Is(err, syscall.ENOENT) {
		err = fmt.Errorf("%w: no %s in it", ErrCorrupt, envelope.DirFileName)
	}
	if err != nil {
		return id, "", err
	}
	if id, zone, err = v.keys.ParseDirFile(b); err != nil {
		return id, "", fmt.Errorf("%w: %s: %w", ErrCorrupt, envelope.DirFileName, err)
	}
	return id, zone, nil
}

// dirFile returns the contents of the id file of the directory h.
func dirFile(h backing.Dir) ([]byte, error) { return wholeDirFile(h, envelope.DirFileName) }

// wholeDirFile returns the contents of an id file of that name, or as much of it as one may have and a byte.
func wholeDirFile(h backing.Dir, name string) ([]byte, error) {
	f, err := h.Open(name, syscall.O_RDONLY, 0)
	if err != nil {
		return nil, planted(name, err)
	}
	defer f.Close()
	b := make([]byte, 4*envelope.DirFileSize)
	n, err := f.ReadAt(b, 0)
	if err == nil && n == len(b) { // a zone with a long name
		b = make([]byte, envelope.DirFileMax+1)
		n, err = f.ReadAt(b, 0)
	}
	return b[:n], err
}

// PeekZone returns the encryption zone that the stored directory h is itself, "" for none, for who does not have the volume
// key: it is not authentic. ENOENT is a directory without an id, envelope.ErrCorrupt one whose id is malformed.
func PeekZone(h backing.Dir) (string, error) {
	b, err := dirFile(h)
	if err != nil {
		return "", err
	}
	_, zone, err := envelope.PeekDirFile(b)
	return zone, err
}

// openNodeDir opens a new handle of directory n by its place.
func (v *Vault) openNodeDir(n *Node) (backing.Dir, error) {
	if n == v.root {
		return v.top.Dup()
	}
	var h backing.Dir
	err := v.at(n, func(d backing.Dir, entry string) (err error) {
		if h, err = d.OpenDir(entry); err != nil {
			return replaced(err)
		}
		var st backing.Stat
		if st, err = h.Stat(); err == nil && (st.Ino != n.ino || st.Dev != n.dev) {
			err = ErrStale // names sealed for the one would be put into the other
		}
		if err != nil {
			h.Close()
		}
		return err
	})
	return h, err
}

// stateOf returns the state of directory n, which is entry in d, nil where n is nil or cannot be read. d.names is held.
func (v *Vault) stateOf(n *Node, d *dirState, entry string) *dirState {
	if t := n.openDir(); t != nil || n == nil || n.kind != sIFDIR {
		return t
	}
	h, err := d.h.OpenDir(entry)
	if err != nil {
		return nil
	}
	id, zone, err := v.readDirFile(h)
	if err != nil {
		h.Close()
		return nil
	}
	t := &dirState{id: id, h: h, zone: zone}
	n.mu.Lock()
	if n.dir != nil {
		t = n.dir
		n.mu.Unlock()
		h.Close()
		return t
	}
	n.dir = t
	n.mu.Unlock()
	v.dirs.opened(t)
	return t
}

// use returns the state of directory n with its handle open; put gives it back.
func (v *Vault) use(n *Node) (*dirState, error) {
	d, err := v.state(n)
	if err != nil {
		return nil, err
	}
	for {
		d.mu.Lock()
		if d.h != nil {
			d.users++
			d.mu.Unlock()
			return d, nil
		}
		if d.gone {
			d.mu.Unlock()
			return nil, ErrStale
		}
		d.mu.Unlock()
		var h backing.Dir
		err := v.withRoom(func() (err error) { h, err = v.openNodeDir(n); return err })
		if err == nil && v.shared { // another host may have put another directory in its place, with the same number
			var id envelope.DirID
			if id, _, err = v.readDirFile(h); err == nil && id != d.id {
				v.nodes.detach(n) // whoever looks it up anew finds the other one
				err = ErrStale
			}
			if err != nil {
				h.Close()
			}
		}
		if err != nil {
			return nil, err
		}
		d.mu.Lock()
		if d.h == nil && !d.gone {
			d.h = h
			d.users++
			d.mu.Unlock()
			v.dirs.opened(d)
			return d, nil
		}
		d.mu.Unlock()
		h.Close()
	}
}

func (d *dirState) put() {
	d.mu.Lock()
	d.users--
	var h backing.Dir
	if d.gone && d.users == 0 {
		h, d.h = d.h, nil
	}
	d.mu.Unlock()
	if h != nil {
		h.Close()
	}
}

// at calls f with the directory and the stored name where n is, which stay so during the call.
func (v *Vault) at(n *Node, f func(d backing.Dir, entry string) error) error {
	for {
		p, entry, ok := n.loc()
		if !ok {
			return ErrStale
		}
		d, err := v.use(p)
		if err != nil {
			return err
		}
		there, gone, err := v.callAt(n, place{p, entry}, d, f)
		if there {
			return err
		}
		if gone {
			v.nodes.dropPlace(n, place{p, entry})
		}
	}
}

// atSame is at for a change by name: it fails with ErrStale where something else has the name.
func (v *Vault) atSame(n *Node, f func(d backing.Dir, entry string) error) error {
	return v.at(n, func(d backing.Dir, entry string) error {
		if !v.shared && !isAt(d, entry, n) { // else at has looked
			return ErrStale
		}
		return f(d, entry)
	})
}

// callAt calls f if n is still at the place at, in d, which it gives back. gone says that another host has moved, removed or replaced n.
func (v *Vault) callAt(n *Node, at place, d *dirState, f func(d backing.Dir, entry string) error) (there, gone bool, err error) {
	defer d.put()
	d.names.RLock()
	defer d.names.RUnlock()
	if p, entry, _ := n.loc(); p != at.dir || entry != at.entry {
		return false, false, nil
	}
	if v.shared && !isAt(d.h, at.entry, n) {
		return false, true, nil
	}
	err = f(d.h, at.entry)
	if v.shared && errors.Is(err, syscall.ENOENT) { // just now
		return false, true, nil
	}
	return true, false, err
}

// isAt says whether entry is n, or may be.
func isAt(d backing.Dir, entry string, n *Node) bool {
	st, err := d.StatAt(entry)
	if err != nil {
		return !errors.Is(err, syscall.ENOENT)
	}
	return st.Ino == n.ino && st.Dev == n.dev
}

// ReadDir calls f for each entry of directory n, until it returns false. Entries whose names do not open (moved here
// by someone without the key, or damaged) are logged and left out. The node is not looked up.
func (v *Vault) ReadDir(n *Node, f func(e DirEntry) bool) error {
	return v.List(n, func(e DirEntry, err error) bool {
		if err != nil {
			v.log.Warn("stored name does not open; left out of the listing", "dir_inode", n.ino, "stored", e.Stored, "err", err)
			return true
		}
		return f(e)
	})
}

// List is ReadDir of all entries: those whose names do not open have no Name, and come with an error that is ErrCorrupt.
func (v *Vault) List(n *Node, f func(e DirEntry, err error) bool) error {
	d, err := v.use(n)
	if err != nil {
		return err
	}
	defer d.put()
	if d.isNameless() {
		return n.fail("list", syscall.ENOENT)
	}
	var long envelope.Companions
	var late []backing.Entry // long names whose companions have not been seen yet
	open := func(e backing.Entry, cipher string) bool {
		name, err := v.keys.OpenName(d.id, e.Name, cipher)
		if err != nil {
			err = fmt.Errorf("%w: %w", ErrCorrupt, err)
		}
		return f(DirEntry{Name: name, Ino: e.Ino, Kind: e.Kind, Stored: e.Name}, err)
	}
	more := true
	err = d.h.ReadDir(func(e backing.Entry) bool {
		switch {
		case envelope.IsReserved(e.Name):
			long.Add(e.Name)
		case envelope.IsLongEntry(e.Name):
			late = append(late, e)
		default:
			more = open(e, "")
		}
		return more
	})
	if err != nil {
		return n.fail("list", err)
	}
	for _, e := range late {
		if !more {
			break
		}
		more = open(e, long.Cipher(e.Name))
	}
	return nil
}

// DirEntry is one entry of a directory, in plaintext.
type DirEntry struct {
	Name   string
	Ino    uint64
	Kind   uint32 // S_IFMT bits, 0 where the backing file system does not tell
	Stored string // the sealed name
}
