package vault

import (
	"context"
	"errors"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Modes of fallocate(2).
const (
	fallocKeepSize  = 0x01
	fallocPunchHole = 0x02
	fallocZeroRange = 0x10
)

// Values of whence for Seek, as lseek(2).
const (
	SeekData = 3
	SeekHole = 4
)

// Allocate is fallocate(2): mode 0 or KEEP_SIZE reserves space, PUNCH_HOLE and ZERO_RANGE make zeros of a range. Other
// modes, which move data, are ErrNotSupported.
func (v *Vault) Allocate(ctx context.Context, n *Node, mode uint32, off, length int64, priv Privileges) error {
	if v.readOnly {
		return ErrReadOnly
	}
	if off < 0 || length <= 0 {
		return syscall.EINVAL
	}
	if off > v.maxSize-length {
		return ErrTooBig
	}
	keep := mode&fallocKeepSize != 0
	switch mode &^ fallocKeepSize {
	case 0, fallocZeroRange:
	case fallocPunchHole:
		if !keep {
			return ErrNotSupported
		}
	default:
		return ErrNotSupported
	}
	f, err := v.acquire(n)
	if err != nil {
		return err
	}
	defer f.release()
	if err := f.enterWrite(ctx, 0); err != nil {
		return err
	}
	defer f.leaveWrite()
	return n.fail("allocate", f.privileged(priv, func() error { return f.allocate(mode, off, length) }))
}

// allocate is Allocate; f.mu is held for writing, the key is there.
func (f *file) allocate(mode uint32, off, length int64) error {
	keep, old := mode&fallocKeepSize != 0, f.size
	var err error
	if mode&^fallocKeepSize == 0 {
		err = f.reserve(off, length, keep)
	} else {
		err = f.zero(off, min(off+length, old))
	}
	if err == nil && !keep && off+length > old {
		err = f.truncate(off + length)
	}
	if err == nil && f.v.tracked { // also where there was nothing to do; else the caller keeps the time
		now := backing.Timespec{Nsec: backing.UtimeNow}
		err = f.bf.Utimes(backing.Timespec{Nsec: backing.UtimeOmit}, now)
	}
	return err
}

// reserve asks the backing file system for the space that a range will need.
func (f *file) reserve(off, length int64, keep bool) error {
	end := off + length
	if end <= envelope.InlineMax {
		return nil
	}
	if keep && end > f.size && f.form != formGroups {
		return nil // a reservation past the end of a small file would be of no use: its blocks are not there yet
	}
	if f.form != formGroups {
		if !keep {
			if err := f.extend(max(end, f.size)); err != nil {
				return err
			}
		} else {
			return nil
		}
	}
	from := f.v.geo.IndexOffset(uint64(off / f.v.geo.GroupPlain()))
	to := f.v.geo.SealedSize(end)
	return f.bf.Allocate(fallocKeepSize, from, to-from)
}

// zero makes [from, to) zeros, which is inside the file.
func (f *file) zero(from, to int64) error {
	if from >= to {
		return nil
	}
	if f.form == formInline {
		plain := append([]byte(nil), f.inline...)
		clear(plain[from:to])
		return f.writeInline(plain)
	}
	c := f.v.geo.ChunkSize()
	if head := (from + c - 1) / c * c; head > from {
		head = min(head, to)
		if err := f.zeroPart(from, head); err != nil {
			return err
		}
		if from = head; from == to {
			return nil
		}
	}
	last := to / c * c
	if to == f.size {
		last = (to + c - 1) / c * c // the last chunk goes whole
	}
	if from < last {
		if err := f.punch(uint64(from/c), uint64(last/c)); err != nil {
			return err
		}
		from = last
	}
	if from < to {
		return f.zeroPart(from, to)
	}
	return nil
}

// zeroPart writes zeros over a part of a chunk, unless it is a hole already.
func (f *file) zeroPart(from, to int64) error {
	chunk := uint64(from / f.v.geo.ChunkSize())
	g, err := f.group(chunk / envelope.ChunksPerGroup)
	if err != nil {
		return err
	}
	if cur, prev := g.blk.Slot(int(chunk % envelope.ChunksPerGroup)); cur.IsZero() && prev.IsZero() && f.pending[chunk] == nil {
		return nil
	}
	return f.writeGroups(make([]byte, to-from), from)
}

// punch makes holes of the chunks [from, to): first no slot knows them any more, durably, then their space goes.
func (f *file) punch(from, to uint64) error {
	if err := f.voidRecords(f.loggedHoles); err != nil {
		return err
	}
	changed := false
	for n := from / envelope.ChunksPerGroup; n <= (to-1)/envelope.ChunksPerGroup; n++ {
		next, err := f.nextGroup(n)
		if err != nil {
			return err
		}
		if n = next; n > (to-1)/envelope.ChunksPerGroup {
			break
		}
		g, err := f.group(n)
		if err != nil {
			return err
		}
		if g.fresh {
			continue
		}
		lo, hi := envelope.SectorsPerBlock, -1
		for i := range envelope.ChunksPerGroup {
			chunk := n*envelope.ChunksPerGroup + uint64(i)
			if cur, _ := g.blk.Slot(i); chunk < from || chunk >= to || cur.IsZero() {
				continue
			}
			g.blk.SetSlot(i, envelope.Entry{}, envelope.Entry{})
			g.blk.SetUnsettled(i, envelope.Settled)
			g.known |= 1 << i
			lo, hi = min(lo, envelope.SectorOf(i)), max(hi, envelope.SectorOf(i))
		}
		if hi < 0 {
			continue
		}
		if err := f.writeSectors(g, lo, hi); err != nil {
			return err
		}
		f.touch(n)
		changed = true
	}
	if !changed {
		return nil
	}
	if err := f.bf.DataSync(); err != nil {
		return err
	}
	return f.giveBack(from, to)
}

// giveBack frees the space of the chunks [from, to), which are holes, and leaves index blocks alone.
func (f *file) giveBack(from, to uint64) error {
	geo := &f.v.geo
	at, end := geo.ChunkOffset(from), geo.ChunkOffset(to-1)+geo.ChunkSize()
	for n := from/envelope.ChunksPerGroup + 1; at < end; n++ {
		next, err := f.nextGroup(n) // over what was never written: there are no index blocks
		if err != nil {
			return err
		}
		n = next
		upTo := min(end, geo.IndexOffset(n))
		err = f.bf.Allocate(fallocKeepSize|fallocPunchHole, at, upTo-at)
		if errors.Is(err, syscall.EOPNOTSUPP) || errors.Is(err, syscall.ENOSYS) {
			return nil // they read as zeros; only the space stays
		}
		if err != nil {
			return err
		}
		if upTo == end {
			return nil
		}
		at = upTo + envelope.BlockSize
	}
	return nil
}

// nextGroup returns the first group at or after n that may be on the disk, skipping holes of the stored file.
func (f *file) nextGroup(n uint64) (uint64, error) {
	f.gmu.Lock()
	g := f.groups[n]
	f.gmu.Unlock()
	if g != nil && !g.fresh {
		return n, nil
	}
	at, err := f.bf.Seek(f.v.geo.IndexOffset(n), SeekData)
	if errors.Is(err, syscall.ENXIO) {
		return 1 << 62, nil
	}
	if err != nil {
		return n, nil // not supported: look at every one
	}
	return max(n, uint64(at/f.v.geo.GroupSealed())), nil
}

// Seek finds data or a hole at or after off, by chunks. ENXIO where there is none before the end of file.
func (v *Vault) Seek(ctx context.Context, n *Node, off int64, whence int) (int64, error) {
	f, err := v.acquire(n)
	if err != nil {
		return 0, err
	}
	defer f.release()
	if err := f.enterSettled(ctx); err != nil {
		return 0, n.fail("seek", err)
	}
	defer f.leave(lockRead)
	if off < 0 || off >= f.size {
		return 0, syscall.ENXIO
	}
	if whence != SeekData && whence != SeekHole {
		return 0, syscall.EINVAL
	}
	if f.form == formInline {
		if whence == SeekData {
			return off, nil
		}
		return f.size, nil
	}
	c := v.geo.ChunkSize()
	per := uint64(envelope.ChunksPerGroup)
	end := uint64((f.size + c - 1) / c)
	for chunk := uint64(off / c); chunk < end; {
		g0 := chunk / per
		if g0n, err := f.nextGroup(g0); err != nil {
			return 0, n.fail("seek", err)
		} else if g0n > g0 { // a hole up to there
			if whence == SeekHole {
				return max(off, int64(chunk)*c), nil
			}
			chunk = g0n * per
			continue
		}
		g, err := f.group(g0)
		if err != nil {
			return 0, n.fail("seek", err)
		}
		cur, _ := g.blk.Slot(int(chunk % per))
		if cur.IsZero() == (whence == SeekHole) {
			return max(off, int64(chunk)*c), nil
		}
		chunk++
	}
	if whence == SeekHole {
		return f.size, nil
	}
	return 0, syscall.ENXIO
}

// CopyRange copies length bytes within the vault, as copy_file_range(2), and returns how many it copied.
func (v *Vault) CopyRange(ctx context.Context, src *Node, off int64, dst *Node, dstOff, length int64, priv Privileges) (int64, error) {
	if src == dst { // only what is there counts for whether the ranges overlap
		st, err := v.Attr(src)
		if err != nil {
			return 0, err
		}
		if length = min(length, max(st.Size-off, 0)); off < dstOff+length && dstOff < off+length {
			return 0, syscall.EINVAL
		}
	}
	if off < 0 || dstOff < 0 || length < 0 || off > v.maxSize || dstOff > v.maxSize || length > v.maxSize {
		return 0, syscall.EINVAL
	}
	buf := v.buffers.get(int(min(length, 1<<20)))
	defer func() {
		clear(*buf) // plaintext
		v.buffers.put(buf)
	}()
	var done int64
	for done < length {
		p := (*buf)[:min(length-done, int64(len(*buf)))]
		n, err := v.Read(ctx, src, p, off+done)
		if err == nil && n > 0 {
			n, err = v.Write(ctx, dst, p[:n], dstOff+done, priv)
		}
		done += int64(n)
		if err != nil && done == 0 {
			return 0, err
		}
		if err != nil || n == 0 {
			break
		}
	}
	return done, nil
}
