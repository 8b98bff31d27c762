package envelope

import (
	"crypto/subtle"
	"encoding/binary"
	"fmt"
)

const (
	recordMagic = "KMR1"
	recordHead  = 88

	recordMACHead = 6  // bytes 0..5 under the MAC
	recordMACBody = 8  // and from here
	recordMACEnd  = 68 // to here
)

// Record is what the sidecar knows of one data key (FORMAT.md, Key tables).
type Record struct {
	ID         FileID
	Created    int64    // ns since 1970
	Commitment [32]byte // to the data key
	Wrappings  []Wrapping

	mac [TagSize]byte
}

// NewRecord returns the record of a data key, which must be that of id. A rewrap
// needs no key: it parses the record, replaces Wrappings and marshals it.
func NewRecord(fk *FileKey, id FileID, created int64, wrappings []Wrapping) *Record {
	if fk.id != id {
		panic("envelope: record for the key of another file")
	}
	r := &Record{ID: id, Created: created, Commitment: fk.Commitment(), Wrappings: wrappings}
	r.mac = r.computeMAC(fk)
	return r
}

// MarshaledSize returns the bytes that the record uses of its slot; see
// [SlotSizeFor].
func (r *Record) MarshaledSize() int {
	n := recordHead
	for i := range r.Wrappings {
		n += r.Wrappings[i].marshaledSize()
	}
	return n
}

// marshalHead writes the fixed part, without the MAC.
func (r *Record) marshalHead(b []byte) {
	copy(b, recordMagic)
	b[4] = Suite
	binary.LittleEndian.PutUint16(b[6:], uint16(r.MarshaledSize()))
	copy(b[12:], r.ID[:])
	binary.LittleEndian.PutUint64(b[28:], uint64(r.Created))
	copy(b[36:], r.Commitment[:])
	b[84] = byte(len(r.Wrappings))
}

func (r *Record) computeMAC(fk *FileKey) [TagSize]byte {
	var b [recordHead]byte
	r.marshalHead(b[:])
	return fk.recordMAC(b[:recordMACHead], b[recordMACBody:recordMACEnd])
}

// Marshal writes the record to the whole of slot, whose length is the slot size.
// It fails, with nothing written, for wrappings that the format or the slot
// cannot hold.
func (r *Record) Marshal(slot []byte) error {
	if !validSlotSize(len(slot)) {
		return fmt.Errorf("slot of %d bytes", len(slot))
	}
	if err := checkWrappings(r.Wrappings); err != nil {
		return err
	}
	if n := r.MarshaledSize(); n > len(slot)-TagSize {
		return fmt.Errorf("record of %d bytes for a slot of %d", n, len(slot))
	}
	clear(slot)
	r.marshalHead(slot)
	copy(slot[recordMACEnd:], r.mac[:])
	b := slot[:recordHead]
	for i := range r.Wrappings {
		b = r.Wrappings[i].appendTo(b)
	}
	putChecksum(slot)
	return nil
}

// ParseRecord reads the record in slot, a whole slot. The record is authentic
// after Verify. It fails with ErrErased, ErrUnsupported or ErrCorrupt.
func ParseRecord(slot []byte) (*Record, error) {
	const what = "record"
	if !validSlotSize(len(slot)) {
		return nil, corrupt("%s: slot of %d bytes", what, len(slot))
	}
	if IsZero(slot) {
		return nil, fmt.Errorf("%s: %w", what, ErrErased)
	}
	if err := checkMagic(slot, recordMagic, what); err != nil {
		return nil, err
	}
	if !checksumOK(slot) {
		return nil, corrupt("%s: the checksum does not match", what)
	}
	if err := checkFeatures(binary.LittleEndian.Uint32(slot[8:]), what); err != nil {
		return nil, err
	}
	if slot[4] != Suite {
		return nil, unsupported("%s: suite %d", what, slot[4])
	}
	used, count := int(binary.LittleEndian.Uint16(slot[6:])), int(slot[84])
	if used < recordHead || used > len(slot)-TagSize || count == 0 || count > WrappingsMax ||
		slot[5] != 0 || !IsZero(slot[85:recordHead]) || !IsZero(slot[used:len(slot)-TagSize]) {
		return nil, corrupt("%s: %d bytes, %d wrappings", what, used, count)
	}
	r := &Record{
		ID:         FileID(slot[12:28]),
		Created:    int64(binary.LittleEndian.Uint64(slot[28:])),
		Commitment: [32]byte(slot[36:68]),
		Wrappings:  make([]Wrapping, count),
		mac:        [TagSize]byte(slot[recordMACEnd:]),
	}
	rest, err := slot[recordHead:used], error(nil)
	for i := range r.Wrappings {
		if r.Wrappings[i], rest, err = parseWrapping(rest); err != nil {
			return nil, err
		}
	}
	if err := checkWrappings(r.Wrappings); err != nil {
		return nil, asCorrupt(err)
	}
	if len(rest) != 0 {
		return nil, corrupt("%s: %d bytes after the wrappings", what, len(rest))
	}
	return r, nil
}

// Verify checks that the record is that of the data key and file: ErrWrongKey
// where it commits to another key, ErrCorrupt where it is of another file or was
// changed. The wrappings are not covered (FORMAT.md, Key tables).
func (r *Record) Verify(fk *FileKey) error {
	commitment, mac := fk.Commitment(), r.computeMAC(fk)
	switch {
	case subtle.ConstantTimeCompare(commitment[:], r.Commitment[:]) != 1:
		return fmt.Errorf("record of file %v: %w", r.ID, ErrWrongKey)
	case subtle.ConstantTimeCompare(mac[:], r.mac[:]) != 1:
		return corrupt("record of file %v: the MAC does not match", r.ID)
	case r.ID != fk.id:
		return corrupt("record of file %v, not %v", r.ID, fk.id)
	}
	return nil
}

// MendRecord flips back the one bit of a slot that keeps the record in it from
// opening: its checksum tells which. ok is false, and the slot as it was, where
// more or something else is wrong.
func MendRecord(slot []byte) (ok bool) {
	if len(slot) > MaxSlotSize || len(slot) < MinSlotSize {
		return false
	}
	for bit := range 8 * len(slot) {
		slot[bit/8] ^= 1 << (bit % 8)
		if checksumOK(slot) {
			if _, err := ParseRecord(slot); err == nil {
				return true
			}
		}
		slot[bit/8] ^= 1 << (bit % 8)
	}
	return false
}
