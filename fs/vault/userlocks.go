package vault

import (
	"context"
	"errors"
	"math"
	"sync"
	"syscall"
	"time"

	"kmsfs/fs/backing"
)

// LockKind is the call that a lock of a program comes from.
type LockKind uint8

// The kinds of locks. A program's locks of one kind do not exclude those of the other.
const (
	LockRanges LockKind = iota // fcntl(2), of a process or of an open file description
	LockFile                   // flock(2)
)

// LockOwner is who has locks on a file: a process or an open file description, as the kernel numbers them.
type LockOwner struct {
	ID   uint64
	Kind LockKind
}

// LockRange is what is locked: the bytes from Start to End, with it, of plaintext. LockFile locks are of the whole file,
// whatever stands here.
type LockRange struct {
	Shared     bool
	Start, End uint64
}

// userLocks are the locks of programs on one file, which stand on the stored file, so that they are seen by other hosts. Each
// owner has an open file description, since such a lock belongs to one.
type userLocks struct {
	mu     sync.Mutex // a leaf, but for locking without waiting
	owners map[LockOwner]*ownerLocks
	freed  chan struct{} // closed when a lock is let go of on this host; nil: nobody waits
}

type ownerLocks struct {
	locks   *backing.Locks
	handles map[uint64]struct{} // the callers' handles that locks were taken by
}

// Other hosts do not tell when they let go of a lock: who waits for one asks again, at growing distances.
const (
	lockFirst = time.Millisecond
	lockMost  = 25 * time.Millisecond
)

// Lock takes a lock for a program that has n open by the given handle of the caller; EAGAIN where another has it, here or on
// another host.
func (v *Vault) Lock(n *Node, who LockOwner, handle uint64, r LockRange) error {
	o, err := v.lockOwner(n, who)
	if err != nil {
		return err
	}
	defer n.locks.mu.Unlock()
	if err := o.locks.Take(r.stored(who.Kind)); err != nil {
		if who.Kind == LockFile && len(o.handles) > 0 && errors.Is(err, syscall.EAGAIN) { // flock(2) lets go before it converts
			_ = n.locks.drop(who)
			n.locks.wake()
			return err
		}
		n.locks.dropUnused(who)
		return err
	}
	o.handles[handle] = struct{}{}
	n.locks.wake() // it may be less than what the owner had
	return nil
}

// LockWait is Lock that waits until ctx ends. Deadlocks are not found.
func (v *Vault) LockWait(ctx context.Context, n *Node, who LockOwner, handle uint64, r LockRange) error {
	for pause := lockFirst; ; pause = min(2*pause, lockMost) {
		freed := n.locks.wait() // before it is tried: what is let go of then is not missed
		if err := v.Lock(n, who, handle, r); !errors.Is(err, syscall.EAGAIN) {
			return err
		}
		t := time.NewTimer(pause)
		select {
		case <-freed:
		case <-t.C:
		case <-ctx.Done():
			t.Stop()
			return ctx.Err()
		}
		t.Stop()
	}
}

// LockConflict returns a lock that keeps r from being taken, and whether there is one.
func (v *Vault) LockConflict(n *Node, who LockOwner, r LockRange) (LockRange, bool, error) {
	o, err := v.lockOwner(n, who)
	if err != nil {
		return LockRange{}, false, err
	}
	defer n.locks.mu.Unlock()
	defer n.locks.dropUnused(who)
	c, found, err := o.locks.Conflict(r.stored(who.Kind))
	if err != nil || !found {
		return LockRange{}, false, err
	}
	end := uint64(c.End) - 1
	if c.End >= backing.RangeMost {
		end = math.MaxInt64
	}
	return LockRange{Shared: c.Mode == backing.LockShared, Start: uint64(c.Start), End: end}, true, nil
}

// Unlock lets go of what the owner has locked in r.
func (v *Vault) Unlock(n *Node, who LockOwner, r LockRange) error {
	n.locks.mu.Lock()
	defer n.locks.mu.Unlock()
	o := n.locks.owners[who]
	if o == nil {
		return nil
	}
	defer n.locks.wake()
	if s := r.stored(who.Kind); s.Start > 0 || s.End < backing.RangeMost {
		return o.locks.LetGo(s)
	}
	return n.locks.drop(who)
}

// UnlockAll lets go of all that the owner has locked: a process that closes a file loses its locks on it.
func (v *Vault) UnlockAll(n *Node, who LockOwner) error {
	n.locks.mu.Lock()
	defer n.locks.mu.Unlock()
	defer n.locks.wake()
	return n.locks.drop(who)
}

// UnlockHandle lets go of what was locked by a handle, which is closed, and by no other: locks of its open file description.
func (v *Vault) UnlockHandle(n *Node, handle uint64) error {
	n.locks.mu.Lock()
	defer n.locks.mu.Unlock()
	var errs []error
	for who, o := range n.locks.owners {
		if _, by := o.handles[handle]; !by {
			continue
		}
		if delete(o.handles, handle); len(o.handles) == 0 {
			errs = append(errs, n.locks.drop(who))
			n.locks.wake()
		}
	}
	return errors.Join(errs...)
}

// lockOwner returns the locks of who on n with n.locks.mu held, where there is no error.
func (v *Vault) lockOwner(n *Node, who LockOwner) (*ownerLocks, error) {
	n.locks.mu.Lock()
	o := n.locks.owners[who]
	n.locks.mu.Unlock()
	if o != nil {
		n.locks.mu.Lock()
		if n.locks.owners[who] == o {
			return o, nil
		}
		n.locks.mu.Unlock()
	}
	f, err := v.acquire(n)
	if err != nil {
		return nil, err
	}
	defer f.release()
	if !v.readOnly { // the lock is to be taken on a file that may be written
		if err := f.upgrade(); err != nil && !errors.Is(err, syscall.EACCES) && !errors.Is(err, syscall.EPERM) && !errors.Is(err, syscall.EROFS) {
			return nil, err
		}
	}
	stored, ok := plainFile(f.handle()).(interface {
		Locks() (*backing.Locks, error)
	})
	if !ok {
		return nil, ErrNotSupported
	}
	locks, err := stored.Locks()
	if err != nil {
		return nil, n.fail("lock", err)
	}
	n.locks.mu.Lock()
	if o := n.locks.owners[who]; o != nil { // another thread of the owner
		return o, locks.Close()
	}
	if n.locks.owners == nil {
		n.locks.owners = map[LockOwner]*ownerLocks{}
	}
	o = &ownerLocks{locks: locks, handles: map[uint64]struct{}{}}
	n.locks.owners[who] = o
	return o, nil
}

// drop lets go of all of an owner. l.mu is held, as for what follows.
func (l *userLocks) drop(who LockOwner) error {
	o := l.owners[who]
	if o == nil {
		return nil
	}
	delete(l.owners, who)
	return o.locks.Close()
}

// dropUnused drops an owner who has never locked anything.
func (l *userLocks) dropUnused(who LockOwner) {
	if o := l.owners[who]; o != nil && len(o.handles) == 0 {
		_ = l.drop(who) // it holds nothing
	}
}

// wake has those ask again who wait.
func (l *userLocks) wake() {
	if l.freed != nil {
		close(l.freed)
		l.freed = nil
	}
}

// wait returns what is closed when a lock is let go of. l.mu is not held.
func (l *userLocks) wait() <-chan struct{} {
	l.mu.Lock()
	defer l.mu.Unlock()
	if l.freed == nil {
		l.freed = make(chan struct{})
	}
	return l.freed
}

// stored returns r as it stands on the stored file. What is past 2^62, where no file has a byte, is one with the last one before.
func (r LockRange) stored(kind LockKind) backing.RangeLock {
	mode := backing.LockExclusive
	if r.Shared {
		mode = backing.LockShared
	}
	if kind == LockFile {
		return backing.Flocked(mode)
	}
	start := int64(min(r.Start, backing.RangeMost-1))
	return backing.RangeLock{Mode: mode, Start: start, End: max(int64(min(r.End, backing.RangeMost-1))+1, start+1)}
}
