package backing_test

import (
	"errors"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/faults"
)

// TestAllZeros: holes and zeros are zeros, what lies past the size does not count, and what cannot be read is neither.
func TestAllZeros(t *testing.T) {
	failing := false
	d := faults.Wrap(openDir(t, t.TempDir()), func(op faults.Op) error {
		if failing && op.Call == faults.ReadAt {
			return syscall.EIO
		}
		return nil
	})
	f, err := d.Open("file", unix.O_RDWR|unix.O_CREAT, 0o600)
	if err != nil {
		t.Fatal(err)
	}
	defer f.Close()
	const size = 1 << 20
	write := func(p []byte, off int64) {
		t.Helper()
		if _, err := f.WriteAt(p, off); err != nil {
			t.Fatal(err)
		}
	}
	expect := func(want bool) {
		t.Helper()
		if got, err := backing.AllZeros(f, size); err != nil || got != want {
			t.Errorf("got %v, %v", got, err)
		}
	}
	expect(true) // shorter than size
	if err := f.Truncate(2 * size); err != nil {
		t.Fatal(err)
	}
	expect(true)
	write(make([]byte, 5000), size/2)
	write([]byte{1}, size)
	expect(true)
	failing = true
	if _, err := backing.AllZeros(f, size); !errors.Is(err, syscall.EIO) {
		t.Errorf("a failing read: %v", err)
	}
	failing = false
	write([]byte{1}, size-1)
	expect(false)
}
