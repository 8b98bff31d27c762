package backing

import (
	"golang.org/x/sys/unix"
)

// file is a regular file of the real file system.
type file struct{ handle }

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pread(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err == unix.EBADFD && f.renew():
		case err != nil:
			return done, err
		case n == 0:
			return done, nil
		default:
			done += n
		}
	}
	return done, nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) {
	n, err := f.pwrite(p, off)
	return n, f.publish(err)
}

func (f *file) pwrite(p []byte, off int64) (int, error) {
	done := 0
	for done < len(p) {
		n, err := unix.Pwrite(f.fd, p[done:], off+int64(done))
		switch {
		case err == unix.EINTR:
		case err == unix.EBADFD && f.renew():
		case err != nil:
			return done, err
		case n == 0:
			return done, unix.EIO // write(2) does not do this to a regular file
		default:
			done += n
		}
	}
	return done, nil
}

// maxIovec is IOV_MAX of Linux: more buffers in one pwritev are EINVAL.
const maxIovec = 1024

func (f *file) WritevAt(bufs [][]byte, off int64) (int, error) {
	n, err := f.pwritev(bufs, off)
	return n, f.publish(err)
}

func (f *file) pwritev(bufs [][]byte, off int64) (int, error) {
	done := 0
	for len(bufs) > 0 {
		if len(bufs[0]) == 0 {
			bufs = bufs[1:]
			continue
		}
		n, err := unix.Pwritev(f.fd, bufs[:min(len(bufs), maxIovec)], off+int64(done))
		switch {
		case err == unix.EINTR, err == unix.EBADFD && f.renew():
			continue
		case err != nil:
			return done, err
		case n == 0:
			return done, unix.EIO
		}
		done += n
		for len(bufs) > 0 && n >= len(bufs[0]) {
			n -= len(bufs[0])
			bufs = bufs[1:]
		}
		if n > 0 { // within a buffer: the caller's slices are not ours to shorten
			m, err := f.pwrite(bufs[0][n:], off+int64(done))
			done += m
			if err != nil {
				return done, err
			}
			bufs = bufs[1:]
		}
	}
	return done, nil
}

func (f *file) Truncate(size int64) error {
	return f.do(func() error { return unix.Ftruncate(f.fd, size) })
}

func (f *file) Allocate(mode uint32, off, n int64) error {
	return f.do(func() error { return unix.Fallocate(f.fd, mode, off, n) })
}

func (f *file) Seek(off int64, whence int) (int64, error) {
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	// The descriptor's own offset moves; nothing here reads by it.
	var pos int64
	err := f.do(func() (err error) { pos, err = unix.Seek(f.fd, off, whence); return err })
	return max(pos, 0), err
}

func (f *file) CopyRange(dst File, off, dstOff, n int64) (int64, error) {
	d, ok := dst.(*file)
	switch {
	case !ok:
		return 0, unix.EXDEV
	case off < 0 || dstOff < 0 || n < 0:
		return 0, unix.EINVAL
	}
	n = min(n, 1<<30)
	var copied int
	err := eintr(func() (err error) {
		from, to := off, dstOff // the kernel moves them on
		copied, err = unix.CopyFileRange(f.fd, &from, d.fd, &to, int(n), 0)
		return err
	})
	return int64(max(copied, 0)), err
}

func (f *file) Sync() error {
	return f.do(func() error { return unix.Fsync(f.fd) })
}

func (f *file) DataSync() error {
	return f.do(func() error { return unix.Fdatasync(f.fd) })
}

func (f *file) WillNeed(off, n int64) {
	if f.sys.fuse { // what comes after the lock has been let go of would be read under the next one
		return
	}
	_ = unix.Fadvise(f.fd, off, n, unix.FADV_WILLNEED)
}
