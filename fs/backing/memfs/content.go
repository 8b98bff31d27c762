package memfs

import (
	"slices"

	"golang.org/x/sys/unix"
)

const (
	pageSize   = 4096
	sectorSize = 512
	// maxSize is the largest file, as on ext4 with 4 KiB blocks.
	maxSize = (1<<32 - 1) * pageSize
)

type page [pageSize]byte

// content is the bytes of a file by pages. A page is never written once it is here: a new one takes its place, so
// that old ones can be kept and shared. A missing page is a hole.
type content struct {
	size    int64
	sizeOld []int64 // since the last sync, the durable one first
	pages   map[int64]*page
	old     map[int64][]*page // since the last sync, the durable one first; nil is a hole
	alloc   map[int64]bool    // holes with room set aside by fallocate
	lost    map[int64]bool    // not durable, and no sync will make them so: see LoseWrites
}

// put makes p (nil: a hole) page i.
func (c *content) put(i int64, p *page) {
	if c.pages == nil {
		c.pages, c.old = map[int64]*page{}, map[int64][]*page{}
	}
	c.old[i] = remember(c.old[i], c.pages[i])
	delete(c.lost, i)
	if p == nil {
		delete(c.pages, i)
		return
	}
	c.pages[i] = p
	delete(c.alloc, i)
}

func (c *content) resize(size int64) {
	if size != c.size {
		c.sizeOld = remember(c.sizeOld, c.size)
		c.size = size
	}
}

// synced makes the present state the durable one.
func (c *content) synced() {
	c.sizeOld = nil
	for i := range c.old {
		if !c.lost[i] {
			delete(c.old, i)
		}
	}
}

func (c *content) blocks() int64 {
	return int64(len(c.pages)+len(c.alloc)) * (pageSize / sectorSize)
}

func (c *content) read(p []byte, off int64) int {
	if off >= c.size {
		return 0
	}
	p = p[:min(int64(len(p)), c.size-off)]
	for done := 0; done < len(p); {
		at := off + int64(done)
		n := int(min(pageSize-at%pageSize, int64(len(p)-done)))
		if pg := c.pages[at/pageSize]; pg != nil {
			copy(p[done:done+n], pg[at%pageSize:])
		} else {
			clear(p[done : done+n])
		}
		done += n
	}
	return len(p)
}

func (c *content) write(p []byte, off int64) {
	for done := 0; done < len(p); {
		at := off + int64(done)
		pg := c.copyOf(at / pageSize)
		done += copy(pg[at%pageSize:], p[done:])
		c.put(at/pageSize, pg)
	}
	c.resize(max(c.size, off+int64(len(p))))
}

// copyOf returns a page with the content of page i, to change and put.
func (c *content) copyOf(i int64) *page {
	pg := new(page)
	if was := c.pages[i]; was != nil {
		*pg = *was
	}
	return pg
}

func (c *content) truncate(size int64) {
	if size < c.size {
		c.zero(size, c.lastPage()*pageSize+pageSize)
		for i := range c.alloc {
			if i*pageSize >= size {
				delete(c.alloc, i)
			}
		}
	}
	c.resize(size)
}

// lastPage is the number of the last page that there is.
func (c *content) lastPage() int64 {
	last := c.size / pageSize
	for i := range c.pages {
		last = max(last, i)
	}
	return last
}

// zero makes the bytes from off to end zero, and whole pages holes.
func (c *content) zero(off, end int64) {
	for i := range c.pages {
		from, to := max(off, i*pageSize), min(end, (i+1)*pageSize)
		switch {
		case from >= to:
		case to-from == pageSize:
			c.put(i, nil)
		default:
			pg := c.copyOf(i)
			clear(pg[from-i*pageSize : to-i*pageSize])
			c.put(i, pg)
		}
	}
}

// allocate is fallocate(2) once its arguments are found good.
func (c *content) allocate(mode uint32, off, n int64) {
	end := off + n
	switch {
	case mode&unix.FALLOC_FL_PUNCH_HOLE != 0:
		c.zero(off, end)
		for i := range c.alloc {
			if i*pageSize >= off && (i+1)*pageSize <= end {
				delete(c.alloc, i)
			}
		}
		return
	case mode&unix.FALLOC_FL_ZERO_RANGE != 0:
		c.zero(off, end)
	}
	if c.alloc == nil {
		c.alloc = map[int64]bool{}
	}
	// Room for a huge range would be a huge map; the first pages stand for it.
	for i := off / pageSize; i*pageSize < end && len(c.alloc) < 1<<16; i++ {
		if c.pages[i] == nil {
			c.alloc[i] = true
		}
	}
	if mode&unix.FALLOC_FL_KEEP_SIZE == 0 {
		c.resize(max(c.size, end))
	}
}

// seek is lseek(2) with SEEK_DATA or SEEK_HOLE.
func (c *content) seek(off int64, whence int) (int64, error) {
	if off < 0 || off >= c.size {
		return 0, unix.ENXIO
	}
	if whence == unix.SEEK_HOLE {
		i := off / pageSize
		if c.pages[i] == nil {
			return off, nil
		}
		for c.pages[i] != nil {
			i++
		}
		return min(i*pageSize, c.size), nil
	}
	if c.pages[off/pageSize] != nil {
		return off, nil
	}
	next := int64(-1)
	for i := range c.pages {
		if i*pageSize > off && i*pageSize < c.size && (next < 0 || i < next) {
			next = i
		}
	}
	if next < 0 {
		return 0, unix.ENXIO
	}
	return next * pageSize, nil
}

// numbers returns the pages that are or may be, in order.
func (c *content) numbers() []int64 {
	var nn []int64
	for i := range c.pages {
		nn = append(nn, i)
	}
	for i := range c.old {
		if c.pages[i] == nil {
			nn = append(nn, i)
		}
	}
	slices.Sort(nn)
	return nn
}
