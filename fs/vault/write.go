package vault

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"kmsfs/envelope"
)

// Privileges says what a write does to the setuid and setgid bits and the capabilities of a file.
type Privileges uint8

// The two ways to treat privileges.
const (
	KeepPrivileges Privileges = iota
	DropPrivileges            // clear setuid, and setgid where the group may execute, as write(2) by an ordinary user
)

// Write writes p at off. When it returns without an error, all of p is with the backing file system and survives the
// death of this process; when it returns an error, each chunk is as before or as after. security.capability is dropped in any case.
func (v *Vault) Write(ctx context.Context, n *Node, p []byte, off int64, priv Privileges) (int, error) {
	if off < 0 {
		return 0, ErrTooBig
	}
	return v.write(ctx, n, p, off, priv)
}

// Append is Write at the end of the file, wherever that is by then: what other hosts append meanwhile is before p or
// behind it. More than 1 MiB may be torn by them.
func (v *Vault) Append(ctx context.Context, n *Node, p []byte, priv Privileges) (int, error) {
	return v.write(ctx, n, p, atEnd, priv)
}

// write is Write at off or atEnd.
func (v *Vault) write(ctx context.Context, n *Node, p []byte, off int64, priv Privileges) (int, error) {
	switch {
	case v.readOnly:
		return 0, ErrReadOnly
	case len(p) == 0:
		return 0, nil
	case off > v.maxSize-int64(len(p)):
		return 0, ErrTooBig
	}
	f, err := v.acquire(n)
	if err != nil {
		return 0, err
	}
	defer f.release()
	for part := range slices.Chunk(p, writeMost) {
		if err := f.write(ctx, part, off, priv); err != nil {
			return 0, err
		}
		if off != atEnd {
			off += int64(len(part))
		}
	}
	return len(p), nil
}

// atEnd is the offset of what is appended.
const atEnd = -1

// writeMost is what is written while a file is held; it bounds the buffers.
const writeMost = 1 << 20

// write is Write of at most writeMost bytes.
func (f *file) write(ctx context.Context, p []byte, off int64, priv Privileges) error {
	if err := f.enterWrite(ctx, len(p)); err != nil {
		return err
	}
	defer f.leaveWrite()
	if off == atEnd {
		if off = f.size; off > f.v.maxSize-int64(len(p)) {
			return ErrTooBig
		}
	}
	err := f.privileged(priv, func() error { return f.writeAt(p, off) })
	if errors.Is(err, syscall.ENOSPC) && f.logs() { // what is overwritten needs no space in its place
		f.room = f.room.giveBack()
		if err = f.flush(); err == nil {
			err = f.mend() // of what the first try has left
		}
		if err == nil {
			err = f.privileged(priv, func() error { return f.writeAt(p, off) })
		}
	}
	if err != nil {
		return f.n.fail("write", err)
	}
	return f.n.fail("write", f.restoreTime())
}

// writeAt writes; f.mu is held for writing, the key is there.
func (f *file) writeAt(p []byte, off int64) error {
	end := max(f.size, off+int64(len(p)))
	if f.form != formGroups {
		if end <= envelope.InlineMax {
			plain := make([]byte, end)
			copy(plain, f.inline)
			copy(plain[off:], p)
			return f.writeInline(plain)
		}
		if err := f.grow(); err != nil {
			return err
		}
	}
	if f.size == 0 && off >= f.v.geo.GroupPlain() { // the header does not come along with the data
		if err := f.begin(); err != nil {
			return err
		}
	}
	if end > f.size {
		if err := f.beforeExtending(); err != nil {
			return err
		}
	}
	return f.writeGroups(p, off)
}

// writeInline makes plain the whole content, in the inline form. One page is written whole or not at all.
func (f *file) writeInline(plain []byte) error {
	gk, err := f.key.Group(0)
	if err != nil {
		return err
	}
	h := f.header()
	h.Flags = h.Flags&envelope.FlagXattr | envelope.FlagInline
	h.Size = uint64(len(plain))
	blk := f.v.blocks.get()
	defer f.v.blocks.put(blk)
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	var nonce [envelope.NonceSize]byte
	copy(nonce[:], nonces(1, nil))
	n := envelope.SealInline(f.key, gk, h, plain, &nonce, blk[:], s)
	f.unused = false
	switch {
	case f.logs() && f.form == formInline && !f.excess:
		if err := f.logInline(blk[:n]); err != nil {
			return err
		}
		f.setInline(h.Flags, plain)
		return nil
	case f.logs() && f.form == formGroups:
		if err := f.logBlock(blk[:n], nil); err != nil {
			return err
		}
	}
	if wrote, err := f.bf.WriteAt(blk[:n], 0); err != nil {
		if f.form == formEmpty || (wrote > 0 && f.form == formInline) {
			f.restoreInline(gk)
		}
		return err
	}
	longer := len(plain) < len(f.inline) || f.form == formGroups || f.excess
	f.setInline(h.Flags, plain)
	if longer {
		f.excess = true
		err := f.bf.DataSync() // a stored file that is shorter than its block says would be taken for damage
		if err == nil {
			err = f.bf.Truncate(int64(n))
		}
		if err != nil {
			return err // the new content stands, and the stored size will be mended
		}
		f.excess = false
	}
	return nil
}

// setInline makes plain, which it takes, the content in memory.
func (f *file) setInline(flags envelope.Flags, plain []byte) {
	f.form, f.flags, f.floor, f.size = formInline, flags, int64(len(plain)), int64(len(plain))
	clear(f.inline)
	f.inline, f.unsure = plain, false
}

// restoreInline puts the last content back after a write that failed half way (a full disk).
func (f *file) restoreInline(gk *envelope.GroupKey) {
	if f.form == formEmpty {
		f.excess = f.bf.Truncate(0) != nil
		f.unused = !f.excess
		return
	}
	blk := f.v.blocks.get()
	defer f.v.blocks.put(blk)
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	var nonce [envelope.NonceSize]byte
	copy(nonce[:], nonces(1, nil))
	h := f.header()
	n := envelope.SealInline(f.key, gk, h, f.inline, &nonce, blk[:], s)
	if _, err := f.bf.WriteAt(blk[:n], 0); err != nil { // an index block that may be there has the content too, in what stands behind it
		f.v.log.Error("cannot restore a small file after a failed write; it will be tried again", "inode", f.n.ino, "err", err)
		f.excess, f.unsure = true, true
		return
	}
	f.excess, f.unsure = f.bf.Truncate(int64(n)) != nil, false
}

// grow turns an empty or inline file into groups. The content goes into chunk 0 first; until the index block replaces
// the inline block, the latter tells the content and the size.
func (f *file) grow() error {
	if err := f.flush(); err != nil {
		return err
	}
	old, oldForm, oldFlags, oldFloor := f.inline, f.form, f.flags, f.floor
	back := func() {
		f.dropGroups()
		f.form, f.inline, f.flags, f.floor, f.size = oldForm, old, oldFlags, oldFloor, int64(len(old))
	}
	undo := func(err error) error {
		back()
		f.excess = f.bf.Truncate(f.storedSize()) != nil
		return err
	}
	f.form, f.inline = formGroups, nil
	f.flags, f.floor = oldFlags&envelope.FlagXattr, 0
	f.size = 0
	gk, err := f.key.Group(0)
	if err != nil {
		return undo(err)
	}
	g := &group{key: gk, fresh: true}
	h := f.header()
	g.blk.SetHeader(&h)
	f.dropGroups()
	f.groups = map[uint64]*group{0: g}
	f.v.groupCount.Add(1)
	if len(old) > 0 {
		buf := f.v.buffers.get(len(old) + envelope.TagSize)
		defer f.v.buffers.put(buf)
		s := f.v.scratch.get()
		defer f.v.scratch.put(s)
		var nonce [envelope.NonceSize]byte
		copy(nonce[:], nonces(1, nil))
		e := gk.SealChunk((*buf)[:len(old)], old, 0, &nonce, s)
		if _, err := f.bf.WriteAt((*buf)[:len(old)], f.v.geo.ChunkOffset(0)); err != nil {
			return undo(err)
		}
		g.blk.SetSlot(0, e, envelope.Entry{})
		g.blk.SetUnsettled(0, envelope.Unsettled)
		g.known = 1
		if err := f.logGrowth(oldForm, g, (*buf)[:len(old)]); err != nil {
			return undo(err)
		}
		if err := f.writeGroup(g); err != nil {
			back()
			f.restoreInline(gk) // the block may be there all the same
			return err
		}
		f.size = int64(len(old))
		f.touch(0)
		clear(old)
	} else if oldForm == formInline { // its attributes need the block
		if err := f.logGrowth(oldForm, g, nil); err != nil {
			return undo(err)
		}
		if err := f.writeGroup(g); err != nil {
			back()
			f.restoreInline(gk)
			return err
		}
	}
	f.checked, f.unused = true, false
	return nil
}

// logGrowth has the journal vouch for index block g, which is to replace an inline block, and the ciphertext of chunk 0.
func (f *file) logGrowth(from form, g *group, chunk0 []byte) error {
	if !f.logs() || from != formInline {
		return nil
	}
	g.blk.SealAll(f.key, 0)
	return f.logBlock(g.blk[:], chunk0)
}

// begin writes the first index block of a file that has none and gets its first data further back.
func (f *file) begin() error {
	g, err := f.group(0)
	if err == nil {
		err = f.writeGroup(g)
	}
	if err != nil {
		return f.undoFirst(err)
	}
	return nil
}

// undoFirst makes a file of nothing again out of one whose first write in groups failed.
func (f *file) undoFirst(err error) error {
	f.dropGroups()
	f.emptied()
	f.excess = true
	if e := f.mend(); e != nil {
		return errors.Join(err, e)
	}
	f.unused = f.form == formEmpty
	return err
}

// storedSize is how long the stored file is for the present form and size.
func (f *file) storedSize() int64 {
	switch {
	case f.form == formInline:
		return f.v.geo.InlineSize(f.size)
	case f.form == formEmpty || f.size == 0:
		return 0
	}
	return f.v.geo.SealedSize(f.size)
}

// beforeExtending prepares a file in groups for becoming longer: an exact size must not be durable any more when the
// longer file is, and what a crash left past the end must not come into view.
func (f *file) beforeExtending() error {
	if f.flags&(envelope.FlagExact|envelope.FlagCut) != 0 {
		if f.flags&envelope.FlagCut != 0 { // the cut must be durable before the header says no more of it
			if err := f.bf.DataSync(); err != nil {
				return err
			}
		}
		if err := f.writeHeader(f.flags&^(envelope.FlagExact|envelope.FlagCut), f.floor); err != nil {
			return err
		}
		if err := f.bf.DataSync(); err != nil {
			return err
		}
	}
	if f.checked || f.size == 0 {
		return nil
	}
	g, err := f.group(uint64(f.size / f.v.geo.GroupPlain())) // that of the next byte
	if err != nil {
		return err
	}
	if g.stale {
		if err := f.writeGroup(g); err != nil {
			return err
		}
	}
	f.checked = true
	return nil
}

// sealing is one request being sealed; its chunks are independent.
type sealing struct {
	f          *file
	p          []byte
	off, end   int64
	size       int64 // of the file before
	buf        []byte
	from       int64 // offset on the disk of buf
	groups     []*group
	work       []envelope.IndexBlock // the index blocks as they will be
	known      []uint64
	firstGroup uint64
	first      uint64
	nonces     []byte
	entries    []envelope.Entry
	over       []bool // by chunk: it replaces what may be durable
	records    []envelope.JournalRecord
}

// writeGroups seals and writes p at off: slots first, then data, so that after a kill at any point each chunk opens as
// old or as new. What changes in memory changes only after both are written.
func (f *file) writeGroups(p []byte, off int64) error {
	v, geo := f.v, &f.v.geo
	c := geo.ChunkSize()
	end := off + int64(len(p))
	first, last := uint64(off/c), uint64((end-1)/c)
	firstGroup, lastGroup := first/envelope.ChunksPerGroup, last/envelope.ChunksPerGroup

	w := v.sealings.get()
	defer v.sealings.put(w)
	w.f, w.p, w.off, w.end, w.size, w.first, w.firstGroup = f, p, off, end, f.size, first, firstGroup
	w.groups, w.work, w.known = w.groups[:0], w.work[:0], w.known[:0]
	for n := firstGroup; n <= lastGroup; n++ {
		g, err := f.group(n)
		if err != nil {
			return err
		}
		w.groups = append(w.groups, g)
		w.work = append(w.work, g.blk)
		w.known = append(w.known, g.known)
	}
	// The index block of the first group stands right before its first chunk; further back it is written apart.
	w.from = geo.ChunkOffset(first)
	if first%envelope.ChunksPerGroup == 0 {
		w.from = geo.IndexOffset(firstGroup)
	}
	length := geo.ChunkOffset(last) - w.from + c
	buf := v.buffers.get(int(length) + envelope.TagSize)
	defer v.buffers.put(buf)
	w.buf = (*buf)[:int(length)+envelope.TagSize]
	chunks := int(last - first + 1)
	w.nonces = nonces(chunks, w.nonces)
	if cap(w.entries) < chunks {
		w.entries = make([]envelope.Entry, chunks)
	}
	w.entries = w.entries[:chunks]
	if err := inParallel(first, last+1, w); err != nil {
		return err
	}
	if w.mark() {
		if !f.logs() {
			return f.writeCarefully(w)
		}
		if err := f.logChunks(w); err != nil {
			return err
		}
		return f.writeAround(w)
	}
	if err := w.slots(seeAll); err != nil {
		return f.undoWrite(w, err)
	}
	// What follows the last chunk's ciphertext is not written.
	length = geo.ChunkOffset(last) - w.from + int64(w.entries[chunks-1].Length)
	if _, err := f.bf.WriteAt(w.buf[:length], w.from); err != nil {
		return f.undoWrite(w, err)
	}
	f.wrote(w)
	return nil
}

// alongMost is how many chunks of a request may go into the journal along with one that must: a sync then finds all there.
const alongMost = 16

// mark notes which chunks replace what is in the file, and returns whether there are any. In a small request with such a
// chunk the others are marked too, where the journal can have them.
func (w *sealing) mark() (any bool) {
	c := w.f.v.geo.ChunkSize()
	w.over = w.over[:0]
	for i := range w.entries {
		chunk := w.first + uint64(i)
		cur, _ := w.groups[chunk/envelope.ChunksPerGroup-w.firstGroup].blk.Slot(int(chunk % envelope.ChunksPerGroup))
		over := !cur.IsZero() && int64(chunk)*c < w.size || w.f.pending[chunk] != nil
		w.over = append(w.over, over)
		any = any || over
	}
	if any && w.f.logs() && len(w.over) <= alongMost {
		for i := range w.over {
			// A slot that is not on the disk as it is in memory would not be known again.
			w.over[i] = w.over[i] || !w.groups[(w.first+uint64(i))/envelope.ChunksPerGroup-w.firstGroup].stale
		}
	}
	return any
}

// fits returns the entry that opens in place what a chunk that is written over holds.
func (w *sealing) fits(chunk uint64) envelope.Entry {
	cur, _ := w.work[chunk/envelope.ChunksPerGroup-w.firstGroup].Slot(int(chunk % envelope.ChunksPerGroup))
	return cur
}

// seen says which chunks of a request slots sees to.
type seen uint8

const (
	seeAll seen = iota
	seeNew      // those that replace nothing; the others stay as they are
)

// slots enters the new entries in the index blocks to be. It writes those that the buffer has no place for, right before
// the data of the first group; the others go into the buffer, or where only some chunks are seen are written too.
func (w *sealing) slots(s seen) error {
	f, geo := w.f, &w.f.v.geo
	c := geo.ChunkSize()
	for k := range w.groups {
		g, blk := w.groups[k], &w.work[k]
		lo, hi := envelope.ChunksPerGroup, -1
		for i := range envelope.ChunksPerGroup {
			chunk := g.n*envelope.ChunksPerGroup + uint64(i)
			if chunk < w.first || chunk-w.first >= uint64(len(w.entries)) {
				continue
			}
			if s == seeNew && w.over[chunk-w.first] { // as it is in place
				cur, prev := g.blk.Slot(i)
				blk.SetSlot(i, cur, prev)
				continue
			}
			cur, _ := blk.Slot(i)
			if int64(chunk)*c >= w.size {
				cur = envelope.Entry{}
			}
			blk.SetSlot(i, w.entries[chunk-w.first], cur)
			blk.SetUnsettled(i, envelope.Unsettled)
			w.known[k] |= 1 << i
			lo, hi = min(lo, i), max(hi, i)
		}
		if hi < 0 {
			continue
		}
		from, to := envelope.SectorOf(lo), envelope.SectorOf(hi)
		if g.fresh || g.stale {
			from, to = 0, envelope.SectorsPerBlock-1
		}
		for s := from; s <= to; s++ {
			blk.SealSector(f.key, g.n, s)
		}
		if at := geo.IndexOffset(g.n) - w.from; s == seeAll && at >= 0 {
			copy(w.buf[at:], blk[:])
			continue
		}
		at := from * envelope.SectorSize
		if _, err := f.bf.WriteAt(blk[at:(to+1)*envelope.SectorSize], geo.IndexOffset(g.n)+int64(at)); err != nil {
			return err
		}
	}
	return nil
}

// writeAround writes the chunks of w that replace nothing; the others are in the journal.
func (f *file) writeAround(w *sealing) error {
	if err := w.slots(seeNew); err != nil {
		return f.undoWrite(w, err)
	}
	if err := w.data(seeNew); err != nil {
		return f.undoWrite(w, err)
	}
	f.wroteNew(w)
	return nil
}

// data writes the ciphertext, without the index blocks between.
func (w *sealing) data(s seen) error {
	for i := 0; i < len(w.entries); i++ {
		if s == seeNew && w.over[i] {
			continue
		}
		from := i
		for i+1 < len(w.entries) && !(s == seeNew && w.over[i+1]) && (w.first+uint64(i)+1)%envelope.ChunksPerGroup != 0 {
			i++
		}
		at := w.f.v.geo.ChunkOffset(w.first + uint64(from))
		end := w.f.v.geo.ChunkOffset(w.first+uint64(i)) + int64(w.entries[i].Length)
		if _, err := w.f.bf.WriteAt(w.buf[at-w.from:end-w.from], at); err != nil {
			return err
		}
	}
	return nil
}

// writeCarefully writes w where there is no journal and some of it replaces what may be durable: what the slots say of the
// data is made durable before they say something else, and so is what they say then, before the data changes.
func (f *file) writeCarefully(w *sealing) error {
	if w.unsettled() {
		if err := f.bf.DataSync(); err != nil {
			return err
		}
	}
	from := w.from
	w.from = 1 << 62 // no index block goes into the buffer
	err := w.slots(seeAll)
	w.from = from
	if err == nil {
		err = f.bf.DataSync()
	}
	if err == nil {
		err = w.data(seeAll)
	}
	if err != nil {
		return f.undoWrite(w, err)
	}
	f.wrote(w)
	return nil
}

// unsettled says whether a chunk that is replaced may not be durable.
func (w *sealing) unsettled() bool {
	for i, over := range w.over {
		chunk := w.first + uint64(i)
		if over && w.groups[chunk/envelope.ChunksPerGroup-w.firstGroup].blk.Unsettled(int(chunk%envelope.ChunksPerGroup)) {
			return true
		}
	}
	return false
}

// wrote takes over what was written.
func (f *file) wrote(w *sealing) {
	for k, g := range w.groups {
		g.blk, g.known = w.work[k], w.known[k]
		g.fresh, g.stale = false, false
		f.touch(g.n)
	}
	f.size = max(f.size, w.end)
}

// wroteNew is wrote where a part of w is in the journal.
func (f *file) wroteNew(w *sealing) {
	for k, g := range w.groups {
		for i := range envelope.ChunksPerGroup {
			at := g.n*envelope.ChunksPerGroup + uint64(i) - w.first
			if at < uint64(len(w.over)) && !w.over[at] { // something of it was written
				g.blk, g.known = w.work[k], w.known[k]
				g.fresh, g.stale = false, false
				f.touch(g.n)
				break
			}
		}
	}
	f.size = max(f.size, w.end)
}

// undoWrite puts the file back to its size after a write that failed, and forgets the index blocks in memory: on the
// disk each slot still has the entry that fits its data.
func (f *file) undoWrite(w *sealing, err error) error {
	for _, g := range w.groups {
		f.forgetGroup(g.n)
	}
	if f.size == 0 {
		return f.undoFirst(err)
	}
	for _, g := range w.groups {
		if f.inside(g.n) {
			f.touch(g.n) // what is there now is not what was marked for settling
		}
	}
	if w.end > f.size {
		f.checked = false
		if e := f.bf.Truncate(f.storedSize()); e != nil {
			f.excess = true
			err = errors.Join(err, e)
		}
	}
	return err
}

// emptied notes that the file holds nothing; one with attributes keeps its key in an inline block, which is to be written.
func (f *file) emptied() {
	xattr := f.flags & envelope.FlagXattr
	f.form, f.flags, f.floor, f.size, f.inline = formEmpty, 0, 0, 0, nil
	if xattr != 0 {
		f.form, f.flags = formInline, envelope.FlagInline|xattr
	}
}

// run seals the chunks [from, to) into the buffer and notes their entries.
func (w *sealing) run(from, to uint64, bounds bool) error {
	v := w.f.v
	s := v.scratch.get()
	defer v.scratch.put(s)
	geo := &v.geo
	c := geo.ChunkSize()
	var edge *[]byte
	defer func() {
		if edge != nil {
			clear((*edge)[:c])
			v.buffers.put(edge)
		}
	}()
	for chunk := from; chunk < to; chunk++ {
		k := int(chunk/envelope.ChunksPerGroup - w.firstGroup)
		g := w.groups[k]
		i := int(chunk % envelope.ChunksPerGroup)
		start := int64(chunk) * c
		lo, hi := max(w.off-start, 0), min(w.end-start, c) // what is new of the chunk
		oldLen := min(max(w.size-start, 0), c)             // what the file has of it
		plain := w.p[max(start-w.off, 0):]
		undecided := g.blk.Unsettled(i) && g.known&(1<<i) == 0 && w.f.pending[chunk] == nil
		if lo > 0 || hi < oldLen || (undecided && oldLen > 0) {
			if edge == nil {
				edge = v.buffers.get(int(2*c) + 2*envelope.TagSize)
			}
			old := (*edge)[:c]
			stored := (*edge)[c+envelope.TagSize:][:c]
			if oldLen > 0 {
				if err := w.readOld(g, k, i, chunk, stored, old, s); err != nil {
					return err
				}
			} else {
				clear(old)
			}
			copy(old[lo:hi], plain)
			hi = max(hi, oldLen)
			plain = old
		}
		dst := w.buf[geo.ChunkOffset(chunk)-w.from:]
		nonce := (*[envelope.NonceSize]byte)(w.nonces[(chunk-w.first)*envelope.NonceSize:])
		if bounds && chunk == to-1 { // the tag would fall where another core writes
			tmp := v.buffers.get(int(hi) + envelope.TagSize)
			w.entries[chunk-w.first] = g.key.SealChunk((*tmp)[:hi], plain[:hi], chunk, nonce, s)
			copy(dst, (*tmp)[:hi])
			v.buffers.put(tmp)
			continue
		}
		w.entries[chunk-w.first] = g.key.SealChunk(dst[:hi], plain[:hi], chunk, nonce, s)
	}
	return nil
}

// readOld reads what chunk holds, and settles in the index block to be which entry that is.
func (w *sealing) readOld(g *group, k, i int, chunk uint64, stored, old []byte, s *envelope.Scratch) error {
	cur, prev := g.blk.Slot(i)
	got := 0
	if !cur.IsZero() && w.f.pending[chunk] == nil {
		var err error
		need := max(cur.Length, prev.Length)
		if got, err = w.f.bf.ReadAt(stored[:need], w.f.v.geo.ChunkOffset(chunk)); err != nil {
			return err
		}
	}
	n, which, err := w.f.openSlot(g, i, stored[:got], old, s)
	if err != nil {
		return err
	}
	clear(old[n:])
	switch which {
	case openedPrevious:
		w.work[k].SetSlot(i, prev, envelope.Entry{})
	case openedHole:
		w.work[k].SetSlot(i, envelope.Entry{}, envelope.Entry{})
	}
	return nil
}
