package memfs

import (
	"time"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// lockPoll is how often LockWait looks whether a lock has become free.
const lockPoll = 100 * time.Microsecond

// LockWait takes the lock of the whole file; it is one with that of Dir.Lock here.
func (f *file) LockWait(mode backing.LockMode) error {
	for {
		if err := f.lock(); err != nil {
			return err
		}
		in := f.in
		others := len(in.shared)
		if in.shared[f] {
			others--
		}
		free := in.exclusive == nil || in.exclusive == f
		if free && (mode == backing.LockShared || others == 0) {
			delete(in.shared, f)
			in.exclusive = nil
			if mode == backing.LockExclusive {
				in.exclusive = f
			} else {
				if in.shared == nil {
					in.shared = map[*file]bool{}
				}
				in.shared[f] = true
			}
			f.fs.mu.Unlock()
			return nil
		}
		f.fs.mu.Unlock()
		time.Sleep(lockPoll)
	}
}

// Unlock lets go of the lock.
func (f *file) Unlock() error {
	f.fs.mu.Lock()
	defer f.fs.mu.Unlock()
	if f.closed {
		return unix.EBADF
	}
	if f.in.exclusive == f {
		f.in.exclusive = nil
	}
	delete(f.in.shared, f)
	return nil
}
