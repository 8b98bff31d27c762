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

// lockRemote is LockWait on FUSE.
func (f *file) lockRemote(mode LockMode) error {
	l := RangeLock{Start: lockByte, End: lockByte + 1}.flock(lockType(mode))
	for pause := remoteFirst; ; pause = min(2*pause, remoteMost) {
		err := eintr(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l) })
		if err == nil {
			break
		}
		if err != unix.EAGAIN && err != unix.EACCES {
			return err
		}
		time.Sleep(pause)
	}
	f.through.Store(mode == LockExclusive)
	// Nothing may be read ahead that comes after this lock, and nothing read before it may stay. Both cannot fail.
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_RANDOM)
	_ = unix.Fadvise(f.fd, 0, 0, unix.FADV_DONTNEED)
	return nil
}

// publish ends a write: under an exclusive lock on FUSE, with all of it at the servers.
func (f *file) publish(err error) error {
	if err != nil || !f.through.Load() {
		return err
	}
	return f.DataSync()
}

// statRemote is Stat by the servers' word.
func (h *handle) statRemote() (Stat, error) {
	var st unix.Statx_t
	err := eintr(func() error {
		return unix.Statx(h.fd, "", unix.AT_EMPTY_PATH|unix.AT_STATX_FORCE_SYNC, unix.STATX_BASIC_STATS, &st)
	})
	if err != nil {
		return Stat{}, err
	}
	return statxOf(&st), nil
}
