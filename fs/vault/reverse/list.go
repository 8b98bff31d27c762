package reverse

import (
	"context"
	"errors"
	"slices"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Entry is what a directory of the view holds.
type Entry struct {
	Name string // in the view
	Ino  uint64 // in the view; of another file system than the root's a guess
	Kind uint32 // S_IFMT bits, 0 where unknown

	role  role
	plain string // Node.name
}

// List returns what the directory n holds, in the order of the names. Listing .kmsfs/keys first makes the data keys that are
// missing, so that what is copied of it opens what is copied after it.
func (v *View) List(ctx context.Context, n *Node) ([]Entry, error) {
	var all []Entry
	var err error
	switch {
	case n.kind != sIFDIR:
		return nil, syscall.ENOTDIR
	case n.role == controlDir:
		all = []Entry{v.made(config, configName, n), v.made(keysDir, keysName, n)}
	case n.role == keysDir:
		all, err = v.listTables(ctx, n)
	default:
		all, err = v.listPlain(n)
	}
	slices.SortFunc(all, func(a, b Entry) int { return strings.Compare(a.Name, b.Name) })
	return all, err
}

// made is the entry of something that the source does not have, in n.
func (v *View) made(r role, name string, n *Node) Entry {
	kind := uint32(sIFREG)
	if r == controlDir || r == keysDir {
		kind = sIFDIR
	}
	return Entry{Name: name, Ino: madeIno(r, n.path, name), Kind: kind, role: r, plain: name}
}

// listPlain lists a directory of the source.
func (v *View) listPlain(n *Node) ([]Entry, error) {
	all := []Entry{v.made(dirFile, envelope.DirFileName, n)}
	if n.parent == nil {
		all[0] = v.made(controlDir, envelope.ControlDir, n)
	}
	long := map[string]string{}
	err := v.each(n, func(e backing.Entry) error {
		sealed, err := v.vk.SealName(v.dirID(n), e.Name)
		if err != nil {
			return err // what a Linux file system cannot hold
		}
		all = append(all, Entry{Name: sealed.Entry, Ino: v.inoOf(&backing.Stat{Dev: n.dev, Ino: e.Ino}), Kind: e.Kind, plain: e.Name})
		if sealed.Companions != nil {
			long[sealed.Entry] = e.Name
		}
		for _, c := range sealed.Companions {
			all = append(all, v.made(companion, c, n))
		}
		return nil
	})
	if err != nil {
		return nil, err
	}
	n.mu.Lock()
	n.long = long
	n.mu.Unlock()
	return all, nil
}

// each calls f for what the view shows of a directory of the source.
func (v *View) each(n *Node, f func(backing.Entry) error) error {
	if v.beyond(n.dev) {
		return nil
	}
	d, err := v.dirs.get(n)
	if err != nil {
		return err
	}
	defer d.put()
	var failed error
	err = d.ReadDir(func(e backing.Entry) bool {
		if !v.hidden(d, n.path, e) {
			failed = f(e)
		}
		return failed == nil
	})
	return errors.Join(failed, err)
}

// beyond says whether a directory on dev is shown empty.
func (v *View) beyond(dev uint64) bool { return v.scope == OneFileSystem && dev != v.rootDev }

// hidden says whether an entry of the directory d at path is the state, which is not shown.
func (v *View) hidden(d backing.Dir, path string, e backing.Entry) bool {
	if path == "" && e.Name == StateName {
		return true
	}
	if e.Ino != v.stateAt[1] || e.Kind != sIFDIR && e.Kind != 0 {
		return false
	}
	st, err := d.StatAt(e.Name)
	return err == nil && v.isState(&st)
}

func (v *View) isState(st *backing.Stat) bool { return [2]uint64{st.Dev, st.Ino} == v.stateAt }

// Lookup finds a name of the view; ENOENT where there is none. The attributes are those that [View.Attr] returns.
func (v *View) Lookup(n *Node, name string) (*Node, backing.Stat, error) {
	e := Entry{Name: name, plain: name}
	switch {
	case n.kind != sIFDIR:
		return nil, backing.Stat{}, syscall.ENOTDIR
	case n.role == controlDir && name == configName:
		e.role = config
	case n.role == controlDir && name == keysName:
		e.role = keysDir
	case n.role == keysDir:
		if _, ok := envelope.ParseTableName(name); !ok {
			return nil, backing.Stat{}, syscall.ENOENT
		}
		e.role = keyTable
	case n.role != plain:
		return nil, backing.Stat{}, syscall.ENOENT
	case n.parent == nil && name == envelope.ControlDir:
		e.role = controlDir
	case n.parent != nil && name == envelope.DirFileName:
		e.role = dirFile
	case envelope.IsReserved(name):
		if !v.isCompanion(n, name) {
			return nil, backing.Stat{}, syscall.ENOENT
		}
		e.role = companion
	default:
		var err error
		if e.plain, err = v.plainName(n, name); err != nil {
			return nil, backing.Stat{}, err
		}
	}
	return v.LookupEntry(n, e)
}

// LookupEntry finds what [View.List] has listed of n.
func (v *View) LookupEntry(n *Node, e Entry) (*Node, backing.Stat, error) {
	if e.role == plain && (n.parent == nil && e.plain == StateName || v.beyond(n.dev)) {
		return nil, backing.Stat{}, syscall.ENOENT
	}
	st, err := v.stat(n, e.role, e.plain)
	if err != nil {
		return nil, backing.Stat{}, err
	}
	if e.role == plain && v.isState(&st) {
		return nil, backing.Stat{}, syscall.ENOENT
	}
	ino := v.inoOf(&st)
	if e.role != plain {
		ino = madeIno(e.role, n.path, e.plain)
	}
	child := v.nodes.intern(child{n.id, e.role, e.plain}, n, &st, ino)
	if err := v.show(child, n, &st); err != nil {
		v.Forget(child, 1)
		return nil, backing.Stat{}, err
	}
	return child, st, nil
}

// plainName opens a name of the directory n; ENOENT for what is none.
func (v *View) plainName(n *Node, name string) (string, error) {
	if !envelope.IsLongEntry(name) {
		s, err := v.vk.OpenName(v.dirID(n), name, "")
		if err != nil {
			return "", syscall.ENOENT
		}
		return s, nil
	}
	return v.longName(n, name)
}

// longName finds the plain name of the long entry tag. What was listed is believed; else the directory is listed.
func (v *View) longName(n *Node, tag string) (string, error) {
	for again := range 2 {
		if again > 0 {
			if _, err := v.listPlain(n); err != nil {
				return "", err
			}
		}
		n.mu.Lock()
		name, ok := n.long[tag]
		n.mu.Unlock()
		if ok {
			return name, nil
		}
	}
	return "", syscall.ENOENT
}

// isCompanion says whether name is a companion of a long name in n.
func (v *View) isCompanion(n *Node, name string) bool {
	tag, _, _, ok := envelope.ParseCompanion(name)
	if !ok {
		return false
	}
	long, err := v.longName(n, tag)
	if err != nil {
		return false
	}
	sealed, err := v.vk.SealName(v.dirID(n), long)
	return err == nil && slices.Contains(sealed.Companions, name)
}
