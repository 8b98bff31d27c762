package envelope

import (
	"fmt"
	"math"
)

// Geometry is where the chunks of a file stand, given the chunk size of the
// vault (FORMAT.md, Data file). The zero value is not valid: use [NewGeometry],
// once per vault, as a Geometry also keeps the buffers that file keys derive with.
// It may be copied.
type Geometry struct {
	log2   uint8
	derive *derivers
}

// NewGeometry returns the geometry for chunks of 4096, 16384 or 65536 bytes;
// for any other size it fails with ErrUnsupported.
func NewGeometry(chunkSize int) (Geometry, error) {
	for _, log2 := range []uint8{12, 14, 16} {
		if chunkSize == 1<<log2 {
			return Geometry{log2, newDerivers()}, nil
		}
	}
	return Geometry{}, fmt.Errorf("chunk size %d: %w", chunkSize, ErrUnsupported)
}

func validLog2(log2 uint8) bool { return log2 == 12 || log2 == 14 || log2 == 16 }

// ChunkSize returns the bytes of plaintext, and of ciphertext, in a chunk.
func (g Geometry) ChunkSize() int64 { return 1 << g.log2 }

// GroupPlain returns the bytes of plaintext in a group.
func (g Geometry) GroupPlain() int64 { return ChunksPerGroup << g.log2 }

// GroupSealed returns the bytes of a group on disk, its index block included.
func (g Geometry) GroupSealed() int64 { return BlockSize + ChunksPerGroup<<g.log2 }

// Log2 returns the binary logarithm of the chunk size, as headers hold it.
func (g Geometry) Log2() uint8 { return g.log2 }

// PlainSize returns the plaintext size of a file of the stored size given, in
// whichever form it is: a size of at most [BlockSize] is the inline form. Sizes
// below zero give 0.
func (g Geometry) PlainSize(sealed int64) int64 {
	switch {
	case sealed <= InlineOverhead:
		return 0
	case sealed <= BlockSize:
		return sealed - InlineOverhead
	}
	n, rem := sealed/g.GroupSealed()*g.GroupPlain(), sealed%g.GroupSealed()
	return n + max(0, rem-BlockSize)
}

// SealedSize returns the stored size of a file of plain >= 1 bytes in the group
// form; it is over [BlockSize]. Sizes above [MaxPlain] give math.MaxInt64, which
// no backing accepts; sizes below 1 give 0, the file that has no key.
func (g Geometry) SealedSize(plain int64) int64 {
	switch {
	case plain < 1:
		return 0
	case plain > MaxPlain:
		return math.MaxInt64
	}
	s, r := plain/g.GroupPlain()*g.GroupSealed(), plain%g.GroupPlain()
	if r > 0 {
		s += BlockSize + r
	}
	return s
}

// InlineSize returns the stored size of plain bytes, 0 to [InlineMax], in the
// inline form.
func (g Geometry) InlineSize(plain int64) int64 { return InlineOverhead + plain }

// ChunkOffset returns where in the stored file a chunk begins. For chunks past
// [MaxPlain] it gives math.MaxInt64.
func (g Geometry) ChunkOffset(chunk uint64) int64 {
	if chunk > MaxPlain>>g.log2 {
		return math.MaxInt64
	}
	return int64(chunk/ChunksPerGroup)*g.GroupSealed() + BlockSize + int64(chunk%ChunksPerGroup)<<g.log2
}

// IndexOffset returns where in the stored file the index block of a group
// begins. For groups past [MaxPlain] it gives math.MaxInt64.
func (g Geometry) IndexOffset(group uint64) int64 {
	if group > uint64(MaxPlain/g.GroupPlain()) {
		return math.MaxInt64
	}
	return int64(group) * g.GroupSealed()
}

// PresenceParent returns the group whose index block keeps the presence bit of
// the group given, and the bit's number there. Group 0 has none: it panics.
func PresenceParent(group uint64) (parent uint64, k int) {
	if group == 0 {
		panic("envelope: group 0 has no presence bit")
	}
	return (group - 1) / PresenceFanout, int((group - 1) % PresenceFanout)
}
