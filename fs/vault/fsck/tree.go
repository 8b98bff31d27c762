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

// item is a directory that is to be looked at. node is nil in a directory whose id is lost; else the item holds a reference.
type item struct {
	stored, plain string
	node          *vault.Node
}

// directory looks at a directory, its names and its files.
func (f *finder) directory(q *walk.Queue[item], i item) error {
	if i.node != nil {
		defer f.v.Forget(i.node, 1)
	}
	h, err := walk.Open(f.top, i.stored)
	if err != nil {
		f.trouble(i.stored, i.plain, err)
		return f.ctx.Err()
	}
	defer h.Close()
	f.mu.Lock()
	f.res.Directories++
	f.mu.Unlock()
	f.companions(i, h)
	if i.node == nil {
		return f.lost(q, i, h)
	}
	var entries, bad []vault.DirEntry
	err = f.v.List(i.node, func(e vault.DirEntry, err error) bool {
		if envelope.IsReserved(e.Stored) || i.stored == "" && e.Stored == e2fsckDir {
			return true
		}
		if err != nil {
			bad = append(bad, e)
		} else {
			entries = append(entries, e)
		}
		return true
	})
	if errors.Is(err, vault.ErrCorrupt) || errors.Is(err, envelope.ErrCorrupt) {
		f.add(Finding{Kind: LostDirectory, Stored: i.stored, Path: i.plain, What: err.Error(), Err: err})
		return f.lost(q, i, h)
	}
	if err != nil {
		f.trouble(i.stored, i.plain, err)
		return f.ctx.Err()
	}
	for _, e := range bad {
		f.add(Finding{Kind: Misplaced, Stored: walk.Join(i.stored, e.Stored), What: "its name does not open in this directory", Err: vault.ErrCorrupt})
		f.stranger(q, i, h, e.Stored)
	}
	for _, e := range entries {
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
		q.Put(item{stored, plain, n})
		return
	}
	defer f.v.Forget(n, 1)
	f.count()
	if n.Kind() != syscall.S_IFREG || f.seen(&st) {
		return
	}
	head, ok := f.header(h, e.Stored, stored)
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
func (f *finder) header(h backing.Dir, name, stored string) (head envelope.Header, ok bool) {
	bf, st, err := h.OpenStat(name, syscall.O_RDONLY, 0)
	if err != nil {
		f.trouble(stored, "", err)
		return head, false
	}
	defer bf.Close()
	head, ok, err = survey.HeadOf(bf, st.Size)
	if err != nil { // its record is nobody's as far as can be told, and may be needed once it is mended
		f.miss(stored)
		f.trouble(stored, "", err)
		return head, false
	}
	if ok {
		f.use(head, &st, stored)
	}
	return head, ok
}

// stranger looks at something whose name is not known: it needs its records all the same.
func (f *finder) stranger(q *walk.Queue[item], i item, h backing.Dir, name string) {
	stored := walk.Join(i.stored, name)
	st, err := h.StatAt(name)
	switch {
	case err != nil:
		f.trouble(stored, "", err)
	case st.Mode&syscall.S_IFMT == syscall.S_IFDIR:
		q.Put(item{stored: stored})
	case st.Mode&syscall.S_IFMT == syscall.S_IFREG:
		f.header(h, name, stored)
	}
}

// lost looks at a directory whose names cannot be known.
func (f *finder) lost(q *walk.Queue[item], i item, h backing.Dir) error {
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

// companions looks for parts of long names that are nobody's, and for what a change of a directory's zone has left.
func (f *finder) companions(i item, h backing.Dir) {
	parts, names := map[string][]string{}, map[string]bool{}
	var aside []string
	if err := h.ReadDir(func(e backing.Entry) bool {
		tag, _, _, ok := envelope.ParseCompanion(e.Name)
		switch {
		case ok:
			parts[tag] = append(parts[tag], e.Name)
		case e.Name == envelope.DirFileName+".new":
			aside = append(aside, e.Name)
		default:
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
		if !isFile(h, name) || !names[envelope.DirFileName] { // it may be all that there is of the id
			continue
		}
		f.add(Finding{Kind: Leftover, Stored: walk.Join(i.stored, name), What: "a change of the encryption zone did not get to its end"})
	}
}

// Where things are that are none of the vault's, and may be put back.
const (
	damagedDir = envelope.ControlDir + "/" + check.DamagedDir // by kmsfs verify --repair
	e2fsckDir  = "lost+found"                                 // of the backing file system
)

// isAside says whether stored is such a place, or below one.
func isAside(stored string) bool {
	return strings.HasPrefix(stored+"/", damagedDir+"/") || strings.HasPrefix(stored+"/", e2fsckDir+"/")
}

// aside notes the records of what was moved aside, so that it can be moved back. What is wrong with it is no finding.
func (f *finder) aside() error {
	return walk.Run(f.ctx, 1, []item{{stored: damagedDir}, {stored: e2fsckDir}}, func(q *walk.Queue[item]) (func(item) error, func()) {
		return func(i item) error {
			if up, name := walk.Split(i.stored); name == check.DamagedAttrs && strings.HasPrefix(up, damagedDir+"/") {
				return nil
			}
			h, err := walk.Open(f.top, i.stored)
			if err != nil {
				f.trouble(i.stored, "", err)
				return f.ctx.Err()
			}
			defer h.Close()
			return f.lost(q, i, h)
		}, nil
	})
}
