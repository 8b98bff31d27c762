package backing_test

import (
	"os"
	"path/filepath"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/fs/backing"
	"kmsfs/fs/backing/backingtest"
	"kmsfs/fs/backing/faults"
)

func TestMain(m *testing.M) {
	unix.Umask(0)
	os.Exit(m.Run())
}

// openDir opens path until the end of the test.
func openDir(t *testing.T, path string) backing.Dir {
	t.Helper()
	d, err := backing.OpenDir(path)
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { _ = d.Close() })
	return d
}

func TestContract(t *testing.T) {
	backingtest.Run(t, func(t *testing.T) backing.Dir { return openDir(t, t.TempDir()) })
}

func TestContractBehindFaults(t *testing.T) {
	backingtest.Run(t, func(t *testing.T) backing.Dir {
		return faults.Wrap(openDir(t, t.TempDir()), func(faults.Op) error { return nil })
	})
}

// mountTmpfs mounts a tmpfs until the end of the test.
func mountTmpfs(t *testing.T) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount: run go test as root")
	}
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	if err := unix.Mount("kmsfs-test", dir, "tmpfs", 0, "size=64m"); err != nil {
		t.Skipf("needs the right to mount (CAP_SYS_ADMIN): %v", err)
	}
	t.Cleanup(func() { _ = unix.Unmount(dir, unix.MNT_DETACH) })
	return dir
}

func TestContractTmpfs(t *testing.T) {
	dir := mountTmpfs(t)
	backingtest.Run(t, func(t *testing.T) backing.Dir {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		return openDir(t, sub)
	})
}
