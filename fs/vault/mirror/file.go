package mirror

import (
	"cmp"
	"errors"
	"slices"
	"syscall"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/check"
	"kmsfs/fs/vault/tree"
)

// inPlaceFrom is the size of files that are changed in place.
const inPlaceFrom = 1 << 20

// leaf brings what is no directory up to date. dst is nil in a dry run of a directory that is not there, old where there is
// nothing of that name.
func (r *run) leaf(src, dst backing.Dir, name, path string, st, old *backing.Stat) error {
	_, err := r.bring(src, dst, name, path, st, old)
	return goneFrom(src, name, err)
}

// outcome says whether a name is, or would be, another object than before.
type outcome uint8

const (
	stays outcome = iota
	replaced
)

// bring does what leaf says.
func (r *run) bring(src, dst backing.Dir, name, path string, st, old *backing.Stat) (outcome, error) {
	x, err := tree.ReadXattrs(tree.Named(src, name))
	if err != nil {
		return stays, err
	}
	kind, patch := Make, false
	var damage error // of the destination
	if old != nil {
		kind = Change
		same, err := r.sameContent(src, dst, name, st, old)
		if same {
			err = r.attributes(dst, name, path, st, old, x)
		}
		switch {
		case isDamage(err):
			damage = err
		case err != nil || same:
			return stays, err
		default:
			patch = r.o.Replace == InPlace && old.Nlink == 1 && tree.IsFile(st) && tree.IsFile(old) && st.Size >= inPlaceFrom && old.Size >= inPlaceFrom
		}
	}
	would := !r.tell(kind, path)
	if would {
		r.would(st)
	} else if patch {
		err = r.patch(src, dst, name, st, x)
	}
	switch {
	case !patch:
	case isDamage(err):
		damage = err
	default:
		return stays, err
	}
	if !would {
		if err = r.whole(src, dst, name, st, x); err != nil {
			return stays, err
		}
	}
	if damage != nil {
		r.tellMended(path, damage)
	}
	return replaced, nil
}

// isDamage says whether err is that something of the destination is damaged.
func isDamage(err error) bool { return check.IsDamage(err) && !errors.Is(err, tree.ErrSource) }

// whole puts what name is in src in its place in dst.
func (r *run) whole(src, dst backing.Dir, name string, st *backing.Stat, x tree.Xattrs) error {
	if tree.IsFile(st) {
		return r.file(src, name, dst, name, st, x)
	}
	return r.special(src, name, dst, name, st, x)
}

// special makes what is no file and no directory.
func (r *run) special(src backing.Dir, name string, dst backing.Dir, newName string, st *backing.Stat, x tree.Xattrs) error {
	return tree.Put(dst, newName, func(temp string) error {
		if st.Mode&unix.S_IFMT == unix.S_IFLNK {
			target, err := src.Readlink(name)
			if err == nil {
				err = dst.Symlink(target, temp)
			}
			if err != nil {
				return err
			}
		} else if err := dst.Mknod(temp, st.Mode&unix.S_IFMT|0o600, st.Rdev); err != nil {
			return err
		}
		return tree.SetAttrs(tree.Named(dst, temp), st, x, tree.New)
	})
}

// gone tells what was removed from the source meanwhile.
func gone(err error) error {
	if errors.Is(err, syscall.ENOENT) {
		return errGone
	}
	return err
}

// goneFrom is gone of an error that may be of the destination.
func goneFrom(src backing.Dir, name string, err error) error {
	if errors.Is(err, syscall.ENOENT) {
		if _, e := src.StatAt(name); e == nil {
			return err
		}
	}
	return gone(err)
}

// would counts what a dry run does not read.
func (r *run) would(st *backing.Stat) {
	if tree.IsFile(st) {
		r.bytes.Add(st.Size)
		r.progress(st.Size)
	}
}

// sameContent says whether the content, target or device of both is the same.
func (r *run) sameContent(src, dst backing.Dir, name string, st, old *backing.Stat) (bool, error) {
	if st.Mode&unix.S_IFMT != old.Mode&unix.S_IFMT {
		return false, nil
	}
	switch st.Mode & unix.S_IFMT {
	case unix.S_IFLNK:
		a, err := src.Readlink(name)
		if err != nil {
			return false, tree.OfSource(err)
		}
		b, err := dst.Readlink(name)
		return a == b, err
	case unix.S_IFREG:
	default:
		return st.Rdev == old.Rdev, nil
	}
	if st.Size != old.Size || st.Nlink == 1 && old.Nlink > 1 {
		return false, nil
	}
	if r.o.Compare == ByTime {
		return st.Mtim == old.Mtim, nil
	}
	f, err := src.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		return false, tree.OfSource(err)
	}
	defer f.Close()
	g, err := dst.Open(name, unix.O_RDONLY, 0)
	if err != nil {
		return false, err
	}
	defer g.Close()
	return r.copier.Same(r.ctx, f, g, st.Size)
}

// attributes gives an object the attributes of the source where they differ.
func (r *run) attributes(dst backing.Dir, name, path string, st, old *backing.Stat, x tree.Xattrs) error {
	o := tree.Named(dst, name)
	y, err := tree.ReadXattrs(o)
	if err != nil {
		return err
	}
	want := *st
	if st.Mode&unix.S_IFMT == unix.S_IFLNK { // which has none
		want.Mode = old.Mode
	}
	if sameAttrs(&want, old) && tree.SameXattrs(x, y) || !r.tell(Attrs, path) {
		return nil
	}
	return tree.SetAttrs(o, st, x, tree.Old)
}

// file copies a file.
func (r *run) file(src backing.Dir, name string, dst backing.Dir, newName string, st *backing.Stat, x tree.Xattrs) error {
	f, st, x, err := openSame(src, name, st, x)
	if err != nil {
		return err
	}
	defer f.Close()
	return tree.PutFile(dst, newName, func(g backing.File) error {
		if err := r.copier.Copy(r.ctx, g, f, st.Size); err != nil {
			return err
		}
		r.written.Add(st.Size)
		return tree.SetAttrs(g, st, x, tree.New)
	})
}

// openSame opens a file of the source, and says what it is like now: name may be another file since it was looked at, the secret
// one of another user, which is not to get the mode of the first.
func openSame(src backing.Dir, name string, st *backing.Stat, x tree.Xattrs) (backing.File, *backing.Stat, tree.Xattrs, error) {
	f, now, err := src.OpenStat(name, unix.O_RDONLY, 0)
	if err != nil || now.Ino == st.Ino && now.Dev == st.Dev {
		return f, st, x, err
	}
	if x, err = tree.ReadXattrs(f); err != nil {
		f.Close()
		return nil, nil, nil, err
	}
	return f, &now, x, nil
}

// patch writes what differs of a file. An error of the source is a tree.ErrSource.
func (r *run) patch(src, dst backing.Dir, name string, st *backing.Stat, x tree.Xattrs) error {
	f, st, x, err := openSame(src, name, st, x)
	if err != nil {
		return tree.OfSource(err)
	}
	defer f.Close()
	g, err := dst.Open(name, unix.O_RDWR, 0)
	if err != nil {
		return err
	}
	defer g.Close()
	n, err := r.copier.Patch(r.ctx, g, f, st.Size)
	r.written.Add(n)
	if err == nil { // with its new time on the disk, and old content, a power failure would hide it from the next run
		err = g.DataSync()
	}
	if err != nil {
		return err
	}
	return tree.SetAttrs(g, st, x, tree.Old)
}

// linked is one name of a file of the source that has several.
type linked struct{ dir, name string }

// hardLinks makes the files that have several names, when all else is done. Directories get their times back.
func (r *run) hardLinks(src, dst backing.Dir) {
	groups := make([][]linked, 0, len(r.links))
	for _, g := range r.links {
		slices.SortFunc(g, func(a, b linked) int { return cmp.Or(cmp.Compare(a.dir, b.dir), cmp.Compare(a.name, b.name)) })
		groups = append(groups, g)
	}
	slices.SortFunc(groups, func(a, b []linked) int {
		return cmp.Or(cmp.Compare(a[0].dir, b[0].dir), cmp.Compare(a[0].name, b[0].name))
	})
	touched := map[string]bool{}
	for _, g := range groups {
		if r.ctx.Err() != nil || r.over() {
			return
		}
		if err := r.hardLink(src, dst, g, touched); err != nil && !errors.Is(err, errGone) {
			r.trouble(tree.Join(g[0].dir, g[0].name), err)
		}
	}
	for dir := range touched {
		if err := r.again(src, dst, dir); err != nil && !errors.Is(err, syscall.ENOENT) {
			r.trouble(dir, err)
		}
	}
}

// hardLink makes one file and its names.
func (r *run) hardLink(src, dst backing.Dir, g []linked, touched map[string]bool) error {
	r.objects.Add(int64(len(g)))
	first := g[0]
	s, d, err := r.both(src, dst, first.dir)
	if err != nil {
		return gone(err)
	}
	defer s.Close()
	st, err := s.StatAt(first.name)
	if err != nil {
		if d != nil {
			d.Close()
		}
		return gone(err)
	}
	var old *backing.Stat
	if d != nil {
		defer d.Close()
		have, err := d.StatAt(first.name)
		if err == nil {
			old = &have
		} else if !errors.Is(err, syscall.ENOENT) {
			return err
		}
	}
	if len(g) == 1 { // its other names are elsewhere
		st.Nlink = 1
	}
	if old != nil && int(old.Nlink) > len(g) { // it has a name that is another file in the source
		old.Size = -1
	}
	touched[first.dir] = true
	out, err := r.bring(s, d, first.name, tree.Join(first.dir, first.name), &st, old)
	if err != nil {
		return goneFrom(s, first.name, err)
	}
	made := backing.Stat{}
	if d != nil && (out == stays || r.o.Effect == Do) {
		if made, err = d.StatAt(first.name); err != nil {
			return err
		}
	}
	for _, l := range g[1:] {
		if err := r.name(dst, d, first.name, &made, l, touched); err != nil {
			return err
		}
	}
	return nil
}

// both opens a directory on both sides; dst is nil where it is not there, in a dry run.
func (r *run) both(src, dst backing.Dir, path string) (s, d backing.Dir, err error) {
	parts, _ := tree.Split(path)
	if s, err = tree.OpenDir(src, parts...); err != nil {
		return nil, nil, err
	}
	d, err = tree.OpenDir(dst, parts...)
	if err != nil && r.o.Effect == DryRun {
		return s, nil, nil
	}
	if err != nil {
		s.Close()
		return nil, nil, err
	}
	return s, d, nil
}

// name makes l a further name of the file first in d, which made is.
func (r *run) name(dst, d backing.Dir, first string, made *backing.Stat, l linked, touched map[string]bool) error {
	kind := Make
	parts, _ := tree.Split(l.dir)
	to, err := tree.OpenDir(dst, parts...)
	if err == nil {
		defer to.Close()
		if st, err := to.StatAt(l.name); err == nil {
			if st.Ino == made.Ino && st.Dev == made.Dev {
				return nil
			}
			kind = Change
		}
	} else if r.o.Effect == Do {
		return err
	}
	if !r.tell(kind, tree.Join(l.dir, l.name)) {
		return nil
	}
	touched[l.dir] = true
	return tree.Put(to, l.name, func(temp string) error { return d.Link(first, to, temp) })
}

// again gives a directory its time once more.
func (r *run) again(src, dst backing.Dir, path string) error {
	s, d, err := r.both(src, dst, path)
	if err != nil {
		return err
	}
	defer s.Close()
	if d == nil {
		return nil
	}
	defer d.Close()
	return r.finishDir(&pair{path: path, src: s, dst: d, fresh: true})
}
