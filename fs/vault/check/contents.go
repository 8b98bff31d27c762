package check

import (
	"errors"
	"fmt"
	"slices"
	"strings"
	"sync"
	"sync/atomic"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
	"kmsfs/fs/vault"
)

// Sizes in bytes of plaintext.
const (
	readSize  = 1 << 20  // read at once
	pieceSize = 16 << 20 // of a large file that one worker takes at once
	piecesMax = 4096     // of one file
)

// open looks at files with keys.
func (w *worker) open(i item) {
	for _, e := range i.entries {
		if w.c.ctx.Err() != nil {
			return
		}
		w.entry(i.node, e.name, i.below(e))
	}
}

// entry looks at a file, symlink or device with keys.
func (w *worker) entry(dir *vault.Node, name string, at place) {
	c := w.c
	n, st, err := c.v.LookupStored(dir, name)
	if err != nil {
		c.fault(File, at, err)
		return
	}
	if c.another(&st, at) {
		c.v.Forget(n, 1)
		return
	}
	switch n.Kind() {
	case syscall.S_IFREG:
		w.file(n, at, &st)
		return
	case syscall.S_IFLNK:
		if _, err := c.v.Readlink(n); err != nil {
			c.fault(Symlink, at, err)
		}
	}
	c.seen(1, 0)
	c.v.Forget(n, 1)
}

// attributes looks at the extended attributes of n.
func (w *worker) attributes(n *vault.Node, at place) {
	bad, err := w.c.v.DamagedXattrs(n)
	if err != nil {
		w.c.fault(Xattr, at, err)
	} else if len(bad) > 0 {
		w.c.add(Finding{Kind: Xattr, Stored: at.stored, Path: at.plain, Err: vault.ErrCorrupt, attrs: bad,
			What: fmt.Sprintf("%d of its extended attributes do not open", len(bad))})
	}
}

// contents is a file that is being opened, perhaps by several workers.
type contents struct {
	place
	n      *vault.Node // with a reference
	size   int64
	sparse bool
	left   atomic.Int32 // pieces that are not done

	mu   sync.Mutex
	bad  []Range
	err  error   // the first
	lost []Range // read as holes, and are none: see vault.ReadLost
}

// piece is a part of a file.
type piece struct {
	f        *contents
	from, to int64
}

// file has a file opened, whose reference goes with it. What is small is done at once.
func (w *worker) file(n *vault.Node, at place, st *backing.Stat) {
	c := w.c
	f := &contents{place: at, n: n, size: st.Size, sparse: st.Blocks*512 < st.Size/8*7}
	first := w.buffer()[:min(st.Size+1, readSize)]
	got, lost, err := c.v.ReadLost(c.ctx, n, first, 0)
	if err == nil && lost > 0 { // piece by piece, to say which
		got = 0
	} else if err == nil && got < len(first) { // all of it
		if got == 0 && st.Size > 0 {
			c.add(Finding{Kind: Note, Stored: at.stored, Path: at.plain,
				What: "something is stored, but it reads as empty: it was never synced, or somebody or a disk has emptied it"})
		}
		c.seen(0, int64(got))
		f.done(w)
		return
	}
	var in *vault.FileError
	if err != nil && errors.As(err, &in) && in.Op != "read" || err != nil && judge(Chunks, err) != Chunks && judge(Chunks, err) != Unread {
		f.err = err
		f.done(w)
		return
	}
	if now, err := c.v.Attr(n); err == nil { // what the header says, now that it is known
		f.size = now.Size
	}
	ranges := c.only[at.stored]
	if ranges == nil {
		c.seen(0, int64(got))
		ranges = []Range{{int64(got), f.size}}
	}
	each := max(pieceSize, (f.size/piecesMax+c.geo.GroupPlain())/c.geo.GroupPlain()*c.geo.GroupPlain())
	var items []item
	for _, r := range ranges {
		for from := r.From; from < r.To; from += each {
			items = append(items, item{piece: &piece{f, from, min(from+each, r.To, f.size)}})
		}
	}
	if len(items) == 0 {
		f.done(w)
		return
	}
	f.left.Store(int32(len(items)))
	slices.Reverse(items)
	w.q.Put(items...)
}

func (w *worker) buffer() []byte {
	if w.buf == nil {
		w.buf = make([]byte, readSize)
	}
	return w.buf
}

// piece opens a piece of a file.
func (w *worker) piece(p *piece) {
	w.read(p.f, p.from, p.to)
	if p.f.left.Add(-1) == 0 {
		p.f.done(w)
	}
}

// read opens [from, to) of a file, and what of it does not open chunk by chunk.
func (w *worker) read(f *contents, from, to int64) {
	c, buf := w.c, w.buffer()
	chunk := c.geo.ChunkSize()
	for off := from; off < to && c.ctx.Err() == nil; {
		if f.sparse {
			if data, err := c.v.Seek(c.ctx, f.n, off, vault.SeekData); errors.Is(err, syscall.ENXIO) {
				return
			} else if err == nil && data > off {
				off = data
				continue
			}
		}
		end := min(off+readSize-off%chunk, to)
		got, lost, err := c.v.ReadLost(c.ctx, f.n, buf[:end-off], off)
		if err == nil && got == 0 {
			return
		}
		if err != nil || lost > 0 {
			for at := off; at < end && f.goesOn(err); at += chunk {
				part := Range{at, min(at+chunk, end)}
				n, lost, e := c.v.ReadLost(c.ctx, f.n, buf[:part.To-at], at)
				switch {
				case e != nil:
					f.note(part, e)
					err = e
				case lost > 0:
					f.lose(part)
				default:
					c.seen(0, int64(n))
				}
			}
			if !f.goesOn(err) {
				f.note(Range{}, err)
				return
			}
			off = end
			continue
		}
		c.seen(0, int64(got))
		off += int64(got)
	}
}

// goesOn says whether after err other parts of the file may be read all the same.
func (f *contents) goesOn(err error) bool {
	kind := judge(Chunks, err)
	return err == nil || kind == Chunks || kind == Unread
}

// lose notes a part that reads as a hole and is none.
func (f *contents) lose(r Range) {
	f.mu.Lock()
	defer f.mu.Unlock()
	f.lost = append(f.lost, r)
}

// note notes a part that does not open, and why.
func (f *contents) note(r Range, err error) {
	f.mu.Lock()
	defer f.mu.Unlock()
	if f.err == nil || judge(Chunks, f.err) != Chunks && judge(Chunks, err) == Chunks { // damage is what is to be told first
		f.err = err
	}
	if r.To > r.From {
		f.bad = append(f.bad, r)
	}
}

// done ends a file: tells what is wrong with it and gives back its node.
func (f *contents) done(w *worker) {
	c := w.c
	switch {
	case f.err == nil || c.ctx.Err() != nil:
	case len(f.bad) == 0:
		if x := finding(File, f.place, f.err); x.Kind != "" {
			x.Size = f.size
			c.add(x)
		}
	default:
		x := finding(Chunks, f.place, f.err)
		x.Ranges = merge(f.bad)
		bad := int64(0)
		for _, r := range x.Ranges {
			bad += r.To - r.From
		}
		x.Size, x.Opens = f.size, f.size-bad
		x.What = fmt.Sprintf("%d of %d bytes do not open", bad, f.size)
		if x.Kind != Chunks {
			x.What = fmt.Sprintf("%d of %d bytes cannot be read: %v", bad, f.size, f.err)
		}
		c.add(x)
	}
	if len(f.lost) > 0 && c.ctx.Err() == nil {
		c.add(f.hollow(c.geo.ChunkSize()))
	}
	if f.err == nil {
		w.attributes(f.n, f.place)
	}
	c.seen(1, 0)
	c.v.Forget(f.n, 1)
}

// hollow tells of the parts that read as zeros though something else stands there. A crash leaves a page as it was or as it
// was to be, or nothing: where a chunk is one page, that is damage.
func (f *contents) hollow(chunk int64) Finding {
	x := Finding{Kind: Chunks, Stored: f.stored, Path: f.plain, Ranges: merge(f.lost), Size: f.size, Opens: f.size, Err: vault.ErrCorrupt}
	for _, r := range x.Ranges {
		x.Opens -= r.To - r.From
	}
	if chunk > envelope.BlockSize {
		x.Kind = Note
	}
	x.What = fmt.Sprintf("%d of %d bytes were never known to be durable, are not what was written last, and read as zeros", f.size-x.Opens, f.size)
	return x
}

// merge joins ranges that touch.
func merge(in []Range) []Range {
	slices.SortFunc(in, func(a, b Range) int { return int(min(max(a.From-b.From, -1), 1)) })
	var out []Range
	for _, r := range in {
		if n := len(out); n > 0 && out[n-1].To >= r.From {
			out[n-1].To = max(out[n-1].To, r.To)
			continue
		}
		out = append(out, r)
	}
	return out
}

// nodeOf returns the directory with a stored path, with a reference.
func (c *checker) nodeOf(path string) (*vault.Node, error) {
	n := c.v.Root()
	c.v.Refer(n)
	for path != "" {
		var name string
		name, path, _ = strings.Cut(path, "/")
		next, _, err := c.v.LookupStored(n, name)
		c.v.Forget(n, 1)
		if err != nil {
			return nil, err
		}
		n = next
	}
	return n, nil
}
