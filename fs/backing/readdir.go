package backing

import (
	"bytes"
	"encoding/binary"

	"golang.org/x/sys/unix"
)

// Offsets within struct linux_dirent64 (getdents64(2)); its fields are in the byte order of the machine.
const (
	direntIno  = 0
	direntLen  = 16
	direntType = 18
	direntName = 19
)

func (d *dir) ReadDir(f func(Entry) bool) error {
	// An open file description of its own: one offset shared by two readers would give each half of the entries.
	fd, err := openat(d.fd, ".", unix.O_RDONLY|unix.O_DIRECTORY|unix.O_NOFOLLOW, 0)
	if err != nil {
		return err
	}
	defer unix.Close(fd)
	buf := d.sys.dirents.Get().(*[direntBytes]byte)
	defer d.sys.dirents.Put(buf)
	for {
		n, err := unix.Getdents(fd, buf[:])
		switch {
		case err == unix.EINTR:
			continue
		case err != nil:
			return err
		case n == 0:
			return nil
		}
		more, err := parseDirents(buf[:n], f)
		if err != nil || !more {
			return err
		}
	}
}

// parseDirents calls f for each entry in b and returns whether f wants more. What the kernel would never write is EIO.
func parseDirents(b []byte, f func(Entry) bool) (bool, error) {
	for len(b) > 0 {
		if len(b) < direntName {
			return false, unix.EIO
		}
		n := int(binary.NativeEndian.Uint16(b[direntLen:]))
		if n <= direntName || n > len(b) {
			return false, unix.EIO
		}
		name := b[direntName:n]
		end := bytes.IndexByte(name, 0)
		if end < 0 {
			return false, unix.EIO
		}
		e := Entry{Ino: binary.NativeEndian.Uint64(b[direntIno:]), Kind: Kind(b[direntType]) << 12} // DTTOIF
		name, b = name[:end], b[n:]
		if string(name) == "." || string(name) == ".." {
			continue
		}
		e.Name = string(name)
		if !f(e) {
			return false, nil
		}
	}
	return true, nil
}
