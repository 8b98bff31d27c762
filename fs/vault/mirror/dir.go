package mirror

import (
	"errors"
	"fmt"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/tree"
	"kmsfs/fs/vault/walk"
)

// batch is how many names of a directory are one task.
const batch = 64

// dir looks at a directory on both sides. p is in use, for it.
func (r *run) dir(q *walk.Queue[task], p *pair) {
	defer r.put(p)
	if r.over() {
		return
	}
	if err := r.open(p); err != nil {
		if !errors.Is(err, syscall.ENOENT) || p.src != nil { // it is the destination's then
			r.trouble(p.path, err)
		}
		return
	}
	r.objects.Add(1)
	names, err := tree.List(p.src)
	if err != nil { // what cannot be seen in the source is there all the same: nothing is removed for the lack of it
		r.trouble(p.path, err)
	}
	if p.dst != nil {
		have, e := tree.List(p.dst)
		if e != nil {
			r.trouble(p.path, e)
		}
		if err == nil {
			r.extras(p, names, have)
		}
	}
	for part := range slices.Chunk(names, batch) {
		p.use()
		q.Put(func(q *walk.Queue[task]) {
			defer r.put(p)
			for _, name := range part {
				if r.over() {
					return
				}
				if err := r.object(q, p, name); err != nil && !errors.Is(err, errGone) {
					r.trouble(tree.Join(p.path, name), err)
				}
			}
		})
	}
}

// open opens the directory on both sides.
func (r *run) open(p *pair) error {
	if p.up == nil {
		return nil
	}
	var err error
	if p.src, err = p.up.src.OpenDir(p.name); err != nil {
		return err
	}
	if p.up.dst == nil {
		return nil
	}
	if p.dst, err = p.up.dst.OpenDir(p.name); err != nil && r.o.Effect == DryRun {
		p.dst, err = nil, nil
	}
	return err
}

// extras removes what the source does not have.
func (r *run) extras(p *pair, names, have []string) {
	for _, name := range have {
		path := tree.Join(p.path, name)
		_, found := slices.BinarySearch(names, name)
		st, err := p.dst.StatAt(name)
		switch {
		case found, errors.Is(err, syscall.ENOENT), r.over():
			continue
		case err != nil:
			r.trouble(path, err)
			continue
		case tree.IsTemp(name): // left over by a run that was killed
		case r.o.Extras == Keep, r.o.Ignore.Match(path, tree.IsDir(&st)), p.path == "" && name == "lost+found":
			continue
		}
		if _, err := r.remove(p.dst, name, path, &st); err != nil {
			r.trouble(path, err)
		}
	}
}

// remove removes name in d, and all below it but for what is ignored, and the directories that have such; kept says that there
// are some.
func (r *run) remove(d backing.Dir, name, path string, st *backing.Stat) (kept bool, err error) {
	if !tree.IsDir(st) {
		if !r.tell(Remove, path) {
			return false, nil
		}
		return false, d.Unlink(name)
	}
	sub, err := d.OpenDir(name)
	if err != nil {
		return false, err
	}
	defer sub.Close()
	names, err := tree.List(sub)
	if err != nil {
		return false, err
	}
	for _, child := range names {
		if err := r.ctx.Err(); err != nil {
			return false, err
		}
		st, err := sub.StatAt(child)
		if err != nil {
			return false, err
		}
		at := tree.Join(path, child)
		if r.o.Ignore.Match(at, tree.IsDir(&st)) {
			kept = true
			continue
		}
		k, err := r.remove(sub, child, at, &st)
		if err != nil {
			return false, err
		}
		kept = kept || k
	}
	if kept || !r.tell(Remove, path) {
		return kept, nil
	}
	return false, d.Rmdir(name)
}

// errGone is an object that was removed from the source meanwhile.
var errGone = errors.New("removed meanwhile")

// object brings one object up to date.
func (r *run) object(q *walk.Queue[task], p *pair, name string) error {
	path := tree.Join(p.path, name)
	st, err := p.src.StatAt(name)
	if errors.Is(err, syscall.ENOENT) {
		return errGone
	}
	if err != nil {
		return err
	}
	kind := st.Mode & unix.S_IFMT
	if r.o.Ignore.Match(path, kind == unix.S_IFDIR) || kind == unix.S_IFSOCK || tree.IsTemp(name) ||
		r.o.Bounds == OneFileSystem && st.Dev != r.dev {
		return nil
	}
	old, err := r.clear(p, name, path, kind)
	if err != nil {
		return err
	}
	switch {
	case kind == unix.S_IFDIR:
		return r.subdir(q, p, name, path, &st, old)
	case st.Nlink > 1 && kind == unix.S_IFREG:
		r.mu.Lock()
		at := [2]uint64{st.Dev, st.Ino}
		r.links[at] = append(r.links[at], linked{p.path, name})
		r.mu.Unlock()
		return nil
	}
	r.objects.Add(1)
	return r.leaf(p.src, p.dst, name, path, &st, old)
}

// clear returns what name is in the destination, nil for nothing, and removes what is of another kind: but with Keep nothing that
// is a directory.
func (r *run) clear(p *pair, name, path string, kind uint32) (*backing.Stat, error) {
	if p.dst == nil {
		return nil, nil
	}
	old, err := p.dst.StatAt(name)
	if errors.Is(err, syscall.ENOENT) {
		return nil, nil
	}
	if err != nil {
		return nil, err
	}
	if old.Mode&unix.S_IFMT == kind || !tree.IsDir(&old) && kind != unix.S_IFDIR { // which a rename replaces
		return &old, nil
	}
	if tree.IsDir(&old) && r.o.Extras == Keep {
		return nil, syscall.EISDIR
	}
	kept, err := r.remove(p.dst, name, path, &old)
	if err == nil && kept {
		err = fmt.Errorf("a directory with files that are ignored is in its place: %w", syscall.ENOTEMPTY)
	}
	return nil, err
}

// subdir makes a directory where it is missing, and has it looked at.
func (r *run) subdir(q *walk.Queue[task], p *pair, name, path string, st, old *backing.Stat) error {
	sub := &pair{up: p, name: name, path: path, users: 1}
	if old == nil {
		if r.tell(Make, path) {
			if err := p.dst.Mkdir(name, 0o700); err != nil {
				return err
			}
		}
		sub.fresh = true
	} else if old.Mode&0o700 != 0o700 && !tree.Owners() && r.o.Effect == Do { // its owner could not change it
		if err := p.dst.ChmodAt(name, old.Mode&0o7777|0o700); err != nil {
			return err
		}
	}
	p.use()
	q.Put(func(q *walk.Queue[task]) { r.dir(q, sub) })
	return nil
}
