package envelope

import "encoding/binary"

// IndexBlock is the first block of a group (FORMAT.md, Index block). Its methods
// read and write the bytes in place; what was changed is sealed by SealSector and
// is authentic after VerifySector. Slots are numbered 0 to 62, by the chunk's
// place in the group; other numbers panic. Not safe for concurrent use.
type IndexBlock [BlockSize]byte

const (
	positionsPerSector = 8
	positionSize       = 2 * EntrySize
	sectorUnsettled    = positionsPerSector * positionSize // 480
	sectorPresence     = sectorUnsettled + 1
	sectorSeal         = SectorSize - TagSize // 496
)

// PresencePerSector is the number of presence bits in a sector of an index block:
// bit k stands in sector k/PresencePerSector.
const PresencePerSector = 8 * (sectorSeal - sectorPresence)

// SectorOf returns the sector of an index block that holds slot i.
func SectorOf(i int) int { return (i + 1) / positionsPerSector }

func slotOffset(i int) int {
	if uint(i) >= ChunksPerGroup {
		panic("envelope: no such slot")
	}
	p := i + 1
	return p/positionsPerSector*SectorSize + p%positionsPerSector*positionSize
}

// Header parses the block's header, as [ParseHeader] does.
func (b *IndexBlock) Header() (Header, error) { return ParseHeader(b[:HeaderSize]) }

// SetHeader writes the block's header, in sector 0, as [Header.Marshal] does.
func (b *IndexBlock) SetHeader(h *Header) { h.Marshal(b[:HeaderSize]) }

// Slot returns the current and the previous entry of slot i.
func (b *IndexBlock) Slot(i int) (cur, prev Entry) {
	s := b[slotOffset(i):][:positionSize]
	cur.unmarshal(s)
	prev.unmarshal(s[EntrySize:])
	return cur, prev
}

// SetSlot writes the entries of slot i. A previous entry is for unsettled slots
// only.
func (b *IndexBlock) SetSlot(i int, cur, prev Entry) {
	s := b[slotOffset(i):][:positionSize]
	cur.marshal(s)
	prev.marshal(s[EntrySize:])
}

// Unsettled reports whether slot i may be ahead of the data.
func (b *IndexBlock) Unsettled(i int) bool {
	at, bit := unsettledBit(i)
	return b[at]&bit != 0
}

// Settlement is whether a slot is known to fit the data.
type Settlement uint8

// The settlements.
const (
	// Settled: the data is what the current entry says; there is no previous one.
	Settled Settlement = iota
	// Unsettled: the current entry may be ahead of the data. Readers try it, then
	// the previous one, then take the chunk for a hole where there is none.
	Unsettled
)

// SetUnsettled notes the settlement of slot i. Settled drops its previous entry.
func (b *IndexBlock) SetUnsettled(i int, v Settlement) {
	at, bit := unsettledBit(i)
	if v == Unsettled {
		b[at] |= bit
		return
	}
	b[at] &^= bit
	clear(b[slotOffset(i)+EntrySize:][:EntrySize])
}

func unsettledBit(i int) (at int, bit byte) {
	if uint(i) >= ChunksPerGroup {
		panic("envelope: no such slot")
	}
	p := i + 1
	return p/positionsPerSector*SectorSize + sectorUnsettled, 1 << (p % positionsPerSector)
}

// Presence reports presence bit k, 0 to PresenceFanout-1: see [PresenceParent].
func (b *IndexBlock) Presence(k int) bool {
	at, bit := presenceBit(k)
	return b[at]&bit != 0
}

// Presence is whether a group is known to have been written.
type Presence uint8

// The presences.
const (
	// Absent: the group may be a hole.
	Absent Presence = iota
	// Present: an index block of zeros is a loss.
	Present
)

// SetPresence notes the presence of child k. That of a group that a truncation
// cut off must be Absent before the file grows over it again.
func (b *IndexBlock) SetPresence(k int, v Presence) {
	at, bit := presenceBit(k)
	if v == Present {
		b[at] |= bit
		return
	}
	b[at] &^= bit
}

func presenceBit(k int) (at int, bit byte) {
	if uint(k) >= PresenceFanout {
		panic("envelope: no such presence bit")
	}
	i := k % PresencePerSector
	return k/PresencePerSector*SectorSize + sectorPresence + i/8, 1 << (i % 8)
}

// IsZero reports whether the block is all zero: that of a group never written.
func (b *IndexBlock) IsZero() bool {
	for i := 0; i < BlockSize; i += 32 {
		w := b[i : i+32]
		if binary.LittleEndian.Uint64(w)|binary.LittleEndian.Uint64(w[8:])|
			binary.LittleEndian.Uint64(w[16:])|binary.LittleEndian.Uint64(w[24:]) != 0 {
			return false
		}
	}
	return true
}

func (e *Entry) marshal(b []byte) {
	b = b[:EntrySize]
	if e.Length == 0 {
		clear(b)
		return
	}
	if e.Length > 1<<16 {
		panic("envelope: entry of more than 65536 bytes")
	}
	copy(b, e.Nonce[:])
	copy(b[NonceSize:], e.Tag[:])
	binary.LittleEndian.PutUint16(b[NonceSize+TagSize:], uint16(e.Length-1))
}

func (e *Entry) unmarshal(b []byte) {
	b = b[:EntrySize]
	if isNone(b) {
		*e = Entry{}
		return
	}
	e.Nonce = [NonceSize]byte(b)
	e.Tag = [TagSize]byte(b[NonceSize:])
	e.Length = uint32(binary.LittleEndian.Uint16(b[NonceSize+TagSize:])) + 1
}

// isNone reports whether the EntrySize bytes of an entry are all zero.
func isNone(b []byte) bool {
	b = b[:EntrySize]
	return binary.LittleEndian.Uint64(b)|binary.LittleEndian.Uint64(b[8:])|
		binary.LittleEndian.Uint64(b[16:])|binary.LittleEndian.Uint64(b[EntrySize-8:]) == 0
}
