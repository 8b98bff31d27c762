package local

import (
	"encoding/binary"
	"fmt"

	"kmsfs/keysource"
)

// The layout of the store file, version 1; see PROTOCOL.md, "Key store file". Numbers are big-endian.
const (
	fileMagic   = "kmsfs-ks"
	fileVersion = 1

	offVersion    = len(fileMagic)
	offHeaderSize = offVersion + 2
	offFeatures   = offHeaderSize + 2
	offStoreID    = offFeatures + 4
	offGeneration = offStoreID + 16
	offMaster     = offGeneration + 8
	offArgon2     = offMaster + 4
	offMasterSalt = offArgon2 + 12
	offWrapped    = offMasterSalt + saltSize
	offBodySalt   = offWrapped + wrappedSize
	offBodySize   = offBodySalt + saltSize
	headerSize    = offBodySize + 4

	wrappedSize = secretSize + tagSize
	// maxBodySize bounds what is read into memory.
	maxBodySize = 256 << 20
)

// masterKind says what opens a store.
type masterKind byte

// The kinds of master key.
const (
	masterKeyFile    masterKind = 1
	masterPassphrase masterKind = 2
)

// header is the clear beginning of the store file, all of it authenticated with the body.
type header struct {
	storeID    [16]byte
	generation uint64
	lock       masterLock
	bodySalt   [saltSize]byte
	bodySize   uint32
}

// masterLock is the part of the header that says how the master key opens the store key.
type masterLock struct {
	kind    masterKind
	argon2  Argon2 // of a passphrase, else zero
	salt    [saltSize]byte
	wrapped [wrappedSize]byte // the store key, sealed
}

// marshal returns the headerSize bytes of h.
func (h header) marshal() []byte {
	b := make([]byte, headerSize)
	copy(b, fileMagic)
	binary.BigEndian.PutUint16(b[offVersion:], fileVersion)
	binary.BigEndian.PutUint16(b[offHeaderSize:], uint16(headerSize))
	copy(b[offStoreID:], h.storeID[:])
	binary.BigEndian.PutUint64(b[offGeneration:], h.generation)
	b[offMaster] = byte(h.lock.kind)
	binary.BigEndian.PutUint32(b[offArgon2:], h.lock.argon2.MemoryKiB)
	binary.BigEndian.PutUint32(b[offArgon2+4:], h.lock.argon2.Time)
	binary.BigEndian.PutUint32(b[offArgon2+8:], uint32(h.lock.argon2.Threads))
	copy(b[offMasterSalt:], h.lock.salt[:])
	copy(b[offWrapped:], h.lock.wrapped[:])
	copy(b[offBodySalt:], h.bodySalt[:])
	binary.BigEndian.PutUint32(b[offBodySize:], h.bodySize)
	return b
}

// parseHeader reads the header at the beginning of b. What does not read back byte for byte is refused.
func parseHeader(b []byte) (header, error) {
	var h header
	switch {
	case len(b) == 0:
		return h, damaged("the file is empty")
	case len(b) < offFeatures+4:
		return h, damaged("the file is cut short: %d bytes", len(b))
	case string(b[:offVersion]) != fileMagic:
		return h, damaged("the file is not a key store of kmsfs")
	case binary.BigEndian.Uint16(b[offVersion:]) != fileVersion:
		return h, newer("version %d", binary.BigEndian.Uint16(b[offVersion:]))
	case binary.BigEndian.Uint32(b[offFeatures:]) != 0:
		return h, newer("features %#x", binary.BigEndian.Uint32(b[offFeatures:]))
	case len(b) < headerSize:
		return h, damaged("the file is cut short: %d bytes", len(b))
	}
	copy(h.storeID[:], b[offStoreID:])
	h.generation = binary.BigEndian.Uint64(b[offGeneration:])
	h.lock.kind = masterKind(b[offMaster])
	h.lock.argon2.MemoryKiB = binary.BigEndian.Uint32(b[offArgon2:])
	h.lock.argon2.Time = binary.BigEndian.Uint32(b[offArgon2+4:])
	h.lock.argon2.Threads = uint8(min(binary.BigEndian.Uint32(b[offArgon2+8:]), 255))
	copy(h.lock.salt[:], b[offMasterSalt:])
	copy(h.lock.wrapped[:], b[offWrapped:])
	copy(h.bodySalt[:], b[offBodySalt:])
	h.bodySize = binary.BigEndian.Uint32(b[offBodySize:])
	if string(h.marshal()) != string(b[:headerSize]) {
		return h, damaged("the header has bytes that mean nothing")
	}
	return h, h.validate()
}

// validate refuses what no kmsfs writes.
func (h header) validate() error {
	switch h.lock.kind {
	case masterKeyFile:
		if h.lock.argon2 != (Argon2{}) {
			return damaged("the header has argon2id parameters but no passphrase")
		}
	case masterPassphrase:
		if err := h.lock.argon2.validate(); err != nil {
			return damaged("%v", err)
		}
	default:
		return newer("master key kind %d", h.lock.kind)
	}
	if h.bodySize < tagSize || h.bodySize > maxBodySize {
		return damaged("the header gives a body of %d bytes", h.bodySize)
	}
	return nil
}

// newer is the error for a file of a later kmsfs.
func newer(format string, args ...any) error {
	err := &keysource.Error{Op: "Open", Code: keysource.CodeUnsupported, Kind: keysource.ErrUnsupported,
		Message: "key store has " + fmt.Sprintf(format, args...) + ", which this kmsfs does not know", Err: ErrDamaged}
	return keysource.WithHint(err, "use the kmsfs that wrote it, or a later one")
}
