package check

import (
	"errors"
	"fmt"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
	"kmsfs/fs/vault/sidecar"
	"kmsfs/fs/vault/walk"
)

// peek looks at files without keys.
func (w *worker) peek(i item) {
	h, err := walk.Open(w.c.top, i.stored)
	if err != nil {
		w.c.fault(Directory, i.place, err)
		return
	}
	defer h.Close()
	for _, e := range i.entries {
		if w.c.ctx.Err() != nil {
			return
		}
		w.form(h, e.name, i.below(e), e.kind)
	}
}

// form looks at a file, symlink or device without keys.
func (w *worker) form(h backing.Dir, name string, at place, kind uint32) {
	c := w.c
	switch kind {
	case syscall.S_IFREG:
		f, st, err := h.OpenStat(name, syscall.O_RDONLY, 0)
		if err != nil {
			c.fault(File, at, err)
			return
		}
		defer f.Close()
		if c.another(&st, at) {
			return
		}
		s := &stored{c: c, f: f, size: st.Size}
		err = s.check()
		c.seen(1, s.plain)
		switch {
		case err == nil:
		case errors.Is(err, errZeros):
			c.add(Finding{Kind: Note, Stored: at.stored, What: err.Error()})
		case c.inLog[s.head.ID] && !errors.Is(err, sidecar.ErrNoRecord):
			c.add(Finding{Kind: Note, Stored: at.stored, What: "the journal has changes of it, which may mend it: " + err.Error()})
		default:
			c.fault(File, at, err)
		}
	case syscall.S_IFLNK:
		target, err := h.Readlink(name)
		c.seen(1, 0)
		if err != nil {
			c.fault(Symlink, at, err)
		} else if !envelope.IsSealedTarget(target) {
			c.add(Finding{Kind: Symlink, Stored: at.stored, What: "what it points to is no sealed target", Err: vault.ErrCorrupt})
		}
	default:
		c.seen(1, 0)
	}
}

// errZeros: a stored file of nothing but zeros.
var errZeros = errors.New("it is nothing but zeros: it was never synced, or somebody or a disk has emptied it; it reads as empty")

// stored is a stored file that is being looked at without its key.
type stored struct {
	c     *checker
	f     backing.File
	size  int64
	plain int64
	head  envelope.Header
	moves bool // it is being reencrypted
}

func damaged(format string, a ...any) error {
	return fmt.Errorf("%w: "+format, append([]any{vault.ErrCorrupt}, a...)...)
}

// check says what is wrong with the file, as far as that can be told.
func (s *stored) check() error {
	if s.size == 0 {
		return nil
	}
	var blk envelope.IndexBlock
	n, err := s.f.ReadAt(blk[:], 0)
	if err != nil {
		return err
	}
	geo := &s.c.geo
	if s.head, err = envelope.ParseHeader(blk[:n]); err != nil {
		if zeros, e := backing.AllZeros(s.f, s.size); e != nil {
			return e
		} else if zeros {
			return errZeros
		}
		return err
	}
	if s.head.Log2 != geo.Log2() || s.head.Group != 0 {
		return damaged("its header is of another vault or group")
	}
	size, floor := geo.PlainSize(s.size), int64(s.head.Size)
	flags := s.head.Flags
	switch {
	case flags&envelope.FlagInline != 0:
		s.plain = floor
		if floor > envelope.InlineMax || s.size < geo.InlineSize(floor) {
			return damaged("it is %d bytes long, and its header says that it holds %d", s.size, floor)
		}
		if !envelope.IsZero(blk[envelope.InlineOverhead-40 : envelope.InlineOverhead]) {
			return damaged("bytes are set that nothing sets")
		}
		return s.record()
	case s.size < envelope.BlockSize:
		return damaged("its first block is cut short")
	case s.size == envelope.BlockSize:
		size = 0 // the first write was cut short behind the index block
	}
	switch {
	case flags&envelope.FlagExact != 0 && size != floor:
		return damaged("it holds %d bytes and held %d", size, floor)
	case size < floor:
		return damaged("it holds %d bytes and held at least %d", size, floor)
	case flags&envelope.FlagCut != 0:
		size = floor
	}
	s.plain = size
	if err := s.record(); err != nil {
		return err
	}
	return s.groups(size)
}

// record looks for the file's record.
func (s *stored) record() error {
	if s.c.keys == nil { // which is a finding of its own
		return nil
	}
	r, err := s.c.keys.Record(s.head.Loc, s.head.ID)
	if errors.Is(err, sidecar.ErrNoRecord) {
		r, err = s.c.keys.Reread(s.head.Loc, s.head.ID)
	}
	if err == nil {
		_, s.moves = r.Previous()
	}
	return err
}

// groups looks at the headers of all groups but the first of a file of the given size, which agree with it.
func (s *stored) groups(size int64) error {
	geo := &s.c.geo
	var b envelope.IndexBlock
	for g := uint64(1); int64(g)*geo.GroupPlain() < size; g++ {
		if s.c.ctx.Err() != nil {
			return nil
		}
		next, more := vault.NextGroup(s.f, geo, g)
		if !more {
			next = uint64(size/geo.GroupPlain()) + 1 // holes up to the end of the file
		}
		if next > g {
			if err := s.holes(g, next, size); err != nil {
				return err
			}
			g = next - 1
			continue
		}
		n, err := s.f.ReadAt(b[:], geo.IndexOffset(g))
		if err != nil {
			return err
		}
		switch {
		case envelope.IsZero(b[:n]):
			err = s.absent(g)
		case n < envelope.BlockSize:
			err = damaged("index block %d is cut short", g)
		case envelope.IsZero(b[:envelope.SectorSize]): // a sector that a crash kept from the disk
			err = s.absent(g)
		default:
			err = s.header(b[:], g)
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// header holds the header of group g against the first one.
func (s *stored) header(b []byte, g uint64) error {
	h, err := envelope.ParseHeader(b)
	switch {
	case err != nil:
		return damaged("index block %d: %v", g, err) // the first one would tell of a later version
	case h.Log2 != s.head.Log2 || h.ID != s.head.ID || h.Group != g || h.Loc != s.head.Loc && !s.moves:
		return damaged("index block %d is of another file or place", g)
	}
	return nil
}

// holes looks whether the groups from g up to next were known to be there. Presence is kept by a tree, whose parents come
// before their children: those that are holes themselves vouch for none.
func (s *stored) holes(g, next uint64, size int64) error {
	last := min(next, uint64((size-1)/s.c.geo.GroupPlain())+1)
	for ; g < last; g++ {
		parent, _ := envelope.PresenceParent(g)
		if parent > 0 {
			off := s.c.geo.IndexOffset(parent)
			at, err := s.f.Seek(off, vault.SeekData)
			if errors.Is(err, syscall.ENXIO) { // so are all that follow
				return nil
			}
			if err == nil && at >= off+envelope.BlockSize { // go on with the children of the next that is none
				g = max(parent+1, uint64(at/s.c.geo.GroupSealed())) * envelope.PresenceFanout
				continue
			}
		}
		if err := s.absent(g); err != nil {
			return err
		}
	}
	return nil
}

// absent refuses a group of zeros that was known to be written.
func (s *stored) absent(g uint64) error {
	for g > 0 {
		parent, k := envelope.PresenceParent(g)
		var b envelope.IndexBlock
		if _, err := s.f.ReadAt(b[:], s.c.geo.IndexOffset(parent)); err != nil {
			return err
		}
		if b.Presence(k) {
			return damaged("index block %d is gone", g)
		}
		if !b.IsZero() {
			return nil
		}
		g = parent
	}
	return nil
}
