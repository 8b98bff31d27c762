package lab

import (
	"os"
	"os/exec"
	"testing"

	"golang.org/x/sys/unix"
)

// backingSize is the size of the sparse file behind a loop device: xfs wants 300 MB, and it costs what is written.
const backingSize = 4 << 30

// Backing returns an empty directory on a new file system of the given kind: ext4, xfs, btrfs, tmpfs, or dir for a
// plain directory where the temporary files are. All but dir need root.
func Backing(t testing.TB, kind string) string {
	t.Helper()
	if kind == "dir" {
		return Dir(t)
	}
	NeedRoot(t)
	dir := Dir(t)
	mount := Subdir(t, dir, "fs", 0o755)
	args := []string{"-t", kind, "-o", "nodev", "none", mount}
	if kind != "tmpfs" {
		Need(t, "mkfs."+kind)
		image := dir + "/image"
		if err := os.WriteFile(image, nil, 0o600); err != nil {
			t.Fatal(err)
		}
		if err := os.Truncate(image, backingSize); err != nil {
			t.Fatal(err)
		}
		mkfs := map[string][]string{
			// Sealed attributes are longer than plain ones; ea_inode lifts ext4's limit of one block for all.
			"ext4":  {"-q", "-F", "-O", "ea_inode", image},
			"xfs":   {"-q", image},
			"btrfs": {"-q", image},
		}
		Run(t, dir, "mkfs."+kind, mkfs[kind]...)
		args = []string{"-o", "loop,nodev", "-t", kind, image, mount}
	}
	if out, err := exec.Command("mount", args...).CombinedOutput(); err != nil {
		t.Skipf("mount %s: %v: %s (loop devices and the %s module are needed; in a container: --privileged)", kind, err, out, kind)
	}
	t.Cleanup(func() {
		if err := unmount(mount); err != nil {
			t.Errorf("unmount %s: %v", mount, err)
		}
	})
	if err := os.Chmod(mount, 0o755); err != nil {
		t.Fatal(err)
	}
	// Not the root itself: mkfs leaves lost+found there.
	return Subdir(t, mount, "work", 0o755)
}

// unmount unmounts path, lazily at last, so that nothing is left behind.
func unmount(path string) error {
	err := busyRetry(func() error { return unix.Unmount(path, 0) })
	if err != nil {
		_ = unix.Unmount(path, unix.MNT_DETACH) // the first error is the one to tell
	}
	return err
}
