package vault

import (
	"container/list"
	"context"
	"maps"
	"slices"
	"sync"
	"time"

	"kmsfs/fs/backing"
	"kmsfs/fs/vault/bug"
)

// fileCache bounds how many stored files are kept open that nobody has open on the mount.
type fileCache struct {
	mu  sync.Mutex
	lru *list.List // of *file, most recently opened first
	at  map[*file]*list.Element
	max int
}

// opened notes that f is open. Where too many are, because they wait to be settled, the caller does the settling; it
// holds no lock but those of names.
func (c *fileCache) opened(f *file) {
	c.mu.Lock()
	c.at[f] = c.lru.PushFront(f)
	open := c.lru.Len()
	c.mu.Unlock()
	const look = 16 // most of those at the back are idle, or come to the front now
	c.trim(f.v, look)
	if open > crowdedFactor*c.max && !f.v.readOnly {
		if err := f.v.keeper.run(); err != nil {
			f.v.log.Error("deferred work failed; it will be tried again", "err", err)
		}
	}
}

// Files wait to be settled, and are open while they do: of so many times the number that may be open otherwise, the
// keeper is woken, or waited for.
const (
	wakeFactor    = 8
	crowdedFactor = 32
)

// trim closes files that are idle where too many are open. It looks at no more than the given number.
func (c *fileCache) trim(v *Vault, look int) {
	var drop []*Node
	c.mu.Lock()
	over := c.lru.Len() - c.max
	look = min(look, c.lru.Len()) // what has come to the front is not looked at again
	for e := c.lru.Back(); e != nil && look > 0 && len(drop) < over; look-- {
		prev := e.Prev()
		o := e.Value.(*file)
		if o.idle() {
			drop = append(drop, o.n)
		} else {
			c.lru.MoveToFront(e)
		}
		e = prev
	}
	c.mu.Unlock()
	for _, n := range drop {
		v.retireFile(n, keepNamed)
	}
}

// rest returns the files that are still open.
func (c *fileCache) rest() []*file {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.at))
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
	// Who is opening n must find the file: the size it has seen may be from before f wrote.
	if f == nil || f.users > 0 || n.opens > 0 || n.wait != nil || (f.gone && which == keepNamed) {
		n.mu.Unlock()
		return
	}
	if !f.gone && lossy(f.bf) { // only f knows what is to be written again: the kernel has told of it, and tells nobody else
		f.users++
		n.mu.Unlock()
		defer f.release()
		f.mu.Lock()
		defer f.mu.Unlock()
		v.keeper.settleLater(f)
		return
	}
	n.file = nil
	n.mu.Unlock()
	v.files.closed(f)
	v.reaper.put(remains{f: f})
}

// reaper closes files behind the back of the caller: the last close of a deleted file frees its space, which takes time.
type reaper struct {
	v     *Vault
	mu    sync.Mutex
	cond  *sync.Cond
	queue []remains
	busy  int
	late  bool // the queue has waited for long enough
	done  bool
	alarm *time.Timer
	most  int // files that may wait
}

// remains is what the reaper closes: a file, or one that was opened only to give up its key.
type remains struct {
	f  *file
	bf backing.File
}

const (
	reaperFactor = 8    // of as many files as may be open otherwise, may wait to be closed, each with a descriptor
	reaperMost   = 1024 // but of no more
	reaperBatch  = 128  // are closed at once: to wake the reaper for each costs more than to close it
	reaperDelay  = 20 * time.Millisecond
)

func (r *reaper) start(v *Vault) {
	r.v = v
	r.most = min(reaperMost, reaperFactor*v.files.max)
	r.cond = sync.NewCond(&r.mu)
	r.alarm = time.AfterFunc(time.Hour, r.hurry)
	r.alarm.Stop()
	v.wg.Add(1)
	go func() {
		defer v.wg.Done()
		r.mu.Lock()
		defer r.mu.Unlock()
		for {
			for !r.due() {
				if r.done {
					return
				}
				r.cond.Wait()
			}
			q := r.queue
			r.queue, r.late = nil, false
			r.busy = len(q)
			r.mu.Unlock()
			for _, x := range q {
				_ = r.v.guarded(func() error { r.close(x); return nil })
			}
			r.mu.Lock()
			r.busy = 0
			r.cond.Broadcast()
		}
	}()
}

func (r *reaper) put(x remains) {
	r.mu.Lock()
	if len(r.queue)+r.busy >= r.most || r.done {
		r.mu.Unlock()
		r.close(x)
		return
	}
	r.queue = append(r.queue, x)
	if len(r.queue) == 1 {
		r.alarm.Reset(reaperDelay)
	}
	if len(r.queue) == min(reaperBatch, r.most) {
		r.cond.Broadcast()
	}
	r.mu.Unlock()
}

// due says whether there is something to close now. r.mu is held.
func (r *reaper) due() bool {
	return len(r.queue) >= min(reaperBatch, r.most) || len(r.queue) > 0 && (r.late || r.done)
}

// hurry has what waits closed now.
func (r *reaper) hurry() {
	r.mu.Lock()
	r.late = true
	r.cond.Broadcast()
	r.mu.Unlock()
}

func (r *reaper) close(x remains) {
	if x.f != nil {
		r.bury(x.f)
	} else {
		r.v.eraseKeyOf(x.bf)
	}
}

// bury closes f, and gives up its key where no file is left that needs it.
func (r *reaper) bury(f *file) {
	defer r.v.nodes.unpin(f.n)
	f.mu.Lock()
	defer f.mu.Unlock()
	gone := f.gone || r.v.shared && nameless(f.bf) // there another host may have taken the last name
	if gone && !f.headed {
		f.headLocked() // to know its record; it may be damaged
	}
	hasKey := f.form != formEmpty || f.key != nil
	// Emptied, and not written again. With an excess it still has a header; it is not truncated here, since it may have been
	// opened anew.
	needless := f.form == formEmpty && f.key != nil && (f.unused || !f.v.shared) && !f.excess
	if gone && hasKey {
		if f.before != nil { // it is no other host's
			f.before.Close()
			f.before = nil
		}
		needless = r.v.shared && f.unused || r.v.forsaken(f.bf)
	}
	needless = needless && (gone || !f.broken)
	if needless && f.opened {
		f.eraseKeys()
	} else if needless {
		r.v.eraseRecord(f.loc, f.id)
	} else if hasKey && f.form != formEmpty && f.opened && f.prev == nil { // authentic: it is what will be erased
		f.n.mu.Lock()
		if f.n.file == nil && f.n.wait == nil {
			f.n.memo, f.n.memoKnown = f.loc, true
		}
		f.n.mu.Unlock()
	}
	if err := f.close(); err != nil {
		r.v.log.Warn("close", "inode", f.n.ino, "err", err)
	}
}

// drain waits until everything is buried.
func (r *reaper) drain() {
	r.mu.Lock()
	defer r.mu.Unlock()
	for len(r.queue) > 0 || r.busy > 0 {
		r.late = true
		r.cond.Broadcast()
		r.cond.Wait()
	}
}

func (r *reaper) stop() {
	r.mu.Lock()
	r.done = true
	r.alarm.Stop()
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
	asked := false // for this operation, however long the answer took
	mended := m == lockWrite
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
				if !f.opened { // changed in between
					f.mu.RUnlock()
					continue
				}
			}
		}
		fresh, err := true, error(nil)
		if f.v.shared {
			locked := false
			if fresh, err = f.enterShared(m, &locked); !locked {
				return f.n.fail("lock", err)
			}
		}
		due := err == nil && fresh && f.due(m, asked)
		if err == nil && fresh && !due {
			if mended || !f.v.shared || !f.writable || f.key == nil || !f.halfDone() {
				return nil
			}
			f.leave(m) // a host has died: with the others locked out it is mended, so that the size that shows is right
			mended = true
			if err := f.enterWrite(ctx, 0); err != nil {
				f.v.log.Warn("cannot mend a file that another host left half done; the next write will try again", "inode", f.n.ino, "err", err)
			} else {
				f.leaveWrite()
			}
			continue
		}
		f.leave(m) // what the keysource is asked for is got without holding anything
		if err != nil {
			return f.n.fail("open", err)
		}
		if due { // else another host gave the file another key
			if err := f.confirm(ctx); err != nil {
				return f.n.fail("confirm key", err)
			}
			asked = true
		}
	}
}

// enterShared locks out other hosts, and reads anew what they may have changed. f.mu is held, and let go of where locked is not
// set.
func (f *file) enterShared(m lockMode, locked *bool) (fresh bool, err error) {
	ended := false
	defer func() {
		switch {
		case !*locked:
			f.mu.Unlock()
		case !ended: // a panic passes
			f.leave(m)
		}
	}()
	if err = f.lockShared(m); err != nil {
		return false, err
	}
	*locked = true
	fresh, err = f.refresh(m)
	ended = true
	return fresh, err
}

func (f *file) leave(m lockMode) {
	if f.v.shared {
		defer f.mu.Unlock()
		f.unlockShared()
	} else if m == lockWrite {
		f.mu.Unlock()
	} else {
		f.mu.RUnlock()
	}
}

// enterWrite is enter for writing about n bytes, with room in the journal for what they replace.
func (f *file) enterWrite(ctx context.Context, n int) error {
	need := f.v.journal.roomFor(n)
	for {
		if err := f.enter(ctx, lockWrite); err != nil {
			return err
		}
		if f.takeRoom(need) {
			break
		}
		if err := f.v.journal.wait(need); err != nil {
			return f.n.fail("write", err)
		}
	}
	err := bug.Err
	defer func() {
		if err == bug.Err { // a panic passes
			f.broken, f.opened = true, false
		}
		if err != nil {
			f.leaveWrite()
		}
	}()
	err = f.readyToWrite()
	return f.n.fail("write", err)
}

// takeRoom gets room in the journal. Where there is none f is let go of: the files in the journal must be free while it is put in
// place.
func (f *file) takeRoom(need int64) (ok bool) {
	defer func() {
		if !ok { // or a panic passes
			f.leave(lockWrite)
		}
	}()
	f.room, ok = f.v.journal.reserve(need)
	return ok
}

// readyToWrite brings the stored file in the state in which a write finds it. f.mu is held for writing.
func (f *file) readyToWrite() error {
	if !f.logs() {
		if err := f.flush(); err != nil { // what follows is written in place
			return err
		}
	}
	if f.v.shared && f.halfDone() { // what is stored changes, and not the content
		return f.keepingTime(f.mend)
	}
	return f.mend()
}

// enterSettled is enter for reading, with everything in place.
func (f *file) enterSettled(ctx context.Context) error {
	for {
		if err := f.enter(ctx, lockRead); err != nil {
			return err
		}
		if !f.pends() {
			return nil
		}
		f.leave(lockRead)
		if err := f.settleDown(); err != nil {
			return err
		}
	}
}

// settleDown is flush, with f.mu not held.
func (f *file) settleDown() error {
	f.mu.Lock()
	defer f.mu.Unlock()
	return f.flush()
}

// leaveWrite ends what enterWrite began. It is deferred: where a panic passes, what f has in memory may be half of a change, and
// nobody is to see or to store it.
func (f *file) leaveWrite() {
	if p := recover(); p != nil {
		f.broken, f.opened = true, false
		defer panic(p)
	}
	r := f.room
	f.room = room{}
	defer r.giveBack()
	f.leave(lockWrite)
}

// refresh reads anew what another host may have changed; false where the key has to be got first.
func (f *file) refresh(m lockMode) (bool, error) {
	st, err := f.bf.Stat()
	if err != nil {
		return false, err
	}
	f.dropGroups()
	f.checked = false
	if err := f.readHeader(st.Size); err != nil {
		return false, err
	}
	if f.form == formEmpty {
		if !f.unused { // it was emptied, and who did so has given up the key
			f.key, f.prev = nil, nil
		}
		return m == lockRead || f.key != nil, nil
	}
	if f.key == nil || f.key.ID() != f.id || f.keyLoc != f.loc {
		f.key, f.prev = nil, nil
		return false, nil
	}
	return true, f.authenticate(f.key, f.prev)
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
