package envelope

import (
	"encoding/binary"
	"fmt"
)

const (
	tableMagic      = "KMT1"
	tableHeaderUsed = 44

	// MinSlotSize and MaxSlotSize bound the slots of a key table; sizes are
	// powers of two. The first MaxSlotSize bytes of a table hold its header.
	MinSlotSize = 512
	// MaxSlotSize is the largest slot size.
	MaxSlotSize = 8192
)

// TableHeader stands in slot 0 of a key table.
type TableHeader struct {
	SlotSize uint32
	ID       uint64 // not 0
	Volume   VolumeID
	Created  int64 // ns since 1970
}

// TableName returns the file name of a key table: 16 lower-case hex digits.
func TableName(id uint64) string { return fmt.Sprintf("%016x", id) }

// ParseTableName is the inverse of TableName; ok is false for any other name.
func ParseTableName(name string) (id uint64, ok bool) {
	if len(name) != 16 {
		return 0, false
	}
	for i := range len(name) {
		d, ok := hexDigit(name[i])
		if !ok {
			return 0, false
		}
		id = id<<4 | uint64(d)
	}
	return id, id != 0
}

func hexDigit(c byte) (byte, bool) {
	switch {
	case '0' <= c && c <= '9':
		return c - '0', true
	case 'a' <= c && c <= 'f':
		return c - 'a' + 10, true
	}
	return 0, false
}

// SlotSizeFor returns the smallest slot size that holds a record of recordSize
// bytes ([Record.MarshaledSize]), or an error where none does.
func SlotSizeFor(recordSize int) (int, error) {
	for z := MinSlotSize; z <= MaxSlotSize; z *= 2 {
		if recordSize <= z-TagSize {
			return z, nil
		}
	}
	return 0, fmt.Errorf("record of %d bytes, of at most %d", recordSize, MaxSlotSize-TagSize)
}

func validSlotSize(z int) bool {
	return z >= MinSlotSize && z <= MaxSlotSize && z&(z-1) == 0
}

// Marshal writes the header to slot, which must have SlotSize bytes.
func (h *TableHeader) Marshal(slot []byte) error {
	switch {
	case !validSlotSize(int(h.SlotSize)):
		return fmt.Errorf("slot size %d", h.SlotSize)
	case len(slot) != int(h.SlotSize):
		return fmt.Errorf("slot of %d bytes, not %d", len(slot), h.SlotSize)
	case h.ID == 0:
		return fmt.Errorf("table id 0")
	}
	clear(slot)
	copy(slot, tableMagic)
	binary.LittleEndian.PutUint32(slot[4:], h.SlotSize)
	binary.LittleEndian.PutUint64(slot[8:], h.ID)
	copy(slot[16:], h.Volume[:])
	binary.LittleEndian.PutUint64(slot[36:], uint64(h.Created))
	putChecksum(slot)
	return nil
}

// ParseTableHeader reads the header of a table from its beginning: the first
// MaxSlotSize bytes, or the whole table where that is shorter. The caller compares
// ID with the file's name and Volume with the vault's. It fails with ErrCorrupt
// or ErrUnsupported.
func ParseTableHeader(b []byte) (TableHeader, error) {
	const what = "key table"
	if len(b) < MinSlotSize {
		return TableHeader{}, corrupt("%s: %d bytes", what, len(b))
	}
	if err := checkMagic(b, tableMagic, what); err != nil {
		return TableHeader{}, err
	}
	z := binary.LittleEndian.Uint32(b[4:])
	if z > MaxSlotSize || !validSlotSize(int(z)) || int(z) > len(b) {
		return TableHeader{}, corrupt("%s: slot size %d", what, z)
	}
	slot := b[:z]
	if !checksumOK(slot) {
		return TableHeader{}, corrupt("%s: the checksum does not match", what)
	}
	if err := checkFeatures(binary.LittleEndian.Uint32(slot[32:]), what); err != nil {
		return TableHeader{}, err
	}
	h := TableHeader{
		SlotSize: z,
		ID:       binary.LittleEndian.Uint64(slot[8:]),
		Volume:   VolumeID(slot[16:32]),
		Created:  int64(binary.LittleEndian.Uint64(slot[36:])),
	}
	if h.ID == 0 || !IsZero(slot[tableHeaderUsed:z-TagSize]) {
		return TableHeader{}, corrupt("%s: header", what)
	}
	return h, nil
}

func putChecksum(slot []byte) {
	sum := checksum(slot[:len(slot)-TagSize])
	copy(slot[len(slot)-TagSize:], sum[:])
}

func checksumOK(slot []byte) bool {
	return checksum(slot[:len(slot)-TagSize]) == [TagSize]byte(slot[len(slot)-TagSize:])
}
