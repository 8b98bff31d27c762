// Package posix gives the system calls of a file tree as an interface, so that one list of operations can be played
// on a mount, on a plain directory and on the vault library, and the answers compared.
//
// Start with [NewDir] for a directory of this machine. [Snapshot] reads a whole tree and [Tree.Diff] compares two.
// Errors are system call errors: errors.As finds a syscall.Errno in each. Nothing here is safe for concurrent use.
package posix

import "time"

// FS is a tree of files. Paths are relative to its root, with slashes; "." is the root. Only Open, Truncate and Chmod
// follow a symbolic link in the last place, as the system calls do.
type FS interface {
	Open(path string, flags int, mode uint32) (File, error)
	Mkdir(path string, mode uint32) error
	Mknod(path string, mode uint32, dev uint64) error
	Symlink(value, path string) error
	Readlink(path string) (string, error)
	// Link is linkat(2) without AT_SYMLINK_FOLLOW.
	Link(old, path string) error
	Unlink(path string) error
	Rmdir(path string) error
	// Rename is renameat2(2).
	Rename(old, path string, flags uint32) error
	// ReadDir gives the entries but "." and "..", in any order.
	ReadDir(path string) ([]Entry, error)
	Stat(path string) (Stat, error)
	Chmod(path string, mode uint32) error
	// Chown leaves what is -1 as it is.
	Chown(path string, uid, gid int) error
	Utimes(path string, atime, mtime Time) error
	Truncate(path string, size int64) error
	Setxattr(path, attr string, value []byte, flags int) error
	Getxattr(path, attr string) ([]byte, error)
	Listxattr(path string) ([]string, error)
	Removexattr(path, attr string) error
}

// File is an open file or directory; it stays usable when its name is gone.
type File interface {
	Pread(p []byte, off int64) (int, error)
	Pwrite(p []byte, off int64) (int, error)
	// Write writes at the file's position, or at its end with O_APPEND.
	Write(p []byte) (int, error)
	// MapRead copies from a private mapping; MapWrite writes through a shared one and calls msync. Both stop at the end
	// of the file and say how many bytes they moved; ENXIO where off is beyond it.
	MapRead(p []byte, off int64) (int, error)
	MapWrite(p []byte, off int64) (int, error)
	Truncate(size int64) error
	Fallocate(mode uint32, off, n int64) error
	// Seek is lseek(2).
	Seek(off int64, whence int) (int64, error)
	// CopyRange is copy_file_range(2), called until n bytes, the end or an error. dst is of the same implementation.
	CopyRange(dst File, off, dstOff, n int64) (int64, error)
	Stat() (Stat, error)
	Chmod(mode uint32) error
	Chown(uid, gid int) error
	Utimes(atime, mtime Time) error
	Setxattr(attr string, value []byte, flags int) error
	Getxattr(attr string) ([]byte, error)
	Sync() error
	DataSync() error
	Close() error
}

// Entry is one entry of a directory. Kind is its S_IFMT bits, 0 where the directory does not tell.
type Entry struct {
	Name string
	Kind uint32
}

// Stat is the part of stat(2) that any two file systems can agree on, and the inode number, by which hard links are
// known within one tree.
type Stat struct {
	Mode     uint32
	Nlink    uint32
	UID, GID uint32
	Ino      uint64
	Rdev     uint64
	Size     int64
	Atime    Time
	Mtime    Time
}

// Time is a moment as the kernel tells it; Nsec may also be one of the two marks of utimensat(2).
type Time struct {
	Sec  int64 `json:"sec"`
	Nsec int64 `json:"nsec"`
}

// UtimeNow and UtimeOmit are marks for Time.Nsec, as in utimensat(2).
const (
	UtimeNow  = 1<<30 - 1
	UtimeOmit = 1<<30 - 2
)

// around is how far from the present a time may be and still count as "set by the file system, not by a caller".
const around = 24 * time.Hour

// Recent says whether t is near the present: a time that the file system set by itself. Tests set times far away from
// it, so that the two can be told apart on any machine, however slow.
func (t Time) Recent() bool {
	return time.Since(time.Unix(t.Sec, t.Nsec)).Abs() < around
}
