package reverse

import (
	"container/list"
	"sync"

	"kmsfs/fs/backing"
)

// dirs keeps directories of the source open for later.
type dirs struct {
	v    *View
	max  int
	mu   sync.Mutex // a leaf
	lru  *list.List // of *openDir, the last used in front
	open map[*Node]*openDir
}

// openDir is a directory of the source. Who has it calls put.
type openDir struct {
	backing.Dir
	of    *dirs
	node  *Node
	elem  *list.Element // nil once it is no longer kept
	users int
}

func (c *dirs) start(v *View, most int) {
	if most == 0 {
		most = 256
	}
	c.v, c.max, c.lru, c.open = v, most, list.New(), map[*Node]*openDir{}
}

// get opens the directory n.
func (c *dirs) get(n *Node) (*openDir, error) {
	c.mu.Lock()
	if d := c.open[n]; d != nil {
		d.users++
		c.lru.MoveToFront(d.elem)
		c.mu.Unlock()
		return d, nil
	}
	c.mu.Unlock()
	var h backing.Dir
	var err error
	if n.parent == nil {
		h, err = c.v.src.Dup()
	} else {
		var up *openDir
		if up, err = c.get(n.parent); err != nil {
			return nil, err
		}
		h, err = up.OpenDir(n.name)
		up.put()
	}
	if err != nil {
		return nil, err
	}
	d := &openDir{Dir: h, of: c, node: n, users: 1}
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.open[n] != nil { // another was faster; this one is closed when it is put
		return d, nil
	}
	c.open[n], d.elem = d, c.lru.PushFront(d)
	for e := c.lru.Back(); e != nil && c.lru.Len() > c.max; {
		old := e.Value.(*openDir)
		e = e.Prev()
		c.forget(old)
	}
	return d, nil
}

// put lets go of it.
func (d *openDir) put() {
	d.of.mu.Lock()
	defer d.of.mu.Unlock()
	if d.users--; d.users == 0 && d.elem == nil {
		d.Close()
	}
}

// forget keeps d no longer than it is used. c.mu is held.
func (c *dirs) forget(d *openDir) {
	if d.elem == nil {
		return
	}
	c.lru.Remove(d.elem)
	d.elem = nil
	delete(c.open, d.node)
	if d.users == 0 {
		d.Close()
	}
}

// drop forgets the directory of a node that nobody refers to.
func (c *dirs) drop(n *Node) {
	if n.kind != sIFDIR {
		return
	}
	c.mu.Lock()
	defer c.mu.Unlock()
	if d := c.open[n]; d != nil {
		c.forget(d)
	}
}

// Rest closes the directories of the source that are kept open for later, so that what is mounted there can be unmounted.
func (v *View) Rest() { v.dirs.close() }

func (c *dirs) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	for _, d := range c.open {
		c.forget(d)
	}
}
