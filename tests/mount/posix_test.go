package mount_test

import (
	"path/filepath"
	"testing"

	"github.com/hanwen/go-fuse/v2/posixtest"

	"kmsfs/tests/internal/lab"
)

// TestPosix runs go-fuse's own conformance tests.
func TestPosix(t *testing.T) {
	vaults := lab.Backing(t, backingKind())
	modes(t, vaults, func(t *testing.T, m *lab.Mount) {
		for name, test := range posixtest.All {
			if name == "FcntlFlockLocksFile" {
				continue // expects a process to be stopped by its own fcntl lock; fails on every file system
			}
			t.Run(name, func(t *testing.T) { test(t, lab.Subdir(t, m.Dir, filepath.Base(t.Name()), 0o755)) })
		}
	})
}
