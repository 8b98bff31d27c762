package posix

import (
	"errors"
	"fmt"
	"os"
	"runtime/debug"

	"golang.org/x/sys/unix"
)

// errFault is what a mapping gives where a page cannot be read: the process would get SIGBUS.
var errFault = errors.New("SIGBUS: a mapped page could not be read or written")

// dirFile is a file descriptor.
type dirFile int

func (f dirFile) Pread(p []byte, off int64) (int, error) {
	return retry(func() (int, error) { return unix.Pread(int(f), p, off) })
}

func (f dirFile) Pwrite(p []byte, off int64) (int, error) {
	return retry(func() (int, error) { return unix.Pwrite(int(f), p, off) })
}

func (f dirFile) Write(p []byte) (int, error) {
	return retry(func() (int, error) { return unix.Write(int(f), p) })
}

func (f dirFile) MapRead(p []byte, off int64) (int, error) {
	return f.mapped(off, len(p), unix.PROT_READ, unix.MAP_PRIVATE, func(m []byte) error {
		copy(p, m)
		return nil
	})
}

func (f dirFile) MapWrite(p []byte, off int64) (int, error) {
	return f.mapped(off, len(p), unix.PROT_READ|unix.PROT_WRITE, unix.MAP_SHARED, func(m []byte) error {
		copy(m, p)
		return nil
	})
}

// mapped maps up to n bytes from off, calls use on them, and msyncs a shared mapping.
func (f dirFile) mapped(off int64, n, prot, flags int, use func([]byte) error) (_ int, err error) {
	st, err := f.Stat()
	if err != nil {
		return 0, err
	}
	switch {
	case st.Mode&unix.S_IFMT != unix.S_IFREG:
		return 0, unix.ENODEV
	case off >= st.Size || n == 0:
		return 0, unix.ENXIO
	}
	n = int(min(int64(n), st.Size-off))
	start := off &^ (int64(os.Getpagesize()) - 1)
	m, err := unix.Mmap(int(f), start, int(off-start)+n, prot, flags)
	if err != nil {
		return 0, err
	}
	defer func() { err = errors.Join(err, unix.Munmap(m)) }()
	if err := withFaults(func() error { return use(m[off-start:]) }); err != nil {
		return 0, err
	}
	if flags&unix.MAP_SHARED != 0 {
		if err := unix.Msync(m, unix.MS_SYNC); err != nil {
			return 0, err
		}
	}
	return n, nil
}

// withFaults turns a SIGBUS within use into an error.
func withFaults(use func() error) (err error) {
	defer debug.SetPanicOnFault(debug.SetPanicOnFault(true))
	defer func() {
		if r := recover(); r != nil {
			err = fmt.Errorf("%w: %v", errFault, r)
		}
	}()
	return use()
}

func (f dirFile) Truncate(size int64) error { return unix.Ftruncate(int(f), size) }

func (f dirFile) Fallocate(mode uint32, off, n int64) error {
	_, err := retry(func() (int, error) { return 0, unix.Fallocate(int(f), mode, off, n) })
	return err
}

func (f dirFile) Seek(off int64, whence int) (int64, error) { return unix.Seek(int(f), off, whence) }

func (f dirFile) CopyRange(dst File, off, dstOff, n int64) (int64, error) {
	var done int64
	for done < n {
		r, w := off+done, dstOff+done
		m, err := unix.CopyFileRange(int(f), &r, int(dst.(dirFile)), &w, int(n-done), 0)
		if err != nil || m == 0 {
			return done, err
		}
		done += int64(m)
	}
	return done, nil
}

func (f dirFile) Stat() (Stat, error) {
	var st unix.Stat_t
	if err := unix.Fstat(int(f), &st); err != nil {
		return Stat{}, err
	}
	return fromStat(&st), nil
}

func (f dirFile) Chmod(mode uint32) error { return unix.Fchmod(int(f), mode) }

func (f dirFile) Chown(uid, gid int) error { return unix.Fchown(int(f), uid, gid) }

// Utimes calls utimensat(2) with AT_EMPTY_PATH, which is what futimens(3) comes down to.
func (f dirFile) Utimes(atime, mtime Time) error {
	ts := []unix.Timespec{{Sec: atime.Sec, Nsec: atime.Nsec}, {Sec: mtime.Sec, Nsec: mtime.Nsec}}
	return unix.UtimesNanoAt(int(f), "", ts, unix.AT_EMPTY_PATH)
}

func (f dirFile) Setxattr(attr string, value []byte, flags int) error {
	return unix.Fsetxattr(int(f), attr, value, flags)
}

func (f dirFile) Getxattr(attr string) ([]byte, error) {
	return whole(func(buf []byte) (int, error) { return unix.Fgetxattr(int(f), attr, buf) })
}

func (f dirFile) Sync() error { return unix.Fsync(int(f)) }

func (f dirFile) DataSync() error { return unix.Fdatasync(int(f)) }

func (f dirFile) Close() error { return unix.Close(int(f)) }

// Flags returns the flags that a file of a Dir was opened with, as fcntl(2) tells them.
func Flags(f File) (int, error) {
	d, ok := f.(dirFile)
	if !ok {
		return 0, unix.EBADF
	}
	return unix.FcntlInt(uintptr(d), unix.F_GETFL, 0)
}
