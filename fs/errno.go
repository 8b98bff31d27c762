package fs

import (
	"context"
	"errors"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// errno is the only table from errors to errno. What it does not know is EIO: an ENOSYS would make the kernel stop
// sending that operation for good.
func errno(err error) fuse.Status {
	if err == nil {
		return fuse.OK
	}
	for _, e := range []struct {
		is error
		no syscall.Errno
	}{
		{vault.ErrCorrupt, syscall.EIO},
		{envelope.ErrCorrupt, syscall.EIO},
		{vault.ErrStale, syscall.ESTALE},
		{vault.ErrReadOnly, syscall.EROFS},
		{vault.ErrNotSupported, syscall.EOPNOTSUPP},
		{vault.ErrTooBig, syscall.EFBIG},
		{envelope.ErrNameTooLong, syscall.ENAMETOOLONG},
		{envelope.ErrInvalidName, syscall.EINVAL},
		// A file may have several wrappings, each with an error of its own: first what may yet be mended by waiting.
		{context.Canceled, syscall.EINTR},
		{context.DeadlineExceeded, syscall.ETIMEDOUT},
		{keysource.ErrUnavailable, syscall.ETIMEDOUT},
		{keysource.ErrThrottled, syscall.ETIMEDOUT},
		{keysource.ErrDenied, syscall.EACCES},
		{keysource.ErrDisabled, syscall.EKEYREVOKED},
		{keysource.ErrInvalidState, syscall.EKEYREVOKED},
		{keysource.ErrNotFound, syscall.ENOKEY},
		{vault.ErrNoKey, syscall.EIO},
		{envelope.ErrUnsupported, syscall.EIO},
	} {
		if errors.Is(err, e.is) {
			return fuse.Status(e.no)
		}
	}
	var no syscall.Errno
	if errors.As(err, &no) && no != 0 && no != syscall.ENOSYS {
		return fuse.Status(no)
	}
	return fuse.EIO
}

// status logs what an operator must know of a failed operation, and returns its errno.
func (b *base) status(op string, node uint64, err error) fuse.Status {
	st := errno(err)
	if st == fuse.OK {
		return st
	}
	b.failures.count(st, err)
	if errors.Is(err, vault.ErrCorrupt) || errors.Is(err, vault.ErrNoKey) && st != fuse.EINTR || st == fuse.EIO {
		b.log.Error("operation failed", "op", op, "node", node, "err", err)
	} else if b.debug {
		b.log.Debug("operation refused", "op", op, "node", node, "err", err)
	}
	return st
}
