package envelope

import (
	"encoding/hex"
	"strconv"
)

// FileID names a file's contents and its data key: 16 random bytes.
type FileID [16]byte

// DirID names a directory: 16 random bytes, for the root derived from the
// volume key.
type DirID [16]byte

// VolumeID names a vault: 16 random bytes.
type VolumeID [16]byte

// String returns 32 lower-case hex digits.
func (id FileID) String() string { return hex.EncodeToString(id[:]) }

// String returns 32 lower-case hex digits.
func (id DirID) String() string { return hex.EncodeToString(id[:]) }

// String returns 32 lower-case hex digits.
func (id VolumeID) String() string { return hex.EncodeToString(id[:]) }

// Locator says where in the sidecar a file's record stands.
type Locator struct {
	Table uint64 // id of the key table, not 0
	Slot  uint32 // slot in the table, not 0 (that is the table's header)
}

// String returns the table's file name and the slot.
func (l Locator) String() string {
	return TableName(l.Table) + ":" + strconv.FormatUint(uint64(l.Slot), 10)
}

// formatVersion is the value of the config member and of the encryption context.
const formatVersion = "1"

// FileContext returns the encryption context of a file's data key (FORMAT.md,
// Keys). The map is the caller's.
func FileContext(v VolumeID, id FileID) map[string]string {
	c := VolumeContext(v)
	c["kmsfs:file"] = id.String()
	return c
}

// VolumeContext returns the encryption context of a vault's volume key. The map
// is the caller's.
func VolumeContext(v VolumeID) map[string]string {
	return map[string]string{"kmsfs:volume": v.String(), "kmsfs:format": formatVersion}
}
