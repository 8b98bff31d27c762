package vault

import (
	"context"
	"errors"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// File types of st_mode.
const (
	sIFMT  = syscall.S_IFMT
	sIFREG = syscall.S_IFREG
	sIFDIR = syscall.S_IFDIR
	sIFLNK = syscall.S_IFLNK
	sISUID = syscall.S_ISUID
	sISGID = syscall.S_ISGID
)

// Attr is what stat(2) tells of a node, its size that of the plaintext.
type Attr = backing.Stat

// plain turns a stat of what is stored into one of the plaintext.
func (v *Vault) plain(st *Attr) {
	switch st.Mode & sIFMT {
	case sIFREG:
		st.Size = v.geo.PlainSize(st.Size)
	case sIFLNK:
		st.Size = envelope.PlainTargetSize(st.Size)
	}
}

// plainAt is plain of entry in d, which is not open. Where its stored size may not tell the size, what a crash has left, its header
// is looked at.
func (v *Vault) plainAt(d backing.Dir, entry string, st *Attr) {
	stored := st.Size
	v.plain(st)
	if st.Mode&sIFMT != sIFREG || stored != envelope.BlockSize && (!v.unclean || stored == 0) {
		return
	}
	f, now, err := d.OpenStat(entry, syscall.O_RDONLY|syscall.O_NOATIME, 0)
	if errors.Is(err, syscall.EPERM) { // not ours
		f, now, err = d.OpenStat(entry, syscall.O_RDONLY, 0)
	}
	if err != nil {
		return // whoever reads it meets the error
	}
	defer f.Close()
	if now.Ino == st.Ino && now.Size == stored {
		st.Size = v.sizeUnder(f, stored)
	}
}

// sizeUnder returns the plain size of f, of which stored bytes are stored, as its header has it. Nothing of it is authentic.
func (v *Vault) sizeUnder(f backing.File, stored int64) int64 {
	size := v.geo.PlainSize(stored)
	var b [envelope.HeaderSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil {
		return size
	}
	h, err := envelope.ParseHeader(b[:n])
	switch {
	case err != nil:
		return size
	case h.Flags&(envelope.FlagInline|envelope.FlagCut) != 0:
		return min(size, int64(h.Size))
	case stored <= envelope.BlockSize: // a first write that was cut short
		return 0
	}
	return size
}

// Attr returns the attributes of n. An open file's size is the one in memory, which a crash's leftovers do not change.
func (v *Vault) Attr(n *Node) (Attr, error) {
	st, err := v.attrNow(n)
	if errors.Is(err, ErrStale) { // its last name was taken away just now: what is left of it is known only then
		st, err = v.attrNow(n)
	}
	return st, err
}

func (v *Vault) attrNow(n *Node) (Attr, error) {
	if f := n.openFile(); f != nil {
		defer f.release()
		return f.attr()
	}
	if last := n.remembered(); last != nil {
		return last.attr, nil
	}
	var st Attr
	if n == v.root {
		st, err := v.top.Stat()
		return st, err
	}
	if st, ok := n.openDirStat(); ok {
		return st, nil
	}
	err := v.at(n, func(d backing.Dir, entry string) (err error) {
		st, err = d.StatAt(entry)
		if err == nil && (st.Ino != n.ino || st.Dev != n.dev) {
			err = ErrStale
		}
		if err == nil {
			v.plainAt(d, entry, &st)
		}
		return err
	})
	return st, n.fail("stat", err)
}

// BirthTime returns when n was made, where the backing file system knows it; else a zero time.
func (v *Vault) BirthTime(n *Node) backing.Timespec {
	var st Attr
	v.at(n, func(d backing.Dir, entry string) (err error) {
		st, err = d.StatBirth(entry)
		return err
	})
	if st.Ino != n.ino {
		return backing.Timespec{}
	}
	return st.Btim
}

// openDirStat is the attributes of a directory whose handle is open: one that has lost its name still has some.
func (n *Node) openDirStat() (st Attr, ok bool) {
	n.mu.Lock()
	d := n.dir
	n.mu.Unlock()
	if d == nil {
		return st, false
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	if d.h == nil {
		return st, false
	}
	st, err := d.h.Stat()
	if d.kept { // it is in .kmsfs/tmp, and not taken apart yet
		st.Nlink = 0
	}
	return st, err == nil
}

// openFile returns n's file where it is open, in use until release.
func (n *Node) openFile() *file {
	n.mu.Lock()
	defer n.mu.Unlock()
	if n.file != nil {
		n.file.users++
	}
	return n.file
}

func (f *file) attr() (Attr, error) {
	st, err := f.handle().Stat()
	if err != nil {
		return st, f.n.fail("stat", err)
	}
	f.setSize(&st)
	return st, nil
}

// setSize makes the size in st, a stat of the stored file, that of the plaintext, and its modification time the one that shows.
func (f *file) setSize(st *Attr) {
	if f.v.shared && st.Size == envelope.BlockSize && !f.isInline() { // the header tells: see plainAt
		if is, err := f.identify(); err == nil && is.form != formInline {
			st.Size = 0
			return
		}
	}
	f.mu.RLock()
	defer f.mu.RUnlock()
	if f.v.shared || !f.headed {
		f.v.plain(st)
		return
	}
	st.Size, st.Mtim = f.size, f.hidden.show(st.Mtim)
}

// isInline says whether the file was in the inline form when it was last looked at.
func (f *file) isInline() bool {
	f.mu.RLock()
	defer f.mu.RUnlock()
	return f.headed && f.form == formInline
}

// SetAttr says what to change; a nil or unset field stays as it is.
type SetAttr struct {
	Mode         *uint32 // permission bits
	UID, GID     *uint32
	Size         *int64
	Atime, Mtime *backing.Timespec
	Privileges   Privileges // of a change of size; dropped where that is all there is to change
}

// SetAttr changes attributes and returns all of them. A change of owner clears setuid, setgid and capabilities.
func (v *Vault) SetAttr(ctx context.Context, n *Node, c SetAttr) (Attr, error) {
	if v.readOnly {
		return Attr{}, ErrReadOnly
	}
	if c.Size != nil {
		if n.kind != sIFREG {
			return Attr{}, syscall.EINVAL
		}
		if err := v.Truncate(ctx, n, *c.Size, c.Privileges); err != nil {
			return Attr{}, err
		}
	}
	f := n.openFile()
	if f == nil && n.kind == sIFREG && (c.UID != nil || c.GID != nil) { // to look for capabilities
		var err error
		if f, err = v.acquire(n); errors.Is(err, syscall.EACCES) {
			f = nil // not ours to open: nor would a capability do it any good
		} else if err != nil {
			return Attr{}, err
		}
	}
	if f != nil {
		defer f.release()
	}
	var meta backing.Meta
	switch {
	case f != nil:
		meta = f.handle()
	case n == v.root:
		meta = v.top
	default:
		if d := n.orphan(); d != nil {
			defer d.put()
			meta = d.h
		}
	}
	var st Attr
	apply := func(d backing.Dir, entry string) (err error) {
		if f != nil { // not while what is put in place puts mode and time back
			f.mu.Lock()
			defer f.mu.Unlock()
		}
		m := meta
		if m == nil {
			m = named{d, entry}
		}
		if c.UID != nil || c.GID != nil {
			if err := v.chown(n, f, m, c.UID, c.GID); err != nil {
				return err
			}
		} else if c.Privileges == DropPrivileges && c.Size == nil {
			if err := v.weaken(n, f, m); err != nil {
				return err
			}
		}
		if c.Mode != nil {
			if err := m.Chmod(*c.Mode & 0o7777); err != nil {
				return err
			}
		}
		if c.Atime != nil || c.Mtime != nil {
			omit := backing.Timespec{Nsec: backing.UtimeOmit}
			a, mt := omit, omit
			if c.Atime != nil {
				a = *c.Atime
			}
			if c.Mtime != nil {
				mt = *c.Mtime
			}
			if f != nil {
				mt = f.hidden.give(mt)
			}
			if err := m.Utimes(a, mt); err != nil {
				return err
			}
			n.keepTime(v, c.Mtime)
		}
		st, err = m.Stat()
		return err
	}
	var err error
	if meta != nil {
		err = apply(nil, "")
	} else {
		err = v.atSame(n, apply)
	}
	if err != nil {
		return st, n.fail("set attributes", err)
	}
	if f != nil {
		f.setSize(&st)
	} else {
		v.plain(&st)
	}
	return st, nil
}

// keepTime remembers a modification time that was set: a caller that caches writes says what the time is, and may write
// afterwards what was written before.
func (n *Node) keepTime(v *Vault, t *backing.Timespec) {
	if v.tracked || t == nil || n.kind != sIFREG {
		return
	}
	n.mu.Lock()
	n.mtime, n.timed = *t, t.Nsec != backing.UtimeNow && t.Nsec != backing.UtimeOmit
	n.mu.Unlock()
}

// restoreTime takes back what a write did to the modification time.
func (f *file) restoreTime() error {
	f.n.mu.Lock()
	t, timed := f.n.mtime, f.n.timed
	f.n.mu.Unlock()
	if !timed {
		return nil
	}
	return f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, f.hidden.give(t))
}

// chown changes the owner, and takes away what gave the old owner's file its power.
func (v *Vault) chown(n *Node, f *file, m backing.Meta, uid, gid *uint32) error {
	u, g := ^uint32(0), ^uint32(0)
	if uid != nil {
		u = *uid
	}
	if gid != nil {
		g = *gid
	}
	if err := m.Chown(u, g); err != nil {
		return err
	}
	return v.weaken(n, f, m)
}

// weaken takes away what gives a file power; f is n's file where that is known, and f.mu held for writing then.
func (v *Vault) weaken(n *Node, f *file, m backing.Meta) error {
	if n.kind != sIFREG {
		return nil
	}
	if err := clearSetID(m); err != nil || f == nil {
		return err
	}
	if err := f.headLocked(); err != nil {
		return err
	}
	f.caps = capsUnknown
	return f.dropCapabilityLocked()
}

// clearSetID takes setuid and setgid from a regular file, as far as clearPrivileges says.
func clearSetID(m backing.Meta) error {
	st, err := m.Stat()
	if err != nil {
		return err
	}
	mode := clearPrivileges(st.Mode)
	if mode == st.Mode {
		return nil
	}
	return m.Chmod(mode & 0o7777)
}

// clearPrivileges returns mode without setuid, and without setgid where the group may execute.
func clearPrivileges(mode uint32) uint32 {
	mode &^= sISUID
	if mode&0o010 != 0 {
		mode &^= sISGID
	}
	return mode
}

// privileged calls do, which changes the content, and sees to the power of the file: it is taken away before, or put back
// where the backing file system has taken it, as it does when an ordinary user writes. f.mu is held for writing.
func (f *file) privileged(priv Privileges, do func() error) error {
	if err := f.dropPrivileges(priv); err != nil {
		return err
	}
	if f.v.owners || priv == DropPrivileges {
		return do()
	}
	st, err := f.bf.Stat()
	if err != nil {
		return err
	}
	err = do()
	if st.Mode&(sISUID|sISGID) != 0 {
		err = errors.Join(err, f.bf.Chmod(st.Mode&0o7777))
	}
	return err
}

// dropPrivileges does what a write does to the power of a file. f.mu is held for writing.
func (f *file) dropPrivileges(priv Privileges) error {
	if priv == DropPrivileges {
		if err := clearSetID(f.bf); err != nil {
			return err
		}
	}
	return f.dropCapabilityLocked()
}

// named is a node by its name, for the calls of backing.Meta that a change of attributes needs.
type named struct {
	d     backing.Dir
	entry string
}

func (m named) Stat() (backing.Stat, error)         { return m.d.StatAt(m.entry) }
func (m named) Chmod(mode uint32) error             { return m.d.ChmodAt(m.entry, mode) }
func (m named) Chown(uid, gid uint32) error         { return m.d.ChownAt(m.entry, uid, gid) }
func (m named) Utimes(a, mt backing.Timespec) error { return m.d.UtimesAt(m.entry, a, mt) }
func (m named) Removexattr(attr string) error       { return m.d.RemovexattrAt(m.entry, attr) }
func (m named) Listxattr(buf []byte) (int, error)   { return m.d.ListxattrAt(m.entry, buf) }
func (m named) GetFlags() (uint32, error)           { return 0, errors.ErrUnsupported }
func (m named) SetFlags(uint32) error               { return errors.ErrUnsupported }
func (m named) Close() error                        { return nil }
func (m named) Getxattr(attr string, buf []byte) (int, error) {
	return m.d.GetxattrAt(m.entry, attr, buf)
}
func (m named) Setxattr(attr string, value []byte, flags int) error {
	return m.d.SetxattrAt(m.entry, attr, value, flags)
}

// Statfs returns the backing file system's figures, its sizes those of ciphertext.
func (v *Vault) Statfs() (backing.Statfs, error) {
	s, err := v.top.Statfs()
	s.Namelen = envelope.NameMax
	return s, err
}

// Fsync makes n's content durable, and its attributes too unless dataOnly.
func (v *Vault) Fsync(n *Node, scope SyncScope) error {
	if n.kind == sIFDIR {
		d, err := v.use(n)
		if err != nil {
			return err
		}
		defer d.put()
		return n.fail("fsync", d.h.Sync())
	}
	f, err := v.acquire(n)
	if err != nil {
		return err
	}
	defer f.release()
	if err := f.canRepeat(); err != nil {
		return n.fail("fsync", err)
	}
	f.mu.RLock()
	l, bf := f.logged, f.handle()
	f.mu.RUnlock()
	if err = v.journal.sync(l, f); err != nil { // the next sync finds it written once more, or fails too
		err = errors.Join(err, v.journal.checkpoint(fullOnly))
	}
	if scope == SyncAll {
		err = errors.Join(err, bf.Sync())
	} else if !clean(bf) {
		err = errors.Join(err, bf.DataSync())
	}
	return n.fail("fsync", err)
}

// SyncScope says what Fsync makes durable.
type SyncScope uint8

// The scopes of fsync(2) and fdatasync(2).
const (
	SyncAll SyncScope = iota
	SyncData
)

// settableFlags are the inode flags (FS_IOC_SETFLAGS) that may be changed. Of the others, "append only" would keep the
// vault from writing, and some name features of the backing file system that ciphertext cannot use.
const settableFlags = 0x10 | 0x40 | 0x80 | 0x08 | 0x10000 // immutable, nodump, noatime, sync, dirsync

// Flags returns the inode flags of n, as FS_IOC_GETFLAGS does.
func (v *Vault) Flags(n *Node) (flags uint32, err error) {
	err = v.withHandle(n, func(m backing.Meta) (err error) {
		flags, err = m.GetFlags()
		return err
	})
	return flags, n.fail("get flags", err)
}

// SetFlags changes the inode flags of n.
func (v *Vault) SetFlags(n *Node, flags uint32) error {
	if v.readOnly {
		return ErrReadOnly
	}
	return n.fail("set flags", v.withHandle(n, func(m backing.Meta) error {
		old, err := m.GetFlags()
		if err != nil {
			return err
		}
		if (old^flags)&^settableFlags != 0 {
			return syscall.EOPNOTSUPP
		}
		if f := n.openFile(); f != nil { // an immutable file could not be written to any more
			defer f.release()
			f.mu.Lock()
			defer f.mu.Unlock()
			if err := f.flush(); err != nil {
				return err
			}
		}
		return m.SetFlags(flags)
	}))
}

// withHandle calls f with the open directory or file of n.
func (v *Vault) withHandle(n *Node, f func(m backing.Meta) error) error {
	if n.kind == sIFDIR {
		d, err := v.use(n)
		if err != nil {
			return err
		}
		defer d.put()
		return f(d.h)
	}
	file, err := v.acquire(n)
	if err != nil {
		return err
	}
	defer file.release()
	return f(file.handle())
}
