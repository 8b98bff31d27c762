package backing

import (
	"runtime"
	"sync"
	"sync/atomic"
	"unsafe"

	"golang.org/x/sys/unix"
)

// system is what the handles below one OpenDir share: what this kernel was found not to have, and buffers.
type system struct {
	noXattrAt  atomic.Bool // before Linux 6.13
	noFchmodat atomic.Bool // fchmodat2, before Linux 6.6
	noLinkFD   atomic.Bool // linkat with AT_EMPTY_PATH: without CAP_DAC_READ_SEARCH, and the rules of Linux 6.10
	noNoRepl   atomic.Bool // RENAME_NOREPLACE, on the file system
	dirents    sync.Pool   // *[direntBytes]byte
	fuse       bool        // the file system is FUSE: GlusterFS, CephFS' and others' clients; see remote.go
}

// direntBytes is the buffer of one getdents64: some 1000 entries with sealed names.
const direntBytes = 64 << 10

func newSystem() *system {
	return &system{dirents: sync.Pool{New: func() any { return new([direntBytes]byte) }}}
}

// handle is an open file descriptor and the calls that files and directories share.
type handle struct {
	fd     int
	sys    *system
	closed atomic.Bool
	held   atomic.Bool // by a lock of LockWait, on FUSE: see remote.go
}

// eintr repeats call while a signal interrupts it. (Go's handlers are installed with SA_RESTART, but some file
// systems, NFS and FUSE among them, answer EINTR all the same.)
func eintr(call func() error) error {
	for {
		if err := call(); err != unix.EINTR {
			return err
		}
	}
}

// Close closes the descriptor once. It does not repeat after EINTR: Linux has let go of the number by then, and
// another goroutine may have it already.
func (h *handle) Close() error {
	if h.closed.Swap(true) {
		return unix.EBADF
	}
	if err := unix.Close(h.fd); err != nil && err != unix.EINTR {
		return err
	}
	return nil
}

func (h *handle) Stat() (Stat, error) {
	if h.sys.fuse {
		return h.statRemote()
	}
	var st unix.Stat_t
	if err := eintr(func() error { return unix.Fstat(h.fd, &st) }); err != nil {
		return Stat{}, err
	}
	return statOf(&st), nil
}

func (h *handle) Chmod(mode uint32) error {
	return eintr(func() error { return unix.Fchmod(h.fd, mode) })
}

func (h *handle) Chown(uid, gid uint32) error {
	return eintr(func() error { return unix.Fchown(h.fd, int(int32(uid)), int(int32(gid))) })
}

func (h *handle) Utimes(atime, mtime Timespec) error {
	// futimens(3): utimensat without a path, which unix.UtimesNanoAt cannot say.
	ts := timespecs(atime, mtime)
	err := eintr(func() error {
		if _, _, e := unix.Syscall6(unix.SYS_UTIMENSAT, uintptr(h.fd), 0, uintptr(unsafe.Pointer(&ts)), 0, 0, 0); e != 0 {
			return e
		}
		return nil
	})
	runtime.KeepAlive(&ts)
	return err
}

func (h *handle) GetFlags() (flags uint32, err error) {
	err = eintr(func() error { flags, err = unix.IoctlGetUint32(h.fd, unix.FS_IOC_GETFLAGS); return err })
	return flags, err
}

func (h *handle) SetFlags(flags uint32) error {
	return eintr(func() error { return unix.IoctlSetPointerInt(h.fd, unix.FS_IOC_SETFLAGS, int(flags)) })
}

// statOf converts; the widths of the kernel's fields differ between architectures.
func statOf(st *unix.Stat_t) Stat {
	return Stat{
		Dev: uint64(st.Dev), Ino: st.Ino, Mode: st.Mode, Nlink: uint32(st.Nlink),
		UID: st.Uid, GID: st.Gid, Rdev: uint64(st.Rdev),
		Size: st.Size, Blocks: st.Blocks, Blksize: uint32(st.Blksize),
		Atim: Timespec{int64(st.Atim.Sec), int64(st.Atim.Nsec)},
		Mtim: Timespec{int64(st.Mtim.Sec), int64(st.Mtim.Nsec)},
		Ctim: Timespec{int64(st.Ctim.Sec), int64(st.Ctim.Nsec)},
	}
}

func timespecs(atime, mtime Timespec) [2]unix.Timespec {
	var ts [2]unix.Timespec
	setTimespec(&ts[0], atime)
	setTimespec(&ts[1], mtime)
	return ts
}

func setTimespec(ts *unix.Timespec, t Timespec) {
	// The special values stand in Nsec alone; Sec is ignored by the kernel then.
	*ts, _ = unix.TimeToTimespec(t.Time())
	if t.Nsec < 0 || t.Nsec >= 1e9 {
		ts.Nsec = t.Nsec
	}
}
