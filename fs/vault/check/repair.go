package check

import (
	"context"
	"errors"
	"fmt"
	"syscall"
	"time"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// DamagedDir is the directory in .kmsfs into which Repair moves what is beyond help.
const DamagedDir = "damaged"

// DamagedAttrs is the directory in that of one repair that has damaged extended attributes.
const DamagedAttrs = "xattrs"

// ErrMendable is returned by Repair, which has moved nothing then: a key table has lost its header alone, which fsck mends.
var ErrMendable = errors.New("check: a key table has lost its header alone")

// Moved is what Repair has done about one finding.
type Moved struct {
	Finding
	To string // path in the vault
}

// repair is one Repair.
type repair struct {
	top  backing.Dir
	ctl  backing.Dir
	base string // path in the vault
	keys *sidecar.Sidecar
	// made are the copies below base that are there.
	made map[string]bool
}

// Repair moves what the findings that are damage are about into .kmsfs/damaged/<time>, each to its stored path below it, so
// that it can be moved back. Nothing is deleted: of a damaged record the whole key table is copied before its slot is
// cleared, and damaged attributes are copied into files. The caller holds the lock of the vault, so that nobody has it
// mounted. What was moved before an error, or a kill, stays moved; the next Repair goes on.
func Repair(ctx context.Context, top backing.Dir, volume envelope.VolumeID, findings []Finding, now time.Time) (moved []Moved, err error) {
	r := &repair{top: top, base: walk.Join(envelope.ControlDir, walk.Join(DamagedDir, now.UTC().Format("20060102T150405Z"))), made: map[string]bool{}}
	if r.ctl, err = top.OpenDir(envelope.ControlDir); err != nil {
		return nil, err
	}
	defer r.ctl.Close()
	if r.keys, err = sidecar.Open(r.ctl, volume); err == nil {
		defer r.keys.Close()
	} else if !errors.Is(err, syscall.ENOENT) {
		return nil, err
	}
	for _, f := range findings {
		_, name := walk.Split(f.Stored)
		if id, ok := envelope.ParseTableName(name); ok && f.Kind == Table && r.keys != nil && f.Stored == tablePath(id) {
			if n, err := r.keys.Mendable(id); err == nil && n > 0 {
				return nil, fmt.Errorf("%s: %w", f.Stored, ErrMendable)
			}
		}
	}
	for _, f := range findings {
		if !f.Damage() || f.Kind == Config || f.Stored == "" && f.Kind != Xattr {
			continue
		}
		if err := ctx.Err(); err != nil {
			return moved, err
		}
		var to string
		switch f.Kind {
		case Record:
			to, err = r.record(f)
		case Xattr:
			to, err = r.attributes(f)
		default:
			to, err = r.move(f.Stored)
		}
		if errors.Is(err, syscall.ENOENT) { // a name of what was moved before
			continue
		}
		if err != nil {
			return moved, fmt.Errorf("%s: %w", f.Stored, err)
		}
		moved = append(moved, Moved{f, to})
	}
	if len(moved) > 0 {
		err = top.SyncFS()
	}
	return moved, err
}

// MendTables makes the headers of key tables anew that findings are about, where the records in them tell how
// ([sidecar.Sidecar.MendHeader]), and returns the stored paths of those tables: much of what else was found is none then. The
// caller holds the lock of the vault.
func MendTables(top backing.Dir, volume envelope.VolumeID, findings []Finding) (mended []string, err error) {
	ctl, err := top.OpenDir(envelope.ControlDir)
	if err != nil {
		return nil, err
	}
	defer ctl.Close()
	keys, err := sidecar.Open(ctl, volume)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	defer keys.Close()
	for _, f := range findings {
		_, name := walk.Split(f.Stored)
		id, ok := envelope.ParseTableName(name)
		if f.Kind != Table || !ok {
			continue
		}
		if n, err := keys.MendHeader(id); err != nil {
			return mended, fmt.Errorf("%s: %w", f.Stored, err)
		} else if n > 0 {
			mended = append(mended, f.Stored)
		}
	}
	return mended, nil
}

// MakeDirs opens the directory at a path below top; it is made, with those above it, where it is missing.
func MakeDirs(top backing.Dir, path string) (backing.Dir, error) {
	if d, err := walk.Open(top, path); !errors.Is(err, syscall.ENOENT) {
		return d, err
	}
	up, name := walk.Split(path)
	d, err := MakeDirs(top, up)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	if err := d.Mkdir(name, 0o700); err != nil && !errors.Is(err, syscall.EEXIST) {
		return nil, err
	}
	return d.OpenDir(name)
}

// move moves a stored name, and the companions of a long one after it.
func (r *repair) move(stored string) (to string, err error) {
	up, name := walk.Split(stored)
	from, err := walk.Open(r.top, up)
	if err != nil {
		return "", err
	}
	defer from.Close()
	target := walk.Join(r.base, up)
	if up == "" {
		target = r.base
	}
	d, err := MakeDirs(r.top, target)
	if err != nil {
		return "", err
	}
	defer d.Close()
	if err := from.Rename(name, d, name, vault.RenameNoReplace); err != nil {
		return "", err
	}
	if envelope.IsLongEntry(name) {
		err = r.companions(from, d, name)
	}
	return walk.Join(target, name), err
}

// companions moves those of a long name.
func (r *repair) companions(from, to backing.Dir, name string) error {
	var all []string
	if err := from.ReadDir(func(e backing.Entry) bool {
		if tag, _, _, ok := envelope.ParseCompanion(e.Name); ok && tag == name {
			all = append(all, e.Name)
		}
		return true
	}); err != nil {
		return err
	}
	for _, c := range all {
		if err := from.Rename(c, to, c, vault.RenameNoReplace); err != nil && !errors.Is(err, syscall.ENOENT) {
			return err
		}
	}
	return nil
}

// save writes a new file, durably. One that is there is of the same repair.
func (r *repair) save(dir, name string, write func(f backing.File) error) error {
	d, err := MakeDirs(r.top, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := backing.SaveNew(d, name, write); err != nil {
		return err
	}
	return d.SyncFS()
}

// record copies the key table of a damaged record aside, and clears the record.
func (r *repair) record(f Finding) (to string, err error) {
	up, name := walk.Split(f.Stored)
	id, ok := envelope.ParseTableName(name)
	if !ok || r.keys == nil {
		return "", syscall.ENOENT
	}
	dir := walk.Join(r.base, up)
	if to = walk.Join(dir, name); !r.made[to] {
		d, err := walk.Open(r.top, up)
		if err != nil {
			return "", err
		}
		defer d.Close()
		from, err := d.Open(name, syscall.O_RDONLY, 0)
		if err != nil {
			return "", err
		}
		defer from.Close()
		if err := r.save(dir, name, func(f backing.File) error { return backing.CopySparse(f, from) }); err != nil {
			return "", err
		}
		r.made[to] = true
	}
	left, err := r.keys.Zero([]envelope.Locator{{Table: id, Slot: f.slot}}, func(uint64) bool { return true })
	if err == nil && len(left) > 0 {
		err = syscall.EIO
	}
	if err == nil {
		err = r.keys.Locked(func() error { return cutTail(r.top, up, name, f.slot, f.slotSize) })
	}
	return to, err
}

// cutTail ends a key table before a slot that it does not hold whole.
func cutTail(top backing.Dir, dir, name string, slot uint32, slotSize int) error {
	d, err := walk.Open(top, dir)
	if err != nil {
		return err
	}
	defer d.Close()
	f, err := d.Open(name, syscall.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	st, err := f.Stat()
	if from := int64(slot) * int64(slotSize); err == nil && from < st.Size && st.Size < from+int64(slotSize) {
		err = f.Truncate(from)
	}
	return err
}

// attributes copies damaged attributes into files, named as they are, and removes them.
func (r *repair) attributes(f Finding) (to string, err error) {
	up, name := walk.Split(f.Stored)
	d, err := walk.Open(r.top, up)
	if err != nil {
		return "", err
	}
	defer d.Close()
	get, remove := d.Getxattr, d.Removexattr // of the root itself
	if f.Stored != "" {
		get = func(attr string, b []byte) (int, error) { return d.GetxattrAt(name, attr, b) }
		remove = func(attr string) error { return d.RemovexattrAt(name, attr) }
	}
	to = walk.Join(walk.Join(r.base, DamagedAttrs), f.Stored)
	if f.Stored == "" {
		to = walk.Join(r.base, DamagedAttrs)
	}
	for _, attr := range f.attrs {
		b := make([]byte, 1<<17)
		n, err := get(attr, b)
		if errors.Is(err, syscall.ENODATA) { // it went under another name of the file
			continue
		}
		if err != nil {
			return "", err
		}
		if err := r.save(to, attr, func(f backing.File) error { _, err := f.WriteAt(b[:n], 0); return err }); err != nil && !errors.Is(err, syscall.EEXIST) {
			return "", err
		}
		if err := remove(attr); err != nil {
			return "", err
		}
	}
	return to, nil
}
