package backing

import (
	"io"

	"golang.org/x/sys/unix"
)

func (f *file) LockWait(mode LockMode) error {
	l := unix.Flock_t{Type: unix.F_WRLCK, Whence: io.SeekStart}
	if mode == LockShared {
		l.Type = unix.F_RDLCK
	}
	return eintr(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLKW, &l) })
}

func (f *file) Unlock() error {
	l := unix.Flock_t{Type: unix.F_UNLCK, Whence: io.SeekStart}
	return eintr(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l) })
}
