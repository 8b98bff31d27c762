package envelope

import (
	"encoding/binary"
	"fmt"
)

// Flags of a header; all stand in group 0 only.
type Flags uint8

// The flags (FORMAT.md, Header and Size). At most one of FlagInline, FlagExact
// and FlagCut is set.
const (
	FlagInline Flags = 1 << iota // the block is in the inline form
	FlagExact                    // Size is the plaintext size
	FlagCut                      // Size is the plaintext size, a truncation to it is to be finished
	FlagXattr                    // the file id is in use by sealed extended attributes

	flagsKnown = FlagInline | FlagExact | FlagCut | FlagXattr
)

const headerMagic = "KMF1"

// Header begins every index block and inline block.
type Header struct {
	Log2  uint8 // of the chunk size: 12, 14 or 16
	Flags Flags
	ID    FileID
	Group uint64
	Loc   Locator
	Size  uint64 // bytes of plaintext; in group 0 only
}

// check returns an error for a header that the format does not allow.
func (h *Header) check() error {
	switch {
	case !validLog2(h.Log2):
		return unsupported("header: chunk size 2^%d", h.Log2)
	case h.Flags&^flagsKnown != 0:
		return unsupported("header: flags %#02x", uint8(h.Flags))
	case h.Group > 0 && (h.Flags != 0 || h.Size != 0):
		return corrupt("header of group %d: flags %#02x, size %d", h.Group, uint8(h.Flags), h.Size)
	case h.Group > uint64(MaxPlain/(ChunksPerGroup<<h.Log2)):
		return corrupt("header: group %d", h.Group)
	case h.Flags&FlagInline != 0 && h.Size > InlineMax, h.Size > MaxPlain:
		return corrupt("header: size %d", h.Size)
	case h.Loc.Table == 0 || h.Loc.Slot == 0:
		return corrupt("header: locator %v", h.Loc)
	}
	switch h.Flags & (FlagInline | FlagExact | FlagCut) {
	case 0, FlagInline, FlagExact, FlagCut:
		return nil
	}
	return corrupt("header: flags %#02x together", uint8(h.Flags))
}

// Marshal writes the header to b[:HeaderSize]. It panics for a header that
// [ParseHeader] would refuse: such a header is a bug, and would lose the file.
func (h *Header) Marshal(b []byte) {
	if err := h.check(); err != nil {
		panic(fmt.Sprintf("envelope: %v", err))
	}
	b = b[:HeaderSize]
	copy(b, headerMagic)
	b[4], b[5], b[6], b[7] = Suite, h.Log2, uint8(h.Flags), 0
	binary.LittleEndian.PutUint32(b[8:], 0)
	copy(b[12:28], h.ID[:])
	binary.LittleEndian.PutUint64(b[28:], h.Group)
	binary.LittleEndian.PutUint64(b[36:], h.Loc.Table)
	binary.LittleEndian.PutUint32(b[44:], h.Loc.Slot)
	binary.LittleEndian.PutUint64(b[48:], h.Size)
	binary.LittleEndian.PutUint32(b[56:], 0)
}

// ParseHeader reads the header in b[:HeaderSize]. Nothing of it is authentic
// before the block is: it serves to find the record. It fails with ErrCorrupt or
// ErrUnsupported.
func ParseHeader(b []byte) (Header, error) {
	if len(b) < HeaderSize {
		return Header{}, corrupt("header: %d bytes", len(b))
	}
	if err := checkMagic(b, headerMagic, "header"); err != nil {
		return Header{}, err
	}
	if err := checkFeatures(binary.LittleEndian.Uint32(b[8:]), "header"); err != nil {
		return Header{}, err
	}
	if b[4] != Suite {
		return Header{}, unsupported("header: suite %d", b[4])
	}
	if b[7] != 0 || binary.LittleEndian.Uint32(b[56:]) != 0 {
		return Header{}, corrupt("header: reserved bytes set")
	}
	h := Header{
		Log2:  b[5],
		Flags: Flags(b[6]),
		ID:    FileID(b[12:28]),
		Group: binary.LittleEndian.Uint64(b[28:]),
		Loc:   Locator{binary.LittleEndian.Uint64(b[36:]), binary.LittleEndian.Uint32(b[44:])},
		Size:  binary.LittleEndian.Uint64(b[48:]),
	}
	if err := h.check(); err != nil {
		return Header{}, err
	}
	return h, nil
}
