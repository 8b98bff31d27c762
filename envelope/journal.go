package envelope

import (
	"crypto/subtle"
	"encoding/binary"
	"iter"
)

// Sizes of the journal (FORMAT.md, Journal), in bytes.
const (
	// JournalHeaderSize is the size of the header of a journal file, and where its first record begins.
	JournalHeaderSize = SectorSize
	// JournalRecordMax is the size of the largest record.
	JournalRecordMax = 1 << 17

	journalHeadSize  = 64
	journalChunkSize = 8 + 2*EntrySize
	journalSeal      = JournalHeaderSize - TagSize
)

const journalMagic = "KMJ1"

// JournalHeader begins a journal file.
type JournalHeader struct {
	Epoch  uint64 // from 1, a larger one each time that a journal file is begun anew
	Volume VolumeID
}

// MarshalJournalHeader returns the header, sealed.
func (k *VolumeKeys) MarshalJournalHeader(h JournalHeader) (b [JournalHeaderSize]byte) {
	copy(b[:], journalMagic)
	binary.LittleEndian.PutUint64(b[8:], h.Epoch)
	copy(b[16:], h.Volume[:])
	k.journal.sum(b[journalSeal:], b[:journalSeal], nil)
	return b
}

// ParseJournalHeader reads the header at the start of b. It fails with ErrCorrupt, also for a header that a crash tore,
// or with ErrUnsupported.
func (k *VolumeKeys) ParseJournalHeader(b []byte) (JournalHeader, error) {
	h, err := PeekJournalHeader(b)
	if err != nil {
		return JournalHeader{}, err
	}
	var mac [TagSize]byte
	k.journal.sum(mac[:], b[:journalSeal], nil)
	if subtle.ConstantTimeCompare(mac[:], b[journalSeal:JournalHeaderSize]) != 1 {
		return JournalHeader{}, corrupt("journal: the seal of the header does not match")
	}
	return h, nil
}

// PeekJournalHeader is VolumeKeys.ParseJournalHeader for who does not have the volume key: nothing of what it returns is
// authentic.
func PeekJournalHeader(b []byte) (JournalHeader, error) {
	if len(b) < JournalHeaderSize {
		return JournalHeader{}, corrupt("journal: %d bytes", len(b))
	}
	if err := checkMagic(b, journalMagic, "journal"); err != nil {
		return JournalHeader{}, err
	}
	if err := checkFeatures(binary.LittleEndian.Uint32(b[4:]), "journal"); err != nil {
		return JournalHeader{}, err
	}
	return JournalHeader{Epoch: binary.LittleEndian.Uint64(b[8:]), Volume: VolumeID(b[16:32])}, nil
}

// PeekJournalFiles are the ids of the files that a journal file, b, may have changes of, perhaps some of them several
// times, and perhaps others: nothing of it is authentic.
func PeekJournalFiles(b []byte) iter.Seq[FileID] {
	return func(yield func(FileID) bool) {
		for at := JournalHeaderSize; at+journalHeadSize <= len(b); {
			r := b[at:]
			n := binary.LittleEndian.Uint32(r[16:])
			if n < journalHeadSize || n > JournalRecordMax {
				return
			}
			if !yield(FileID(r[32:48])) {
				return
			}
			at += roundSector(int(n))
		}
	}
}

// JournalKind is what a record of the journal holds.
type JournalKind uint8

// The kinds of record.
const (
	// JournalChunk: a chunk's new ciphertext, with the entry that was in place and the one that is to be.
	JournalChunk JournalKind = 1 + iota
	// JournalBlock: a new first block of a file, inline or index, and for the latter the ciphertext of chunk 0.
	JournalBlock
	// JournalPlace: where the file is, as stored names from the vault's directory down.
	JournalPlace
	// JournalForget: what stands before of this file is not to be done any more.
	JournalForget
)

// JournalRecord is one change to a stored file that is not in place yet.
type JournalRecord struct {
	Kind JournalKind
	Seq  uint64 // larger than that of all records before
	ID   FileID

	Chunk    uint64 // JournalChunk: number in the file
	Old, New Entry  // JournalChunk: what was in place, none in a hole, and what opens Data
	Data     []byte // ciphertext: of the chunk, or with JournalBlock of chunk 0, if any

	Token [TagSize]byte // JournalBlock: BlockToken of the block that was in place
	Block []byte        // JournalBlock: the block, at most BlockSize

	Place []string // JournalPlace: stored names, each 1 to 255 bytes
}

// BlockToken names the content of a file's first block by its first sector, of which b may be less.
func BlockToken(b []byte) [TagSize]byte {
	var s [SectorSize]byte
	copy(s[:], b)
	return checksum(s[:])
}

// Size returns how many bytes the record takes in a journal file.
func (r *JournalRecord) Size() int { return roundSector(journalHeadSize + r.bodySize()) }

func roundSector(n int) int { return (n + SectorSize - 1) / SectorSize * SectorSize }

func (r *JournalRecord) bodySize() int {
	switch r.Kind {
	case JournalChunk:
		return journalChunkSize + len(r.Data)
	case JournalBlock:
		return 2 + len(r.Block) + len(r.Data)
	case JournalPlace:
		n := 0
		for _, name := range r.Place {
			n += 1 + len(name)
		}
		return n
	}
	return 0
}

// MarshalJournalRecord writes the record to b[:r.Size()], which is to stand at byte off of the journal file of that epoch.
// It panics for a record that ParseJournalRecord would refuse.
func (k *VolumeKeys) MarshalJournalRecord(b []byte, epoch uint64, off int64, r *JournalRecord) {
	used := journalHeadSize + r.bodySize()
	b = b[:roundSector(used)]
	if len(b) > JournalRecordMax {
		panic("envelope: journal record too large")
	}
	clear(b[:journalHeadSize])
	binary.LittleEndian.PutUint32(b[16:], uint32(used))
	b[20] = byte(r.Kind)
	binary.LittleEndian.PutUint64(b[24:], r.Seq)
	copy(b[32:48], r.ID[:])
	body := b[journalHeadSize:used]
	switch r.Kind {
	case JournalChunk:
		if len(r.Data) == 0 || int(r.New.Length) != len(r.Data) {
			panic("envelope: journal record of no chunk")
		}
		binary.LittleEndian.PutUint64(body, r.Chunk)
		r.Old.marshal(body[8:])
		r.New.marshal(body[8+EntrySize:])
		copy(body[journalChunkSize:], r.Data)
	case JournalBlock:
		if len(r.Block) < InlineOverhead || len(r.Block) > BlockSize {
			panic("envelope: journal record of no block")
		}
		copy(b[48:], r.Token[:])
		binary.LittleEndian.PutUint16(body, uint16(len(r.Block)))
		copy(body[2:], r.Block)
		copy(body[2+len(r.Block):], r.Data)
	case JournalPlace:
		for _, name := range r.Place {
			if len(name) < 1 || len(name) > NameMax {
				panic("envelope: journal record of no place")
			}
			body[0] = byte(len(name))
			copy(body[1:], name)
			body = body[1+len(name):]
		}
	case JournalForget:
	default:
		panic("envelope: journal record of no kind")
	}
	clear(b[used:])
	k.sumJournal(b[:TagSize], epoch, off, b[TagSize:used])
}

func (k *VolumeKeys) sumJournal(out []byte, epoch uint64, off int64, b []byte) {
	var place [16]byte
	binary.LittleEndian.PutUint64(place[:], epoch)
	binary.LittleEndian.PutUint64(place[8:], uint64(off))
	k.journal.sum(out, place[:], b)
}

// ParseJournalRecord reads the record at the start of b, which stands at byte off of the journal file of that epoch, and
// returns how many bytes it takes. It fails with ErrCorrupt where there is none: the journal ends there. The record
// holds on to b.
func (k *VolumeKeys) ParseJournalRecord(b []byte, epoch uint64, off int64) (JournalRecord, int, error) {
	var r JournalRecord
	if len(b) < journalHeadSize {
		return r, 0, corrupt("journal: no record")
	}
	used := int64(binary.LittleEndian.Uint32(b[16:]))
	if used < journalHeadSize || used > JournalRecordMax || used > int64(len(b)) {
		return r, 0, corrupt("journal: no record")
	}
	var mac [TagSize]byte
	k.sumJournal(mac[:], epoch, off, b[TagSize:used])
	if subtle.ConstantTimeCompare(mac[:], b[:TagSize]) != 1 {
		return r, 0, corrupt("journal: no record")
	}
	r.Kind, r.Seq, r.ID = JournalKind(b[20]), binary.LittleEndian.Uint64(b[24:]), FileID(b[32:48])
	body, ok := b[journalHeadSize:used], true
	switch r.Kind {
	case JournalChunk:
		if ok = len(body) > journalChunkSize; !ok {
			break
		}
		r.Chunk = binary.LittleEndian.Uint64(body)
		r.Old.unmarshal(body[8:])
		r.New.unmarshal(body[8+EntrySize:])
		r.Data = body[journalChunkSize:]
		ok = int(r.New.Length) == len(r.Data) && r.Chunk <= uint64(MaxPlain)>>12
	case JournalBlock:
		if ok = len(body) >= 2; !ok {
			break
		}
		n := int(binary.LittleEndian.Uint16(body))
		if ok = n >= InlineOverhead && n <= BlockSize && 2+n <= len(body); ok {
			r.Token, r.Block, r.Data = [TagSize]byte(b[48:64]), body[2:2+n], body[2+n:]
		}
	case JournalPlace:
		for ok && len(body) > 0 {
			n := int(body[0])
			if ok = n > 0 && 1+n <= len(body); ok {
				r.Place = append(r.Place, string(body[1:1+n]))
				body = body[1+n:]
			}
		}
	case JournalForget:
		ok = len(body) == 0
	default:
		return r, 0, unsupported("journal: record of kind %d", r.Kind)
	}
	if !ok {
		return JournalRecord{}, 0, corrupt("journal: a record of kind %d does not hold together", r.Kind)
	}
	return r, roundSector(int(used)), nil
}
