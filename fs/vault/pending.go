package vault

import (
	"slices"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// pendingChunk is a chunk that stands in the journal and in memory, and as it was before in its file.
type pendingChunk struct {
	s     *segment       // that has the record
	end   int64          // the record ends there, or before
	old   envelope.Entry // the entry in place that the record names
	entry envelope.Entry // what opens data
	fits  envelope.Entry // what opened the chunk in place before; none: a hole
	data  []byte         // ciphertext
	at    placed
}

// placed says how far something pending has come to its place: it stays pending until it is durable there.
type placed struct {
	yes    bool
	failed uint64 // how often a sync of the file had failed then: what was written before a failure may be lost
}

// pendingBlock is the first block of a file in the inline form that stands in the journal only.
type pendingBlock struct {
	s     *segment
	end   int64
	token [envelope.TagSize]byte // of the block in place that the record names
	image []byte
	at    placed
}

// pends says whether anything of f is not in place. f.mu is held, at least for reading.
func (f *file) pends() bool { return len(f.pending) > 0 || f.pendingInline != nil }

// logs says whether what is durable goes through the journal now. f.mu is held for writing.
func (f *file) logs() bool { return f.room.s != nil }

// logChunks puts the chunks of w that are marked as written over into the journal. f.mu is held for writing.
func (f *file) logChunks(w *sealing) error {
	w.records = w.records[:0]
	for i, over := range w.over {
		if !over {
			continue
		}
		chunk := w.first + uint64(i)
		g := w.groups[chunk/envelope.ChunksPerGroup-w.firstGroup]
		inPlace, _ := g.blk.Slot(int(chunk % envelope.ChunksPerGroup))
		at := f.v.geo.ChunkOffset(chunk) - w.from
		w.records = append(w.records, envelope.JournalRecord{
			Kind: envelope.JournalChunk, ID: f.id, Chunk: chunk, Old: inPlace, New: w.entries[i],
			Data: w.buf[at : at+int64(w.entries[i].Length)],
		})
	}
	f.hideTime()
	if err := f.v.journal.add(f, w.records...); err != nil {
		f.showTime()
		return err
	}
	if slices.ContainsFunc(w.records, func(r envelope.JournalRecord) bool { return r.Kind == envelope.JournalChunk && r.Old.IsZero() }) {
		f.loggedHoles = f.logged
	}
	c := f.v.geo.ChunkSize()
	for i := range w.records {
		r := &w.records[i]
		p := f.pending[r.Chunk]
		if p == nil {
			p = &pendingChunk{fits: w.fits(r.Chunk)}
			f.await(r.Chunk, p)
		} else if p.at.yes {
			p.fits = p.entry
		}
		p.at = placed{}
		p.s, p.end, p.old, p.entry, p.data = f.room.s, f.logged.end, r.Old, r.New, append(p.data[:0], r.Data...)
		f.size = max(f.size, int64(r.Chunk)*c+int64(r.New.Length))
	}
	clear(w.records)
	f.changed++
	return f.wroteElsewhere()
}

// await makes a chunk one that is not in place yet. f.mu is held for writing.
func (f *file) await(chunk uint64, p *pendingChunk) {
	if f.pending == nil {
		f.pending = map[uint64]*pendingChunk{}
	}
	f.pending[chunk] = p
}

// wroteElsewhere does what writing to the stored file would have done to its modification time.
func (f *file) wroteElsewhere() error {
	if !f.v.tracked { // the caller keeps it
		return nil
	}
	return f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, backing.Timespec{Nsec: backing.UtimeNow})
}

// logInline puts a new inline block into the journal. f.mu is held for writing.
func (f *file) logInline(image []byte) error {
	token, err := f.blockToken()
	if err != nil {
		return err
	}
	image = slices.Clone(image)
	f.hideTime()
	if err := f.v.journal.add(f, envelope.JournalRecord{Kind: envelope.JournalBlock, ID: f.id, Token: token, Block: image}); err != nil {
		f.showTime()
		return err
	}
	f.pendingInline = &pendingBlock{s: f.room.s, end: f.logged.end, token: token, image: image}
	f.changed++
	return f.wroteElsewhere()
}

// logBlock makes the journal durable with a new first block, and with an index block the ciphertext of chunk 0, so that
// both can be put in place in any order.
func (f *file) logBlock(image, chunk0 []byte) error {
	token, err := f.blockToken()
	if err != nil {
		return err
	}
	r := envelope.JournalRecord{Kind: envelope.JournalBlock, ID: f.id, Token: token, Block: image, Data: chunk0}
	if err := f.v.journal.add(f, r); err != nil {
		return err
	}
	return f.v.journal.sync(f.logged, f)
}

// blockToken names the first block as it is in place.
func (f *file) blockToken() (token [envelope.TagSize]byte, err error) {
	var b [envelope.SectorSize]byte
	n, err := f.bf.ReadAt(b[:], 0)
	return envelope.BlockToken(b[:n]), err
}

// dropPending forgets what is not in place, because the file was emptied.
func (f *file) dropPending() {
	clear(f.pending)
	f.pendingInline = nil
	f.showTime()
}

// flush puts in place, durably, what is not yet. f.mu is held for writing.
func (f *file) flush() error {
	if !f.pends() {
		return nil
	}
	if err := f.v.journal.sync(f.logged, f); err != nil {
		return err
	}
	if err := f.keepingTime(func() error { return f.putPending(nil) }); err != nil {
		return err
	}
	err := f.bf.DataSync()
	if !f.arrived(nil, err == nil) && err == nil { // another sync had failed meanwhile
		return f.flush()
	}
	return err
}

// arrived ends the wait of what was put in place of s, nil: of any, when it is durable; else all of it is to be written
// again. all says that nothing of s is left. f.mu is held for writing.
func (f *file) arrived(s *segment, durable bool) (all bool) {
	failed := failures(f.bf)
	all = true
	done := func(at *placed) bool {
		if at.yes && durable && at.failed == failed {
			return true
		}
		if at.yes && (!durable || at.failed != failed) {
			*at = placed{}
		}
		all = false
		return false
	}
	if p := f.pendingInline; p != nil && (s == nil || p.s == s) && done(&p.at) {
		f.pendingInline = nil
	}
	for chunk, p := range f.pending {
		if (s == nil || p.s == s) && done(&p.at) {
			delete(f.pending, chunk)
		}
	}
	if len(f.pending) == 0 {
		f.pending = nil // maps do not shrink
	}
	return all
}

// voidRecords makes what the journal has of f up to l void, so that nothing that comes now is replaced by it: no hole filled, no
// first block of a file that was emptied. Everything is in place, durably, before. f.mu is held for writing.
func (f *file) voidRecords(l logged) error {
	err := f.flush()
	if err != nil || l.s == nil {
		return err
	}
	if !clean(f.bf) {
		if err = f.bf.DataSync(); err != nil {
			return err
		}
	}
	l, err = f.v.journal.void(l, f.id)
	if err == nil {
		err = f.v.journal.sync(l, f)
	}
	if err == nil {
		f.loggedHoles = logged{}
	}
	return err
}

// undurable returns records of what pends of f in s behind durable.
func (f *file) undurable(s *segment, durable int64) (rr []envelope.JournalRecord) {
	f.mu.RLock()
	defer f.mu.RUnlock()
	if p := f.pendingInline; p != nil && p.s == s && p.end > durable {
		rr = append(rr, envelope.JournalRecord{Kind: envelope.JournalBlock, ID: f.id, Token: p.token, Block: slices.Clone(p.image)})
	}
	for chunk, p := range f.pending {
		if p.s == s && p.end > durable {
			rr = append(rr, envelope.JournalRecord{Kind: envelope.JournalChunk, ID: f.id, Chunk: chunk, Old: p.old, New: p.entry, Data: slices.Clone(p.data)})
		}
	}
	return rr
}

// putInPlace puts in place what stands in s of f, which is durable there. f.mu is not held.
func (f *file) putInPlace(s *segment) error {
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.pends() {
		return nil
	}
	if f.broken { // the journal has all that was confirmed, and keeps it for the next mount
		return bug.Err
	}
	return f.keepingTime(func() error { return f.putPending(s) })
}

// putPending puts in place what stands in s, nil: in any, and is durable there, so that the journal mends what is torn. It stays
// pending: see arrived. f.mu is held for writing.
func (f *file) putPending(s *segment) error {
	now := placed{yes: true, failed: failures(f.bf)}
	if p := f.pendingInline; p != nil && (s == nil || p.s == s) && !p.at.yes {
		if _, err := f.bf.WriteAt(p.image, 0); err != nil {
			return err
		}
		if err := f.bf.Truncate(int64(len(p.image))); err != nil {
			return err
		}
		p.at, f.excess = now, false
	}
	chunks := make([]uint64, 0, len(f.pending))
	for chunk, p := range f.pending {
		if (s == nil || p.s == s) && !p.at.yes {
			chunks = append(chunks, chunk)
		}
	}
	if len(chunks) == 0 {
		return nil
	}
	slices.Sort(chunks)
	for rest := chunks; len(rest) > 0; {
		n := rest[0] / envelope.ChunksPerGroup
		k := 1
		for k < len(rest) && rest[k]/envelope.ChunksPerGroup == n {
			k++
		}
		if err := f.putSlots(n, rest[:k]); err != nil {
			return err
		}
		rest = rest[k:]
	}
	const most = 512 // buffers in one call
	for rest := chunks; len(rest) > 0; {
		bufs := [][]byte{f.pending[rest[0]].data}
		for len(bufs) < min(len(rest), most) && f.follows(rest[len(bufs)-1], rest[len(bufs)]) {
			bufs = append(bufs, f.pending[rest[len(bufs)]].data)
		}
		if _, err := f.bf.WritevAt(bufs, f.v.geo.ChunkOffset(rest[0])); err != nil {
			return err
		}
		rest = rest[len(bufs):]
	}
	for _, chunk := range chunks {
		f.pending[chunk].at = now
	}
	return nil
}

// follows says whether chunk b stands right behind a, which is pending.
func (f *file) follows(a, b uint64) bool {
	return f.v.geo.ChunkOffset(a)+int64(len(f.pending[a].data)) == f.v.geo.ChunkOffset(b)
}

// putSlots writes the slots of pending chunks of group n, in order.
func (f *file) putSlots(n uint64, chunks []uint64) error {
	g, err := f.group(n)
	if err != nil {
		return err
	}
	for _, chunk := range chunks {
		i := int(chunk % envelope.ChunksPerGroup)
		p := f.pending[chunk]
		g.blk.SetSlot(i, p.entry, p.fits)
		g.blk.SetUnsettled(i, envelope.Unsettled)
		g.known |= 1 << i
	}
	f.touch(n)
	slot := func(chunk uint64) int { return envelope.SectorOf(int(chunk % envelope.ChunksPerGroup)) }
	return f.writeSectors(g, slot(chunks[0]), slot(chunks[len(chunks)-1]))
}
