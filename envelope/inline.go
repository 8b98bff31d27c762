package envelope

import (
	"fmt"
	"io"
)

// Positions in an inline block (FORMAT.md, Inline form).
const (
	inlineNonce = HeaderSize
	inlineTag   = inlineNonce + NonceSize
	inlineZero  = inlineTag + TagSize
)

// SealInline writes the inline block of plain, at most [InlineMax] bytes, to
// dst[:n], n = InlineOverhead+len(plain) <= BlockSize. Of h it takes Loc and
// FlagXattr; the rest follows from k and plain. gk must be k's key of group 0 and
// nonce random and never used before, or that of [FileKey.InlineNonce]. plain may
// overlap dst.
func SealInline(k *FileKey, gk *GroupKey, h Header, plain []byte, nonce *[NonceSize]byte, dst []byte, s *Scratch) (n int) {
	n = InlineOverhead + len(plain)
	switch {
	case len(plain) > InlineMax:
		panic("envelope: too much plaintext for the inline form")
	case gk.group != 0 || gk.id != k.id:
		panic("envelope: inline form needs the file's key of group 0")
	case len(dst) < n:
		panic("envelope: dst is too short")
	}
	k.inlineHeader(s, h, len(plain))
	s.nonce = *nonce
	sealed := gk.aead.Seal(s.block[:0], s.nonce[:], plain, s.aad[:])
	copy(dst, s.aad[:])
	copy(dst[inlineNonce:], nonce[:])
	copy(dst[inlineTag:], sealed[len(plain):])
	clear(dst[inlineZero:InlineOverhead])
	copy(dst[InlineOverhead:n], sealed)
	return n
}

// inlineHeader writes the header of an inline block of n bytes of plaintext to s.
func (k *FileKey) inlineHeader(s *Scratch, h Header, n int) {
	h = Header{
		Log2:  k.g.log2,
		Flags: FlagInline | h.Flags&FlagXattr,
		ID:    k.id,
		Loc:   h.Loc,
		Size:  uint64(n),
	}
	h.Marshal(s.aad[:])
}

// OpenInline opens an inline block and writes its n = header.Size bytes of
// plaintext to dst, which needs room for InlineMax (io.ErrShortBuffer else). The
// block may be longer than the size says, not shorter. dst may overlap block. It
// fails with ErrCorrupt or ErrUnsupported; dst[:InlineMax] is unspecified then.
func OpenInline(gk *GroupKey, block []byte, dst []byte, s *Scratch) (Header, int, error) {
	h, err := ParseHeader(block)
	if err != nil {
		return Header{}, 0, err
	}
	n := int(h.Size)
	switch {
	case h.Flags&FlagInline == 0:
		return Header{}, 0, corrupt("inline block: not inline")
	case h.Group != 0 || gk.group != 0 || h.ID != gk.id || h.Log2 != gk.log2:
		return Header{}, 0, corrupt("inline block: of another file")
	case len(block) < InlineOverhead+n:
		return Header{}, 0, corrupt("inline block: %d bytes, size %d", len(block), n)
	case !IsZero(block[inlineZero:InlineOverhead]):
		return Header{}, 0, corrupt("inline block: reserved bytes set")
	case cap(dst) < n:
		return Header{}, 0, fmt.Errorf("inline block: %w", io.ErrShortBuffer)
	}
	copy(s.aad[:], block)
	copy(s.nonce[:], block[inlineNonce:])
	copy(s.block[:], block[InlineOverhead:InlineOverhead+n])
	copy(s.block[n:], block[inlineTag:inlineZero])
	if _, err := gk.aead.Open(dst[:0], s.nonce[:], s.block[:n+TagSize], s.aad[:]); err != nil {
		return Header{}, 0, corrupt("inline block")
	}
	return h, n, nil
}
