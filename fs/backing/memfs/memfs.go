// Package memfs is a file system in memory that behaves as Linux does, errno for errno, and that can lose its power:
// it remembers which writes, sizes, attributes and names were made durable, and [FS.Crash] gives the file system
// that a machine would find after a power cut at that moment. [FS.Kill] gives the one that the next process finds
// after kill -9.
//
// Start with [New] and [FS.Root]. A test of a crash runs its scenario once to learn [FS.Ops], then again with
// [FS.FailAt] of every number below, and looks at what Crash and Kill give after each:
//
//	fs := memfs.New(memfs.Config{})
//	fs.FailAt(k)
//	scenario(fs.Root()) // ends with errors that are ErrCrashed
//	check(fs.Kill().Root())
//	for seed := range uint64(100) {
//		check(fs.Crash(memfs.Policy{Choose: memfs.Random(seed)}).Root())
//	}
//
// What survives a crash: see [Policy]. The model is stricter than common file systems: fsync of a file does not make
// its name durable, only Sync of the directory does.
//
// The caller is root with umask 0, so that there are no permission checks. Not there: atime on read (as with
// noatime), POSIX ACLs (EOPNOTSUPP), the effects of the immutable and append-only flags, and quotas.
//
// Everything is safe for concurrent use. One lock per FS is held within a call, never while a hook or the callback
// of ReadDir runs.
package memfs

import (
	"errors"
	"fmt"
	"sync"
	"sync/atomic"
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
)

// ErrCrashed is what every call returns once the FS has crashed; to callers that know no better it is EIO.
var ErrCrashed = fmt.Errorf("memfs: crashed: %w", unix.EIO)

// Config is how to make an FS. The zero value is good.
type Config struct {
	// Now is the clock; nil is time.Now.
	Now func() time.Time
	// Hook is called before each operation, see package faults. An ErrCrashed from it crashes the FS, as FailAt does;
	// in a faults.Partial it does so after part of a write.
	Hook faults.Hook
}

// FS is a file system in memory.
type FS struct {
	hook    faults.Hook
	ops     atomic.Int64
	failAt  atomic.Int64 // -1: never
	crashed atomic.Bool

	mu      sync.Mutex
	now     func() time.Time
	root    *inode
	lastIno uint64
	log     []*nameOp // names changed since base
	failed  writeErrors
	freed   *sync.Cond // a lock was let go of, or fs crashed
}

// New makes an empty file system, all of it durable.
func New(c Config) *FS {
	fs := &FS{hook: c.Hook, now: c.Now}
	if fs.now == nil {
		fs.now = time.Now
	}
	fs.freed = sync.NewCond(&fs.mu)
	fs.failAt.Store(-1)
	fs.root = fs.newInode(unix.S_IFDIR | 0o755)
	fs.root.nlink = 2
	return fs
}

// Root opens the root directory.
func (fs *FS) Root() backing.Dir {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	return faults.Wrap(&dir{handle{fs: fs, in: fs.root, told: fs.failed.since()}}, fs.before)
}

// Ops returns how many operations there were of those that change something (faults.Op.Changes), also failed ones.
func (fs *FS) Ops() int64 { return fs.ops.Load() }

// FailAt lets the first k operations of those that Ops counts pass. The next one crashes the FS: it and every call
// after it, reads too, return ErrCrashed and do nothing. A k below 0 is never. Close works on.
func (fs *FS) FailAt(k int64) { fs.failAt.Store(k) }

// before runs before every operation.
func (fs *FS) before(op faults.Op) error {
	if fs.crashed.Load() {
		return ErrCrashed
	}
	if op.Changes() {
		n := fs.ops.Add(1) - 1
		if at := fs.failAt.Load(); at >= 0 && n >= at {
			fs.crash()
			return ErrCrashed
		}
	}
	if fs.hook == nil {
		return nil
	}
	err := fs.hook(op)
	if errors.Is(err, ErrCrashed) {
		fs.crash()
	}
	return err
}

// crash makes all calls fail, also those that wait for a lock.
func (fs *FS) crash() {
	fs.mu.Lock()
	defer fs.mu.Unlock()
	fs.crashed.Store(true)
	fs.freed.Broadcast()
}

// stamp is the time now. Call with fs.mu held.
func (fs *FS) stamp() backing.Timespec {
	t := fs.now()
	return backing.Timespec{Sec: t.Unix(), Nsec: int64(t.Nanosecond())}
}
