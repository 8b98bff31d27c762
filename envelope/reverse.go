package envelope

import (
	"encoding/base64"
	"encoding/binary"
)

// What a reverse mount derives where a vault draws random bytes (FORMAT.md,
// Reverse), so that the same tree is sealed to the same bytes each time.

// The first byte of what an id or a salt is derived from.
const (
	reverseDir    = 1
	reverseFile   = 2
	reverseLinked = 3
	reverseSalt   = 4
)

// ReverseDirID returns the id of the directory at path, from the root, names
// separated by slashes; "" is the root.
func (k *VolumeKeys) ReverseDirID(path string) DirID {
	if path == "" {
		return k.root
	}
	return k.reverseID(reverseDir, []byte(path))
}

// ReverseFileID returns the id of the file at path, as in [VolumeKeys.ReverseDirID].
func (k *VolumeKeys) ReverseFileID(path string) FileID {
	return k.reverseID(reverseFile, []byte(path))
}

// ReverseLinkedID returns the id of a file with several names, by its inode number,
// its time of birth, zeros where that is not known, and the path of the directory
// at which its file system is entered, "" for that of the root.
func (k *VolumeKeys) ReverseLinkedID(top string, ino uint64, birthSec, birthNsec int64) FileID {
	b := binary.LittleEndian.AppendUint64(nil, ino)
	b = binary.LittleEndian.AppendUint64(b, uint64(birthSec))
	b = binary.LittleEndian.AppendUint32(b, uint32(birthNsec))
	return k.reverseID(reverseLinked, append(b, top...))
}

// ReverseSalt returns the salt of the symlink at path, as in [VolumeKeys.ReverseDirID].
func (k *VolumeKeys) ReverseSalt(path string) [16]byte { return k.reverseID(reverseSalt, []byte(path)) }

func (k *VolumeKeys) reverseID(kind byte, of []byte) (id [16]byte) {
	k.reverse.sum(id[:], []byte{kind}, of)
	return id
}

// ChunkNonce returns the nonce that [GroupKey.SealChunk] is to seal plain with as
// the chunk given, where equal plaintext is to give equal ciphertext.
func (k *FileKey) ChunkNonce(chunk uint64, plain []byte, s *Scratch) [NonceSize]byte {
	return k.syntheticNonce(chunkAAD(s, &k.id, chunk, k.g.log2), plain)
}

// InlineNonce is ChunkNonce for [SealInline] with the same h and plain.
func (k *FileKey) InlineNonce(h Header, plain []byte, s *Scratch) [NonceSize]byte {
	k.inlineHeader(s, h, len(plain))
	return k.syntheticNonce(s.aad[:HeaderSize], plain)
}

// syntheticNonce is a PRF of all that the AEAD is given. Its length first tells
// where the AAD ends.
func (k *FileKey) syntheticNonce(aad, plain []byte) (nonce [NonceSize]byte) {
	if k.wiped.Load() {
		panic("envelope: use of a wiped key")
	}
	k.g.derive.reverse.sum(nonce[:], k.key[:], []byte{byte(len(aad))}, aad, plain)
	return nonce
}

// SealedTargetSize returns the length of the stored target of a symlink whose
// plaintext target has n bytes.
func SealedTargetSize(n int64) int64 {
	return int64(base64.RawURLEncoding.EncodedLen(targetOverhead + int(n)))
}
