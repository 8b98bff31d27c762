// Package backing is the seam between the vault and the disk: the few calls that kmsfs makes of the file system
// that holds the ciphertext, as an interface, so that tests can cut them, fail them and lose them.
//
// Start with [OpenDir]. Everything else is reached from a [Dir] by one name at a time: no call follows a symbolic
// link, and no name may hold a slash. Errors are those of the system calls: errors.Is(err, syscall.ENOENT) works
// on every implementation.
//
// All methods are safe for concurrent use, except Close, which may be called once, when no other call is running.
package backing

import "time"

// Kind is what a directory entry is: the S_IFMT bits of stat(2), 0 where unknown.
type Kind = uint32

// Stat is what stat(2) tells. Size is in bytes of what is stored (ciphertext).
type Stat struct {
	Dev, Ino         uint64
	Mode             uint32 // type and permissions, as st_mode
	Nlink            uint32
	UID, GID         uint32
	Rdev             uint64
	Size             int64
	Blocks           int64 // of 512 bytes
	Blksize          uint32
	Atim, Mtim, Ctim Timespec
	Btim             Timespec // birth; zero unless asked for with StatBirth and known
}

// Timespec is a moment in seconds and nanoseconds since 1970, as the kernel gives it.
type Timespec struct {
	Sec  int64
	Nsec int64
}

// Time returns t as a time.Time.
func (t Timespec) Time() time.Time { return time.Unix(t.Sec, t.Nsec) }

// UtimeOmit and UtimeNow are special values of Timespec.Nsec for Utimes, as in utimensat(2).
const (
	UtimeNow  = (1 << 30) - 1
	UtimeOmit = (1 << 30) - 2
)

// Statfs is what statfs(2) tells of the file system that holds the vault.
type Statfs struct {
	Bsize, Frsize         uint32
	Blocks, Bfree, Bavail uint64
	Files, Ffree          uint64
	Namelen               uint32
	Type                  int64
}

// Entry is one directory entry.
type Entry struct {
	Name string
	Ino  uint64
	Kind Kind
}

// Meta holds the calls that files and directories share; they act on the open object itself, whatever its name is
// now, also when it has none any more.
type Meta interface {
	Stat() (Stat, error)
	Chmod(mode uint32) error
	// Chown changes owner and group; -1 (as uint32) leaves one as it is.
	Chown(uid, gid uint32) error
	Utimes(atime, mtime Timespec) error
	// Getxattr reads into buf and returns the value's length; a nil buf asks for the length; ERANGE if buf is short.
	Getxattr(attr string, buf []byte) (int, error)
	Setxattr(attr string, value []byte, flags int) error
	Removexattr(attr string) error
	// Listxattr is like Getxattr: NUL-terminated names.
	Listxattr(buf []byte) (int, error)
	// GetFlags and SetFlags are the ioctls FS_IOC_GETFLAGS and FS_IOC_SETFLAGS.
	GetFlags() (uint32, error)
	SetFlags(flags uint32) error
	// Close lets go of the object. A second Close is EBADF.
	Close() error
}

// File is an open regular file. Offsets and lengths are in stored bytes.
type File interface {
	Meta
	// ReadAt reads until p is full, the end of the file or an error; at the end it returns what it read and no error.
	ReadAt(p []byte, off int64) (int, error)
	// WriteAt writes all of p, retrying short writes; on an error it returns how much was written.
	WriteAt(p []byte, off int64) (int, error)
	// WritevAt writes the buffers one after another from off, in one system call where possible.
	WritevAt(bufs [][]byte, off int64) (int, error)
	Truncate(size int64) error
	// Allocate is fallocate(2).
	Allocate(mode uint32, off, n int64) error
	// Seek finds the next data (SEEK_DATA) or hole (SEEK_HOLE) at or after off, as lseek(2); other values of whence
	// are EINVAL.
	Seek(off int64, whence int) (int64, error)
	// CopyRange is copy_file_range(2) to dst, which is of the same implementation (else EXDEV). It returns how much it
	// copied, which may be less than n; 0 at the end of the file.
	CopyRange(dst File, off, dstOff, n int64) (int64, error)
	// Sync makes data and metadata durable; DataSync data and what is needed to read it back.
	Sync() error
	DataSync() error
	// LockWait takes an advisory lock for this open file (F_OFD_SETLKW, of byte 2^62, past the end), which works between hosts
	// where the file system's locks do, and waits for it; Unlock lets go of it, and so does Close. The file is open for
	// writing, or for reading where the lock is shared (else EBADF). On Linux it has nothing to do with that of
	// Dir.Lock; over NFS the two exclude each other, so that one file should have but one of them.
	LockWait(mode LockMode) error
	Unlock() error
	// Use says to other hosts, until the file is closed, that somebody has it open (a shared lock, F_OFD_SETLK, of byte 2^62+2); the
	// file is open for reading. InUse says whether others than this open file have said so.
	Use() error
	InUse() (bool, error)
	// WillNeed asks the kernel to start reading ahead; a hint.
	WillNeed(off, n int64)
}

// Dir is an open directory. name is always one component; [CheckName] says which are refused, with EINVAL.
type Dir interface {
	Meta
	// Open opens a regular file. flags are those of open(2) that [CheckFlags] lets pass; O_NOFOLLOW, O_CLOEXEC,
	// O_NOCTTY and O_NONBLOCK are added. What is not a regular file is refused with ELOOP (symlink), EISDIR or
	// EINVAL; it is looked at first and never touched.
	Open(name string, flags int, mode uint32) (File, error)
	// OpenStat is Open, and Stat of what it opened, for a name that the caller has just seen to be a regular file: it
	// saves the look before (openat and fstat are all). Where something else has taken the name since, the refusal is
	// the same and never waits, but a FIFO or device may have been opened for a moment.
	OpenStat(name string, flags int, mode uint32) (File, Stat, error)
	// Tmpfile makes an unnamed file in the directory (O_TMPFILE).
	Tmpfile(mode uint32) (File, error)
	// OpenDir opens a subdirectory.
	OpenDir(name string) (Dir, error)
	// Dup returns another handle of the same directory.
	Dup() (Dir, error)
	StatAt(name string) (Stat, error)
	// StatBirth is StatAt with the birth time where the file system knows it.
	StatBirth(name string) (Stat, error)
	Mkdir(name string, mode uint32) error
	Mknod(name string, mode uint32, dev uint64) error
	Symlink(target, name string) error
	Readlink(name string) (string, error)
	Unlink(name string) error
	Rmdir(name string) error
	// Rename is renameat2(2) to dir, which is of the same implementation (else EXDEV); flags is 0, RENAME_NOREPLACE or
	// RENAME_EXCHANGE (else EINVAL).
	Rename(name string, dir Dir, newName string, flags uint32) error
	// Link makes newName in dir another name of name.
	Link(name string, dir Dir, newName string) error
	// LinkFile gives an open file, perhaps an unnamed one, a name in this directory.
	LinkFile(f File, name string) error
	ChmodAt(name string, mode uint32) error
	ChownAt(name string, uid, gid uint32) error
	UtimesAt(name string, atime, mtime Timespec) error
	GetxattrAt(name, attr string, buf []byte) (int, error)
	SetxattrAt(name, attr string, value []byte, flags int) error
	RemovexattrAt(name, attr string) error
	ListxattrAt(name string, buf []byte) (int, error)
	// ReadDir calls f for each entry but "." and "..", from the start, until f returns false. f may make other calls,
	// also on this directory; ReadDirs at the same time do not disturb each other.
	ReadDir(f func(Entry) bool) error
	Statfs() (Statfs, error)
	// Sync makes the directory's entries durable.
	Sync() error
	// SyncFS makes the whole file system durable (syncfs(2)).
	SyncFS() error
	// Lock takes the flock of file name in this directory, making it where there is none, without waiting;
	// EWOULDBLOCK when another holds it. Closing the file lets go of it.
	Lock(name string, exclusive LockMode) (File, error)
}

// LockMode says how Lock locks.
type LockMode int

// The two ways to lock.
const (
	LockExclusive LockMode = iota
	LockShared
)
