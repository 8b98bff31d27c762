package memfs

import (
	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
)

// locks is who holds a lock of one file.
type locks struct {
	exclusive *file
	shared    map[*file]bool
}

// take gives f the lock, in place of the one that it holds, unless another has it.
func (l *locks) take(f *file, mode backing.LockMode) bool {
	others := len(l.shared)
	if l.shared[f] {
		others--
	}
	if l.exclusive != nil && l.exclusive != f || mode == backing.LockExclusive && others > 0 {
		return false
	}
	l.drop(f)
	switch {
	case mode == backing.LockExclusive:
		l.exclusive = f
	case l.shared == nil:
		l.shared = map[*file]bool{f: true}
	default:
		l.shared[f] = true
	}
	return true
}

func (l *locks) drop(f *file) {
	if l.exclusive == f {
		l.exclusive = nil
	}
	delete(l.shared, f)
}

func (d *dir) Lock(name string, mode backing.LockMode) (backing.File, error) {
	f, err := d.open(name, unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		return nil, err
	}
	d.fs.mu.Lock()
	defer d.fs.mu.Unlock()
	if !f.in.flock.take(f, mode) {
		return nil, unix.EWOULDBLOCK
	}
	return f, nil
}

func (f *file) LockWait(mode backing.LockMode) error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if mode == backing.LockExclusive && !f.writable() || mode == backing.LockShared && !f.readable() {
		return unix.EBADF
	}
	for !f.in.ranges.take(f, mode) {
		if f.fs.crashed.Load() {
			return ErrCrashed
		}
		f.fs.freed.Wait()
	}
	return nil
}

func (f *file) Unlock() error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	f.in.ranges.drop(f)
	f.fs.freed.Broadcast()
	return nil
}

func (f *file) Use() error {
	if err := f.lock(); err != nil {
		return err
	}
	defer f.fs.mu.Unlock()
	if !f.readable() {
		return unix.EBADF
	}
	f.in.using.take(f, backing.LockShared)
	return nil
}

func (f *file) InUse() (bool, error) {
	if err := f.lock(); err != nil {
		return false, err
	}
	defer f.fs.mu.Unlock()
	others := len(f.in.using.shared)
	if f.in.using.shared[f] {
		others--
	}
	return others > 0, nil
}
