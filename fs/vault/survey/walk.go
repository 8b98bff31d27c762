package survey

import (
	"context"
	"errors"
	"fmt"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/walk"
)

// dir is a directory to be looked at.
type dir struct {
	path string
	zone int
}

// walker looks at directories and counts for itself; what it has counted is added up when it ends.
type walker struct {
	r     *run
	zones map[int]map[uint16]Count // by class
	empty int64
}

// walk looks at the whole tree.
func (r *run) walk(ctx context.Context) error {
	return walk.Run(ctx, walk.Workers(), []dir{{}}, func(q *walk.Queue[dir]) (func(dir) error, func()) {
		w := &walker{r: r, zones: map[int]map[uint16]Count{}}
		return func(d dir) error { return w.look(d, q) }, w.addUp
	})
}

// addUp adds what w has counted to the result.
func (w *walker) addUp() {
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Empty += w.empty
	for z, classes := range w.zones {
		zone := &r.res.Zones[z]
		for c, n := range classes {
			if c != 0 {
				k := int(c) - 1
				r.res.Classes[k].Files += n.Files
				r.res.Classes[k].Bytes += n.Bytes
				sum := zone.Classes[k]
				sum.add(n)
				zone.Classes[k] = sum
			}
			zone.add(n)
		}
	}
}

// unread notes what cannot be looked at. What is not there any more is no problem.
func (r *run) unread(path string, err error) {
	if errors.Is(err, syscall.ENOENT) || errors.Is(err, syscall.ESTALE) {
		return
	}
	r.mu.Lock()
	defer r.mu.Unlock()
	r.res.Unread++
	r.problem(path, err.Error())
}

// look looks at one directory.
func (w *walker) look(d dir, q *walk.Queue[dir]) error {
	h, err := walk.Open(w.r.top, d.path)
	if err != nil {
		w.r.unread(d.path, err)
		return nil
	}
	defer h.Close()
	if d.path != "" {
		if d.zone, err = w.zoneOf(h, d); err != nil {
			return err
		}
	}
	join := func(name string) string { return walk.Join(d.path, name) }
	err = h.ReadDir(func(e backing.Entry) bool {
		if envelope.IsReserved(e.Name) || d.path == "" && e.Name == "lost+found" {
			return true
		}
		kind := e.Kind
		if kind == 0 {
			st, err := h.StatAt(e.Name)
			if err != nil {
				w.r.unread(join(e.Name), err)
				return true
			}
			kind = st.Mode & syscall.S_IFMT
		}
		switch kind {
		case syscall.S_IFDIR:
			q.Put(dir{join(e.Name), d.zone})
		case syscall.S_IFREG:
			if w.r.only == filesToo {
				w.file(h, e.Name, join, d.zone)
			}
		}
		return true
	})
	if err != nil {
		w.r.unread(d.path, err)
	}
	return nil
}

// zoneOf returns the zone of a directory: its own, or that of the one above it.
func (w *walker) zoneOf(h backing.Dir, d dir) (int, error) {
	key, err := vault.PeekZone(h)
	if err != nil {
		w.r.unread(d.path+"/"+envelope.DirFileName, err)
	}
	if key == "" {
		return d.zone, nil
	}
	r := w.r
	r.mu.Lock()
	defer r.mu.Unlock()
	if len(r.res.Zones) >= 65000 {
		return 0, ErrTooMany
	}
	r.res.Zones = append(r.res.Zones, Zone{Path: d.path, Key: key, Classes: map[int]Count{}})
	return len(r.res.Zones) - 1, nil
}

// file looks at one stored file.
func (w *walker) file(h backing.Dir, name string, join func(string) string, zone int) {
	r := w.r
	f, st, err := h.OpenStat(name, syscall.O_RDONLY, 0)
	if err != nil {
		r.unread(join(name), err)
		return
	}
	defer f.Close()
	if st.Nlink > 1 {
		at := [2]uint64{st.Dev, st.Ino}
		r.mu.Lock()
		_, again := r.links[at]
		r.links[at] = struct{}{}
		r.mu.Unlock()
		if again {
			return
		}
	}
	head, keyed, err := HeadOf(f, st.Size)
	if err != nil {
		r.unread(join(name), err)
		return
	}
	if !keyed {
		w.empty++
		return
	}
	if r.visit != nil {
		r.visit(Stored{join(name), head})
		return
	}
	c := r.belongs(head, zone)
	if c == 0 {
		r.mu.Lock()
		r.res.Missing++
		r.problem(join(name), fmt.Sprintf("its record, key table %s slot %d, is missing, damaged or another file's", envelope.TableName(head.Loc.Table), head.Loc.Slot))
		r.mu.Unlock()
	}
	classes := w.zones[zone]
	if classes == nil {
		classes = map[uint16]Count{}
		w.zones[zone] = classes
	}
	sum := classes[c]
	sum.Files++
	sum.Bytes += r.geo.PlainSize(st.Size)
	if c != 0 {
		sum.Records++
	}
	classes[c] = sum
}

// HeadOf reads the header of a stored file of size bytes. keyed is false where it has none, as no key is bound: it is empty, or nothing
// but zeros, because of all that was written only the size has reached the disk (FORMAT.md, Data file).
func HeadOf(f backing.File, size int64) (head envelope.Header, keyed bool, err error) {
	if size == 0 {
		return head, false, nil
	}
	var b [envelope.HeaderSize]byte
	n, err := f.ReadAt(b[:], 0)
	if err != nil {
		return head, false, err
	}
	head, bad := envelope.ParseHeader(b[:n])
	if bad == nil {
		return head, true, nil
	}
	zeros, err := backing.AllZeros(f, size)
	if err == nil && !zeros {
		err = bad
	}
	return head, false, err
}

// belongs returns the class of the record that a header names, 0 where there is none, and notes the zone of its file.
func (r *run) belongs(head envelope.Header, zone int) uint16 {
	r.mu.Lock()
	defer r.mu.Unlock()
	t := r.tables[head.Loc.Table]
	i := int(head.Loc.Slot)
	if t == nil || i >= len(t.class) || t.who[i] != half(head.ID) || t.class[i] == 0 {
		return 0
	}
	t.zone[i] = uint16(zone + 1)
	return t.class[i]
}
