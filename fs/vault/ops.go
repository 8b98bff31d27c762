package vault

import (
	"crypto/rand"
	"errors"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Caller is who asks for something to be made: its owner to be.
type Caller struct {
	UID, GID uint32
	Umask    uint32 // not applied where the directory has a default ACL
}

// Flags of Rename, as renameat2(2).
const (
	RenameNoReplace = 1
	RenameExchange  = 2
)

// Lookup finds name in dir and returns its node, with one reference more, and its attributes.
func (v *Vault) Lookup(dir *Node, name string) (*Node, Attr, error) {
	d, sealed, err := v.enterDir(dir, name)
	if err != nil {
		return nil, Attr{}, err
	}
	defer d.put()
	return v.lookupEntry(dir, d, sealed.Entry)
}

// present makes st, which is of entry in d, one of the plaintext.
func (v *Vault) present(n *Node, d backing.Dir, entry string, st *Attr) {
	if n.kind == sIFREG {
		if f := n.openFile(); f != nil {
			f.setSize(st)
			f.release()
			return
		}
	}
	v.plainAt(d, entry, st)
}

// enterDir opens dir for an operation on name.
func (v *Vault) enterDir(dir *Node, name string) (*dirState, envelope.SealedName, error) {
	d, err := v.use(dir)
	if err != nil {
		return nil, envelope.SealedName{}, err
	}
	sealed, err := v.keys.SealName(d.id, name)
	if err != nil {
		d.put()
		return nil, sealed, err
	}
	return d, sealed, nil
}

// make makes something named name in dir by calling f, companions of a long name first.
func (v *Vault) make(dir *Node, name string, f func(d *dirState, entry string) error) error {
	if v.readOnly {
		return ErrReadOnly
	}
	d, sealed, err := v.enterDir(dir, name)
	if err != nil {
		return err
	}
	defer d.put()
	d.names.Lock() // nobody finds what is new before f knows it
	defer d.names.Unlock()
	if d.removed {
		return syscall.ENOENT
	}
	unlock, err := v.keepDir(dir, d)
	if err != nil {
		return err
	}
	defer unlock()
	if err := addCompanions(d.h, sealed); err != nil {
		return err
	}
	if err := f(d, sealed.Entry); err != nil {
		v.dropCompanions(d.h, sealed)
		return err
	}
	v.keepCompanions(d.h, sealed)
	return nil
}

// keepCompanions makes the companions of a name that is there once more: another host, which has taken the same name away just
// before, may have removed them since.
func (v *Vault) keepCompanions(d backing.Dir, s envelope.SealedName) {
	if !v.shared {
		return
	}
	if err := addCompanions(d, s); err != nil {
		v.log.Warn("a long name may lack its companions", "err", err)
	}
}

func addCompanions(d backing.Dir, s envelope.SealedName) error {
	for _, c := range s.Companions {
		if f, err := d.Open(c, syscall.O_CREAT|syscall.O_WRONLY, 0o600); err != nil {
			return err
		} else if err := f.Close(); err != nil {
			return err
		}
	}
	return nil
}

// dropCompanions removes the companions of a name that is gone.
func (v *Vault) dropCompanions(d backing.Dir, s envelope.SealedName) {
	if len(s.Companions) == 0 {
		return
	}
	if _, err := d.StatAt(s.Entry); err == nil {
		return
	}
	for _, c := range s.Companions {
		if err := d.Unlink(c); err != nil && !errors.Is(err, syscall.ENOENT) {
			v.log.Warn("companion of a name stays behind", "err", err)
		}
	}
	if v.shared {
		if _, err := d.StatAt(s.Entry); err == nil { // made anew in between, by another host
			v.keepCompanions(d, s)
		}
	}
}

// mode returns the permissions that something new in d gets: the umask does not count where a default ACL does.
func (v *Vault) mode(d *dirState, mode uint32, who Caller) (uint32, error) {
	acl, err := v.defaultACL(d)
	if err != nil || acl == aclSome {
		return mode, err
	}
	return mode &^ who.Umask, nil
}

// defaultACL says whether directory d has a default ACL.
func (v *Vault) defaultACL(d *dirState) (aclState, error) {
	d.mu.Lock()
	acl := d.acl
	d.mu.Unlock()
	if acl != aclUnknown && !v.shared {
		return acl, nil
	}
	_, err := d.h.Getxattr(aclDefault, nil)
	switch {
	case err == nil:
		acl = aclSome
	case errors.Is(err, syscall.ENODATA), errors.Is(err, syscall.EOPNOTSUPP):
		acl = aclNone
	default:
		return aclUnknown, err
	}
	d.mu.Lock()
	d.acl = acl
	d.mu.Unlock()
	return acl, nil
}

// own gives something new to who asked for it. st is what it is now; mode what it is to be.
func (v *Vault) own(d *dirState, m backing.Meta, st *Attr, mode uint32, who Caller) error {
	uid, gid := who.UID, who.GID
	if uid == st.UID && gid == st.GID || !v.owners {
		return nil
	}
	if gid != st.GID {
		up, err := d.h.Stat()
		if err != nil {
			return err
		}
		if up.Mode&sISGID != 0 {
			gid = st.GID // of the directory's group
		}
	}
	if uid == st.UID && gid == st.GID {
		return nil
	}
	if err := m.Chown(uid, gid); err != nil {
		return err
	}
	st.UID, st.GID = uid, gid
	if mode&(sISUID|sISGID) != 0 && st.Mode&sIFMT != sIFLNK { // chown has cleared them
		return m.Chmod(st.Mode & 0o7777)
	}
	return nil
}

// Create makes and opens a file; the node has one reference more and one opening. EEXIST where the name is taken.
func (v *Vault) Create(dir *Node, name string, mode uint32, who Caller) (n *Node, st Attr, err error) {
	err = v.withRoom(func() error { n, st, err = v.create(dir, name, mode, who); return err })
	return n, st, err
}

func (v *Vault) create(dir *Node, name string, mode uint32, who Caller) (n *Node, st Attr, err error) {
	err = v.make(dir, name, func(d *dirState, entry string) error {
		mode, err := v.mode(d, mode&0o7777, who)
		if err != nil {
			return err
		}
		var bf backing.File
		if bf, st, err = d.h.OpenStat(entry, syscall.O_RDWR|syscall.O_CREAT|syscall.O_EXCL, mode); err != nil {
			return err
		}
		if err = v.own(d, bf, &st, mode, who); err == nil {
			err = v.using(bf, created)
		}
		if err != nil {
			bf.Close()
			d.h.Unlink(entry)
			return err
		}
		n = v.adopt(bf, &st, place{dir, entry})
		return nil
	})
	return n, st, err
}

// adopt makes the node of a file that has just been made.
func (v *Vault) adopt(bf backing.File, st *Attr, at place) *Node {
	n := v.nodes.intern(st, at)
	f := &file{v: v, n: n, bf: note(bf, v.age(created)), writable: true, headed: true, opened: true, caps: capsNone}
	n.mu.Lock()
	n.opened(v)
	n.memoKnown = false
	if n.file != nil { // somebody looked it up and opened it in between
		n.mu.Unlock()
		bf.Close()
		return n
	}
	n.file = f
	n.mu.Unlock()
	v.nodes.pin(n)
	v.files.opened(f)
	return n
}

// Tmpfile makes and opens a file without a name in dir; Link may give it one.
func (v *Vault) Tmpfile(dir *Node, mode uint32, who Caller) (*Node, Attr, error) {
	if v.readOnly {
		return nil, Attr{}, ErrReadOnly
	}
	d, err := v.use(dir)
	if err != nil {
		return nil, Attr{}, err
	}
	defer d.put()
	if mode, err = v.mode(d, mode&0o7777, who); err != nil {
		return nil, Attr{}, err
	}
	var bf backing.File
	if err := v.withRoom(func() (err error) { bf, err = d.h.Tmpfile(mode); return err }); err != nil {
		return nil, Attr{}, err
	}
	st, err := bf.Stat()
	if err == nil {
		err = v.own(d, bf, &st, mode, who)
	}
	if err == nil {
		err = v.using(bf, created)
	}
	if err != nil {
		bf.Close()
		return nil, Attr{}, err
	}
	n := v.adopt(bf, &st, place{})
	n.mu.Lock()
	if n.file != nil {
		n.file.gone = true
	}
	n.mu.Unlock()
	return n, st, nil
}

// Open opens a file: until Release it stays usable, even without a name.
func (v *Vault) Open(n *Node) error {
	f, err := v.acquire(n)
	if err != nil {
		return err
	}
	n.mu.Lock()
	n.opened(v)
	n.mu.Unlock()
	f.release()
	return nil
}

// opened counts an opening, where the caller tells of its end too. n.mu is held.
func (n *Node) opened(v *Vault) {
	if v.tracked {
		n.opens++
	}
}

// Release ends what Open or Create began.
func (v *Vault) Release(n *Node) {
	if !v.tracked {
		return
	}
	n.mu.Lock()
	n.opens--
	last := n.opens == 0
	forgotten := n.forgotten
	n.mu.Unlock()
	if last && forgotten {
		v.retireIdle(n)
	}
}

// Mknod makes a device, fifo, socket or empty file.
func (v *Vault) Mknod(dir *Node, name string, mode uint32, dev uint64, who Caller) (n *Node, st Attr, err error) {
	err = v.make(dir, name, func(d *dirState, entry string) error {
		perm, err := v.mode(d, mode&0o7777, who)
		if err != nil {
			return err
		}
		if err := d.h.Mknod(entry, mode&sIFMT|perm, dev); err != nil {
			return err
		}
		n, st, err = v.admit(dir, d, entry, perm, who)
		return err
	})
	return n, st, err
}

// admit returns the node of something just made under entry, owned by who; on failure it is removed again.
func (v *Vault) admit(dir *Node, d *dirState, entry string, mode uint32, who Caller) (*Node, Attr, error) {
	st, err := v.statMade(d, entry)
	if errors.Is(err, ErrStale) {
		return nil, st, err
	}
	if err == nil {
		err = v.own(d, named{d.h, entry}, &st, mode, who)
	}
	if err != nil {
		d.h.Unlink(entry)
		return nil, st, err
	}
	n := v.nodes.intern(&st, place{dir, entry})
	v.plain(&st)
	return n, st, nil
}

// statMade is StatAt of something just made; ErrStale where another host has removed it since: the kernel asks once more then.
func (v *Vault) statMade(d *dirState, entry string) (Attr, error) {
	st, err := d.h.StatAt(entry)
	if v.shared && errors.Is(err, syscall.ENOENT) {
		err = ErrStale
	}
	return st, err
}

// Symlink makes a symbolic link; its target is sealed.
func (v *Vault) Symlink(dir *Node, name, target string, who Caller) (n *Node, st Attr, err error) {
	var salt [16]byte
	rand.Read(salt[:])
	stored, err := v.keys.SealTarget(target, &salt)
	if err != nil {
		return nil, st, err
	}
	err = v.make(dir, name, func(d *dirState, entry string) (err error) {
		if err = d.h.Symlink(stored, entry); err != nil {
			return err
		}
		n, st, err = v.admit(dir, d, entry, 0o777, who)
		return err
	})
	return n, st, err
}

// Readlink returns the target of a symbolic link.
func (v *Vault) Readlink(n *Node) (string, error) {
	if n.kind != sIFLNK {
		return "", syscall.EINVAL
	}
	var stored string
	err := v.at(n, func(d backing.Dir, entry string) (err error) {
		stored, err = d.Readlink(entry)
		return err
	})
	if last := n.remembered(); err == ErrStale && last != nil && last.target != "" {
		stored, err = last.target, nil
	}
	if err != nil {
		return "", n.fail("readlink", replaced(err))
	}
	target, err := v.keys.OpenTarget(stored)
	return target, n.fail("readlink", err)
}

// Link gives n another name.
func (v *Vault) Link(n *Node, dir *Node, name string) (st Attr, err error) {
	if n.kind == sIFDIR {
		return st, syscall.EPERM
	}
	if !v.nodes.pin(n) {
		return st, ErrStale
	}
	defer v.nodes.unpin(n)
	v.links.Lock()
	defer v.links.Unlock()
	v.several.Lock()
	defer v.several.Unlock()
	defer v.moving()()
	for err = errAgain; err == errAgain; {
		st, err = v.link(n, dir, name)
	}
	return st, err
}

// link does the work of Link, or returns errAgain where n has moved meanwhile.
func (v *Vault) link(n *Node, dir *Node, name string) (st Attr, err error) {
	f := n.openFile()
	var from *Node
	var s *dirState // opened before anything is locked
	if f != nil {
		defer f.release()
	} else {
		var ok bool
		if from, _, ok = n.loc(); !ok {
			return st, ErrStale
		}
		if s, err = v.use(from); err != nil {
			return st, err
		}
		defer s.put()
	}
	err = v.make(dir, name, func(d *dirState, entry string) error {
		if f != nil {
			if err := d.h.LinkFile(plainFile(f.handle()), entry); err != nil {
				return err
			}
			n.mu.Lock()
			f.gone = false
			n.mu.Unlock()
		} else if err := v.linkByName(n, from, s, d, entry); err != nil {
			return err
		}
		if st, err = v.statMade(d, entry); err != nil {
			return err
		}
		v.nodes.addName(n, place{dir, entry})
		v.present(n, d.h, entry, &st)
		return nil
	})
	return st, err
}

// linkByName makes entry in d another name of n, which was in the directory at, whose state is s. d.names is held for
// writing, and v.several is held.
func (v *Vault) linkByName(n, at *Node, s, d *dirState, entry string) error {
	if s != d { // names that are held are not locked again
		s.names.RLock()
		defer s.names.RUnlock()
	}
	p, from, ok := n.loc()
	if !ok {
		return ErrStale
	}
	if p != at {
		return errAgain
	}
	if !isAt(s.h, from, n) {
		if !v.shared {
			return ErrStale
		}
		v.nodes.dropPlace(n, place{p, from})
		return errAgain
	}
	return s.h.Link(from, d.h, entry)
}

// doomed is what a name stands for that is about to go.
type doomed struct {
	n    *Node        // nil where nobody refers to it
	f    *file        // its open file, held
	bf   backing.File // opened to give up its key afterwards, where n has no file that does so
	last bool         // no other name is left
	left remembered   // of what is no file
}

// remembered is what stays known of something that is no file and has lost its last name.
type remembered struct {
	attr   Attr
	target string // of a symbolic link, as stored
}

// remembered returns what is known of n where it is no file and has lost its last name, else nil.
func (n *Node) remembered() *remembered {
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.last
}

// doom looks at what entry names before it is unlinked or replaced. d.names is held for writing.
func (v *Vault) doom(d *dirState, entry string) (doomed, Attr, error) {
	st, err := d.h.StatAt(entry)
	if err != nil {
		return doomed{}, st, err
	}
	x := doomed{n: v.nodes.byInode(st.Dev, st.Ino), last: st.Nlink <= 1}
	if st.Mode&sIFMT != sIFREG || !x.last {
		x.left.attr = st
		if st.Mode&sIFMT == sIFLNK && x.n != nil {
			x.left.target, _ = d.h.Readlink(entry) // who would read it then is told that it is gone
		}
		return x, st, nil
	}
	if n := x.n; n != nil {
		n.mu.Lock()
		if x.f = n.file; x.f != nil {
			x.f.users++
		}
		opening := n.wait != nil
		// Another host may give it a further name before this one goes: there, whether a name is left is seen afterwards.
		covered := x.f != nil || (n.memoKnown && !opening && v.tracked && !v.shared)
		n.mu.Unlock()
		if covered {
			return x, st, nil
		}
		if !v.tracked || v.shared || opening { // the kernel may be about to use what it has looked up
			if x.f = v.holdFile(n, d, entry); x.f != nil {
				return x, st, nil
			}
		}
	}
	if st.Size == 0 {
		return x, st, nil
	}
	if err = v.withRoom(func() (err error) { x.bf, err = d.h.Open(entry, syscall.O_RDONLY, 0); return err }); err != nil {
		x.bf = nil // its record stays behind, for fsck
		v.log.Warn("the record of a deleted file stays behind", "err", err)
	}
	return x, st, nil
}

// holdFile opens n, whose last name is about to go: where the caller does not say who has it open, or somebody is about
// to open it, it must stay usable. It returns nil where it cannot.
func (v *Vault) holdFile(n *Node, d *dirState, entry string) *file {
	flags := syscall.O_RDWR
	if v.readOnly {
		flags = syscall.O_RDONLY
	}
	f := &file{v: v, n: n, writable: !v.readOnly}
	var st Attr
	var err error
	if f.bf, st, err = d.h.OpenStat(entry, flags, 0); err != nil {
		f.refused = err
		if f.bf, st, err = d.h.OpenStat(entry, syscall.O_RDONLY, 0); err != nil {
			return nil
		}
		f.writable = false
	}
	err = v.using(f.bf, found)
	f.bf, f.stored, f.held = note(f.bf, v.age(found)), st.Size, true
	if err != nil || st.Ino != n.ino || !v.nodes.pin(n) {
		f.bf.Close()
		return nil
	}
	n.mu.Lock()
	o := n.file
	if o == nil {
		n.file = f
		n.memoKnown = false
		f.users++
	} else {
		o.users++
	}
	n.mu.Unlock()
	if o != nil {
		f.bf.Close()
		v.nodes.unpin(n)
		return o
	}
	v.files.opened(f)
	return f
}

// bury ends a doomed file after its name at has gone. moves is how much the caller has added to Vault.moves.
func (v *Vault) bury(x doomed, at place, moves uint64) {
	if n := x.n; n != nil {
		if x.last {
			v.nodes.detach(n)
			n.mu.Lock()
			if x.f != nil {
				x.f.gone = true
			} else if n.kind != sIFREG {
				v.plain(&x.left.attr)
				x.left.attr.Nlink = 0
				n.last = &x.left
			}
			memo, known := n.memo, n.memoKnown && x.f == nil
			n.memoKnown = false
			n.mu.Unlock()
			if known && x.bf == nil && !v.shared {
				v.keeper.erase(memo)
			}
		}
		v.nodes.dropPlace(n, at)
		if x.f != nil {
			v.journal.lost(x.f, moves)
			v.keeper.drop(x.f)
			x.f.release()
		}
	}
	if x.bf != nil {
		v.reaper.put(remains{bf: x.bf})
	}
}

// eraseKeyOf gives up the key of a file that has no name left, and closes it.
func (v *Vault) eraseKeyOf(bf backing.File) {
	defer bf.Close()
	if !v.forsaken(bf) {
		return
	}
	if h, ok := readHeaderOf(bf); ok {
		v.eraseRecord(h.Loc, h.ID)
	}
}

// eraseRecord erases the record at loc if it is that of id: a forged header does not erase another file's.
func (v *Vault) eraseRecord(loc envelope.Locator, id envelope.FileID) {
	r, err := v.record(loc, id)
	if err != nil {
		return
	}
	v.keeper.erase(loc)
	if prev, ok := r.Previous(); ok {
		if _, err := v.record(prev, id); err == nil {
			v.keeper.erase(prev)
		}
	}
}

func readHeaderOf(bf backing.File) (envelope.Header, bool) {
	var b [envelope.HeaderSize]byte
	if n, err := bf.ReadAt(b[:], 0); err != nil || n < len(b) {
		return envelope.Header{}, false
	}
	h, err := envelope.ParseHeader(b[:])
	return h, err == nil
}

// spare lets go of what is not doomed after all.
func (x doomed) spare() {
	if x.bf != nil {
		x.bf.Close()
	}
	if x.f != nil {
		x.f.release()
	}
}

// moving counts a change of names that leaves a file another one; what it returns, its end.
func (v *Vault) moving() (ended func()) {
	v.moves.Add(1)
	return func() { v.moves.Add(1) }
}

// lockLinks locks v.links: alone for a file of several names, and returns what unlocks it.
func (v *Vault) lockLinks(how linkLock) func() {
	if how == linksAlone {
		v.links.Lock()
		return v.links.Unlock
	}
	v.links.RLock()
	return v.links.RUnlock
}

// linkLock says how v.links is held.
type linkLock uint8

const (
	linksTogether linkLock = iota
	linksAlone
)

// errAgain: more is to be locked than was.
var errAgain = errors.New("vault: once more")

// Unlink removes a name of anything but a directory. What is open stays usable.
func (v *Vault) Unlink(dir *Node, name string) error {
	if v.readOnly {
		return ErrReadOnly
	}
	d, sealed, err := v.enterDir(dir, name)
	if err != nil {
		return err
	}
	defer d.put()
	if err = v.unlink(dir, d, sealed, linksTogether); err == errAgain {
		err = v.unlink(dir, d, sealed, linksAlone)
	}
	return err
}

func (v *Vault) unlink(dir *Node, d *dirState, sealed envelope.SealedName, how linkLock) error {
	defer v.lockLinks(how)()
	d.names.Lock()
	defer d.names.Unlock()
	x, st, err := v.doom(d, sealed.Entry)
	if err != nil {
		return err
	}
	if st.Mode&sIFMT != sIFDIR && st.Nlink > 1 && how == linksTogether {
		return errAgain // nothing is held: it has other names
	}
	if how == linksAlone {
		defer v.moving()()
	}
	if err := d.h.Unlink(sealed.Entry); err != nil {
		x.spare()
		return err
	}
	v.bury(x, place{dir, sealed.Entry}, 0)
	v.dropCompanions(d.h, sealed)
	return nil
}

// Rename moves a name, as renameat2(2): it is replaced, kept or exchanged in one step. Keys stay where they are.
func (v *Vault) Rename(dir *Node, name string, newDir *Node, newName string, flags uint32) error {
	if v.readOnly {
		return ErrReadOnly
	}
	if flags&^(RenameNoReplace|RenameExchange) != 0 {
		return syscall.EINVAL
	}
	d1, from, err := v.enterDir(dir, name)
	if err != nil {
		return err
	}
	defer d1.put()
	d2, to, err := v.enterDir(newDir, newName)
	if err != nil {
		return err
	}
	defer d2.put()
	defer v.moving()()
	r := renaming{dir: dir, newDir: newDir, d1: d1, d2: d2, from: from, to: to, flags: flags}
	for err = errAgain; err == errAgain; {
		err = v.rename(&r)
	}
	return err
}

// renaming is one rename, and what it has turned out to need locked.
type renaming struct {
	dir, newDir *Node
	d1, d2      *dirState
	from, to    envelope.SealedName
	flags       uint32
	links       linkLock
	target      *dirState // the directory that is replaced
}

// rename renames, or returns errAgain after noting in r what is to be locked.
func (v *Vault) rename(r *renaming) error {
	dir, newDir, d1, d2, from, to, flags := r.dir, r.newDir, r.d1, r.d2, r.from, r.to, r.flags
	defer v.lockLinks(r.links)()
	defer v.lockNames(d1, d2, r.target)()
	if d2.removed {
		return syscall.ENOENT
	}
	unlock, err := v.keepDir(newDir, d2)
	if err != nil {
		return err
	}
	defer unlock()
	st, err := d1.h.StatAt(from.Entry)
	if err != nil {
		return err
	}
	var x doomed
	var st2 Attr
	if flags == 0 {
		x, st2, err = v.doom(d2, to.Entry)
	} else if st2, err = d2.h.StatAt(to.Entry); err == nil {
		x.n = v.nodes.byInode(st2.Dev, st2.Ino)
	}
	exists := err == nil
	if err != nil && !errors.Is(err, syscall.ENOENT) {
		return err
	}
	if exists && flags == 0 {
		if st2.Mode&sIFMT != sIFDIR && st2.Nlink > 1 && r.links == linksTogether {
			r.links = linksAlone
			return errAgain
		}
		if t := v.stateOf(x.n, d2, to.Entry); t != nil && t != r.target && t != d1 && t != d2 {
			r.target = t
			x.spare()
			return errAgain
		}
	}
	if exists && st2.Ino == st.Ino && st2.Dev == st.Dev {
		x.spare()
		if flags == RenameNoReplace {
			return syscall.EEXIST
		}
		return nil // two names of one file: nothing happens, says POSIX
	}
	if err := addCompanions(d2.h, to); err != nil {
		x.spare()
		return err
	}
	moved := v.nodes.byInode(st.Dev, st.Ino)
	p1, p2 := place{dir, from.Entry}, place{newDir, to.Entry}
	switch {
	case flags&RenameExchange != 0:
		x.spare()
		if err = d1.h.Rename(from.Entry, d2.h, to.Entry, flags); err == nil {
			v.nodes.move(moved, p1, p2)
			v.nodes.move(x.n, p2, p1)
		}
	case exists && flags == 0 && st2.Mode&sIFMT == sIFDIR && st.Mode&sIFMT == sIFDIR:
		var h backing.Dir
		if h, err = v.replaceDir(d1, from.Entry, d2, to.Entry); err == nil {
			r.target.lose(x.n, h)
			if x.n != nil {
				v.nodes.dropPlace(x.n, p2)
				v.nodes.detach(x.n)
			}
			v.nodes.move(moved, p1, p2)
		}
	default:
		if err = d1.h.Rename(from.Entry, d2.h, to.Entry, flags); err == nil {
			v.bury(x, p2, 1)
			v.nodes.move(moved, p1, p2)
		} else {
			x.spare()
		}
	}
	if err != nil {
		if !exists {
			v.dropCompanions(d2.h, to)
		}
		return err
	}
	v.keepCompanions(d2.h, to)
	v.dropCompanions(d1.h, from)
	return nil
}

// openDir returns the state of n where it is a directory in use; n may be nil.
func (n *Node) openDir() *dirState {
	if n == nil {
		return nil
	}
	n.mu.Lock()
	defer n.mu.Unlock()
	return n.dir
}

// lockNames locks the names of up to three directories, some of which may be the same or nil, and returns what unlocks
// them.
func (v *Vault) lockNames(a, b, c *dirState) func() {
	if b == a {
		b = nil
	}
	if c == a || c == b {
		c = nil
	}
	if b == nil {
		b, c = c, nil
	}
	if b == nil {
		a.names.Lock()
		return a.names.Unlock
	}
	v.several.Lock() // who waits here holds none; who holds all does not wait
	defer v.several.Unlock()
	a.names.Lock()
	b.names.Lock()
	if c == nil {
		return func() {
			b.names.Unlock()
			a.names.Unlock()
		}
	}
	c.names.Lock()
	return func() {
		c.names.Unlock()
		b.names.Unlock()
		a.names.Unlock()
	}
}

// LookupStored is Lookup by a stored name that ReadDir has told.
func (v *Vault) LookupStored(dir *Node, stored string) (*Node, Attr, error) {
	d, err := v.use(dir)
	if err != nil {
		return nil, Attr{}, err
	}
	defer d.put()
	return v.lookupEntry(dir, d, stored)
}

func (v *Vault) lookupEntry(dir *Node, d *dirState, entry string) (*Node, Attr, error) {
	n, st, err := v.internEntry(dir, d, entry)
	if err != nil {
		return nil, Attr{}, err
	}
	v.present(n, d.h, entry, &st)
	return n, st, nil
}

// internEntry returns the node of entry, with one reference more, while its name cannot change.
func (v *Vault) internEntry(dir *Node, d *dirState, entry string) (*Node, Attr, error) {
	d.names.RLock()
	defer d.names.RUnlock()
	st, err := d.h.StatAt(entry)
	if err != nil {
		return nil, Attr{}, err
	}
	return v.nodes.intern(&st, place{dir, entry}), st, nil
}

// Refer adds a reference to n, as Lookup does.
func (v *Vault) Refer(n *Node) {
	t := &v.nodes
	t.mu.Lock()
	defer t.mu.Unlock()
	if n.dead { // forgotten by the one that refers to it now
		n.dead = false
		t.byID[n.id] = n
	}
	if n.refs++; n.refs == 1 {
		n.mu.Lock()
		n.forgotten = false
		n.mu.Unlock()
	}
}
