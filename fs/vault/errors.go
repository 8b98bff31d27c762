package vault

import (
	"errors"
	"fmt"
	"strings"
	"syscall"

	"kmsfs/fs/backing"
)

// Errors that a caller decides on. Errors of the backing file system come through as they are (errors.Is with a
// syscall.Errno works), and so do those of the keysource. Those that a system call would give too
// wrap its errno.
var (
	// ErrCorrupt: stored bytes are not what this vault wrote. Nothing was returned of them.
	ErrCorrupt = errors.New("vault: damaged or forged")
	// ErrStale: the name behind a node is gone and nothing holds the file open.
	ErrStale = errors.New("vault: node no longer exists")
	// ErrReadOnly: the vault is open for reading only.
	ErrReadOnly = fmt.Errorf("vault: %w", syscall.EROFS)
	// ErrLocked: another mount holds the vault.
	ErrLocked = errors.New("vault: in use by another mount")
	// ErrNotVault: the directory holds no vault.
	ErrNotVault = errors.New("vault: not a vault")
	// ErrNotEmpty: a vault is only made in an empty directory.
	ErrNotEmpty = errors.New("vault: directory is not empty")
	// ErrNotSupported: the operation does not exist for this kind of file.
	ErrNotSupported = fmt.Errorf("vault: %w", syscall.EOPNOTSUPP)
	// ErrTooBig: beyond the largest size of a file.
	ErrTooBig = fmt.Errorf("vault: %w", syscall.EFBIG)
	// ErrNoKey: the data key of a file cannot be had: its record is missing, or the keysource refuses it.
	ErrNoKey = errors.New("vault: no data key")
)

// planted makes an ErrCorrupt of the refusal to open name, of which this vault makes nothing of that kind.
func planted(name string, err error) error {
	if backing.OtherKind(err) {
		return fmt.Errorf("%w: %s is of another kind: %w", ErrCorrupt, name, err)
	}
	return err
}

// replaced makes an ErrStale of the refusal to open a node that was of the right kind when it was looked up.
func replaced(err error) error {
	if backing.OtherKind(err) {
		return fmt.Errorf("%w: something of another kind has its name: %w", ErrStale, err)
	}
	return err
}

// FileError says which stored file an error is about. Stored is made of sealed names: safe to log.
type FileError struct {
	Op     string
	Stored string // path below the vault's directory, or "" where it has none
	Ino    uint64
	Err    error
}

func (e *FileError) Error() string {
	return fmt.Sprintf("%s: stored file %q (inode %d): %v", e.Op, e.Stored, e.Ino, e.Err)
}

func (e *FileError) Unwrap() error { return e.Err }

func (n *Node) fail(op string, err error) error {
	if err == nil {
		return nil
	}
	return &FileError{Op: op, Stored: n.storedPath(), Ino: n.ino, Err: err}
}

// storedPath is where n is below the vault's directory, as far as that is known.
func (n *Node) storedPath() string {
	path := ""
	for range 1 << 12 {
		dir, entry, ok := n.loc()
		if !ok {
			break
		}
		path = entry + "/" + path
		n = dir
	}
	return strings.TrimSuffix(path, "/")
}
