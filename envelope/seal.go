package envelope

import (
	"crypto/subtle"
	"encoding/binary"
)

// sumSector computes the seal of a sector.
func (b *IndexBlock) sumSector(out []byte, fk *FileKey, group uint64, sector int) {
	var place [9]byte
	binary.LittleEndian.PutUint64(place[:], group)
	place[8] = byte(sector)
	fk.sealMAC(fk.g.derive.index, out, place[:], b[sector*SectorSize:][:sectorSeal])
}

// rule returns what a sector breaks of the rules on slots, or "".
func (b *IndexBlock) rule(sector int, chunkSize uint32) string {
	s := b[sector*SectorSize:][:SectorSize]
	unsettled, first := s[sectorUnsettled], 0
	if sector == 0 {
		first = 1 // position 0 is the header
		if unsettled&1 != 0 {
			return "the header is marked unsettled"
		}
	}
	for p := first; p < positionsPerSector; p++ {
		cur, prev := s[p*positionSize:][:EntrySize], s[p*positionSize+EntrySize:][:EntrySize]
		if entryLength(cur) > chunkSize || entryLength(prev) > chunkSize {
			return "an entry is longer than a chunk"
		}
		if unsettled>>p&1 == 0 && !isNone(prev) {
			return "a settled slot has a previous entry"
		}
	}
	return ""
}

// entryLength reads the length alone; that of none comes out as 1.
func entryLength(b []byte) uint32 {
	return uint32(binary.LittleEndian.Uint16(b[NonceSize+TagSize:])) + 1
}

// SealSector seals a sector, 0 to 7, for the group given. It panics where the
// sector breaks a rule that VerifySector would refuse it for: a settled slot with
// a previous entry, an entry longer than a chunk.
func (b *IndexBlock) SealSector(fk *FileKey, group uint64, sector int) {
	if r := b.rule(sector, 1<<fk.g.log2); r != "" {
		panic("envelope: " + r)
	}
	b.sumSector(b[sector*SectorSize+sectorSeal:][:TagSize], fk, group, sector)
}

// SealAll seals all sectors.
func (b *IndexBlock) SealAll(fk *FileKey, group uint64) {
	for sector := range SectorsPerBlock {
		b.SealSector(fk, group, sector)
	}
}

// VerifySector checks the seal of a sector, 0 to 7, and the rules on its slots;
// in sector 0 also that the header is of this file and group. It fails with
// ErrCorrupt, or with ErrUnsupported for a header of a later version.
func (b *IndexBlock) VerifySector(fk *FileKey, group uint64, sector int) error {
	var want [TagSize]byte
	b.sumSector(want[:], fk, group, sector)
	if subtle.ConstantTimeCompare(want[:], b[sector*SectorSize+sectorSeal:][:TagSize]) != 1 {
		return corrupt("index block of group %d, sector %d: the seal does not match", group, sector)
	}
	if r := b.rule(sector, 1<<fk.g.log2); r != "" {
		return corrupt("index block of group %d, sector %d: %s", group, sector, r)
	}
	if sector != 0 {
		return nil
	}
	h, err := b.Header()
	if err != nil {
		return err
	}
	if h.Group != group || h.ID != fk.id || h.Log2 != fk.g.log2 || h.Flags&FlagInline != 0 {
		return corrupt("index block of group %d: header of another block", group)
	}
	return nil
}

// Verify checks all sectors, as VerifySector does.
func (b *IndexBlock) Verify(fk *FileKey, group uint64) error {
	for sector := range SectorsPerBlock {
		if err := b.VerifySector(fk, group, sector); err != nil {
			return err
		}
	}
	return nil
}
