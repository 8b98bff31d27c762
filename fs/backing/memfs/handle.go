package memfs

import (
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// handle is an open object and the calls that files and directories share.
type handle struct {
	fs     *FS
	in     *inode
	closed bool
	told   int // of the write errors of a file, or of the FS
}

// lock takes fs.mu, or fails without it where the handle is closed.
func (h *handle) lock() error {
	h.fs.mu.Lock()
	if h.closed {
		h.fs.mu.Unlock()
		return unix.EBADF
	}
	return nil
}

func (h *handle) Close() error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	h.closed = true
	return nil
}

func (h *handle) Stat() (backing.Stat, error) {
	if err := h.lock(); err != nil {
		return backing.Stat{}, err
	}
	defer h.fs.mu.Unlock()
	return h.in.stat(), nil
}

func (h *handle) Chmod(mode uint32) error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	return h.fs.chmod(h.in, mode)
}

func (h *handle) Chown(uid, gid uint32) error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	return h.fs.chown(h.in, uid, gid)
}

func (h *handle) Utimes(atime, mtime backing.Timespec) error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	return h.fs.utimes(h.in, atime, mtime)
}

func (h *handle) Getxattr(attr string, buf []byte) (int, error) {
	if err := h.lock(); err != nil {
		return 0, err
	}
	defer h.fs.mu.Unlock()
	return h.fs.getxattr(h.in, attr, buf)
}

func (h *handle) Setxattr(attr string, value []byte, flags int) error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	return h.fs.setxattr(h.in, attr, value, flags)
}

func (h *handle) Removexattr(attr string) error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	return h.fs.removexattr(h.in, attr)
}

func (h *handle) Listxattr(buf []byte) (int, error) {
	if err := h.lock(); err != nil {
		return 0, err
	}
	defer h.fs.mu.Unlock()
	return h.fs.listxattr(h.in, buf)
}

func (h *handle) GetFlags() (uint32, error) {
	if err := h.lock(); err != nil {
		return 0, err
	}
	defer h.fs.mu.Unlock()
	return h.in.flags, nil
}

func (h *handle) SetFlags(flags uint32) error {
	if err := h.lock(); err != nil {
		return err
	}
	defer h.fs.mu.Unlock()
	return h.fs.setFlags(h.in, flags)
}
