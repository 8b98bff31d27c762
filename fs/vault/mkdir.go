package vault

import (
	"crypto/rand"
	"encoding/hex"
	"errors"
	"sync"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// sparesMost is how many directories are kept ready.
const sparesMost = 16

// spares are directories made ahead, with their ids durable, in .kmsfs/tmp: making a directory is then one rename and
// costs no sync of its own, and no directory is ever seen without its id.
type spares struct {
	v       *Vault
	mu      sync.Mutex
	ready   []spare
	filling bool
	closed  bool
}

type spare struct {
	name string
	id   envelope.DirID
}

// take returns a spare directory, making one where none is ready.
func (s *spares) take() (spare, error) {
	s.mu.Lock()
	var got spare
	if n := len(s.ready); n > 0 {
		got = s.ready[n-1]
		s.ready = s.ready[:n-1]
	}
	if len(s.ready) < sparesMost/2 && !s.filling && !s.closed {
		s.filling = true
		s.v.wg.Add(1)
		go s.fill()
	}
	s.mu.Unlock()
	if got.name != "" {
		return got, nil
	}
	return s.v.buildDir(s.v.tmpDir, randomName())
}

func (s *spares) fill() {
	defer s.v.wg.Done()
	for {
		s.mu.Lock()
		if len(s.ready) >= sparesMost || s.closed {
			s.filling = false
			s.mu.Unlock()
			return
		}
		s.mu.Unlock()
		var d spare
		err := s.v.guarded(func() (err error) { d, err = s.v.buildDir(s.v.tmpDir, randomName()); return err })
		s.mu.Lock()
		if err != nil {
			s.filling = false
			s.mu.Unlock()
			s.v.log.Warn("no spare directory", "err", err)
			return
		}
		late := s.closed
		if !late {
			s.ready = append(s.ready, d)
		}
		s.mu.Unlock()
		if late {
			removeDir(s.v.tmpDir, d.name)
		}
	}
}

// close removes what was not needed.
func (s *spares) close() {
	s.mu.Lock()
	s.closed = true
	ready := s.ready
	s.ready = nil
	s.mu.Unlock()
	for _, d := range ready {
		removeDir(s.v.tmpDir, d.name)
	}
}

func randomName() string {
	var b [16]byte
	rand.Read(b[:])
	return hex.EncodeToString(b[:])
}

// buildDir makes directory name in parent with an id in it, and makes the id durable.
func (v *Vault) buildDir(parent backing.Dir, name string) (spare, error) {
	s := spare{name: name}
	rand.Read(s.id[:])
	if err := parent.Mkdir(name, 0o700); err != nil {
		return s, err
	}
	if err := v.writeDirID(parent, name, s.id); err != nil {
		removeDir(parent, name)
		return s, err
	}
	return s, nil
}

func (v *Vault) writeDirID(parent backing.Dir, name string, id envelope.DirID) error {
	d, err := parent.OpenDir(name)
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := d.Open(envelope.DirFileName, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	defer f.Close()
	if _, err := f.WriteAt(v.keys.MarshalDirFile(id, ""), 0); err != nil {
		return err
	}
	if err := f.Sync(); err != nil {
		return err
	}
	return d.Sync()
}

// removeDir removes a directory that holds nothing but its id.
func removeDir(parent backing.Dir, name string) error {
	d, err := parent.OpenDir(name)
	if err != nil {
		return err
	}
	err = d.Unlink(envelope.DirFileName)
	d.Close()
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	return parent.Rmdir(name)
}

// Mkdir makes a directory.
func (v *Vault) Mkdir(dir *Node, name string, mode uint32, who Caller) (n *Node, st Attr, err error) {
	err = v.make(dir, name, func(d *dirState, entry string) error {
		if _, err := d.h.StatAt(entry); err == nil {
			return syscall.EEXIST
		}
		up, err := d.h.Stat()
		if err != nil {
			return err
		}
		perm := mode & 0o1777
		acl, err := v.defaultACL(d)
		if err != nil {
			return err
		}
		var id envelope.DirID
		if acl == aclSome || (up.Mode&sISGID != 0 && !v.owners) {
			id, err = v.mkdirInside(d, entry, perm, who)
		} else {
			id, err = v.mkdirAside(d, &up, entry, perm&^who.Umask, who)
		}
		if err != nil {
			return err
		}
		if st, err = v.statMade(d, entry); err != nil {
			return err
		}
		n = v.nodes.intern(&st, place{dir, entry})
		if d := n.openDir(); d != nil && d.id != id { // of one that another host has removed, which had the same number
			v.nodes.detach(n)
			v.Forget(n, 1)
			n = v.nodes.intern(&st, place{dir, entry})
		}
		n.mu.Lock()
		if n.dir == nil {
			n.dir = &dirState{id: id}
		}
		n.mu.Unlock()
		return nil
	})
	return n, st, err
}

// mkdirAside puts a spare directory in place.
func (v *Vault) mkdirAside(d *dirState, up *Attr, entry string, perm uint32, who Caller) (envelope.DirID, error) {
	s, err := v.spares.take()
	if err == nil && v.shared { // another host may have taken it for a left-over
		if _, e := v.tmpDir.StatAt(s.name); errors.Is(e, syscall.ENOENT) {
			s, err = v.buildDir(v.tmpDir, randomName())
		}
	}
	if err != nil {
		return s.id, err
	}
	undo := func(err error) (envelope.DirID, error) {
		v.tmpDir.ChmodAt(s.name, 0o700)
		removeDir(v.tmpDir, s.name)
		return s.id, err
	}
	if up.Mode&sISGID != 0 {
		who.GID = up.GID
		perm |= sISGID
	}
	if v.owners && (who.UID != v.uid || who.GID != v.gid) {
		if err := v.tmpDir.ChownAt(s.name, who.UID, who.GID); err != nil {
			return undo(err)
		}
	}
	if err := v.tmpDir.ChmodAt(s.name, perm); err != nil {
		return undo(err)
	}
	now := backing.Timespec{Nsec: backing.UtimeNow}
	if err := v.tmpDir.UtimesAt(s.name, now, now); err != nil {
		return undo(err)
	}
	if err := v.tmpDir.Rename(s.name, d.h, entry, RenameNoReplace); err != nil {
		return undo(err)
	}
	return s.id, nil
}

// NewDirPrefix begins the name of a directory that is being made where it will be.
const NewDirPrefix = envelope.ControlDir + ".new."

// mkdirInside makes a directory under a reserved name where it will be, so that it inherits what the backing file
// system makes it inherit, and gives it its name when it is whole.
func (v *Vault) mkdirInside(d *dirState, entry string, perm uint32, who Caller) (envelope.DirID, error) {
	acl, err := v.defaultACL(d)
	if err != nil {
		return envelope.DirID{}, err
	}
	if acl != aclSome {
		perm &^= who.Umask
	}
	s := spare{name: NewDirPrefix + randomName()}
	rand.Read(s.id[:])
	undo := func(err error) (envelope.DirID, error) {
		removeDir(d.h, s.name)
		return s.id, err
	}
	if err := d.h.Mkdir(s.name, perm|0o700); err != nil {
		return s.id, err
	}
	if err := v.writeDirID(d.h, s.name, s.id); err != nil {
		return undo(err)
	}
	st, err := d.h.StatAt(s.name)
	if err != nil {
		return undo(err)
	}
	if perm&0o700 != 0o700 {
		if err := d.h.ChmodAt(s.name, st.Mode&0o7777&^(0o700&^perm)); err != nil {
			return undo(err)
		}
	}
	if err := v.own(d, named{d.h, s.name}, &st, perm|st.Mode&sISGID, who); err != nil {
		return undo(err)
	}
	if err := d.h.Rename(s.name, d.h, entry, RenameNoReplace); err != nil {
		return undo(err)
	}
	return s.id, nil
}

// isEmptyDir says whether the directory entry holds nothing but what is reserved.
func isEmptyDir(d backing.Dir, entry string) (bool, error) {
	h, err := openEmpty(d, entry)
	if errors.Is(err, syscall.ENOTEMPTY) {
		return false, nil
	}
	if err != nil {
		return false, err
	}
	return true, h.Close()
}

// openEmpty opens the directory entry, which holds nothing but what is reserved; else ENOTEMPTY.
func openEmpty(d backing.Dir, entry string) (backing.Dir, error) {
	h, err := d.OpenDir(entry)
	if err != nil {
		return nil, err
	}
	empty := true
	err = h.ReadDir(func(e backing.Entry) bool {
		empty = envelope.IsReserved(e.Name)
		return empty
	})
	if err == nil && !empty {
		err = syscall.ENOTEMPTY
	}
	if err != nil {
		h.Close()
		return nil, err
	}
	return h, nil
}

// Rmdir removes an empty directory: it is moved aside in one step, and taken apart there when that is durable.
func (v *Vault) Rmdir(dir *Node, name string) error {
	if v.readOnly {
		return ErrReadOnly
	}
	d, sealed, err := v.enterDir(dir, name)
	if err != nil {
		return err
	}
	defer d.put()
	var target *dirState
	var aside string
	for {
		target, aside, err = v.rmdir(dir, d, sealed, target)
		if err != errAgain {
			break
		}
	}
	if err == nil {
		v.keeper.takeApart(aside)
	}
	return err
}

// rmdir moves a directory aside. Where it is in use, its state is to be given as target, and is returned with errAgain.
func (v *Vault) rmdir(dir *Node, d *dirState, sealed envelope.SealedName, target *dirState) (_ *dirState, aside string, err error) {
	defer v.lockNames(d, target, nil)()
	entry := sealed.Entry
	st, err := d.h.StatAt(entry)
	if err != nil {
		return nil, "", err
	}
	if st.Mode&sIFMT != sIFDIR {
		return nil, "", syscall.ENOTDIR
	}
	n := v.nodes.byInode(st.Dev, st.Ino)
	if t := v.stateOf(n, d, entry); t != nil && t != target {
		return t, "", errAgain
	}
	h, aside, err := v.moveAside(d, entry)
	if err != nil {
		return nil, "", err
	}
	target.lose(n, h)
	if n != nil {
		v.nodes.dropPlace(n, place{dir, entry})
		v.nodes.detach(n)
	}
	v.dropCompanions(d.h, sealed)
	return nil, aside, nil
}

// lose notes that the directory of n, of which h is a handle, has lost its name. d is its state, nil where it has none;
// d.names is held for writing.
func (d *dirState) lose(n *Node, h backing.Dir) {
	if d == nil || n.openDir() != d {
		h.Close()
		return
	}
	d.removed = true
	d.keep(h)
}

// moveAside moves an empty directory to .kmsfs/tmp, and returns a handle of it.
func (v *Vault) moveAside(d *dirState, entry string) (h backing.Dir, aside string, err error) {
	h, unlock, err := v.openDoomed(d.h, entry)
	if err != nil {
		return nil, "", err
	}
	defer unlock()
	aside = randomName()
	err = d.h.Rename(entry, v.tmpDir, aside, RenameNoReplace)
	if err == nil {
		err = v.giveUpID(h, d)
	}
	if err != nil {
		h.Close()
		return nil, "", err
	}
	return h, aside, nil
}

// RemoveUnnamed removes a directory that holds nothing but reserved names, and has none itself but a reserved one in the stored directory
// d: one that was being made or removed. ENOTEMPTY where it holds something.
func (v *Vault) RemoveUnnamed(d backing.Dir, name string) error {
	if v.readOnly {
		return ErrReadOnly
	}
	h, aside, err := v.moveAside(&dirState{h: d}, name)
	if err != nil {
		return err
	}
	h.Close()
	v.takeApart(aside)
	return nil
}

// giveUpID removes the id of a directory that was moved aside from d, where other hosts may wait for its lock: they find that it has
// gone. The move is durable before, so that no power cut puts it back without its id.
func (v *Vault) giveUpID(h backing.Dir, d *dirState) error {
	if !v.shared {
		return nil
	}
	if err := errors.Join(v.tmpDir.Sync(), d.h.Sync()); err != nil {
		return err
	}
	return h.Unlink(envelope.DirFileName)
}

// openDoomed is openEmpty for one who removes the directory, and lets go of it by unlock: on a shared mount no other host puts
// anything into it until then. Afterwards it has no id any more, or goes on as it was.
func (v *Vault) openDoomed(d backing.Dir, entry string) (h backing.Dir, unlock func(), err error) {
	if v.shared {
		if h, err = d.OpenDir(entry); err != nil {
			return nil, nil, err
		}
		unlock, err = v.lockDir(h, backing.LockExclusive)
		h.Close()
		if err != nil {
			return nil, nil, err
		}
	} else {
		unlock = func() {}
	}
	if h, err = openEmpty(d, entry); err != nil {
		unlock()
	}
	return h, unlock, err
}

// keepDir keeps dir, whose state is d, from being removed by another host until unlock is called: something is put into it.
func (v *Vault) keepDir(dir *Node, d *dirState) (unlock func(), err error) {
	if dir == v.root {
		return func() {}, nil
	}
	return v.lockDir(d.h, backing.LockShared)
}

// lockDir keeps the directory h, which is not the root, from being removed by another host (shared), or others from putting
// something into it (exclusive), until unlock is called: by a lock of its id file. ENOENT where it has been removed.
func (v *Vault) lockDir(h backing.Dir, mode backing.LockMode) (unlock func(), err error) {
	if !v.shared {
		return func() {}, nil
	}
	flags := syscall.O_RDONLY
	if mode == backing.LockExclusive {
		flags = syscall.O_RDWR
	}
	for {
		var f backing.File
		if err := v.withRoom(func() (err error) {
			f, err = h.Open(envelope.DirFileName, flags, 0)
			return err
		}); err != nil {
			return nil, err
		}
		err := f.LockWait(mode)
		if err == nil && !nameless(f) {
			return func() {
				if err := f.Unlock(); err != nil {
					v.log.Warn("unlock", "err", err)
				}
				f.Close()
			}, nil
		}
		f.Close()
		if err != nil {
			return nil, err
		}
		// It was replaced, by one of another zone, or is gone.
	}
}

// takeApart removes a directory in .kmsfs/tmp with the reserved names in it.
func (v *Vault) takeApart(name string) {
	h, err := v.tmpDir.OpenDir(name)
	if err != nil {
		v.log.Warn("directory stays behind in .kmsfs/tmp", "err", err)
		return
	}
	var rest []string
	h.ReadDir(func(e backing.Entry) bool {
		if envelope.IsReserved(e.Name) && e.Name != envelope.DirFileName {
			rest = append(rest, e.Name)
		}
		return true
	})
	for _, r := range rest {
		if err := h.Unlink(r); errors.Is(err, syscall.EISDIR) || errors.Is(err, syscall.EPERM) {
			removeDir(h, r) // one that was never finished
		}
	}
	h.Close()
	if err := removeDir(v.tmpDir, name); err != nil {
		v.log.Warn("directory stays behind in .kmsfs/tmp", "err", err)
	}
}

// replaceDir renames a directory over an empty one: they change places, then the empty one is taken apart. A kill between
// leaves it, empty, under the old name: no single call replaces a directory that has an id in it. It returns a handle of
// what was replaced.
func (v *Vault) replaceDir(d1 *dirState, from string, d2 *dirState, to string) (backing.Dir, error) {
	h, unlock, err := v.openDoomed(d2.h, to)
	if err != nil {
		return nil, err
	}
	defer unlock()
	aside := randomName()
	if err := d1.h.Rename(from, d2.h, to, RenameExchange); err != nil {
		if errors.Is(err, syscall.EINVAL) { // the file system cannot, or a directory was to be moved into itself
			err = v.replaceInTwo(d1, from, d2, to, aside)
		}
		if err != nil {
			h.Close()
			return nil, err
		}
		if err := v.giveUpID(h, d2); err != nil {
			v.log.Warn("a directory that was replaced keeps its id", "err", err)
		}
		v.keeper.takeApart(aside)
		return h, nil
	}
	if err := d1.h.Rename(from, v.tmpDir, aside, RenameNoReplace); err != nil {
		if e := d1.h.Rename(from, d2.h, to, RenameExchange); e != nil {
			v.log.Error("a directory that was to be replaced stays under the old name", "err", e)
		}
		h.Close()
		return nil, err
	}
	if err := v.giveUpID(h, d1); err != nil {
		v.log.Warn("a directory that was replaced keeps its id", "err", err)
	}
	v.keeper.takeApart(aside)
	return h, nil
}

// replaceInTwo is replaceDir where names cannot be exchanged: for a moment there is nothing under the new name, and a kill in
// between leaves it so.
func (v *Vault) replaceInTwo(d1 *dirState, from string, d2 *dirState, to, aside string) error {
	if err := d2.h.Rename(to, v.tmpDir, aside, RenameNoReplace); err != nil {
		return err
	}
	err := d1.h.Rename(from, d2.h, to, RenameNoReplace)
	if err != nil {
		if e := v.tmpDir.Rename(aside, d2.h, to, RenameNoReplace); e != nil {
			v.log.Error("a directory that was to be replaced stays in .kmsfs/tmp", "err", e)
		}
	}
	return err
}
