package sidecar

import (
	"errors"
	"fmt"
	"syscall"

	"kmsfs/envelope"
	"kmsfs/fs/backing"
)

// Locked calls f while this process alone may write key tables and replace vault.json. f must not ask a keysource, nor
// call anything here that locks (Append, Zero, Replace). It waits for as long as another holds the lock; the lock of a
// process that has died is free.
func (s *Sidecar) Locked(f func() error) error {
	s.writing.Lock()
	defer s.writing.Unlock()
	if err := s.lock(); err != nil {
		return err
	}
	defer func() {
		if s.lockFile.Unlock() != nil { // closing it does
			s.lockFile.Close()
			s.lockFile = nil
		}
	}()
	return f()
}

// lock takes the lock of .kmsfs/keys.lock, made at need.
func (s *Sidecar) lock() error {
	for {
		if s.lockFile == nil {
			f, err := s.openLock()
			if err != nil {
				return err
			}
			s.lockFile = f
		}
		err := s.lockFile.LockWait(backing.LockExclusive)
		var st backing.Stat
		if err == nil {
			st, err = s.lockFile.Stat()
		}
		if err == nil && st.Nlink > 0 {
			return nil
		}
		s.lockFile.Close() // somebody has removed it: others lock another one
		s.lockFile = nil
		if err != nil && !errors.Is(err, syscall.ESTALE) {
			return err
		}
	}
}

// openLock opens the lock. Where root makes it, it is for the owner of the vault to use too.
func (s *Sidecar) openLock() (backing.File, error) {
	like, err := s.keys.Stat()
	if err != nil {
		return nil, err
	}
	f, err := s.ctl.Open(lockName, syscall.O_RDWR, 0)
	if errors.Is(err, syscall.ENOENT) {
		f, err = s.ctl.Open(lockName, syscall.O_RDWR|syscall.O_CREAT, 0o600)
	}
	if backing.OtherKind(err) {
		return nil, fmt.Errorf("%w: .kmsfs/%s is no file: %w", envelope.ErrCorrupt, lockName, err)
	}
	if err != nil {
		return nil, err
	}
	if err := own(f, like); err != nil {
		f.Close()
		return nil, err
	}
	return f, nil
}

// own gives f the owner of like, where it differs. Where this process may not, the group is let differ, and the owner is
// not: he could not use f any more.
func own(f backing.Meta, like backing.Stat) error {
	st, err := f.Stat()
	if err != nil || st.UID == like.UID && st.GID == like.GID {
		return err
	}
	err = f.Chown(like.UID, like.GID)
	if errors.Is(err, syscall.EPERM) && st.UID == like.UID {
		return nil
	}
	if err != nil {
		return fmt.Errorf("give a file of .kmsfs to user %d, whose vault it is: %w", like.UID, err)
	}
	return nil
}
