package vault

import (
	"context"
	"runtime"
	"sync/atomic"

	"kmsfs/envelope"
	"kmsfs/fs/vault/bug"
)

// parallelFrom is how many chunks a request must have before it is shared between cores.
const parallelFrom = 32

// Read reads plaintext of n from off into p, until p is full or the file ends, and returns how much it read.
// On an error nothing of p is to be used.
func (v *Vault) Read(ctx context.Context, n *Node, p []byte, off int64) (int, error) {
	return v.read(ctx, n, p, off, nil)
}

// ReadLost is Read, and says how many chunks were read as holes that are none: what stands there is not what was written
// last, and was never known to be durable. A crash leaves that, and so does damage.
func (v *Vault) ReadLost(ctx context.Context, n *Node, p []byte, off int64) (got int, lost int64, err error) {
	var count atomic.Int64
	got, err = v.read(ctx, n, p, off, &count)
	return got, count.Load(), err
}

func (v *Vault) read(ctx context.Context, n *Node, p []byte, off int64, lost *atomic.Int64) (int, error) {
	f, err := v.acquire(n)
	if err != nil {
		return 0, err
	}
	defer f.release()
	if err := f.enter(ctx, lockRead); err != nil {
		return 0, err
	}
	defer f.leave(lockRead)
	got, err := f.readAt(p, off, lost)
	return got, n.fail("read", err)
}

// readAt reads; f.mu is held, at least for reading. lost counts what ReadLost tells; nil: nothing is counted.
func (f *file) readAt(p []byte, off int64, lost *atomic.Int64) (int, error) {
	if off < 0 || off >= f.size || len(p) == 0 {
		return 0, nil
	}
	p = p[:min(int64(len(p)), f.size-off)]
	if f.form == formInline {
		got := 0
		if off < int64(len(f.inline)) {
			got = copy(p, f.inline[off:])
		}
		clear(p[got:])
		return len(p), nil
	}
	if err := f.readGroups(p, off, lost); err != nil {
		return 0, err
	}
	return len(p), nil
}

// readGroups fills p with plaintext from off; all of it is before the end of file.
func (f *file) readGroups(p []byte, off int64, lost *atomic.Int64) error {
	geo := &f.v.geo
	c := geo.ChunkSize()
	first, last := uint64(off/c), uint64((off+int64(len(p))-1)/c)
	from := geo.ChunkOffset(first)
	firstGroup := first / envelope.ChunksPerGroup
	f.gmu.Lock()
	g0 := f.groups[firstGroup] // held on to: another reader may push it out of the cache
	f.gmu.Unlock()
	have := g0 != nil
	lead := from - geo.IndexOffset(firstGroup)
	withIndex := !have && (lead <= 64<<10 || last-first > 64)
	if withIndex {
		from -= lead
	} else if !have {
		f.bf.WillNeed(from, min(c*int64(last-first+1), 1<<20)) // both reads under way at once
	}
	to := geo.ChunkOffset(last) + c
	buf := f.v.buffers.get(int(to-from) + envelope.TagSize)
	defer f.v.buffers.put(buf)
	raw := (*buf)[:to-from]
	if !have && !withIndex {
		var err error
		if g0, err = f.group(firstGroup); err != nil {
			return err
		}
	}
	got, err := f.bf.ReadAt(raw, from)
	if err != nil {
		return err
	}
	groups := make([]*group, 0, 8)
	for n := firstGroup; n <= last/envelope.ChunksPerGroup; n++ {
		g := g0
		if n != firstGroup {
			f.gmu.Lock()
			g = f.groups[n]
			f.gmu.Unlock()
		}
		if g == nil {
			at := geo.IndexOffset(n) - from
			block := raw[at : at+envelope.BlockSize]
			have := min(max(int64(got)-at, 0), envelope.BlockSize)
			clear(block[have:])
			if g, err = f.parseGroup(n, block, int(have)); err != nil {
				return err
			}
		}
		groups = append(groups, g)
	}
	r := reading{f: f, p: p, off: off, raw: (*buf)[:int(to-from)+envelope.TagSize], from: from, got: int64(got), groups: groups, firstGroup: firstGroup, lost: lost}
	return inParallel(first, last+1, &r)
}

// reading is one request being opened; its chunks are independent.
type reading struct {
	f          *file
	p          []byte
	off        int64
	raw        []byte
	from, got  int64
	groups     []*group
	firstGroup uint64
	lost       *atomic.Int64 // nil: nobody asks
}

// count counts a chunk that was read as a hole, if it is none. Where nothing but zeros stands nothing was written.
func (r *reading) count(g *group, i int, which opened, stored []byte) {
	if r.lost == nil || which != openedHole {
		return
	}
	if cur, _ := g.blk.Slot(i); !cur.IsZero() && !envelope.IsZero(stored) {
		r.lost.Add(1)
	}
}

// run opens the chunks [from, to).
func (r *reading) run(from, to uint64, bounds bool) error {
	s := r.f.v.scratch.get()
	defer r.f.v.scratch.put(s)
	var edge *[]byte
	defer func() {
		if edge != nil {
			r.f.v.buffers.put(edge)
		}
	}()
	geo := &r.f.v.geo
	c := geo.ChunkSize()
	for chunk := from; chunk < to; chunk++ {
		g := r.groups[chunk/envelope.ChunksPerGroup-r.firstGroup]
		i := int(chunk % envelope.ChunksPerGroup)
		at := geo.ChunkOffset(chunk) - r.from
		stored := r.raw[at:min(at+c, max(r.got, at))]
		if bounds && chunk == to-1 { // the tag would be put where another core reads
			if edge == nil {
				edge = r.f.v.buffers.get(int(2*c) + 2*envelope.TagSize)
			}
			stored = append((*edge)[c+envelope.TagSize:c+envelope.TagSize], stored...)
		}
		start := int64(chunk)*c - r.off // of the chunk in p
		if start >= 0 && start+c <= int64(len(r.p)) {
			dst := r.p[start : start+c]
			n, which, err := r.f.openSlot(g, i, stored, dst, s)
			if err != nil {
				return err
			}
			r.count(g, i, which, stored)
			clear(dst[n:])
			continue
		}
		if edge == nil {
			edge = r.f.v.buffers.get(int(2*c) + 2*envelope.TagSize)
		}
		tmp := (*edge)[:c]
		n, which, err := r.f.openSlot(g, i, stored, tmp, s)
		if err != nil {
			return err
		}
		r.count(g, i, which, stored)
		clear(tmp[n:])
		if start < 0 {
			copy(r.p, tmp[-start:])
		} else {
			copy(r.p[start:], tmp)
		}
		clear(tmp)
	}
	return nil
}

// chunkRun is work on a range of chunks; bounds says that the range's last chunk has a neighbour at work.
type chunkRun interface {
	run(from, to uint64, bounds bool) error
}

// inParallel runs w over the chunks [from, to), on all cores where that is worth it.
func inParallel(from, to uint64, w chunkRun) error {
	n := to - from
	workers := uint64(runtime.GOMAXPROCS(0))
	if most := n / (parallelFrom / 2); workers > most {
		workers = most
	}
	if n < parallelFrom || workers < 2 {
		return w.run(from, to, false)
	}
	errs := make([]error, workers)
	func() {
		var others bug.Group
		defer others.Wait()
		for i := uint64(1); i < workers; i++ {
			others.Go(func() { errs[i] = w.run(from+n*i/workers, from+n*(i+1)/workers, i+1 < workers) })
		}
		errs[0] = w.run(from, from+n/workers, true)
	}()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}
