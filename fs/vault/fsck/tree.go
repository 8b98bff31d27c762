package fsck

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/survey"
	"kmsfs/fs/vault/walk"
)

// place is what a directory is to the vault.
type place uint8

const (
	inTree  place = iota // its names open
	inLost               // below one whose names do not: all of it is found with that one
	outside              // put there by something else than kmsfs: what is of the vault in it is misplaced
	nested               // of another vault that is in this one, or a copy of it: nothing in it is found
	apart                // moved aside: nothing in it is found
	inTmp                // of .kmsfs/tmp
)

// item is a directory that is to be looked at, or some entries of one.
type item struct {
	stored, plain string
	where         place
	node          *vault.Node      // inTree; the item holds a reference
	entries       []vault.DirEntry // names that open; nil: all of the directory
}

// batch is how many entries of a directory one worker takes at once, and queueMost how many may wait: the rest is looked at by who
// lists the directory, so that one of any size needs little memory.
const (
	batch     = 64
	queueMost = 1 << 16
)

// look looks at an item.
func (f *finder) look(q *walk.Queue[item], i item) error {
	if i.node != nil {
		defer f.v.Forget(i.node, 1)
	}
	h, err := walk.Open(f.top, i.stored)
	if err != nil {
		f.trouble(i.stored, i.plain, err)
		return f.ctx.Err()
	}
	defer h.Close()
	if i.entries != nil {
		defer f.waiting.Add(-int64(len(i.entries)))
		return f.entries(q, i, h, i.entries)
	}
	f.mu.Lock()
	f.res.Directories++
	f.mu.Unlock()
	if i.where == inTree || i.where == inLost {
		f.reserved(q, i, h)
	}
	if i.where != inTree {
		return f.strangers(q, i, h)
	}
	return f.directory(q, i, h)
}

// directory looks at a directory, its names and its files.
func (f *finder) directory(q *walk.Queue[item], i item, h backing.Dir) error {
	var some []vault.DirEntry
	var bad []string
	flush := func() error {
		list := some
		some = nil
		if len(list) == 0 || f.waiting.Load() > queueMost {
			return f.entries(q, i, h, list)
		}
		f.waiting.Add(int64(len(list)))
		f.v.Refer(i.node)
		q.Put(item{stored: i.stored, plain: i.plain, node: i.node, entries: list})
		return f.ctx.Err()
	}
	var ended error
	err := f.v.List(i.node, func(e vault.DirEntry, err error) bool {
		switch {
		case envelope.IsReserved(e.Stored) || i.stored == "" && e.Stored == e2fsckDir:
		case err != nil:
			bad = append(bad, e.Stored)
		default:
			if some = append(some, e); len(some) == batch {
				ended = flush()
			}
		}
		return ended == nil
	})
	var told []byte
	later := errors.Is(err, envelope.ErrUnsupported)
	if later { // but for one bit, which the rest of the id file tells
		told, _, _ = f.v.RecoverDirID(h)
	}
	switch {
	case later && told == nil:
		f.add(Finding{Kind: Unread, Stored: i.stored, Path: i.plain, What: err.Error(), Err: err})
		i.where = inLost
		return f.strangers(q, i, h)
	case errors.Is(err, vault.ErrCorrupt) || errors.Is(err, envelope.ErrCorrupt):
		f.add(Finding{Kind: LostDirectory, Stored: i.stored, Path: i.plain, What: err.Error(), Err: err})
		i.where = inLost
		return f.strangers(q, i, h)
	case err != nil:
		f.trouble(i.stored, i.plain, err)
		return f.ctx.Err()
	case ended != nil:
		return ended
	}
	for _, name := range bad {
		f.stranger(q, i, h, name)
	}
	return flush()
}

// entries looks at names that open.
func (f *finder) entries(q *walk.Queue[item], i item, h backing.Dir, list []vault.DirEntry) error {
	for _, e := range list {
		if err := f.ctx.Err(); err != nil {
			return err
		}
		f.entry(q, i, h, e)
	}
	return nil
}

// entry looks at one name that opens.
func (f *finder) entry(q *walk.Queue[item], i item, h backing.Dir, e vault.DirEntry) {
	stored, plain := walk.Join(i.stored, e.Stored), walk.Join(i.plain, e.Name)
	n, st, err := f.v.LookupStored(i.node, e.Stored)
	if err != nil {
		f.trouble(stored, plain, err)
		return
	}
	if n.Kind() == syscall.S_IFDIR {
		q.Put(item{stored: stored, plain: plain, node: n})
		return
	}
	defer f.v.Forget(n, 1)
	f.count()
	if n.Kind() != syscall.S_IFREG || f.seen(&st) {
		return
	}
	head, ok := f.header(h, e.Stored, stored, i.where)
	if !ok {
		return
	}
	loose, err := f.v.Unsettled(f.ctx, n)
	switch {
	case err != nil:
		if f.trouble(stored, plain, err) == Damaged { // the header may be another file's
			f.miss(stored)
		}
	case loose:
		f.add(Finding{Kind: Unsettled, Stored: stored, Path: plain, What: fmt.Sprintf("file %v is as it was being written", head.ID)})
	}
}

func (f *finder) count() {
	f.mu.Lock()
	f.res.Files++
	f.mu.Unlock()
	if f.o.Progress != nil {
		f.o.Progress(1)
	}
}

// header reads the header of a stored file and notes the record that it names; false where there is none.
func (f *finder) header(h backing.Dir, name, stored string, where place) (head envelope.Header, ok bool) {
	bf, st, err := h.OpenStat(name, syscall.O_RDONLY, 0)
	if err != nil {
		f.trouble(stored, "", err)
		return head, false
	}
	defer bf.Close()
	head, ok, err = survey.HeadOf(bf, st.Size)
	if err != nil { // its record is nobody's as far as can be told, and may be needed once it is mended
		foreign := where == outside || where == nested
		if foreign && errors.Is(err, envelope.ErrCorrupt) && !isAside(stored) && peekName(f.v, name, "") == "" {
			return head, false
		}
		f.miss(stored)
		if !foreign {
			f.trouble(stored, "", err)
		}
		return head, false
	}
	if ok {
		f.use(head, &st, stored, where)
	}
	return head, ok
}

// strangers looks at all that is in a directory whose names do not open.
func (f *finder) strangers(q *walk.Queue[item], i item, h backing.Dir) error {
	if i.where == outside {
		if _, err := h.StatAt(envelope.ControlDir); !errors.Is(err, syscall.ENOENT) { // it is, or may be
			i.where = nested
		}
	}
	err := h.ReadDir(func(e backing.Entry) bool {
		if !envelope.IsReserved(e.Name) {
			f.stranger(q, i, h, e.Name)
		}
		return f.ctx.Err() == nil
	})
	if err != nil {
		f.trouble(i.stored, i.plain, err)
	}
	return f.ctx.Err()
}

// stranger looks at something whose name does not open where it is: it needs its records all the same.
func (f *finder) stranger(q *walk.Queue[item], i item, h backing.Dir, name string) {
	stored := walk.Join(i.stored, name)
	st, err := h.StatAt(name)
	if err != nil {
		f.trouble(stored, "", err)
		return
	}
	where := i.where
	if where == inTree || where == outside || where == inTmp {
		switch mine, err := f.mine(h, name, &st, where); {
		case err != nil:
			f.trouble(stored, "", err)
			where = inLost
		case mine:
			f.add(Finding{Kind: Misplaced, Stored: stored, What: "its name does not open in this directory", Err: vault.ErrCorrupt})
			where = inLost
		default:
			if where != outside {
				f.add(Finding{Kind: Foreign, Stored: stored, What: "it was put here by something else than kmsfs, and is left alone; kmsfs verify --repair moves it aside"})
			}
			where = outside
		}
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFDIR:
		q.Put(item{stored: stored, where: where})
	case syscall.S_IFREG:
		f.header(h, name, stored, where)
	}
}

// mine says whether something whose name does not open is of this vault: what it holds says so, and in a directory of the vault the
// form of its name does.
func (f *finder) mine(h backing.Dir, name string, st *backing.Stat, where place) (bool, error) {
	if where == inTree && envelope.IsSealedName(name) {
		return true, nil
	}
	switch st.Mode & syscall.S_IFMT {
	case syscall.S_IFREG:
		b, err := readFile(h, name, envelope.HeaderSize)
		if err != nil {
			return false, err
		}
		head, err := envelope.ParseHeader(b)
		if err != nil {
			return false, nil
		}
		_, err = f.sc.Record(head.Loc, head.ID)
		return err == nil, nil
	case syscall.S_IFDIR:
		sub, err := h.OpenDir(name)
		if err != nil {
			return false, err
		}
		defer sub.Close()
		return f.v.HasDirID(sub)
	case syscall.S_IFLNK:
		target, err := h.Readlink(name)
		return err == nil && envelope.IsSealedTarget(target), err
	}
	return false, nil
}

// reserved looks for parts of long names that are nobody's, and for what a change of a directory's zone or the making of a directory
// has left.
func (f *finder) reserved(q *walk.Queue[item], i item, h backing.Dir) {
	parts, names := map[string][]string{}, map[string]bool{}
	var aside, made []string
	hasID := false
	if err := h.ReadDir(func(e backing.Entry) bool {
		switch tag, _, _, ok := envelope.ParseCompanion(e.Name); {
		case ok:
			parts[tag] = append(parts[tag], e.Name)
		case e.Name == envelope.DirFileName:
			hasID = true
		case e.Name == envelope.DirFileName+".new":
			aside = append(aside, e.Name)
		case strings.HasPrefix(e.Name, vault.NewDirPrefix):
			made = append(made, e.Name)
		case envelope.IsLongEntry(e.Name):
			names[e.Name] = true
		}
		return true
	}); err != nil {
		f.trouble(i.stored, i.plain, err)
		return
	}
	for tag, list := range parts {
		if names[tag] {
			continue
		}
		for _, name := range list {
			if st, err := h.StatAt(name); err == nil && st.Size == 0 && st.Mode&syscall.S_IFMT == syscall.S_IFREG {
				f.add(Finding{Kind: OrphanCompanion, Stored: walk.Join(i.stored, name), What: "it is part of a long name that is not there"})
			}
		}
	}
	for _, name := range aside {
		if isFile(h, name) && hasID && i.where == inTree { // else it may be all that there is of the id
			f.add(Finding{Kind: Leftover, Stored: walk.Join(i.stored, name), What: "a change of the encryption zone did not get to its end"})
		}
	}
	for _, name := range made {
		if f.unfinished(i.stored, h, name) {
			q.Put(item{stored: walk.Join(i.stored, name), where: inLost})
		}
	}
}

// unfinished looks at a directory that was being made, or taken apart. There is nothing in it, or it is misplaced and to be looked at.
func (f *finder) unfinished(up string, h backing.Dir, name string) (holds bool) {
	stored := walk.Join(up, name)
	d, err := h.OpenDir(name)
	if errors.Is(err, syscall.ENOTDIR) {
		return false
	}
	if err != nil {
		f.trouble(stored, "", err)
		return false
	}
	defer d.Close()
	if err := d.ReadDir(func(e backing.Entry) bool {
		holds = !envelope.IsReserved(e.Name)
		return !holds
	}); err != nil {
		f.trouble(stored, "", err)
		return false
	}
	x := Finding{Kind: HalfMade, Stored: stored, What: "a directory that was being made or removed"}
	if up == tmpDir && !holds && !f.v.ReadOnly() { // who opens the vault for writing removes it, and makes directories ahead
		return false
	}
	if holds {
		x.Kind, x.What, x.Err = Misplaced, x.What+", and has something in it", vault.ErrCorrupt
	}
	f.add(x)
	return holds
}

// Where things are that are none of the vault's, and may be put back.
const (
	damagedDir = envelope.ControlDir + "/" + check.DamagedDir // by kmsfs verify --repair
	tmpDir     = envelope.ControlDir + "/tmp"
	e2fsckDir  = "lost+found" // of the backing file system
)

// isAside says whether stored is such a place, or below one.
func isAside(stored string) bool {
	return strings.HasPrefix(stored+"/", damagedDir+"/") || strings.HasPrefix(stored+"/", e2fsckDir+"/")
}

// aside notes the records of what was moved aside, so that it can be moved back, and finds what e2fsck has put into lost+found, and what
// is in .kmsfs/tmp.
func (f *finder) aside() error {
	first := []item{{stored: damagedDir, where: apart}, {stored: e2fsckDir, where: outside}}
	d, err := walk.Open(f.top, tmpDir)
	if err == nil {
		err = d.ReadDir(func(e backing.Entry) bool {
			first = append(first, item{stored: walk.Join(tmpDir, e.Name), where: inTmp})
			return true
		})
		d.Close()
	}
	if err != nil {
		f.trouble(tmpDir, "", err)
	}
	return walk.Run(f.ctx, walk.Workers(), first, func(q *walk.Queue[item]) (func(item) error, func()) {
		return func(i item) error {
			if up, name := walk.Split(i.stored); name == check.DamagedAttrs && strings.HasPrefix(up, damagedDir+"/") {
				return nil
			}
			if i.where != inTmp {
				return f.look(q, i)
			}
			return f.inTmp(q, i.stored)
		}, nil
	})
}

// inTmp looks at something in .kmsfs/tmp: directories that were being made or removed are to be there.
func (f *finder) inTmp(q *walk.Queue[item], stored string) error {
	h, err := walk.Open(f.top, tmpDir)
	if err != nil {
		f.trouble(stored, "", err)
		return f.ctx.Err()
	}
	defer h.Close()
	_, name := walk.Split(stored)
	if st, err := h.StatAt(name); err != nil || st.Mode&syscall.S_IFMT != syscall.S_IFDIR {
		f.stranger(q, item{stored: tmpDir, where: inTmp}, h, name)
	} else if f.unfinished(tmpDir, h, name) {
		q.Put(item{stored: stored, where: inLost})
	}
	return f.ctx.Err()
}
