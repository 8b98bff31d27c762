package envelope

import (
	"crypto/cipher"
	"encoding/binary"
	"fmt"
)

// GroupKey seals and opens the chunks of one group. Safe for concurrent use.
type GroupKey struct {
	aead  cipher.AEAD
	id    FileID
	group uint64
	log2  uint8
}

// Group returns the number of the group that the key is for.
func (k *GroupKey) Group() uint64 { return k.group }

// Format prints no key bytes, whatever the verb.
func (k *GroupKey) Format(f fmt.State, _ rune) { redact(f, "GroupKey") }

// Entry is what a slot knows of one version of a chunk (FORMAT.md, Index block).
type Entry struct {
	Nonce  [NonceSize]byte
	Tag    [TagSize]byte
	Length uint32 // bytes of ciphertext and of plaintext, 1 to the chunk size; 0: none
}

// IsZero reports whether the entry is none.
func (e *Entry) IsZero() bool { return e.Length == 0 }

// Scratch holds the small buffers of one call, so that nothing is allocated per
// chunk: cipher.AEAD is an interface, so what it is given moves to the heap. The
// zero value is ready. One goroutine at a time; some 4 KiB.
type Scratch struct {
	aad   [HeaderSize]byte
	nonce [NonceSize]byte
	block [InlineMax + TagSize]byte
}

const chunkAADSize = 28

func (k *GroupKey) chunkAAD(s *Scratch, chunk uint64) []byte {
	if chunk/ChunksPerGroup != k.group {
		panic("envelope: chunk of another group")
	}
	return chunkAAD(s, &k.id, chunk, k.log2)
}

func chunkAAD(s *Scratch, id *FileID, chunk uint64, log2 uint8) []byte {
	aad := s.aad[:chunkAADSize]
	copy(aad, id[:])
	binary.LittleEndian.PutUint64(aad[16:], chunk)
	aad[24], aad[25], aad[26], aad[27] = Suite, log2, 0, 0
	return aad
}

// SealChunk seals plain, 1 to the chunk size of bytes, as the chunk given, whose
// number counts from the start of the file. nonce must be random and never used
// before, or that of [FileKey.ChunkNonce]. The ciphertext goes to dst[:len(plain)].
//
// dst must have a capacity of len(plain)+TagSize. The TagSize bytes after the
// ciphertext are used during the call and hold their old content again when it
// returns, so that a run of chunks can be sealed in one buffer one after the
// other, but not by several goroutines at once. plain and dst[:len(plain)+TagSize]
// begin at the same byte or do not overlap.
func (k *GroupKey) SealChunk(dst, plain []byte, chunk uint64, nonce *[NonceSize]byte, s *Scratch) Entry {
	n := len(plain)
	if n == 0 || n > 1<<k.log2 {
		panic("envelope: plaintext is not 1 to the chunk size of bytes")
	}
	if cap(dst) < n+TagSize {
		panic("envelope: dst has no room for the tag")
	}
	s.nonce = *nonce
	dst = dst[:n+TagSize]
	after := [TagSize]byte(dst[n:])
	k.aead.Seal(dst[:0], s.nonce[:], plain, k.chunkAAD(s, chunk))
	e := Entry{Nonce: *nonce, Tag: [TagSize]byte(dst[n:]), Length: uint32(n)}
	copy(dst[n:], after[:])
	return e
}

// OpenChunk opens the chunk given, sealed[:e.Length], to dst[:e.Length]. It fails
// with a *ChunkError that wraps ErrCorrupt; dst[:e.Length] is zeros then, so that
// where another entry may have to be tried, sealed and dst must not be the same.
//
// sealed must have a capacity, and dst a capacity, of e.Length+TagSize and
// e.Length; too few bytes in sealed are an error. The TagSize bytes after the
// ciphertext are used during the call and hold their old content again when it
// returns: the chunks of one buffer are not to be opened by several goroutines at
// once, unless there is a gap between. dst and sealed[:e.Length+TagSize] begin at
// the same byte or do not overlap.
func (k *GroupKey) OpenChunk(dst, sealed []byte, e Entry, chunk uint64, s *Scratch) error {
	n := int(e.Length)
	if n == 0 || n > 1<<k.log2 {
		return &ChunkError{chunk, corrupt("length %d", n)}
	}
	if len(sealed) < n {
		return &ChunkError{chunk, corrupt("%d bytes of %d", len(sealed), n)}
	}
	if cap(sealed) < n+TagSize || cap(dst) < n {
		panic("envelope: no room for the tag or for the plaintext")
	}
	s.nonce = e.Nonce
	sealed = sealed[:n+TagSize]
	after := [TagSize]byte(sealed[n:])
	copy(sealed[n:], e.Tag[:])
	_, err := k.aead.Open(dst[:0], s.nonce[:], sealed, k.chunkAAD(s, chunk))
	copy(sealed[n:], after[:])
	if err != nil {
		return &ChunkError{chunk, ErrCorrupt}
	}
	return nil
}
