package vault

import (
	"context"
	"errors"
	"slices"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Truncate makes n size bytes long, cutting off or adding zeros (as a hole). security.capability is dropped in any case.
func (v *Vault) Truncate(ctx context.Context, n *Node, size int64, priv Privileges) error {
	if v.readOnly {
		return ErrReadOnly
	}
	if size < 0 || size > v.maxSize {
		return ErrTooBig
	}
	f, err := v.acquire(n)
	if err != nil {
		return err
	}
	defer f.release()
	if size == 0 {
		if done, err := f.truncateEmpty(priv); done {
			return n.fail("truncate", err)
		}
	}
	if err := f.enterWrite(ctx, 0); err != nil {
		if size == 0 { // its key may have been given up
			if done, err := f.truncateEmpty(priv); done {
				return n.fail("truncate", err)
			}
		}
		return err
	}
	defer f.leaveWrite()
	return n.fail("truncate", f.privileged(priv, func() error { return f.truncate(size) }))
}

// truncateEmpty empties a file that was never opened with its key, without asking for one; done says that it could.
func (f *file) truncateEmpty(priv Privileges) (done bool, err error) {
	if f.v.shared {
		return false, nil
	}
	f.mu.Lock()
	defer f.mu.Unlock()
	if !f.writable {
		return false, nil
	}
	if err := f.headLocked(); errors.Is(err, ErrCorrupt) { // what a power cut left of a file that was never synced, perhaps
		f.headed = true
		f.form, f.loc = formEmpty, envelope.Locator{}
		f.flags, f.floor, f.size, f.block0, f.opened = 0, 0, 0, nil, true
	} else if err != nil {
		return true, err
	}
	if f.form == formEmpty {
		return true, f.privileged(priv, func() error { return f.bf.Truncate(0) }) // for the times
	}
	if f.flags&envelope.FlagXattr != 0 || f.key != nil {
		return false, nil
	}
	if err := f.privileged(priv, func() error { return f.bf.Truncate(0) }); err != nil {
		return true, err
	}
	f.v.eraseRecord(f.loc, f.id)
	f.form, f.flags, f.floor, f.size, f.block0, f.opened = formEmpty, 0, 0, 0, nil, true
	f.excess, f.stored = false, 0
	return true, nil
}

// truncate changes the size; f.mu is held for writing, the key is there.
func (f *file) truncate(size int64) error {
	if size == 0 && f.v.journal.has(f) {
		if err := f.voidRecords(f.logged); err != nil {
			return err
		}
	}
	switch {
	case size == f.size && f.pends(): // in place it has another size
		return f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, backing.Timespec{Nsec: backing.UtimeNow})
	case size == f.size:
		return f.bf.Truncate(f.storedSize()) // for the times
	case size > f.size:
		return f.extend(size)
	case size == 0 && f.flags&envelope.FlagXattr != 0: // the file id stays: attributes are bound to it
		err := f.writeInline(nil)
		if f.form == formInline {
			f.dropGroups()
			clear(f.pending)
			f.showTime()
			f.changed++
		}
		return err
	case size == 0:
		if err := f.bf.Truncate(0); err != nil {
			return err
		}
		f.dropGroups()
		clear(f.inline)
		f.form, f.inline, f.size, f.floor, f.flags = formEmpty, nil, 0, 0, 0
		f.changed++
		f.excess = false
		f.dropPending()
		if f.v.shared { // another host that has the file open must not take the key for its own and erase it
			f.eraseKeys()
			f.key, f.prev = nil, nil
		}
		return nil // the key stays bound: the next write uses it again
	case f.form == formInline:
		return f.writeInline(append([]byte(nil), f.inline[:size]...))
	}
	return f.cut(size)
}

// extend adds a hole.
func (f *file) extend(size int64) error {
	if f.form != formGroups {
		if size <= envelope.InlineMax {
			plain := make([]byte, size)
			copy(plain, f.inline)
			return f.writeInline(plain)
		}
		if err := f.grow(); err != nil {
			return err
		}
	}
	if err := f.beforeExtending(); err != nil {
		return err
	}
	if f.size == 0 { // grow has written nothing yet
		if err := f.begin(); err != nil {
			return err
		}
	}
	if err := f.bf.Truncate(f.v.geo.SealedSize(size)); err != nil {
		if f.size == 0 {
			return f.undoFirst(err)
		}
		return err
	}
	f.size = size
	f.touch(0)
	return nil
}

// cut shortens a file in groups. The header says the new size first (CUT), durably; from then on the rest can be done
// again. CUT goes when the rest is durable: see settleLocked and beforeExtending.
func (f *file) cut(size int64) error {
	if err := f.voidRecords(f.loggedHoles); err != nil {
		return err
	}
	if size > f.floor { // the stored size that the header is to vouch for may be in memory only
		if err := f.bf.DataSync(); err != nil {
			return err
		}
	}
	if err := f.writeHeader(f.flags&^envelope.FlagExact|envelope.FlagCut, size); err != nil {
		return err
	}
	old := f.size
	f.size, f.cutDone = size, false
	f.changed++
	err := f.cutTail(old)
	if err == nil && f.v.shared {
		err = f.endCut()
	}
	if err != nil {
		f.dropGroups() // the flag stands: the next write finishes the cut
	}
	return err
}

// finishCut does what is left of a cut that was interrupted.
func (f *file) finishCut() error {
	st, err := f.bf.Stat()
	if err != nil {
		return err
	}
	if err := f.cutTail(max(f.v.geo.PlainSize(st.Size), f.size)); err != nil {
		return err
	}
	return f.endCut()
}

// endCut makes a cut durable and takes the flag back.
func (f *file) endCut() error {
	if err := f.bf.DataSync(); err != nil {
		return err
	}
	return f.writeHeader(f.flags&^envelope.FlagCut, f.size)
}

// cutTail makes the stored file fit f.size, which is in the header; old is the size that it had. It may be repeated.
func (f *file) cutTail(old int64) error {
	geo := &f.v.geo
	c := geo.ChunkSize()
	tail := uint64(0)
	if f.size > 0 {
		tail = uint64((f.size - 1) / geo.GroupPlain())
	}
	if err := f.clearPresence(old); err != nil {
		return err
	}
	g, err := f.group(tail)
	if err != nil {
		return err
	}
	// What the header says is durable before the data is replaced and cut off: a shorter file than it says, or bits of
	// groups that are gone, would be taken for damage.
	if err := f.bf.DataSync(); err != nil {
		return err
	}
	if part := f.size % c; part != 0 { // the last chunk is sealed anew: its ciphertext will be cut off
		chunk := uint64(f.size / c)
		i := int(chunk % envelope.ChunksPerGroup)
		if cur, prev := g.blk.Slot(i); int64(cur.Length) > part || int64(prev.Length) > part {
			if err := f.shortenChunk(g, i, chunk, int(part)); err != nil {
				return err
			}
		}
	}
	if err := f.bf.Truncate(geo.SealedSize(f.size)); err != nil {
		return err
	}
	f.gmu.Lock()
	for n := range f.groups {
		if n > tail {
			delete(f.groups, n)
			f.v.groupCount.Add(-1)
		}
	}
	f.gmu.Unlock()
	for n := range f.touched {
		if n > tail {
			delete(f.touched, n)
		}
	}
	f.dropLeftovers(g)
	if g.stale {
		if err := f.writeGroup(g); err != nil {
			return err
		}
	}
	f.checked, f.cutDone = true, true
	f.touch(tail)
	return nil
}

// shortenChunk seals the first n bytes of a chunk anew, and does not return before that is durable, or the journal is.
func (f *file) shortenChunk(g *group, i int, chunk uint64, n int) error {
	if f.pending[chunk] != nil { // of an earlier try
		if err := f.flush(); err != nil {
			return err
		}
	}
	c := int(f.v.geo.ChunkSize())
	buf := f.v.buffers.get(2*c + 2*envelope.TagSize)
	defer f.v.buffers.put(buf)
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	stored, plain := (*buf)[c+envelope.TagSize:][:c], (*buf)[:c]
	got, err := f.bf.ReadAt(stored, f.v.geo.ChunkOffset(chunk))
	if err != nil {
		return err
	}
	m, which, err := f.openSlot(g, i, stored[:got], plain, s)
	if err != nil {
		return err
	}
	defer func() { clear((*buf)[:c]) }()
	cur, prev := g.blk.Slot(i)
	inPlace := cur
	switch which {
	case openedPrevious:
		cur = prev
	case openedHole:
		g.blk.SetSlot(i, envelope.Entry{}, envelope.Entry{})
		g.blk.SetUnsettled(i, envelope.Settled)
		return f.writeSectors(g, envelope.SectorOf(i), envelope.SectorOf(i))
	}
	if m <= n && which == openedCurrent {
		return nil // done before
	}
	n = min(n, m)
	var nonce [envelope.NonceSize]byte
	copy(nonce[:], nonces(1, nil))
	out := (*buf)[c+envelope.TagSize:]
	e := g.key.SealChunk(out[:n], plain[:n], chunk, &nonce, s)
	logs := f.logs()
	if logs {
		err := f.v.journal.add(f, envelope.JournalRecord{Kind: envelope.JournalChunk, ID: f.id, Chunk: chunk, Old: inPlace, New: e, Data: out[:n]})
		if logs = err == nil; err != nil && !errors.Is(err, syscall.ENOSPC) {
			return err
		}
	}
	if logs {
		if err := f.v.journal.sync(f.logged, f); err != nil {
			return err
		}
	}
	if !logs { // what the slot says now may not be durable
		if err := f.bf.DataSync(); err != nil {
			return err
		}
	}
	g.blk.SetSlot(i, e, cur)
	g.blk.SetUnsettled(i, envelope.Unsettled)
	g.known |= 1 << i
	if err := f.writeSectors(g, envelope.SectorOf(i), envelope.SectorOf(i)); err != nil {
		return err
	}
	if !logs {
		err = f.bf.DataSync()
	}
	if err == nil {
		_, err = f.bf.WriteAt(out[:n], f.v.geo.ChunkOffset(chunk))
	}
	switch {
	case err == nil && !logs:
		err = f.bf.DataSync()
	case err != nil && logs: // it may be torn: until it is in place it is in the journal and in memory alone
		f.await(chunk, &pendingChunk{s: f.room.s, end: f.logged.end, old: inPlace, entry: e, fits: cur, data: slices.Clone(out[:n])})
	}
	if err != nil {
		f.forgetGroup(g.n)
	}
	return err
}

// clearPresence takes back the presence bits of the groups past the end of file; old is the size that the file had.
func (f *file) clearPresence(old int64) error {
	geo := &f.v.geo
	keep := uint64((f.size + geo.GroupPlain() - 1) / geo.GroupPlain())
	had := uint64((old + geo.GroupPlain() - 1) / geo.GroupPlain())
	if keep >= had || keep == 0 {
		return nil
	}
	firstParent, _ := envelope.PresenceParent(max(keep, 1))
	lastParent, _ := envelope.PresenceParent(had - 1)
	for p := firstParent; p <= lastParent && p < keep; p++ {
		next, err := f.nextGroup(p) // over what was never written
		if err != nil {
			return err
		}
		if p = next; p > lastParent || p >= keep {
			break
		}
		g, err := f.group(p)
		if err != nil {
			return err
		}
		if g.fresh {
			continue
		}
		changed := false
		for k := 0; k < envelope.PresenceFanout; k++ {
			if child := p*envelope.PresenceFanout + 1 + uint64(k); child >= keep && g.blk.Presence(k) {
				g.blk.SetPresence(k, envelope.Absent)
				changed = true
			}
		}
		if changed {
			if err := f.writeGroup(g); err != nil {
				return err
			}
		}
	}
	return nil
}
