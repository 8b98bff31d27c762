package fs

import (
	"context"
	"errors"
	"fmt"
	"io"
	"syscall"
	"testing"

	"kmsfs/envelope"
	"kmsfs/fs/vault"
	"kmsfs/keysource"
)

// TestErrno goes through the table of SEMANTICS.md section 4 row by row: the error of a keysource as it comes up through
// the vault, and those that the vault and the backing file system have themselves.
func TestErrno(t *testing.T) {
	kms := func(code string) error {
		e := keysource.NewError("Decrypt", "alias/a", code, "as the KMS says")
		e.RequestID = "r-1"
		file := &vault.FileError{Op: "read", Stored: "sealed", Ino: 7, Err: fmt.Errorf("%w: %w", vault.ErrNoKey, errors.Join(e))}
		return fmt.Errorf("after 3 attempts: %w", file)
	}
	for _, c := range []struct {
		name string
		err  error
		want syscall.Errno
	}{
		{"none", nil, 0},
		{"denied", kms(keysource.CodeAccessDenied), syscall.EACCES},
		{"signature refused", kms("InvalidSignatureException"), syscall.EACCES},
		{"disabled", kms(keysource.CodeDisabled), syscall.EKEYREVOKED},
		{"pending deletion", kms(keysource.CodeInvalidState), syscall.EKEYREVOKED},
		{"missing", kms(keysource.CodeNotFound), syscall.ENOKEY},
		{"unreachable", kms(keysource.CodeKeyUnavailable), syscall.ETIMEDOUT},
		{"internal failure", kms(keysource.CodeInternal), syscall.ETIMEDOUT},
		{"unknown exception", kms("SomethingNewException"), syscall.ETIMEDOUT},
		{"throttled", kms(keysource.CodeThrottling), syscall.ETIMEDOUT},
		{"deadline", fmt.Errorf("%w: %w", vault.ErrNoKey, context.DeadlineExceeded), syscall.ETIMEDOUT},
		{"interrupted", fmt.Errorf("%w: %w", vault.ErrNoKey, context.Canceled), syscall.EINTR},
		{"damaged record", kms(keysource.CodeInvalidCiphertext), syscall.EIO},
		{"wrong CMK", kms(keysource.CodeIncorrectKey), syscall.EIO},
		{"quota", kms(keysource.CodeLimitExceeded), syscall.EIO},
		{"record is gone", fmt.Errorf("%w: key table is missing", vault.ErrNoKey), syscall.EIO},
		{"one wrapping denied, one out of reach", errors.Join(kms(keysource.CodeAccessDenied), kms(keysource.CodeKeyUnavailable)),
			syscall.ETIMEDOUT},
		{"one wrapping missing, one denied", errors.Join(kms(keysource.CodeNotFound), kms(keysource.CodeAccessDenied)), syscall.EACCES},
		{"corrupt", vault.ErrCorrupt, syscall.EIO},
		{"corrupt record, and a KMS out of reach", errors.Join(envelope.ErrCorrupt, keysource.ErrUnavailable), syscall.EIO},
		{"stale", vault.ErrStale, syscall.ESTALE},
		{"read-only", vault.ErrReadOnly, syscall.EROFS},
		{"unsupported", vault.ErrNotSupported, syscall.EOPNOTSUPP},
		{"newer format", envelope.ErrUnsupported, syscall.EIO},
		{"too big", vault.ErrTooBig, syscall.EFBIG},
		{"long name", envelope.ErrNameTooLong, syscall.ENAMETOOLONG},
		{"no space", fmt.Errorf("write: %w", syscall.ENOSPC), syscall.ENOSPC},
		{"ENOSYS of the backing", syscall.ENOSYS, syscall.EIO},
		{"anything else", io.ErrUnexpectedEOF, syscall.EIO},
	} {
		if got := syscall.Errno(errno(c.err)); got != c.want {
			t.Errorf("%s: got %v, want %v", c.name, got, c.want)
		}
	}
}
