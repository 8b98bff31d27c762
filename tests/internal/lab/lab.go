// Package lab sets up what the tests of the mount need on a real machine: the program itself, file systems in loop
// devices, mounts, other users; and takes it all down again, by process id and path, whatever happened.
//
// Start with [MountNew]. The environment chooses what is mounted, so that the tests themselves can be proved on what is
// right or only passes through: KMSFS_TEST_FS is kmsfs (the default), loopback, loopback-writeback, or plain for no
// mount at all. The daemon is built with the race detector where the test is (go test -race).
package lab

import (
	"os"
	"os/exec"
	"strings"
	"testing"
)

// Dir returns a new directory which every user can enter (testing's are closed to others).
func Dir(t testing.TB) string {
	t.Helper()
	dir, err := os.MkdirTemp("", "kmsfs-test-")
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() {
		if err := os.RemoveAll(dir); err != nil {
			t.Errorf("cleaning up: %v", err)
		}
	})
	if err := os.Chmod(dir, 0o755); err != nil {
		t.Fatal(err)
	}
	return dir
}

// Subdir makes dir/name, with room for everybody where mode says so, whatever the umask.
func Subdir(t testing.TB, dir, name string, mode os.FileMode) string {
	t.Helper()
	path := dir + "/" + name
	if err := os.Mkdir(path, mode); err != nil {
		t.Fatal(err)
	}
	if err := os.Chmod(path, mode); err != nil {
		t.Fatal(err)
	}
	return path
}

// Sized is how much of something a test does: long, or with -short the lesser short.
func Sized(long, short int) int {
	if testing.Short() {
		return short
	}
	return long
}

// Need skips the test where a program is missing, and says which package has it.
func Need(t testing.TB, programs ...string) {
	t.Helper()
	packages := map[string]string{
		"fusermount3": "fuse3", "mkfs.ext4": "e2fsprogs", "mkfs.xfs": "xfsprogs", "mkfs.btrfs": "btrfs-progs",
		"setfattr": "attr", "setfacl": "acl", "getfacl": "acl", "setcap": "libcap2-bin", "getcap": "libcap2-bin", "borg": "borgbackup", "mksquashfs": "squashfs-tools", "fusermount": "fuse3",
	}
	for _, p := range programs {
		if _, err := exec.LookPath(p); err != nil {
			name := packages[p]
			if name == "" {
				name = p
			}
			t.Skipf("%s is missing: apt-get install %s", p, name)
		}
	}
}

// NeedRoot skips the test for whoever is not root.
func NeedRoot(t testing.TB) {
	t.Helper()
	if os.Geteuid() != 0 {
		t.Skip("needs root, for other users and loop devices: run the tests with sudo")
	}
}

// NeedFUSE skips the test where the user cannot mount.
func NeedFUSE(t testing.TB, uid uint32) {
	t.Helper()
	st, err := os.Stat("/dev/fuse")
	if err != nil {
		t.Skip("/dev/fuse is missing: modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN")
	}
	if uid == 0 {
		return
	}
	Need(t, "fusermount3")
	if st.Mode().Perm()&0o006 != 0o006 {
		t.Skip("/dev/fuse is closed to users other than root: chmod 666 /dev/fuse, as udev does")
	}
}

// Run runs a program in dir and fails the test with all it said where it fails. It returns its output.
func Run(t testing.TB, dir, program string, args ...string) string {
	t.Helper()
	cmd := exec.Command(program, args...)
	cmd.Dir = dir
	out, err := cmd.CombinedOutput()
	if err != nil {
		t.Fatalf("%s: %v\n%s", cmd, err, out)
	}
	return strings.TrimSpace(string(out))
}
