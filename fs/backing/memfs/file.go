package memfs

import (
	"math"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// file is an open regular file.
type file struct {
	handle
	flags int // of Open
}

func (f *file) readable() bool { return f.flags&unix.O_ACCMODE != unix.O_WRONLY }
func (f *file) writable() bool { return f.flags&unix.O_ACCMODE != unix.O_RDONLY }

func (f *file) Close() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return unix.EBADF
	}
	f.closed = true
	f.in.flock.drop(f)
	f.in.ranges.drop(f)
	f.in.using.drop(f)
	f.fs.freed.Broadcast()
	return nil
}

func (f *file) ReadAt(p []byte, off int64) (int, error) {
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	switch {
	case len(p) == 0:
		return 0, nil
	case off < 0:
		return 0, unix.EINVAL
	case !f.readable():
		return 0, unix.EBADF
	}
	return f.in.data.read(p, off), nil
}

func (f *file) WriteAt(p []byte, off int64) (int, error) { return f.WritevAt([][]byte{p}, off) }

func (f *file) WritevAt(bufs [][]byte, off int64) (int, error) {
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	total := int64(0)
	for _, b := range bufs {
		total += int64(len(b))
	}
	if total == 0 {
		return 0, nil
	}
	if err := f.mayWrite(off); err != nil {
		return 0, err
	}
	done := 0
	for _, b := range bufs {
		b = b[:min(int64(len(b)), maxSize-off-int64(done))]
		f.in.data.write(b, off+int64(done))
		done += len(b)
	}
	f.wrote()
	if int64(done) < total {
		return done, unix.EFBIG
	}
	return done, nil
}

// mayWrite checks a write of some bytes at off.
func (f *file) mayWrite(off int64) error {
	switch {
	case off < 0:
		return unix.EINVAL
	case !f.writable():
		return unix.EBADF
	case off >= maxSize:
		return unix.EFBIG
	}
	return nil
}

// wrote is what follows each change of content.
func (f *file) wrote() {
	f.in.dropCapability()
	f.fs.touch(f.in, true)
	switch {
	case f.flags&unix.O_SYNC == unix.O_SYNC: // holds the bit of O_DSYNC
		f.fs.syncInode(f.in)
	case f.flags&unix.O_DSYNC != 0:
		f.in.data.synced()
	}
}

func (f *file) Truncate(size int64) error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	switch {
	case size < 0 || !f.writable():
		return unix.EINVAL
	case size > maxSize:
		return unix.EFBIG
	}
	f.in.data.truncate(size)
	f.in.dropCapability()
	f.fs.touch(f.in, true)
	return nil
}

func (f *file) Allocate(mode uint32, off, n int64) error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if off < 0 || n <= 0 {
		return unix.EINVAL
	}
	switch mode {
	case 0, unix.FALLOC_FL_KEEP_SIZE, unix.FALLOC_FL_PUNCH_HOLE | unix.FALLOC_FL_KEEP_SIZE,
		unix.FALLOC_FL_ZERO_RANGE, unix.FALLOC_FL_ZERO_RANGE | unix.FALLOC_FL_KEEP_SIZE:
	default:
		return unix.EOPNOTSUPP
	}
	switch {
	case !f.writable():
		return unix.EBADF
	case off > math.MaxInt64-n || off+n > maxSize:
		return unix.EFBIG
	}
	f.in.data.allocate(mode, off, n)
	f.in.dropCapability()
	f.fs.touch(f.in, true)
	return nil
}

func (f *file) Seek(off int64, whence int) (int64, error) {
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	if whence != unix.SEEK_DATA && whence != unix.SEEK_HOLE {
		return 0, unix.EINVAL
	}
	return f.in.data.seek(off, whence)
}

func (f *file) CopyRange(dst backing.File, off, dstOff, n int64) (int64, error) {
	d, ok := dst.(*file)
	switch {
	case !ok || d.fs != f.fs:
		return 0, unix.EXDEV
	case off < 0 || dstOff < 0 || n < 0:
		return 0, unix.EINVAL
	}
	if err := f.lock(); err != nil {
		return 0, err
	}
	defer f.fs.mu.Unlock()
	switch {
	case d.closed || !f.readable() || !d.writable():
		return 0, unix.EBADF
	case off > math.MaxInt64-n || dstOff > math.MaxInt64-n:
		return 0, unix.EOVERFLOW
	case f.in != d.in:
	}
	n = min(n, 1<<30, max(0, f.in.data.size-off))
	if f.in == d.in && off < dstOff+n && dstOff < off+n {
		return 0, unix.EINVAL
	}
	if n == 0 {
		return 0, nil
	}
	if err := d.mayWrite(dstOff); err != nil {
		return 0, err
	}
	n = min(n, maxSize-dstOff)
	buf := make([]byte, n)
	f.in.data.read(buf, off)
	d.in.data.write(buf, dstOff)
	d.wrote()
	return n, nil
}

func (f *file) Sync() error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.fs.syncInode(f.in)
	return f.in.failed.tell(&f.told)
}

func (f *file) DataSync() error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.in.data.synced()
	return f.in.failed.tell(&f.told)
}

func (f *file) WillNeed(off, n int64) {}
