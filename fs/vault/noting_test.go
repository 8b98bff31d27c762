package vault

import (
	"errors"
	"testing"

	"kmsfs/fs/backing"
)

// interrupted is a stored file in whose sync something else happens.
type interrupted struct {
	backing.File
	during func() error
}

func (f *interrupted) WriteAt(p []byte, _ int64) (int, error) { return len(p), nil }
func (f *interrupted) DataSync() error {
	if f.during == nil {
		return nil
	}
	return f.during()
}

// TestNoting holds that a file is clean only when all that was written before a sync began is durable.
func TestNoting(t *testing.T) {
	f := &interrupted{}
	bf := note(f)
	if clean(bf) {
		t.Error("a file that was just opened is clean")
	}
	if bf.DataSync(); !clean(bf) {
		t.Error("a file that was synced is not clean")
	}
	bf.WriteAt([]byte("x"), 0)
	f.during = func() error {
		if clean(bf) {
			t.Error("a file is clean while its sync is under way")
		}
		bf.WriteAt([]byte("y"), 0)
		return nil
	}
	if bf.DataSync(); clean(bf) {
		t.Error("a file is clean that was written to during its sync")
	}
	f.during = func() error { return errors.New("no") }
	if bf.DataSync(); clean(bf) || failures(bf) != 1 {
		t.Error("a file is clean whose sync failed")
	}
	f.during = nil
	if bf.DataSync(); !clean(bf) {
		t.Error("a file that was synced again is not clean")
	}
}
