package faults

import "kmsfs/fs/backing"

func (d *dir) Lock(name string, mode backing.LockMode) (backing.File, error) {
	if err := d.at(Lock, name); err != nil {
		return nil, err
	}
	return d.file(d.in.Lock(name, mode))
}

func (f *file) LockWait(mode backing.LockMode) error {
	if err := f.hook.ask(Op{Call: LockWait}); err != nil {
		return err
	}
	return f.in.LockWait(mode)
}

// Unlock does not heed the hook's error, as Close does not: a lock that nobody can let go of hangs a test.
func (f *file) Unlock() error {
	_ = f.hook(Op{Call: Unlock})
	return f.in.Unlock()
}

func (f *file) Use() error {
	if err := f.hook.ask(Op{Call: Use}); err != nil {
		return err
	}
	return f.in.Use()
}

func (f *file) InUse() (bool, error) {
	if err := f.hook.ask(Op{Call: InUse}); err != nil {
		return false, err
	}
	return f.in.InUse()
}
