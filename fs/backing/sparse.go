package backing

import (
	"errors"
	"syscall"

	"golang.org/x/sys/unix"
)

// NextData returns where the first data of f is at or after off: off itself where the file system does not tell. more is false where a
// hole reaches from off to the end of the file.
func NextData(f File, off int64) (at int64, more bool) {
	at, err := f.Seek(off, unix.SEEK_DATA)
	switch {
	case errors.Is(err, syscall.ENXIO):
		return 0, false
	case err != nil:
		return off, true
	}
	return at, true
}

// AllZeros says whether the first size bytes of f, or all up to its end where that comes first, are zeros and holes. It fails as ReadAt
// does, which says neither.
func AllZeros(f File, size int64) (bool, error) {
	b := make([]byte, 128<<10)
	for off, more := NextData(f, 0); more && off < size; off, more = NextData(f, off) {
		n, err := f.ReadAt(b[:min(int64(len(b)), size-off)], off)
		if err != nil {
			return false, err
		}
		if !isZero(b[:n]) {
			return false, nil
		}
		if n == 0 {
			break
		}
		off += int64(n)
	}
	return true, nil
}
