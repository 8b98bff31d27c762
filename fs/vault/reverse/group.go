package reverse

import (
	"container/list"
	"sync"

	"kmsfs/envelope"
	"kmsfs/fs/vault/bug"
)

// cache keeps sealed groups, so that who reads a file in pieces has each group sealed once.
type cache struct {
	v         *View
	most      int // groups
	buffers   sync.Pool
	scratches sync.Pool

	mu  sync.Mutex // a leaf
	at  map[groupAt]*group
	lru *list.List // of *group, the last used in front
}

type groupAt struct {
	h *Handle
	n uint64
}

// group is a sealed group. Who has it calls put.
type group struct {
	at    groupAt
	ready chan struct{} // closed when what follows is there
	err   error
	bytes []byte // as stored; nil: a hole

	buf   *[]byte       // bytes are in it
	users int           // guarded by cache.mu
	elem  *list.Element // nil once it is no longer kept; guarded by cache.mu
}

func (c *cache) start(v *View, most int64) {
	if most == 0 {
		most = 32 << 20
	}
	c.v, c.at, c.lru = v, map[groupAt]*group{}, list.New()
	c.most = max(8, int(most/v.geo.GroupSealed()))
	c.buffers.New = func() any {
		b := make([]byte, v.geo.GroupSealed()+envelope.TagSize) // sealing uses some bytes behind a chunk
		return &b
	}
	c.scratches.New = func() any { return new(envelope.Scratch) }
}

// get returns group n of h, sealed.
func (c *cache) get(h *Handle, key dataKey, n uint64) (*group, error) {
	at := groupAt{h, n}
	c.mu.Lock()
	g := c.at[at]
	if g != nil {
		g.users++
		c.lru.MoveToFront(g.elem)
		c.mu.Unlock()
		<-g.ready
	} else {
		g = &group{at: at, ready: make(chan struct{}), users: 1}
		c.at[at], g.elem = g, c.lru.PushFront(g)
		for e := c.lru.Back(); e != nil && c.lru.Len() > c.most; {
			old := e.Value.(*group)
			e = e.Prev()
			if old.users == 0 {
				c.forget(old)
			}
		}
		c.mu.Unlock()
		c.fill(g, key)
	}
	if g.err != nil {
		c.mu.Lock()
		c.forget(g)
		c.mu.Unlock()
		c.put(g)
		return nil, g.err
	}
	return g, nil
}

// fill seals g, and tells who waits for it, also where a panic passes.
func (c *cache) fill(g *group, key dataKey) {
	g.err = bug.Err
	defer func() {
		if g.err == bug.Err {
			c.mu.Lock()
			c.forget(g)
			c.mu.Unlock()
		}
		close(g.ready)
	}()
	g.err = g.at.h.seal(g, key)
}

// put lets go of a group.
func (c *cache) put(g *group) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if g.users--; g.users == 0 && g.elem == nil {
		c.recycle(g)
	}
}

// forget keeps a group no longer than it is used. c.mu is held.
func (c *cache) forget(g *group) {
	if g.elem == nil {
		return
	}
	c.lru.Remove(g.elem)
	g.elem = nil
	delete(c.at, g.at)
	if g.users == 0 {
		c.recycle(g)
	}
}

func (c *cache) recycle(g *group) {
	if g.buf != nil {
		c.buffers.Put(g.buf)
		g.buf, g.bytes = nil, nil
	}
}

// drop forgets the groups of a handle that nobody uses any more.
func (c *cache) drop(h *Handle) {
	c.mu.Lock()
	defer c.mu.Unlock()
	for at, g := range c.at {
		if at.h == h {
			c.forget(g)
		}
	}
}

// readGroups fills p from byte off of the stored file on. The groups are sealed at the same time.
func (h *Handle) readGroups(key dataKey, p []byte, off int64) error {
	size := h.v.geo.GroupSealed()
	first, last := uint64(off/size), uint64((off+int64(len(p))-1)/size)
	errs := make([]error, last-first+1)
	one := func(n uint64) {
		g, err := h.v.cache.get(h, key, n)
		if err != nil {
			errs[n-first] = err
			return
		}
		defer h.v.cache.put(g)
		begin := int64(n) * size
		from, to := max(off, begin), min(off+int64(len(p)), begin+size)
		if part := p[from-off : to-off]; g.bytes == nil {
			clear(part)
		} else {
			copy(part, g.bytes[from-begin:])
		}
	}
	func() {
		var wg bug.Group
		defer wg.Wait()
		for n := first; n < last; n++ {
			wg.Go(func() { one(n) })
		}
		one(last)
	}()
	for _, err := range errs {
		if err != nil {
			return err
		}
	}
	return nil
}

// seal reads and seals a group. Where it was shown before it must come out the same.
func (h *Handle) seal(g *group, key dataKey) error {
	geo, n := h.v.geo, g.at.n
	present, err := h.present(n)
	if err != nil {
		return err
	}
	if !present {
		return h.holesStand()
	}
	begin := int64(n) * geo.GroupPlain()
	size := min(geo.GroupPlain(), h.version.size-begin)
	g.buf = h.v.cache.buffers.Get().(*[]byte)
	g.bytes = (*g.buf)[:envelope.BlockSize+size]
	if err := h.readAll(g.bytes[envelope.BlockSize:], begin); err != nil {
		return err
	}
	index := (*envelope.IndexBlock)(g.bytes)
	clear(index[:])
	head := envelope.Header{Log2: geo.Log2(), ID: h.id, Group: n, Loc: key.loc}
	if n == 0 {
		head.Flags, head.Size = envelope.FlagExact|h.flags, uint64(h.version.size)
	}
	index.SetHeader(&head)
	if err := h.sealChunks(index, g.bytes[envelope.BlockSize:], key.fk, n); err != nil {
		return err
	}
	if err := h.setPresence(index, n); err != nil {
		return err
	}
	if err := h.holesStand(); err != nil {
		return err
	}
	index.SealAll(key.fk, n)
	return h.sameAsBefore(index, n)
}

// sealChunks seals the chunks of group n in place.
func (h *Handle) sealChunks(index *envelope.IndexBlock, text []byte, fk *envelope.FileKey, n uint64) error {
	gk, err := fk.Group(n)
	if err != nil {
		return err
	}
	s := h.v.cache.scratches.Get().(*envelope.Scratch)
	defer h.v.cache.scratches.Put(s)
	size := h.v.geo.ChunkSize()
	begin := int64(n) * h.v.geo.GroupPlain()
	for i := 0; int64(i)*size < int64(len(text)); i++ {
		at := int64(i) * size
		part := text[at:min(at+size, int64(len(text)))]
		data, err := h.dataIn(begin+at, begin+at+int64(len(part)))
		if err != nil {
			return err
		}
		if !data {
			clear(part)
			continue
		}
		chunk := n*envelope.ChunksPerGroup + uint64(i)
		nonce := fk.ChunkNonce(chunk, part, s)
		index.SetSlot(i, gk.SealChunk(part, part, chunk, &nonce, s), envelope.Entry{})
	}
	return nil
}

// sameAsBefore refuses a group that differs from what was shown of it through this handle: its chunks would not go with
// an index block that somebody has read before.
func (h *Handle) sameAsBefore(index *envelope.IndexBlock, n uint64) error {
	var sum [envelope.TagSize]byte // of seals, which are MACs
	for sector := range envelope.SectorsPerBlock {
		for i, b := range index[(sector+1)*envelope.SectorSize-envelope.TagSize:][:envelope.TagSize] {
			sum[i] ^= b
		}
	}
	h.mu.Lock()
	defer h.mu.Unlock()
	if was, ok := h.sealed[n]; ok && was != sum {
		return ErrChanged
	}
	if len(h.sealed) >= sealedMost {
		clear(h.sealed)
	}
	h.sealed[n] = sum
	return nil
}
