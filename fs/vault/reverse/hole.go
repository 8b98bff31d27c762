package reverse

import (
	"errors"
	"math"
	"syscall"

	"kmsfs/envelope"
)

// What Seek looks for, as in lseek(2).
const (
	seekData = 3
	seekHole = 4
)

// nowhere is no group.
const nowhere = math.MaxUint64

// nextData returns where the plain file has data at or after off; its size where there is none.
func (h *Handle) nextData(off int64) (int64, error) {
	if !h.sparse || off >= h.version.size {
		return min(off, h.version.size), nil
	}
	at, err := h.f.Seek(off, seekData)
	if errors.Is(err, syscall.ENXIO) {
		return h.version.size, nil
	}
	return min(at, h.version.size), err
}

// dataIn says whether some of the plain file from byte from to byte to is no hole.
func (h *Handle) dataIn(from, to int64) (bool, error) {
	at, err := h.nextData(from)
	return at < min(to, h.version.size), err
}

// holesStand refuses to go on in a file with holes that was changed since it was opened: what was a hole may be none, or the other
// way round, and the presence bits of a group that was shown would not go with the groups below it. It is asked after the holes
// were looked for. Who writes may set mtime back, but not ctime.
func (h *Handle) holesStand() error {
	if !h.sparse {
		return nil
	}
	st, err := h.f.Stat()
	if err == nil && versionOf(&st) != h.version {
		err = ErrChanged
	}
	return err
}

// groups is how many groups the file has.
func (h *Handle) groups() uint64 {
	return uint64((h.version.size + h.v.geo.GroupPlain() - 1) / h.v.geo.GroupPlain())
}

// nextPresent returns the first group from n on that is no hole: one that has data, or a descendant in the tree of presence
// bits that has.
func (h *Handle) nextPresent(n uint64) (uint64, error) {
	if n >= h.groups() {
		return nowhere, nil
	}
	if n == 0 || !h.sparse {
		return n, nil
	}
	at, err := h.nextData(int64(n) * h.v.geo.GroupPlain())
	if err != nil {
		return nowhere, err
	}
	found := uint64(nowhere)
	if at < h.version.size {
		found = uint64(at / h.v.geo.GroupPlain())
	}
	below, err := h.nextPresent(n*envelope.PresenceFanout + 1)
	if err == nil && below != nowhere {
		parent, _ := envelope.PresenceParent(below)
		found = min(found, parent)
	}
	return found, err
}

// present says whether group n is no hole.
func (h *Handle) present(n uint64) (bool, error) {
	next, err := h.nextPresent(n)
	return next == n, err
}

// setPresence sets the bits of the groups below n.
func (h *Handle) setPresence(index *envelope.IndexBlock, n uint64) error {
	first := n*envelope.PresenceFanout + 1
	end := min(first+envelope.PresenceFanout, h.groups())
	for child := first; child < end; child++ {
		next, err := h.nextPresent(child)
		if err != nil {
			return err
		}
		if child = next; child < end {
			index.SetPresence(int(child-first), envelope.Present)
		} else {
			break
		}
	}
	return nil
}

// Seek finds data (SEEK_DATA) or a hole (SEEK_HOLE) of the stored file at or after off, as lseek(2).
func (h *Handle) Seek(off int64, whence int) (int64, error) {
	size := h.stored
	if h.raw {
		st, err := h.f.Stat()
		if err != nil {
			return 0, err
		}
		size = st.Size
	}
	switch {
	case whence != seekData && whence != seekHole:
		return 0, syscall.EINVAL
	case off < 0 || off >= size:
		return 0, syscall.ENXIO
	case !h.sparse && whence == seekData:
		return off, nil
	case !h.sparse:
		return size, nil
	}
	find := h.seekHole
	if whence == seekData {
		find = h.seekData
	}
	at, err := find(off)
	if e := h.holesStand(); e != nil {
		return 0, h.v.fail("seek", h.n, e)
	}
	return at, err
}

// seekData is Seek in a file with holes.
func (h *Handle) seekData(off int64) (int64, error) {
	geo := h.v.geo
	for {
		n, err := h.nextPresent(uint64(off / geo.GroupSealed()))
		if err != nil {
			return 0, err
		}
		if n == nowhere {
			return 0, syscall.ENXIO
		}
		begin := geo.IndexOffset(n)
		if off < begin+envelope.BlockSize {
			return max(off, begin), nil
		}
		text := int64(n)*geo.GroupPlain() + off - begin - envelope.BlockSize
		at, err := h.nextData(text - text%geo.ChunkSize())
		if err != nil {
			return 0, err
		}
		if at < min(int64(n+1)*geo.GroupPlain(), h.version.size) {
			return max(off, geo.ChunkOffset(uint64(at/geo.ChunkSize()))), nil
		}
		off = geo.IndexOffset(n + 1)
	}
}

// seekHole is Seek in a file with holes.
func (h *Handle) seekHole(off int64) (int64, error) {
	geo := h.v.geo
	for off < h.stored {
		n := uint64(off / geo.GroupSealed())
		present, err := h.present(n)
		if err != nil {
			return 0, err
		}
		if !present {
			return off, nil
		}
		begin := geo.IndexOffset(n)
		end := min(geo.IndexOffset(n+1), h.stored)
		for off = max(off, begin+envelope.BlockSize); off < end; {
			chunk := (off - begin - envelope.BlockSize) / geo.ChunkSize()
			text := int64(n)*geo.GroupPlain() + chunk*geo.ChunkSize()
			data, err := h.dataIn(text, text+geo.ChunkSize())
			if err != nil || !data {
				return off, err
			}
			off = begin + envelope.BlockSize + (chunk+1)*geo.ChunkSize()
		}
	}
	return h.stored, nil
}
