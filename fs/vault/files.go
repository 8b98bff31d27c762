package vault

import (
	"container/list"
	"context"
	"sync"

	"kmsfs/fs/backing"
)

// fileCache bounds how many stored files are kept open that nobody has open on the mount.
type fileCache struct {
	mu  sync.Mutex
	lru *list.List // of *file, most recently opened first
	at  map[*file]*list.Element
	max int
}

func (c *fileCache) opened(f *file) {
	c.mu.Lock()
	c.at[f] = c.lru.PushFront(f)
	var drop []*Node
	if over := c.lru.Len() - c.max; over > 0 {
		e := c.lru.Back()
		for tries := 0; e != nil && tries < over+16 && len(drop) < over+8; tries++ {
			prev := e.Prev()
			o := e.Value.(*file)
			if o.idle() {
				drop = append(drop, o.n)
			} else {
				c.lru.MoveToFront(e)
			}
			e = prev
		}
	}
	c.mu.Unlock()
	for _, n := range drop {
		f.v.retireFile(n, keepNamed)
	}
}

func (c *fileCache) closed(f *file) {
	c.mu.Lock()
	if e := c.at[f]; e != nil {
		c.lru.Remove(e)
		delete(c.at, f)
	}
	c.mu.Unlock()
}

// idle says whether f can be closed and opened again without anybody noticing.
func (f *file) idle() bool {
	f.n.mu.Lock()
	defer f.n.mu.Unlock()
	return f.users == 0 && f.n.opens == 0 && !f.gone
}

// retirement says which files retireFile may close.
type retirement uint8

const (
	keepNamed retirement = iota // only those that can be opened again by a name
	evenGone                    // those without a name, too: nobody refers to them
)

// retireIdle closes n's file, which the caller of the vault does not refer to any more.
func (v *Vault) retireIdle(n *Node) { v.retireFile(n, evenGone) }

func (v *Vault) retireFile(n *Node, which retirement) {
	n.mu.Lock()
	f := n.file
	if f == nil || f.users > 0 || n.opens > 0 || (f.gone && which == keepNamed) {
		n.mu.Unlock()
		return
	}
	n.file = nil
	n.mu.Unlock()
	v.files.closed(f)
	v.reaper.put(f)
}

// reaper closes files behind the back of the caller: the last close of a deleted file frees its space, which takes time.
type reaper struct {
	v     *Vault
	mu    sync.Mutex
	cond  *sync.Cond
	queue []*file
	busy  int
	done  bool
}

const reaperMost = 1024 // files waiting to be closed, each with a descriptor

func (r *reaper) start(v *Vault) {
	r.v = v
	r.cond = sync.NewCond(&r.mu)
	v.wg.Add(1)
	go func() {
		defer v.wg.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		for {
			for len(r.queue) == 0 {
				if r.done {
					return
				}
				r.cond.Wait()
			}
			q := r.queue
			r.queue = nil
			r.busy = len(q)
			r.mu.Unlock()
			for _, f := range q {
				r.bury(f)
			}
			r.mu.Lock()
			r.busy = 0
			r.cond.Broadcast()
		}
	}()
}

func (r *reaper) put(f *file) {
	r.mu.Lock()
	if len(r.queue)+r.busy >= reaperMost || r.done {
		r.mu.Unlock()
		r.bury(f)
		return
	}
	r.queue = append(r.queue, f)
	r.cond.Broadcast()
	r.mu.Unlock()
}

// bury closes f, and gives up its key where no file is left that needs it.
func (r *reaper) bury(f *file) {
	f.mu.Lock()
	if f.gone && !f.headed {
		f.headLocked() // to know its record; it may be damaged
	}
	hasKey := f.form != formEmpty || f.key != nil
	needless := f.form == formEmpty && f.key != nil // emptied, and not written again
	if f.gone && hasKey {
		st, err := f.bf.Stat()
		needless = err == nil && st.Nlink == 0
	}
	if needless && f.opened {
		r.v.keeper.erase(f.loc)
	} else if needless {
		r.v.eraseRecord(f.loc, f.id)
	} else if hasKey && f.form != formEmpty {
		f.n.mu.Lock()
		if f.n.file == nil && f.headed {
			f.n.memo, f.n.memoKnown = f.loc, true
		}
		f.n.mu.Unlock()
	}
	if err := f.close(); err != nil {
		r.v.log.Warn("close", "inode", f.n.ino, "err", err)
	}
	f.mu.Unlock()
	r.v.nodes.unpin(f.n)
}

// drain waits until everything is buried.
func (r *reaper) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 || r.busy > 0 {
		r.cond.Wait()
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	r.done = true
	r.cond.Broadcast()
	r.mu.Unlock()
}

// lockMode is how an operation holds a file.
type lockMode uint8

const (
	lockRead lockMode = iota
	lockWrite
)

// enter returns with the file held, its header authentic and its key there; for writing, an empty file has got one.
func (f *file) enter(ctx context.Context, m lockMode) error {
	for {
		if m == lockWrite {
			if err := f.prepare(ctx); err != nil {
				return err
			}
		} else {
			if err := f.unlock(ctx); err != nil {
				return err
			}
			if f.v.shared {
				f.mu.Lock()
			} else {
				f.mu.RLock()
			}
		}
		if !f.v.shared {
			return nil
		}
		if err := f.lockShared(m); err != nil {
			f.mu.Unlock()
			return f.n.fail("lock", err)
		}
		fresh, err := f.refresh()
		if err != nil {
			f.unlockShared()
			f.mu.Unlock()
			return f.n.fail("open", err)
		}
		if fresh {
			return nil
		}
		f.unlockShared() // another host gave the file another key: get it without holding anything
		f.mu.Unlock()
	}
}

func (f *file) leave(m lockMode) {
	if f.v.shared {
		f.unlockShared()
		f.mu.Unlock()
	} else if m == lockWrite {
		f.mu.Unlock()
	} else {
		f.mu.RUnlock()
	}
}

// refresh reads anew what another host may have changed; false where the key has to be got first.
func (f *file) refresh() (bool, error) {
	st, err := f.bf.Stat()
	if err != nil {
		return false, err
	}
	id, key, wasEmpty := f.id, f.key, f.form == formEmpty
	f.dropGroups()
	f.checked = false
	if err := f.readHeader(st.Size); err != nil {
		return false, err
	}
	switch {
	case f.form == formEmpty:
		return true, nil
	case wasEmpty && f.id != id, f.id != id:
		if wasEmpty && key != nil && id != f.id {
			f.v.pool.put(bound{id: id, loc: f.loc, key: key})
		}
		f.key = nil
		return false, nil
	}
	return true, f.authenticate(key)
}

func (f *file) lockShared(m lockMode) error {
	mode := backing.LockShared
	if m == lockWrite {
		mode = backing.LockExclusive
	}
	if !f.writable {
		mode = backing.LockShared
	}
	return f.bf.LockWait(mode)
}

func (f *file) unlockShared() {
	if err := f.bf.Unlock(); err != nil {
		f.v.log.Warn("unlock", "inode", f.n.ino, "err", err)
	}
}
