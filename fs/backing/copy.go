package backing

import (
	"bytes"
	"errors"
	"syscall"
)

// OtherKind says whether err is the refusal to open something because it is of another kind: no file, or no directory.
func OtherKind(err error) bool {
	for _, no := range []syscall.Errno{syscall.ELOOP, syscall.EISDIR, syscall.ENOTDIR, syscall.EINVAL} {
		if errors.Is(err, no) {
			return true
		}
	}
	return false
}

// SaveNew writes a new file and syncs it; EEXIST where there is one.
func SaveNew(d Dir, name string, write func(f File) error) error {
	f, err := d.Open(name, syscall.O_WRONLY|syscall.O_CREAT|syscall.O_EXCL, 0o600)
	if err != nil {
		return err
	}
	if err = write(f); err == nil {
		err = f.Sync()
	}
	return errors.Join(err, f.Close())
}

// CopyFile copies a file of any size to a new one, and syncs that; zeros become holes.
func CopyFile(to Dir, name string, from Dir, old string) error {
	f, err := from.Open(old, syscall.O_RDONLY, 0)
	if err != nil {
		return err
	}
	defer f.Close()
	return SaveNew(to, name, func(n File) error { return CopySparse(n, f) })
}

// CopySparse copies from, of any size, to a new file; zeros become holes.
func CopySparse(to, from File) error {
	b := make([]byte, 1<<18)
	for off := int64(0); ; {
		at, more := NextData(from, off)
		if !more {
			break
		}
		n, err := from.ReadAt(b, at)
		if err != nil {
			return err
		}
		if n == 0 {
			break
		}
		if !isZero(b[:n]) {
			if _, err := to.WriteAt(b[:n], at); err != nil {
				return err
			}
		}
		off = at + int64(n)
	}
	st, err := from.Stat()
	if err != nil {
		return err
	}
	return to.Truncate(st.Size)
}

func isZero(b []byte) bool { return len(bytes.TrimLeft(b, "\x00")) == 0 }
