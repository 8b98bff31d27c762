package backing

import (
	"time"

	"golang.org/x/sys/unix"
)

// Clients of shared storage that are FUSE file systems (seen with GlusterFS 10.3) know less than one kernel does of one disk:
// what another host has written is not seen while this one has pages or attributes of it, and what this one has written
// may wait in the client for a while after write(2) has returned. So what is done under a lock of LockWait is written through
// to the servers, and read from them. Such a lock is not waited for in the client, where it takes a second, but asked for again.

const (
	remoteFirst = time.Millisecond
	remoteMost  = 20 * time.Millisecond
)

// A descriptor that was opened before the servers of all replicas were started anew, one after the other, is EBADFD for ever.

// lockRemote is LockWait on FUSE.
func (f *file) lockRemote(mode LockMode) error {
	l := RangeLock{Start: lockByte, End: lockByte + 1}.flock(lockType(mode))
	for pause := remoteFirst; ; pause = min(2*pause, remoteMost) {
		err := f.do(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l) })
		if err == nil {
			break
		}
		if err != unix.EAGAIN && err != unix.EACCES {
			return err
		}
		time.Sleep(pause)
	}
	f.held.Store(true)
	// Nothing may be read ahead that comes after this lock, and nothing read before it may stay. Both cannot fail.
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_RANDOM)
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED)
	return nil
}

// do is eintr, once more where the descriptor had to be renewed.
func (h *handle) do(call func() error) error {
	err := eintr(call)
	if err == unix.EBADFD && h.renew() {
		err = eintr(call)
	}
	return err
}

// renew opens the object anew, by whatever name it has, in place of its descriptor; false where it cannot. What is locked by
// it is left alone: another host could come in between.
func (h *handle) renew() bool {
	if !h.sys.fuse || h.held.Load() {
		return false
	}
	flags, err := unix.FcntlInt(uintptr(h.fd), unix.F_GETFL, 0)
	if err != nil {
		return false
	}
	fd, err := openat(unix.AT_FDCWD, procFD(h.fd), flags&(unix.O_ACCMODE|unix.O_DIRECTORY)|unix.O_NOCTTY|unix.O_NONBLOCK, 0)
	if err != nil {
		return false
	}
	defer unix.Close(fd)
	return eintr(func() error { return unix.Dup3(fd, h.fd, unix.O_CLOEXEC) }) == nil
}

// publish ends a write: under a lock on FUSE, with all of it at the servers.
func (f *file) publish(err error) error {
	if err != nil || !f.held.Load() {
		return err
	}
	return f.DataSync()
}

// statRemote is Stat by the servers' word.
func (h *handle) statRemote() (Stat, error) {
	var st unix.Statx_t
	err := h.do(func() error {
		return unix.Statx(h.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
	})
	if err != nil {
		return Stat{}, err
	}
	return statxOf(&st), nil
}
