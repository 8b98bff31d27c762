package faults

import "kmsfs/fs/backing"

func (f *file) LockWait(mode backing.LockMode) error { return f.in.LockWait(mode) }

func (f *file) Unlock() error { return f.in.Unlock() }
