package fs

import (
	"maps"
	"slices"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

const (
	maxWorkers   = 64
	maxHeld      = 512 // workers beside these that a freeze may hold, each with its thread
	spareWorkers = 2   // that wait even if none was needed for long
)

// A crew is the workers that wait for the right to read. The one that has waited least is next: the kernel has its
// memory, and a core its buffers.
type crew struct {
	mu      sync.Mutex
	all     map[*worker]struct{} // waiting or not
	waiting []*worker
	vacant  bool // nobody has the right: the next one to wait gets it
	closed  bool // the mount is gone
	least   int  // how many waited, at least, since the last trim
	held    int  // by a freeze: others take their place
}

// hold notes that a worker is held until let go of; where too many are, those that are left do without it.
func (c *crew) hold() (letGo func()) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.held == maxHeld {
		return func() {}
	}
	c.held++
	return func() {
		c.mu.Lock()
		defer c.mu.Unlock()
		c.held--
	}
}

// await returns true once w has the right to read, and false when w is to end.
func (c *crew) await(w *worker) bool {
	c.mu.Lock()
	if c.closed {
		c.mu.Unlock()
		return false
	}
	if c.vacant {
		c.vacant = false
		c.mu.Unlock()
		return true
	}
	c.waiting = append(c.waiting, w)
	c.mu.Unlock()
	return w.bed.sleep() == wakeToLead
}

// pass gives the right away. It returns true where nobody waits for it: a new worker is to be hired.
func (c *crew) pass() (hire bool) {
	c.mu.Lock()
	n := len(c.waiting) - 1
	if n < 0 {
		defer c.mu.Unlock()
		c.vacant, c.least = true, 0
		return len(c.all)-c.held < maxWorkers
	}
	w := c.waiting[n]
	c.waiting[n] = nil
	c.waiting = c.waiting[:n]
	c.least = min(c.least, n)
	c.mu.Unlock()
	w.bed.wake(wakeToLead)
	return false
}

// join notes a new worker.
func (c *crew) join(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	if c.all == nil {
		c.all = map[*worker]struct{}{}
	}
	c.all[w] = struct{}{}
}

func (c *crew) leave(w *worker) {
	c.mu.Lock()
	defer c.mu.Unlock()
	delete(c.all, w)
}

// beside adds one who is no worker to those that are waited for; false where the mount is gone.
func (c *crew) beside(waited *sync.WaitGroup) bool {
	c.mu.Lock()
	defer c.mu.Unlock()
	if !c.closed { // so that a worker is there, and Wait has not returned
		waited.Add(1)
	}
	return !c.closed
}

// everybody returns the workers.
func (c *crew) everybody() []*worker {
	c.mu.Lock()
	defer c.mu.Unlock()
	return slices.Collect(maps.Keys(c.all))
}

// trim sends home who was not needed since the last trim.
func (c *crew) trim() {
	c.mu.Lock()
	defer c.mu.Unlock()
	n := max(0, min(c.least, len(c.waiting))-spareWorkers)
	for _, w := range c.waiting[:n] {
		w.bed.wake(wakeToEnd)
	}
	c.waiting = append(c.waiting[:0], c.waiting[n:]...)
	c.least = len(c.waiting)
}

// rest sends home all but the spare ones: nobody has been needed for a while.
func (c *crew) rest() {
	c.mu.Lock()
	c.least = len(c.waiting)
	c.mu.Unlock()
	c.trim()
}

// close sends everybody home.
func (c *crew) close() {
	c.mu.Lock()
	defer c.mu.Unlock()
	c.closed = true
	for _, w := range c.waiting {
		w.bed.wake(wakeToEnd)
	}
	c.waiting = nil
}

// A bed is where a thread sleeps until it is woken, once. It sleeps in the kernel, not in a channel: the scheduler of Go
// wakes one or two other threads on the way to a goroutine that is locked to its own, and the kernel then finds both
// cores busy and queues that one behind the thread that has passed it the right to read.
type bed struct{ word atomic.Uint32 }

const (
	asleep uint32 = iota
	wakeToLead
	wakeToEnd

	futexWaitPrivate, futexWakePrivate = 128, 129 // futex(2)
)

func (b *bed) sleep() (why uint32) {
	for {
		if why = b.word.Swap(asleep); why != asleep {
			return why
		}
		// It returns at once where the word is no longer asleep, and for no reason at times.
		_, _, _ = unix.Syscall6(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&b.word)), futexWaitPrivate, uintptr(asleep), 0, 0, 0)
	}
}

func (b *bed) wake(why uint32) {
	b.word.Store(why)
	_, _, _ = unix.RawSyscall(unix.SYS_FUTEX, uintptr(unsafe.Pointer(&b.word)), futexWakePrivate, 1)
}
