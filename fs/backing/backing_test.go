package backing_test

import (
	"os"
	"os/exec"
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

// mount mounts source until the end of the test.
func mount(t *testing.T, source, kind, options string) string {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root to mount: run go test as root")
	}
	dir := filepath.Join(t.TempDir(), "mnt")
	if err := os.Mkdir(dir, 0o700); err != nil {
		t.Fatal(err)
	}
	// mount(8), because it sets up the loop device.
	if out, err := exec.Command("mount", "-t", kind, "-o", options, source, dir).CombinedOutput(); err != nil {
		t.Skipf("needs the right to mount (CAP_SYS_ADMIN), and %s in the kernel: %v: %s", kind, err, out)
	}
	t.Cleanup(func() {
		if out, err := exec.Command("umount", dir).CombinedOutput(); err != nil {
			t.Errorf("umount: %v: %s", err, out)
		}
	})
	return dir
}

func mountTmpfs(t *testing.T) string {
	t.Helper()
	return mount(t, "kmsfs-test", "tmpfs", "size=64m")
}

// within returns a function that makes directories in dir.
func within(t *testing.T, dir string) func() string {
	return func() string {
		sub, err := os.MkdirTemp(dir, "")
		if err != nil {
			t.Fatal(err)
		}
		return sub
	}
}

func TestContractTmpfs(t *testing.T) {
	newDir := within(t, mountTmpfs(t))
	backingtest.Run(t, func(t *testing.T) backing.Dir { return openDir(t, newDir()) })
}

// disks are the file systems that vaults mostly lie on, and how to make one.
var disks = map[string][]string{
	"ext4":  {"mkfs.ext4", "-q", "-b", "4096"},
	"xfs":   {"mkfs.xfs", "-q"},
	"btrfs": {"mkfs.btrfs", "-q"},
}

func TestContractDisks(t *testing.T) {
	if testing.Short() {
		t.Skip("makes file systems of some 400 MB (sparse): run without -short")
	}
	for kind, mkfs := range disks {
		t.Run(kind, func(t *testing.T) {
			image := filepath.Join(t.TempDir(), "image")
			if err := os.WriteFile(image, nil, 0o600); err != nil {
				t.Fatal(err)
			}
			if err := os.Truncate(image, 400<<20); err != nil {
				t.Fatal(err)
			}
			if out, err := exec.Command(mkfs[0], append(mkfs[1:], image)...).CombinedOutput(); err != nil {
				t.Skipf("needs %s (apt install e2fsprogs xfsprogs btrfs-progs): %v: %s", mkfs[0], err, out)
			}
			newDir := within(t, mount(t, image, kind, "loop"))
			backingtest.Run(t, func(t *testing.T) backing.Dir { return openDir(t, newDir()) })
			if kind == "ext4" { // the others have their own ideas of holes and link counts
				compare(t, newDir, backingtest.Options{})
			}
		})
	}
}
