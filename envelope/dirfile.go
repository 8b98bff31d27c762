package envelope

import (
	"crypto/subtle"
	"encoding/binary"
)

const (
	dirMagic   = "KMD1"
	dirFileMAC = DirFileSize - TagSize
)

// MarshalDirFile returns the contents of a directory's id file (FORMAT.md,
// Directory id).
func (k *VolumeKeys) MarshalDirFile(id DirID) [DirFileSize]byte {
	var b [DirFileSize]byte
	copy(b[:], dirMagic)
	copy(b[8:], id[:])
	k.directory.sum(b[dirFileMAC:], b[:dirFileMAC], nil)
	return b
}

// ParseDirFile reads the whole contents of a directory's id file. It fails with
// ErrUnsupported for a feature of a later version, else with ErrCorrupt.
func (k *VolumeKeys) ParseDirFile(b []byte) (DirID, error) {
	if len(b) < DirFileSize {
		return DirID{}, corrupt("directory id: %d bytes", len(b))
	}
	if err := checkMagic(b, dirMagic, "directory id"); err != nil {
		return DirID{}, err
	}
	if err := checkFeatures(binary.LittleEndian.Uint32(b[4:]), "directory id"); err != nil {
		return DirID{}, err
	}
	var want [TagSize]byte
	k.directory.sum(want[:], b[:dirFileMAC], nil)
	if subtle.ConstantTimeCompare(want[:], b[dirFileMAC:DirFileSize]) != 1 {
		return DirID{}, corrupt("directory id: the MAC does not match")
	}
	if len(b) != DirFileSize || !isZero(b[24:dirFileMAC]) {
		return DirID{}, corrupt("directory id: more than an id, and no feature bit")
	}
	return DirID(b[8:24]), nil
}
