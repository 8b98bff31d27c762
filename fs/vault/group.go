package vault

import (
	"fmt"

	"kmsfs/envelope"
)

// group returns index block n, from the cache or the disk. A group that was never written comes back fresh, with
// all its slots holes. f.mu is held, at least for reading.
func (f *file) group(n uint64) (*group, error) {
	f.gmu.Lock()
	g := f.groups[n]
	f.gmu.Unlock()
	if g != nil {
		return g, nil
	}
	blk := f.v.blocks.get()
	defer f.v.blocks.put(blk)
	raw := blk[:envelope.BlockSize]
	got, err := f.bf.ReadAt(raw, f.v.geo.IndexOffset(n))
	if err != nil {
		return nil, err
	}
	clear(raw[got:])
	return f.parseGroup(n, raw, got)
}

// parseGroup checks index block n, whose bytes are raw, of which got were in the file, and caches it.
func (f *file) parseGroup(n uint64, raw []byte, got int) (*group, error) {
	g := &group{n: n}
	copy(g.blk[:], raw)
	if g.blk.IsZero() {
		if f.inside(n) {
			if err := f.checkAbsent(n); err != nil {
				return nil, err
			}
		}
		g.fresh = true
		h := envelope.Header{Log2: f.v.geo.Log2(), ID: f.id, Group: n, Loc: f.loc}
		if n == 0 {
			h = f.header()
		}
		g.blk.SetHeader(&h)
	} else {
		if got < envelope.BlockSize {
			return nil, fmt.Errorf("%w: index block %d is cut short", ErrCorrupt, n)
		}
		if err := f.verify(g); err != nil {
			return nil, fmt.Errorf("%w: index block %d: %w", ErrCorrupt, n, err)
		}
		f.dropLeftovers(g)
		if n == 0 { // after a write of the header that failed, nobody knows which one is there
			h := f.header()
			if on, err := g.blk.Header(); err != nil || on != h {
				g.blk.SetHeader(&h)
				g.stale = true
			}
		}
	}
	gk, err := f.key.Group(n)
	if err != nil {
		return nil, err
	}
	g.key = gk
	if g.prev, err = f.previousGroup(n); err != nil {
		return nil, err
	}
	f.gmu.Lock()
	defer f.gmu.Unlock()
	if o := f.groups[n]; o != nil {
		return o, nil
	}
	if f.groups == nil {
		f.groups = map[uint64]*group{}
	}
	if len(f.groups) >= groupsPerFile || (len(f.groups) > 4 && f.v.groupCount.Load() >= groupsInMemory) {
		for k, o := range f.groups {
			if k != 0 && o.n != n { // what is in memory only is never lost by this: see writeGroups
				delete(f.groups, k)
				f.v.groupCount.Add(-1)
				break
			}
		}
	}
	f.groups[n] = g
	f.v.groupCount.Add(1)
	return g, nil
}

// verify checks the index block of g. Of a group that was never known to be durable some sectors may have been lost.
func (f *file) verify(g *group) error {
	for sector := range envelope.SectorsPerBlock {
		err := g.blk.VerifySector(f.key, g.n, sector)
		if err == nil {
			continue
		}
		if f.prev != nil && g.blk.VerifySector(f.prev.key, g.n, sector) == nil {
			g.stale = true
			continue
		}
		if !envelope.IsZero(g.blk[sector*envelope.SectorSize:][:envelope.SectorSize]) || !f.mayLack(g.n) {
			return err
		}
		g.stale = true
	}
	if g.stale && g.n != 0 {
		h := envelope.Header{Log2: f.v.geo.Log2(), ID: f.id, Group: g.n, Loc: f.loc}
		g.blk.SetHeader(&h)
	}
	return nil
}

// mayLack says whether sectors of index block n may never have reached the disk.
func (f *file) mayLack(n uint64) bool {
	if n == 0 {
		return f.floor == 0 && f.flags&(envelope.FlagExact|envelope.FlagCut) == 0
	}
	return f.checkAbsent(n) == nil
}

// inside says whether group n begins before the end of file.
func (f *file) inside(n uint64) bool { return int64(n)*f.v.geo.GroupPlain() < f.size }

// checkAbsent refuses a zeroed index block where one was known to be: the nearest ancestor that is there tells.
func (f *file) checkAbsent(n uint64) error {
	for n > 0 {
		p, k := envelope.PresenceParent(n)
		g, err := f.group(p)
		if err != nil {
			return err
		}
		if g.blk.Presence(k) {
			return fmt.Errorf("%w: index block %d is gone", ErrCorrupt, n)
		}
		if !g.fresh || p == 0 {
			return nil
		}
		n = p
	}
	return fmt.Errorf("%w: the first index block is gone", ErrCorrupt)
}

// chunksIn returns how many chunks of group n begin before size.
func (v *Vault) chunksIn(n uint64, size int64) int {
	rest := size - int64(n)*v.geo.GroupPlain()
	if rest <= 0 {
		return 0
	}
	c := v.geo.ChunkSize()
	return int(min((rest+c-1)/c, envelope.ChunksPerGroup))
}

// dropLeftovers clears the slots of chunks past the end of file, which a crash may have left behind.
func (f *file) dropLeftovers(g *group) {
	for i := f.v.chunksIn(g.n, f.size); i < envelope.ChunksPerGroup; i++ {
		if cur, prev := g.blk.Slot(i); !cur.IsZero() || !prev.IsZero() || g.blk.Unsettled(i) {
			g.blk.SetSlot(i, envelope.Entry{}, envelope.Entry{})
			g.blk.SetUnsettled(i, envelope.Settled)
			g.stale = true
		}
	}
}

// writeGroup writes the whole index block of g.
func (f *file) writeGroup(g *group) error {
	g.blk.SealAll(f.key, g.n)
	if _, err := f.bf.WriteAt(g.blk[:], f.v.geo.IndexOffset(g.n)); err != nil {
		f.forgetGroup(g.n)
		return err
	}
	g.fresh, g.stale = false, false
	return nil
}

// writeSectors writes sectors [from, to] of g's index block.
func (f *file) writeSectors(g *group, from, to int) error {
	if g.fresh || g.stale {
		return f.writeGroup(g)
	}
	for s := from; s <= to; s++ {
		g.blk.SealSector(f.key, g.n, s)
	}
	at, end := from*envelope.SectorSize, (to+1)*envelope.SectorSize
	if _, err := f.bf.WriteAt(g.blk[at:end], f.v.geo.IndexOffset(g.n)+int64(at)); err != nil {
		f.forgetGroup(g.n)
		return err
	}
	return nil
}

func (f *file) forgetGroup(n uint64) {
	f.gmu.Lock()
	if f.groups[n] != nil {
		delete(f.groups, n)
		f.v.groupCount.Add(-1)
	}
	f.gmu.Unlock()
}

// writeHeader writes flags and floor into the header on the disk. f.mu is held for writing.
func (f *file) writeHeader(flags envelope.Flags, floor int64) error {
	oldFlags, oldFloor := f.flags, f.floor
	g, err := f.group(0)
	if err != nil {
		return err
	}
	f.flags, f.floor = flags, floor
	h := f.header()
	g.blk.SetHeader(&h)
	if err := f.writeSectors(g, 0, 0); err != nil {
		f.flags, f.floor = oldFlags, oldFloor
		return err
	}
	return nil
}

// openSlot opens the chunk in slot i of g: raw is what is stored of it (its buffer has room for a tag behind), dst
// takes the plaintext. n is its length, 0 for a hole; which tells what opened.
func (f *file) openSlot(g *group, i int, raw, dst []byte, s *envelope.Scratch) (n int, which opened, err error) {
	chunk := g.n*envelope.ChunksPerGroup + uint64(i)
	if p := f.pending[chunk]; p != nil { // raw is what it was; others may be reading p
		raw = raw[:len(p.data)]
		copy(raw, p.data)
		return len(p.data), openedPending, g.key.OpenChunk(dst, raw, p.entry, chunk, s)
	}
	cur, prev := g.blk.Slot(i)
	if cur.IsZero() {
		return 0, openedHole, nil
	}
	if int(cur.Length) <= len(raw) {
		if err = g.open(dst, raw[:cur.Length], cur, chunk, s); err == nil {
			return int(cur.Length), openedCurrent, nil
		}
	}
	if g.blk.Unsettled(i) {
		if prev.IsZero() {
			return 0, openedHole, nil // never durable: absent
		}
		if int(prev.Length) <= len(raw) && g.open(dst, raw[:prev.Length], prev, chunk, s) == nil {
			return int(prev.Length), openedPrevious, nil
		}
	}
	return 0, openedNone, &envelope.ChunkError{Chunk: chunk, Err: fmt.Errorf("%w: chunk does not open", ErrCorrupt)}
}

// open opens a chunk under the data key, or the previous one of a file that is being reencrypted.
func (g *group) open(dst, sealed []byte, e envelope.Entry, chunk uint64, s *envelope.Scratch) error {
	err := g.key.OpenChunk(dst, sealed, e, chunk, s)
	if err != nil && g.prev != nil {
		err = g.prev.OpenChunk(dst, sealed, e, chunk, s)
	}
	return err
}

// opened tells which entry of a slot fits the data.
type opened uint8

const (
	openedNone opened = iota
	openedCurrent
	openedPrevious
	openedHole
	openedPending // not in place yet
)
