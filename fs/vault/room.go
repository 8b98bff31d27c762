package vault

import (
	"errors"
	"math"
	"syscall"
)

// withRoom calls f, and once more after files that can do without it were closed, where the process may have no more files open.
// f changes nothing where it fails so. The caller holds no lock but those of names.
func (v *Vault) withRoom(f func() error) error {
	err := f()
	if !errors.Is(err, syscall.EMFILE) && !errors.Is(err, syscall.ENFILE) {
		return err
	}
	v.reaper.drain()
	if !v.readOnly {
		if err := v.keeper.run(); err != nil {
			v.log.Error("deferred work failed; it will be tried again", "err", err)
		}
	}
	v.files.trim(v, math.MaxInt)
	v.reaper.drain()
	return f()
}
