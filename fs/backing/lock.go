package backing

import (
	"golang.org/x/sys/unix"
)

func (d *dir) Lock(name string, mode LockMode) (File, error) {
	f, err := d.Open(name, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err == unix.EROFS { // a snapshot or read-only mount can be locked too, where the file is there
		f, err = d.Open(name, unix.O_RDONLY, 0)
	}
	if err != nil {
		return nil, err
	}
	how := unix.LOCK_EX
	if mode == LockShared {
		how = unix.LOCK_SH
	}
	if err := eintr(func() error { return unix.Flock(f.(*file).fd, how|unix.LOCK_NB) }); err != nil {
		_ = f.Close()
		return nil, err
	}
	return f, nil
}

func (f *file) LockWait(mode LockMode) error {
	if f.sys.fuse {
		return f.lockRemote(mode)
	}
	l := RangeLock{Start: lockByte, End: lockByte + 1}.flock(lockType(mode))
	return eintr(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLKW, &l) })
}

func (f *file) Unlock() error {
	f.held.Store(false)
	l := RangeLock{Start: lockByte, End: lockByte + 1}.flock(unix.F_UNLCK)
	return eintr(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l) })
}

func (f *file) Use() error {
	l := RangeLock{Start: useByte, End: useByte + 1}.flock(unix.F_RDLCK)
	return f.do(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_SETLK, &l) })
}

func (f *file) InUse() (bool, error) {
	l := RangeLock{Start: useByte, End: useByte + 1}.flock(unix.F_WRLCK)
	err := f.do(func() error { return unix.FcntlFlock(uintptr(f.fd), unix.F_OFD_GETLK, &l) })
	return l.Type != unix.F_UNLCK, err
}
