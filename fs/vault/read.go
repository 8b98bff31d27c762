package vault

import (
	"context"
	"runtime"
	"sync"
	"sync/atomic"
	"time"

	"kmsfs/envelope"
)

const (
	parallelFrom = 32                    // how many chunks a request must have before it is shared between cores
	pieceChunks  = 16                    // what a core takes of it at a time
	patience     = 30 * time.Microsecond // how long who is ready waits for the others before it sleeps
)

// Read reads plaintext of n from off into p, until p is full or the file ends, and returns how much it read.
// On an error nothing of p is to be used.
func (v *Vault) Read(ctx context.Context, n *Node, p []byte, off int64) (int, error) {
	f, err := v.acquire(n)
	if err != nil {
		return 0, err
	}
	defer f.release()
	if err := f.enter(ctx, lockRead); err != nil {
		return 0, err
	}
	defer f.leave(lockRead)
	got, err := f.readAt(p, off)
	return got, n.fail("read", err)
}

// readAt reads; f.mu is held, at least for reading.
func (f *file) readAt(p []byte, off int64) (int, error) {
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
	c := f.v.geo.ChunkSize()
	first, last := uint64(off/c), uint64((off+int64(len(p))-1)/c)
	var err error
	if last-first < parallelFrom {
		err = f.readGroups(p, off)
	} else { // each piece for itself: what has been read is opened while it is in the cache of the core
		err = inParallel(first, last+1, &reading{f: f, p: p, off: off})
	}
	if err != nil {
		return 0, err
	}
	return len(p), nil
}

// reading is one large request.
type reading struct {
	f   *file
	p   []byte
	off int64
}

// run fills in what r.p has of the chunks [from, to).
func (r *reading) run(from, to uint64, _ bool) error {
	c := r.f.v.geo.ChunkSize()
	lo, hi := max(int64(from)*c-r.off, 0), min(int64(to)*c-r.off, int64(len(r.p)))
	return r.f.readGroups(r.p[lo:hi], r.off+lo)
}

// readGroups fills p with plaintext from off; all of it is before the end of file.
func (f *file) readGroups(p []byte, off int64) error {
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
	return f.openChunks(p, off, first, last, groups, (*buf)[:int(to-from)+envelope.TagSize], from, int64(got))
}

// openChunks opens the chunks [first, last] into p, which is plaintext from off; raw, from from on, has got bytes and
// room for a tag, and groups are their index blocks.
func (f *file) openChunks(p []byte, off int64, first, last uint64, groups []*group, raw []byte, from, got int64) error {
	s := f.v.scratch.get()
	defer f.v.scratch.put(s)
	var edge *[]byte
	defer func() {
		if edge != nil {
			f.v.buffers.put(edge)
		}
	}()
	geo := &f.v.geo
	c := geo.ChunkSize()
	for chunk := first; chunk <= last; chunk++ {
		g := groups[chunk/envelope.ChunksPerGroup-first/envelope.ChunksPerGroup]
		i := int(chunk % envelope.ChunksPerGroup)
		at := geo.ChunkOffset(chunk) - from
		stored := raw[at:min(at+c, max(got, at))]
		start := int64(chunk)*c - off // of the chunk in p
		if start >= 0 && start+c <= int64(len(p)) {
			dst := p[start : start+c]
			n, _, err := f.openSlot(g, i, stored, dst, s)
			if err != nil {
				return err
			}
			clear(dst[n:])
			continue
		}
		if edge == nil {
			edge = f.v.buffers.get(int(c))
		}
		tmp := (*edge)[:c]
		n, _, err := f.openSlot(g, i, stored, tmp, s)
		if err != nil {
			return err
		}
		clear(tmp[n:])
		if start < 0 {
			copy(p, tmp[-start:])
		} else {
			copy(p[start:], tmp)
		}
		clear(tmp)
	}
	return nil
}

// chunkRun is work on a range of chunks; bounds says that the range's last chunk has a neighbour at work.
type chunkRun interface {
	run(from, to uint64, bounds bool) error
}

// A division is a chunkRun in pieces, which whoever has time takes.
type division struct {
	w        chunkRun
	from, to uint64
	next     atomic.Uint64 // piece to be taken
	left     atomic.Int64  // pieces not done
	done     chan struct{} // closed when none is left

	mu  sync.Mutex
	err error // the first
}

// inParallel runs w over the chunks [from, to), on all cores where that is worth it. The caller does what nobody else
// does: a core that is busy, or slow to wake, delays nothing.
func inParallel(from, to uint64, w chunkRun) error {
	pieces := (to - from + pieceChunks - 1) / pieceChunks
	helpers := min(uint64(runtime.NumCPU()), uint64(runtime.GOMAXPROCS(0)), pieces) - 1
	if to-from < parallelFrom || helpers < 1 {
		return w.run(from, to, false)
	}
	d := &division{w: w, from: from, to: to, done: make(chan struct{})}
	d.left.Store(int64(pieces))
	for range helpers {
		go d.work()
	}
	d.work()
	// A helper is on its last piece for a few microseconds more; to sleep and be woken costs more than that.
	for end := time.Now().Add(patience); d.left.Load() > 0 && time.Now().Before(end); {
	}
	if d.left.Load() > 0 {
		<-d.done
	}
	d.mu.Lock()
	defer d.mu.Unlock()
	return d.err
}

// work does pieces until all are taken. One who comes late must not touch w: it may be done already.
func (d *division) work() {
	for {
		from := d.from + (d.next.Add(1)-1)*pieceChunks
		if from >= d.to {
			return
		}
		to := min(from+pieceChunks, d.to)
		if err := d.w.run(from, to, to < d.to); err != nil {
			d.mu.Lock()
			if d.err == nil {
				d.err = err
			}
			d.mu.Unlock()
		}
		if d.left.Add(-1) == 0 {
			close(d.done)
		}
	}
}
