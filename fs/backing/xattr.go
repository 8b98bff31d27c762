package backing

import (
	"runtime"
	"unsafe"

	"golang.org/x/sys/unix"
)

// Extended attributes, of the open object by descriptor and of a name by the calls of Linux 6.13. Where these are
// missing the path /proc/self/fd/N/name stands in: N is a directory, so that only name is looked up, and the l*xattr
// calls do not follow it.

func (h *handle) Getxattr(attr string, buf []byte) (n int, err error) {
	err = eintr(func() error { n, err = unix.Fgetxattr(h.fd, attr, buf); return err })
	return max(n, 0), err
}

func (h *handle) Setxattr(attr string, value []byte, flags int) error {
	return eintr(func() error { return unix.Fsetxattr(h.fd, attr, value, flags) })
}

func (h *handle) Removexattr(attr string) error {
	return eintr(func() error { return unix.Fremovexattr(h.fd, attr) })
}

func (h *handle) Listxattr(buf []byte) (n int, err error) {
	err = eintr(func() error { n, err = unix.Flistxattr(h.fd, buf); return err })
	return max(n, 0), err
}

// xattrArgs is struct xattr_args of linux/xattr.h; value fills 64 bits on every architecture.
type xattrArgs struct {
	value *byte
	_     [8 - unsafe.Sizeof(uintptr(0))]byte
	size  uint32
	flags uint32
}

// xattrAt makes one of the *xattrat system calls on name, or answers ENOSYS.
func (d *dir) xattrAt(trap uintptr, name, attr string, a *xattrArgs) (int, error) {
	if d.sys.noXattrAt.Load() {
		return 0, unix.ENOSYS
	}
	path, err := unix.BytePtrFromString(name)
	if err != nil {
		return 0, err
	}
	key, err := unix.BytePtrFromString(attr)
	if err != nil {
		return 0, err
	}
	for {
		var n uintptr
		var e unix.Errno
		switch trap {
		case unix.SYS_LISTXATTRAT:
			n, _, e = unix.Syscall6(trap, uintptr(d.fd), uintptr(unsafe.Pointer(path)), unix.AT_SYMLINK_NOFOLLOW,
				uintptr(unsafe.Pointer(a.value)), uintptr(a.size), 0)
		case unix.SYS_REMOVEXATTRAT:
			n, _, e = unix.Syscall6(trap, uintptr(d.fd), uintptr(unsafe.Pointer(path)), unix.AT_SYMLINK_NOFOLLOW,
				uintptr(unsafe.Pointer(key)), 0, 0)
		default:
			n, _, e = unix.Syscall6(trap, uintptr(d.fd), uintptr(unsafe.Pointer(path)), unix.AT_SYMLINK_NOFOLLOW,
				uintptr(unsafe.Pointer(key)), uintptr(unsafe.Pointer(a)), unsafe.Sizeof(*a))
		}
		runtime.KeepAlive(a)
		switch e {
		case 0:
			return int(n), nil
		case unix.EINTR:
		case unix.ENOSYS:
			d.sys.noXattrAt.Store(true)
			return 0, e
		default:
			return 0, e
		}
	}
}

// procName is the path of name for calls that know no directory descriptor.
func (d *dir) procName(name string) string { return procFD(d.fd) + "/" + name }

func (d *dir) GetxattrAt(name, attr string, buf []byte) (int, error) {
	if err := CheckName(name); err != nil {
		return 0, err
	}
	n, err := d.xattrAt(unix.SYS_GETXATTRAT, name, attr, &xattrArgs{value: unsafe.SliceData(buf), size: uint32(len(buf))})
	if err == unix.ENOSYS {
		err = eintr(func() error { n, err = unix.Lgetxattr(d.procName(name), attr, buf); return err })
	}
	return max(n, 0), err
}

func (d *dir) SetxattrAt(name, attr string, value []byte, flags int) error {
	if err := CheckName(name); err != nil {
		return err
	}
	a := &xattrArgs{value: unsafe.SliceData(value), size: uint32(len(value)), flags: uint32(flags)}
	_, err := d.xattrAt(unix.SYS_SETXATTRAT, name, attr, a)
	if err == unix.ENOSYS {
		err = eintr(func() error { return unix.Lsetxattr(d.procName(name), attr, value, flags) })
	}
	return err
}

func (d *dir) RemovexattrAt(name, attr string) error {
	if err := CheckName(name); err != nil {
		return err
	}
	_, err := d.xattrAt(unix.SYS_REMOVEXATTRAT, name, attr, nil)
	if err == unix.ENOSYS {
		err = eintr(func() error { return unix.Lremovexattr(d.procName(name), attr) })
	}
	return err
}

func (d *dir) ListxattrAt(name string, buf []byte) (int, error) {
	if err := CheckName(name); err != nil {
		return 0, err
	}
	n, err := d.xattrAt(unix.SYS_LISTXATTRAT, name, "", &xattrArgs{value: unsafe.SliceData(buf), size: uint32(len(buf))})
	if err == unix.ENOSYS {
		err = eintr(func() error { n, err = unix.Llistxattr(d.procName(name), buf); return err })
	}
	return max(n, 0), err
}
