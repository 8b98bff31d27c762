package backing

import (
	"io"

	"golang.org/x/sys/unix"
)

// RangeMost is the end of what [Locks] locks: locks from there on are those of [File.LockWait] and of flock.
const RangeMost = 1 << 62

// Bytes that stand for a whole file, past the end of every file: so that the locks of the vault, of flock(2) and of fcntl(2)
// on one stored file are of one kind, which works between hosts, and do not exclude each other.
const (
	lockByte  = RangeMost
	flockByte = RangeMost + 1
	useByte   = RangeMost + 2
)

// RangeLock is a lock of the bytes [Start, End) of a file. Mode is of no account where it is let go of.
type RangeLock struct {
	Mode       LockMode
	Start, End int64
}

// Flocked is the lock that stands for flock(2), in the given mode.
func Flocked(mode LockMode) RangeLock { return RangeLock{mode, flockByte, flockByte + 1} }

// Locks are locks of one owner on a file, by an open file description of its own, which [Locks.Close] lets go of.
type Locks struct{ f *file }

// Locks returns locks of a new owner on f, whatever its name is now. Where f may only be read, exclusive locks are EBADF.
func (f *file) Locks() (*Locks, error) {
	for _, how := range []int{unix.O_RDWR, unix.O_RDONLY} {
		fd, err := openat(unix.AT_FDCWD, procFD(f.fd), how|unix.O_NONBLOCK|unix.O_NOCTTY, 0)
		if err == nil {
			return &Locks{&file{handle: handle{fd: fd, sys: f.sys}}}, nil
		}
		if err != unix.EACCES && err != unix.EROFS && err != unix.EPERM || how == unix.O_RDONLY {
			return nil, err
		}
	}
	return nil, unix.EBADF
}

// Take takes r in place of what the owner has of these bytes, without waiting; EAGAIN where somebody else has it.
func (l *Locks) Take(r RangeLock) error { return l.set(r, lockType(r.Mode)) }

// LetGo lets go of what the owner has of the bytes of r.
func (l *Locks) LetGo(r RangeLock) error { return l.set(r, unix.F_UNLCK) }

func (l *Locks) set(r RangeLock, typ int16) error {
	k := r.flock(typ)
	err := eintr(func() error { return unix.FcntlFlock(uintptr(l.f.fd), unix.F_OFD_SETLK, &k) })
	if err == unix.EACCES { // as POSIX lets a file system say it
		err = unix.EAGAIN
	}
	return err
}

// Conflict returns a lock of somebody else that keeps r from being taken, and whether there is one.
func (l *Locks) Conflict(r RangeLock) (RangeLock, bool, error) {
	k := r.flock(lockType(r.Mode))
	if err := eintr(func() error { return unix.FcntlFlock(uintptr(l.f.fd), unix.F_OFD_GETLK, &k) }); err != nil || k.Type == unix.F_UNLCK {
		return RangeLock{}, false, err
	}
	c := RangeLock{Mode: LockExclusive, Start: k.Start, End: k.Start + k.Len}
	if k.Type == unix.F_RDLCK {
		c.Mode = LockShared
	}
	if k.Len == 0 {
		c.End = RangeMost
	}
	return c, true, nil
}

// Close lets go of all locks of the owner.
func (l *Locks) Close() error {
	_ = l.set(RangeLock{Start: 0, End: flockByte + 1}, unix.F_UNLCK) // not every file system does it by itself: FUSE
	return l.f.Close()
}

func (r RangeLock) flock(typ int16) unix.Flock_t {
	return unix.Flock_t{Type: typ, Whence: io.SeekStart, Start: r.Start, Len: r.End - r.Start}
}

func lockType(m LockMode) int16 {
	if m == LockShared {
		return unix.F_RDLCK
	}
	return unix.F_WRLCK
}
