package mount_test

import (
	"testing"

	"kmsfs/tests/internal/lab"
)

// TestLocks holds that locks keep two processes apart.
func TestLocks(t *testing.T) {
	modes(t, "", func(t *testing.T, m *lab.Mount) {
		lab.Locks(t, [2]string{m.Dir + "/file", m.Dir + "/file"}, childEnv+"=locker")
	})
}
