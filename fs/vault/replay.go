package vault

import (
	"errors"
	"fmt"
	"slices"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// recover puts in place what the journal has of f, whose key is there but not in f yet, and reads its header anew. On a
// read-only mount that happens in memory. f.mu is held for writing.
func (f *file) recover(key *envelope.FileKey) error {
	x := f.v.recovery.take(f.id)
	if x == nil {
		return nil
	}
	id, loc := f.id, f.loc
	if !f.v.readOnly {
		if err := f.makeSure(); err != nil {
			f.v.recovery.put(id, x)
			return err
		}
	}
	do := func() error { return f.replay(key, x.records) }
	var err error
	if f.v.readOnly {
		f.n.mu.Lock()
		f.bf = &overlay{File: f.bf, size: -1}
		f.n.mu.Unlock()
		err = do()
	} else if err = f.keepingTime(do); err == nil {
		err = f.bf.DataSync()
	}
	var st backing.Stat
	if err == nil {
		st, err = f.bf.Stat()
	}
	if err == nil && f.replayed { // the time was hidden
		f.hidden = hiddenTime{shown: aside(st.Mtim, hiddenBy), stands: st.Mtim}
		if !f.v.readOnly {
			f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, f.hidden.shown) // a failure costs a second
		}
	}
	if err != nil {
		f.v.recovery.put(id, x)
		return err
	}
	err = f.readHeader(st.Size)                                        // what it refuses is no better with the journal
	if err == nil && f.headed && f.form != formEmpty && f.loc != loc { // once more, with the key that it names now
		f.v.recovery.put(id, x)
		return f.readHeader(st.Size)
	}
	return err
}

// replay puts records in place, in any state that a crash has left the file in.
func (f *file) replay(key *envelope.FileKey, rr []envelope.JournalRecord) error {
	var blocks []*envelope.JournalRecord
	chunks := map[uint64][]*envelope.JournalRecord{}
	for i := range rr {
		switch r := &rr[i]; r.Kind {
		case envelope.JournalBlock:
			blocks = append(blocks, r)
		case envelope.JournalChunk:
			chunks[r.Chunk] = append(chunks[r.Chunk], r)
		}
	}
	if err := f.replayBlock(key, blocks); err != nil || len(chunks) == 0 {
		return err
	}
	if h, ok := readHeaderOf(f.bf); ok && h.Loc != f.loc { // under another key: see recover
		return nil
	}
	return f.replayChunks(key, chunks)
}

// replayBlock puts the first block in place: the last one that leads from the one that is there. One that is torn
// leads anywhere; one that is whole and in no record is later than all of them.
func (f *file) replayBlock(key *envelope.FileKey, blocks []*envelope.JournalRecord) error {
	if len(blocks) == 0 {
		return nil
	}
	b := make([]byte, envelope.BlockSize, envelope.BlockSize+envelope.TagSize)
	got, err := f.bf.ReadAt(b, 0)
	if err != nil {
		return err
	}
	whole := f.opens(key, b[:got])
	there := envelope.BlockToken(b[:got])
	reached := map[[envelope.TagSize]byte]bool{there: true}
	var last *envelope.JournalRecord
	for _, r := range blocks {
		if next := envelope.BlockToken(r.Block); reached[r.Token] || next == there {
			reached[next] = true
			last = r
		}
	}
	switch {
	case last == nil && whole: // later than all
		last = blocks[len(blocks)-1]
	case last == nil && wasDurable(b[:got]): // it is damaged, and who reads it will be told
		return nil
	case last == nil:
		last = blocks[len(blocks)-1]
		fallthrough
	case !whole || envelope.BlockToken(last.Block) != there:
		f.replayed = true
		if _, err := f.bf.WriteAt(last.Block, 0); err != nil {
			return err
		}
		copy(b, last.Block)
		there = envelope.BlockToken(last.Block)
	}
	h, err := envelope.ParseHeader(last.Block)
	switch {
	case err != nil:
		return err
	case h.Flags&envelope.FlagInline == 0:
		return f.replayFirst(b, last)
	case envelope.BlockToken(last.Block) == there:
		return f.bf.Truncate(int64(len(last.Block)))
	}
	return nil
}

// wasDurable says whether a first block that is not whole is that of a file known to be durable, by its header: no crash has left that.
func wasDurable(b []byte) bool {
	h, err := envelope.ParseHeader(b)
	return err == nil && h.Flags&envelope.FlagInline == 0 && saysDurable(&h)
}

// saysDurable says whether a header in the form of groups tells that the file was known to be durable.
func saysDurable(h *envelope.Header) bool {
	return h.Size != 0 || h.Flags&(envelope.FlagExact|envelope.FlagCut) != 0
}

// replayFirst puts in place the ciphertext of chunk 0 that came with an index block, if b, the index block that is there,
// still has it.
func (f *file) replayFirst(b []byte, r *envelope.JournalRecord) error {
	h, err := envelope.ParseHeader(b)
	if err != nil || h.Flags&envelope.FlagInline != 0 || len(r.Block) < envelope.BlockSize || len(r.Data) == 0 {
		return err
	}
	var is, was envelope.IndexBlock
	copy(is[:], b)
	copy(was[:], r.Block)
	if a, _ := is.Slot(0); a != first(was.Slot(0)) { // written over since
		return nil
	}
	_, err = f.bf.WriteAt(r.Data, f.v.geo.ChunkOffset(0))
	return err
}

func first(cur, _ envelope.Entry) envelope.Entry { return cur }

// opens says whether a first block is whole.
func (f *file) opens(key *envelope.FileKey, b []byte) bool {
	h, err := envelope.ParseHeader(b)
	if err != nil {
		return false
	}
	if h.Flags&envelope.FlagInline == 0 {
		var blk envelope.IndexBlock
		copy(blk[:], b)
		for sector := range envelope.SectorsPerBlock {
			if len(b) < envelope.BlockSize || f.verifySector(key, &blk, 0, sector) != nil {
				return false
			}
		}
		return true
	}
	gk, err := key.Group(0)
	if err != nil {
		return false
	}
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	plain := make([]byte, envelope.InlineMax)
	defer clear(plain)
	_, _, err = envelope.OpenInline(gk, b, plain, s)
	return err == nil
}

// replayChunks puts chunks in place, each the last one that leads from the entry that is there.
func (f *file) replayChunks(key *envelope.FileKey, chunks map[uint64][]*envelope.JournalRecord) error {
	var b envelope.IndexBlock
	if got, err := f.bf.ReadAt(b[:], 0); err != nil || got < len(b) {
		return err
	}
	h, err := b.Header()
	if err != nil || h.Flags&envelope.FlagInline != 0 {
		return err
	}
	if err := f.verifySector(key, &b, 0, 0); err != nil { // what is put in place depends on what the header says
		return err
	}
	c := f.v.geo.ChunkSize()
	most := int64(envelope.MaxPlain)
	if h.Flags&(envelope.FlagExact|envelope.FlagCut) != 0 { // the size is known, and not from the journal
		most = int64(h.Size)
	}
	numbers := make([]uint64, 0, len(chunks))
	for chunk := range chunks {
		numbers = append(numbers, chunk)
	}
	slices.Sort(numbers)
	for _, chunk := range numbers {
		if int64(chunk) > (most-1)/c {
			continue
		}
		err := f.replayChunk(key, chunk, chunks[chunk], &h, most)
		if errors.Is(err, envelope.ErrCorrupt) { // not by a crash: who reads it will be told
			f.v.log.Warn("the journal cannot mend a chunk", "err", f.n.fail("recover", err))
			continue
		}
		if err != nil {
			return err
		}
	}
	return nil
}

// replayChunk puts one chunk in place, which is to end within most bytes. h is the header of the file.
func (f *file) replayChunk(key *envelope.FileKey, chunk uint64, rr []*envelope.JournalRecord, h *envelope.Header, most int64) error {
	geo := &f.v.geo
	n, i := chunk/envelope.ChunksPerGroup, int(chunk%envelope.ChunksPerGroup)
	var blk envelope.IndexBlock
	if _, err := f.bf.ReadAt(blk[:], geo.IndexOffset(n)); err != nil {
		return err
	}
	sector := envelope.SectorOf(i)
	from, to := sector, sector
	if envelope.IsZero(blk[sector*envelope.SectorSize:][:envelope.SectorSize]) { // lost by the crash: it is one of holes
		if err := f.replayAbsent(key, n, h); err != nil {
			return err
		}
		if blk.IsZero() {
			from, to = 0, envelope.SectorsPerBlock-1
		}
		if from == 0 {
			blk.SetHeader(&envelope.Header{Log2: geo.Log2(), ID: f.id, Group: n, Loc: h.Loc})
		}
	} else if err := f.verifySector(key, &blk, n, sector); err != nil {
		return err
	}
	cur, prev := blk.Slot(i)
	reached := map[envelope.Entry]bool{cur: true}
	var last *envelope.JournalRecord
	for _, r := range rr {
		if reached[r.Old] || r.New == cur {
			reached[r.New] = true
			last = r
		}
	}
	if last != nil && last.New == cur && !blk.Unsettled(i) {
		return nil // it has been durable in place
	}
	c := geo.ChunkSize()
	if last == nil || int64(last.New.Length) > c || int64(chunk)*c+int64(last.New.Length) > most {
		return nil
	}
	if last.New != cur {
		prev = cur
		f.replayed = true
	}
	blk.SetSlot(i, last.New, prev)
	blk.SetUnsettled(i, envelope.Unsettled)
	for s := from; s <= to; s++ {
		blk.SealSector(key, n, s)
	}
	at := from * envelope.SectorSize
	if _, err := f.bf.WriteAt(blk[at:(to+1)*envelope.SectorSize], geo.IndexOffset(n)+int64(at)); err != nil {
		return err
	}
	if _, err := f.bf.WriteAt(last.Data, geo.ChunkOffset(chunk)); err != nil {
		return err
	}
	if !f.v.readOnly {
		f.touch(n)
	}
	return nil
}

// replayAbsent refuses a sector of zeros in index block n where it was known to be durable. h is the header of the file.
func (f *file) replayAbsent(key *envelope.FileKey, n uint64, h *envelope.Header) error {
	for n > 0 {
		p, k := envelope.PresenceParent(n)
		var blk envelope.IndexBlock
		if _, err := f.bf.ReadAt(blk[:], f.v.geo.IndexOffset(p)); err != nil {
			return err
		}
		sector := k / envelope.PresencePerSector
		lost := envelope.IsZero(blk[sector*envelope.SectorSize:][:envelope.SectorSize])
		if !lost {
			if err := f.verifySector(key, &blk, p, sector); err != nil {
				return err
			}
			if blk.Presence(k) {
				return fmt.Errorf("%w: index block %d is gone", envelope.ErrCorrupt, n)
			}
		}
		if !blk.IsZero() && !lost {
			return nil
		}
		n = p
	}
	if saysDurable(h) {
		return fmt.Errorf("%w: a sector of the first index block is gone", envelope.ErrCorrupt)
	}
	return nil
}
