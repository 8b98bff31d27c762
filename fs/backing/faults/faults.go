// Package faults puts a hook before every call to a [backing.Dir] and the files below it, so that tests can count,
// fail, shorten or delay any of them, on the real file system as on memfs.
//
// Start with [Wrap]. What the hook lets pass reaches the wrapped implementation unchanged. The hook is called without
// any lock held, perhaps by several goroutines at once.
package faults

import (
	"errors"
	"sync/atomic"
)

// Call names a method of backing.Dir or backing.File.
type Call string

// The calls, by method. Those that end in At act on a name; ReadAt and WriteAt are the file's.
const (
	Stat          Call = "Stat"
	Chmod         Call = "Chmod"
	Chown         Call = "Chown"
	Utimes        Call = "Utimes"
	Getxattr      Call = "Getxattr"
	Setxattr      Call = "Setxattr"
	Removexattr   Call = "Removexattr"
	Listxattr     Call = "Listxattr"
	GetFlags      Call = "GetFlags"
	SetFlags      Call = "SetFlags"
	Close         Call = "Close"
	ReadAt        Call = "ReadAt"
	WriteAt       Call = "WriteAt"
	WritevAt      Call = "WritevAt"
	Truncate      Call = "Truncate"
	Allocate      Call = "Allocate"
	Seek          Call = "Seek"
	CopyRange     Call = "CopyRange"
	Sync          Call = "Sync"
	DataSync      Call = "DataSync"
	WillNeed      Call = "WillNeed"
	Open          Call = "Open"
	OpenStat      Call = "OpenStat"
	Tmpfile       Call = "Tmpfile"
	OpenDir       Call = "OpenDir"
	Dup           Call = "Dup"
	StatAt        Call = "StatAt"
	StatBirth     Call = "StatBirth"
	Mkdir         Call = "Mkdir"
	Mknod         Call = "Mknod"
	Symlink       Call = "Symlink"
	Readlink      Call = "Readlink"
	Unlink        Call = "Unlink"
	Rmdir         Call = "Rmdir"
	Rename        Call = "Rename"
	Link          Call = "Link"
	LinkFile      Call = "LinkFile"
	ChmodAt       Call = "ChmodAt"
	ChownAt       Call = "ChownAt"
	UtimesAt      Call = "UtimesAt"
	GetxattrAt    Call = "GetxattrAt"
	SetxattrAt    Call = "SetxattrAt"
	RemovexattrAt Call = "RemovexattrAt"
	ListxattrAt   Call = "ListxattrAt"
	ReadDir       Call = "ReadDir"
	Statfs        Call = "Statfs"
	SyncFS        Call = "SyncFS"
	Lock          Call = "Lock"
	LockWait      Call = "LockWait"
	Unlock        Call = "Unlock"
	Use           Call = "Use"
	InUse         Call = "InUse"
)

// Op is one call that is about to be made. Fields that the call has no use for are zero.
type Op struct {
	Call    Call
	Name    string // the name in the directory, or the attribute's where the call is on an open object
	NewName string // of Rename and Link
	Off     int64
	Len     int64 // bytes to read, write, copy or allocate; the size of Truncate
	Flags   int   // of Open and OpenStat
}

// Changes reports whether the call can change what is stored, or how durable it is: the calls between which a cut of
// the power makes a difference. Open counts with O_CREAT or O_TRUNC only.
func (o Op) Changes() bool {
	switch o.Call {
	case Open, OpenStat:
		return o.Flags&(oCreat|oTrunc) != 0
	case Chmod, Chown, Utimes, Setxattr, Removexattr, SetFlags, WriteAt, WritevAt, Truncate, Allocate, CopyRange, Sync,
		DataSync, Tmpfile, Mkdir, Mknod, Symlink, Unlink, Rmdir, Rename, Link, LinkFile, ChmodAt, ChownAt, UtimesAt,
		SetxattrAt, RemovexattrAt, SyncFS, Lock:
		return true
	}
	return false
}

// Hook is called before each operation. What it returns is the operation's error, which is then not made; nil lets
// it pass, and a [*Partial] lets part of it pass. The error of Close, Unlock and WillNeed is not heeded: they are always made.
type Hook func(Op) error

// Partial is the answer of a hook that lets the first N bytes of a ReadAt, WriteAt, WritevAt or CopyRange pass and
// then fails with Err: a disk that fills, a process killed in the middle. Err must not be nil, since ReadAt and
// WriteAt promise all or an error. For other calls a Partial is Err.
type Partial struct {
	N   int64
	Err error
}

func (p *Partial) Error() string { return "partial: " + p.Err.Error() }

// Unwrap returns the error that follows the part.
func (p *Partial) Unwrap() error { return p.Err }

// Limit returns how many of n bytes the answer err of a hook lets pass, and the error after them.
func Limit(err error, n int64) (int64, error) {
	if err == nil {
		return n, nil
	}
	var p *Partial
	if errors.As(err, &p) {
		return max(0, min(n, p.N)), p.Err
	}
	return 0, err
}

// Counter counts operations and fails one of them. The zero value counts only.
type Counter struct {
	n    atomic.Int64
	nth  int64
	err  error
	only func(Op) bool
}

// Nth returns a Counter that fails the nth operation (from 0) with err, once; with an n below 0 none. Where only is
// not nil, the operations for which it is false pass uncounted.
func Nth(n int64, err error, only func(Op) bool) *Counter {
	return &Counter{nth: n, err: err, only: only}
}

// Hook is the Hook of the counter.
func (c *Counter) Hook(o Op) error {
	if c.only != nil && !c.only(o) {
		return nil
	}
	if c.n.Add(1)-1 == c.nth && c.err != nil {
		return c.err
	}
	return nil
}

// Count returns how many operations there were.
func (c *Counter) Count() int64 { return c.n.Load() }
