package envelope

import (
	"crypto/subtle"
	"encoding/binary"
	"errors"
)

const (
	dirMagic   = "KMD1"
	dirFileMAC = DirFileSize - TagSize

	// dirZone is the incompatible feature bit of a directory that is an encryption zone.
	dirZone = 1

	// ZoneKeyMax is the longest reference to the CMK of an encryption zone.
	ZoneKeyMax = 2048
	// DirFileMax is the size of the largest id file, that of a zone.
	DirFileMax = DirFileSize + 2 + ZoneKeyMax
)

// MarshalDirFile returns the contents of a directory's id file (FORMAT.md,
// Directory id). zone is the CMK that new files below the directory get, at most
// ZoneKeyMax bytes, as it was named; "" for one that is no encryption zone.
func (k *VolumeKeys) MarshalDirFile(id DirID, zone string) []byte {
	if len(zone) > ZoneKeyMax {
		panic("envelope: the CMK of a zone is too long")
	}
	b := make([]byte, DirFileSize, DirFileSize+2+len(zone))
	copy(b, dirMagic)
	copy(b[8:], id[:])
	if zone != "" {
		binary.LittleEndian.PutUint32(b[4:], dirZone)
		b = binary.LittleEndian.AppendUint16(b, uint16(len(zone)))
		b = append(b, zone...)
	}
	mac := k.dirFileMAC(b)
	copy(b[dirFileMAC:], mac[:])
	return b
}

func (k *VolumeKeys) dirFileMAC(b []byte) (mac [TagSize]byte) {
	k.directory.sum(mac[:], b[:dirFileMAC], b[DirFileSize:])
	return mac
}

// ParseDirFile reads the whole contents of a directory's id file. zone is the CMK
// of its encryption zone, "" where it is none. It fails with ErrUnsupported for a
// feature of a later version, else with ErrCorrupt.
func (k *VolumeKeys) ParseDirFile(b []byte) (id DirID, zone string, err error) {
	id, zone, err = PeekDirFile(b)
	if errors.Is(err, ErrUnsupported) || len(b) < DirFileSize {
		return DirID{}, "", err
	}
	if mac := k.dirFileMAC(b); subtle.ConstantTimeCompare(mac[:], b[dirFileMAC:DirFileSize]) != 1 {
		return DirID{}, "", corrupt("directory id: the MAC does not match")
	}
	return id, zone, err
}

// MendDirFile flips back the one bit of b, the whole contents of a directory's id
// file, that keeps it from opening. ok is false, and b as it was, where more or
// something else is wrong.
func (k *VolumeKeys) MendDirFile(b []byte) (ok bool) {
	if _, _, err := k.ParseDirFile(b); err == nil {
		return true
	}
	if len(b) > DirFileMax {
		return false
	}
	for bit := range 8 * len(b) {
		b[bit/8] ^= 1 << (bit % 8)
		if _, _, err := k.ParseDirFile(b); err == nil {
			return true
		}
		b[bit/8] ^= 1 << (bit % 8)
	}
	return false
}

// PeekDirFile is [VolumeKeys.ParseDirFile] for who does not have the volume key:
// nothing of what it returns is authentic.
func PeekDirFile(b []byte) (id DirID, zone string, err error) {
	const what = "directory id"
	if len(b) < DirFileSize {
		return DirID{}, "", corrupt("%s: %d bytes", what, len(b))
	}
	if err := checkMagic(b, dirMagic, what); err != nil {
		return DirID{}, "", err
	}
	features := binary.LittleEndian.Uint32(b[4:])
	if err := checkFeatures(features&^dirZone, what); err != nil {
		return DirID{}, "", err
	}
	if !IsZero(b[24:dirFileMAC]) {
		return DirID{}, "", corrupt("%s: reserved bytes", what)
	}
	rest := b[DirFileSize:]
	if features&dirZone != 0 {
		if len(rest) < 2 {
			return DirID{}, "", corrupt("%s: the zone is cut short", what)
		}
		n := int(binary.LittleEndian.Uint16(rest))
		if rest = rest[2:]; n == 0 || n > ZoneKeyMax || n > len(rest) {
			return DirID{}, "", corrupt("%s: a zone of %d bytes", what, n)
		}
		zone, rest = string(rest[:n]), rest[n:]
	}
	if len(rest) != 0 {
		return DirID{}, "", corrupt("%s: %d bytes more", what, len(rest))
	}
	return DirID(b[8:24]), zone, nil
}
