package local

import (
	"errors"
	"fmt"
	"io"
	"os"
	"syscall"

	"golang.org/x/sys/unix"
)

// errBusy is TryLock's answer when somebody else has the lock.
var errBusy = errors.New("locked")

// osFS is the real disk.
type osFS struct{}

// osFile is a real file.
type osFile struct{ *os.File }

// Stat implements file.
func (f osFile) Stat() (fileInfo, error) {
	info, err := f.File.Stat()
	if err != nil {
		return fileInfo{}, err
	}
	st, ok := info.Sys().(*syscall.Stat_t)
	if !ok {
		return fileInfo{}, errors.New("file has no owner")
	}
	return fileInfo{info.Mode(), int(st.Uid), int(st.Gid)}, nil
}

// Mkdir implements fileSystem.
func (osFS) Mkdir(name string) error { return os.Mkdir(name, 0o700) }

// Open implements fileSystem.
func (osFS) Open(name string, links linkPolicy) (file, error) {
	flags := os.O_RDONLY | unix.O_NONBLOCK
	if links == refuseLinks {
		flags |= unix.O_NOFOLLOW
	}
	f, err := os.OpenFile(name, flags, 0)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Create implements fileSystem.
func (osFS) Create(name string) (file, error) {
	f, err := os.OpenFile(name, os.O_WRONLY|os.O_CREATE|os.O_EXCL, 0o600)
	if err != nil {
		return nil, err
	}
	return osFile{f}, nil
}

// Rename implements fileSystem.
func (osFS) Rename(oldName, newName string) error { return os.Rename(oldName, newName) }

// RenameNew implements fileSystem. Where the file system has no RENAME_NOREPLACE (NFS), a link does the same.
func (osFS) RenameNew(oldName, newName string) error {
	err := unix.Renameat2(unix.AT_FDCWD, oldName, unix.AT_FDCWD, newName, unix.RENAME_NOREPLACE)
	if errors.Is(err, unix.EINVAL) || errors.Is(err, unix.ENOSYS) {
		if err := os.Link(oldName, newName); err != nil {
			return err
		}
		return os.Remove(oldName)
	}
	if err != nil {
		return &os.LinkError{Op: "rename", Old: oldName, New: newName, Err: err}
	}
	return nil
}

// Remove implements fileSystem.
func (osFS) Remove(name string) error { return os.Remove(name) }

// SyncDir implements fileSystem. A file system that cannot sync directories, or is read-only, has nothing to sync.
func (osFS) SyncDir(name string) error {
	d, err := os.Open(name)
	if err != nil {
		return err
	}
	defer d.Close()
	if err := d.Sync(); err != nil && !errors.Is(err, unix.EINVAL) && !errors.Is(err, unix.EROFS) && !readOnlyMedia(d) {
		return err
	}
	return nil
}

// readOnlyMedia tells that what is on the file system of f cannot change. A FUSE file system without fsync, as restic's, may say
// EIO there.
func readOnlyMedia(f *os.File) bool {
	var st unix.Statfs_t
	return unix.Fstatfs(int(f.Fd()), &st) == nil && st.Flags&unix.ST_RDONLY != 0
}

// TryLock implements fileSystem with flock(2), which the kernel lets go when the process dies.
func (osFS) TryLock(name string) (io.Closer, error) {
	f, err := os.OpenFile(name, os.O_RDWR|os.O_CREATE|unix.O_NOFOLLOW, 0o600)
	if err != nil {
		return nil, err
	}
	err = ignoringEINTR(func() error { return unix.Flock(int(f.Fd()), unix.LOCK_EX|unix.LOCK_NB) })
	if err != nil {
		_ = f.Close()
		if errors.Is(err, unix.EWOULDBLOCK) {
			return nil, errBusy
		}
		return nil, fmt.Errorf("lock %s: %w", name, err)
	}
	return f, nil
}

// UserID implements fileSystem.
func (osFS) UserID() int { return os.Geteuid() }

// ignoringEINTR repeats a system call that a signal interrupted.
func ignoringEINTR(call func() error) error {
	for {
		if err := call(); !errors.Is(err, unix.EINTR) {
			return err
		}
	}
}
