package fs

import (
	"context"
	"syscall"

	"github.com/hanwen/go-fuse/v2/fuse"

	"kmsfs/fs/vault"
)

// Locks of programs. On an exclusive mount the kernel keeps them by itself and asks nothing of this.

func lockOwner(in *fuse.LkIn) vault.LockOwner {
	if in.LkFlags&fuse.LK_FLOCK != 0 {
		return vault.LockOwner{ID: in.Owner, Kind: vault.LockFile}
	}
	return vault.LockOwner{ID: in.Owner, Kind: vault.LockRanges}
}

func lockRange(in *fuse.LkIn) vault.LockRange {
	return vault.LockRange{Shared: in.Lk.Typ == syscall.F_RDLCK, Start: in.Lk.Start, End: in.Lk.End}
}

// GetLk is fcntl(2), F_GETLK. Who has the lock is not told: it may be on another host.
func (fs *filesystem) GetLk(_ <-chan struct{}, in *fuse.LkIn, out *fuse.LkOut) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	c, found, err := fs.v.LockConflict(n, lockOwner(in), lockRange(in))
	if err != nil {
		return fs.status("getlk", in.NodeId, err)
	}
	out.Lk = fuse.FileLock{Start: in.Lk.Start, End: in.Lk.End, Typ: syscall.F_UNLCK}
	if found {
		out.Lk = fuse.FileLock{Start: c.Start, End: c.End, Typ: syscall.F_WRLCK}
		if c.Shared {
			out.Lk.Typ = syscall.F_RDLCK
		}
	}
	return fuse.OK
}

// SetLk is fcntl(2) and flock(2) that do not wait.
func (fs *filesystem) SetLk(_ <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return fs.setLock(in, fs.v.Lock)
}

// SetLkw is SetLk that waits.
func (fs *filesystem) SetLkw(cancel <-chan struct{}, in *fuse.LkIn) fuse.Status {
	return fs.setLock(in, func(n *vault.Node, who vault.LockOwner, handle uint64, r vault.LockRange) error {
		ctx, stop := context.WithCancel(context.Background())
		defer stop()
		go func() {
			select {
			case <-cancel:
			case <-fs.server.gone:
			case <-ctx.Done():
			}
			stop()
		}()
		return fs.v.LockWait(ctx, n, who, handle, r)
	})
}

func (fs *filesystem) setLock(in *fuse.LkIn, take func(n *vault.Node, who vault.LockOwner, handle uint64, r vault.LockRange) error) fuse.Status {
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	who, r := lockOwner(in), lockRange(in)
	if in.Lk.Typ == syscall.F_UNLCK {
		return fs.status("unlock", in.NodeId, fs.v.Unlock(n, who, r))
	}
	return fs.status("lock", in.NodeId, take(n, who, in.Fh, r))
}

// Flush is a close(2). What was written is with the backing file system already; a process that closes a file loses the
// locks of fcntl(2) that it has on it, which the kernel knows nothing of.
func (fs *filesystem) Flush(_ <-chan struct{}, in *fuse.FlushIn) fuse.Status {
	if fs.cached {
		return fuse.ENOSYS
	}
	n, st := fs.node(in.NodeId)
	if st != fuse.OK {
		return st
	}
	return fs.status("flush", in.NodeId, fs.v.UnlockAll(n, vault.LockOwner{ID: in.LockOwner, Kind: vault.LockRanges}))
}

// unlockReleased lets go of what was locked by a handle that is closed for good.
func (fs *filesystem) unlockReleased(n *vault.Node, in *fuse.ReleaseIn) {
	if fs.cached {
		return
	}
	const flockUnlock = 1 << 1 // FUSE_RELEASE_FLOCK_UNLOCK
	err := fs.v.UnlockHandle(n, in.Fh)
	if in.ReleaseFlags&flockUnlock != 0 && err == nil {
		err = fs.v.UnlockAll(n, vault.LockOwner{ID: in.LockOwner, Kind: vault.LockFile})
	}
	if err != nil {
		fs.log.Warn("a lock was let go of with an error", "node", in.NodeId, "err", err)
	}
}
