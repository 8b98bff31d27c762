package local

import (
	"io"
	"io/fs"
)

// fileSystem is the seam to the disk: the calls whose order and failure decide whether key material survives a crash.
// Names are absolute paths. Errors are those of package os.
type fileSystem interface {
	// Mkdir makes one directory with mode 0700.
	Mkdir(name string) error
	// Open opens a file for reading, without waiting for the other end of a pipe.
	Open(name string, links linkPolicy) (file, error)
	// Create makes a file of mode 0600 for writing; it must not exist.
	Create(name string) (file, error)
	// Rename moves a file over another, at once.
	Rename(oldName, newName string) error
	// RenameNew moves a file to a name that must not exist, or fails with fs.ErrExist, at once.
	RenameNew(oldName, newName string) error
	// Remove removes a file.
	Remove(name string) error
	// SyncDir makes the names in a directory durable.
	SyncDir(name string) error
	// TryLock locks the file, made where missing, against every other opening of it, or fails with errBusy.
	TryLock(name string) (io.Closer, error)
	// UserID is the effective user id of the process.
	UserID() int
}

// file is an open file.
type file interface {
	io.Reader
	io.Writer
	// Stat describes it.
	Stat() (fileInfo, error)
	// Chown gives it to a user and a group.
	Chown(uid, gid int) error
	// Sync makes its content durable.
	Sync() error
	// Close closes it. An error after writing is one of the write.
	Close() error
}

// fileInfo is what matters of a file.
type fileInfo struct {
	mode     fs.FileMode
	uid, gid int
}

// linkPolicy says what Open does with a symbolic link.
type linkPolicy int

// The link policies.
const (
	// refuseLinks is for files that we replace: a rename would replace the link and not the file.
	refuseLinks linkPolicy = iota
	// followLinks is for files that are only read.
	followLinks
)
