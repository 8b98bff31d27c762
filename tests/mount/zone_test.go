package mount_test

import (
	"errors"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

const zoneXattr = "user.kmsfs.zone"

// TestZone sets encryption zones as programs do, and has the tools that copy and remove trees work on them.
func TestZone(t *testing.T) {
	if !lab.IsKMSFS() {
		t.Skip("encryption zones are of kmsfs: unset KMSFS_TEST_FS")
	}
	lab.Need(t, "rsync")
	m := lab.MountNew(t, lab.Options{AllowOther: os.Geteuid() == 0})
	zone := filepath.Join(m.Dir, "zone")
	if err := os.MkdirAll(filepath.Join(zone, "sub"), 0o755); err != nil {
		t.Fatal(err)
	}
	const key = "alias/aws/kmsfs" // the only CMK of the new key store
	if err := unix.Setxattr(zone, zoneXattr, []byte(key), unix.XATTR_REPLACE); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("XATTR_REPLACE of none: %v", err)
	}
	if err := unix.Setxattr(zone, zoneXattr, []byte(key), unix.XATTR_CREATE); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(zone, zoneXattr, []byte(key), unix.XATTR_CREATE); !errors.Is(err, syscall.EEXIST) {
		t.Errorf("XATTR_CREATE twice: %v", err)
	}
	if err := unix.Setxattr(zone, zoneXattr, []byte("alias/none"), 0); !errors.Is(err, syscall.ENOKEY) {
		t.Errorf("a CMK that there is not: %v", err)
	}
	if err := os.WriteFile(filepath.Join(zone, "sub", "file"), []byte("content"), 0o644); err != nil {
		t.Fatal(err)
	}
	if err := unix.Setxattr(filepath.Join(zone, "sub", "file"), zoneXattr, []byte(key), 0); !errors.Is(err, syscall.EPERM) {
		t.Errorf("on a file: %v", err)
	}
	if os.Geteuid() == 0 {
		if err := os.Chmod(zone, 0o777); err != nil {
			t.Fatal(err)
		}
		lab.Need(t, "setfattr")
		for _, args := range [][]string{{"-n", zoneXattr, "-v", key, zone}, {"-x", zoneXattr, zone}} {
			cmd := exec.Command("setfattr", args...)
			cmd.SysProcAttr = &syscall.SysProcAttr{Credential: &syscall.Credential{Uid: 65534, Gid: 65534}}
			if out, err := cmd.CombinedOutput(); err == nil || !strings.Contains(string(out), "not permitted") {
				t.Errorf("setfattr %v by one who may write to the directory: %v %s", args, err, out)
			}
		}
	}
	if err := m.Remount(); err != nil {
		t.Fatal(err)
	}
	b := make([]byte, 100)
	if n, err := unix.Getxattr(zone, zoneXattr, b); err != nil || string(b[:n]) != key {
		t.Errorf("after a remount: %q, %v", b[:max(n, 0)], err)
	}
	out := lab.Dir(t)
	lab.Run(t, "/", "rsync", "-aX", zone+"/", out+"/copy/")
	lab.Run(t, "/", "rsync", "-aX", out+"/copy/", filepath.Join(m.Dir, "back")+"/")
	if got, err := os.ReadFile(filepath.Join(m.Dir, "back", "sub", "file")); err != nil || string(got) != "content" {
		t.Errorf("copied there and back: %q, %v", got, err)
	}
	if _, err := unix.Getxattr(filepath.Join(m.Dir, "back"), zoneXattr, b); !errors.Is(err, syscall.ENODATA) {
		t.Errorf("a copy is a zone: %v", err)
	}
	if err := os.Rename(zone, filepath.Join(m.Dir, "back", "moved")); err != nil {
		t.Fatal(err)
	}
	if err := os.RemoveAll(filepath.Join(m.Dir, "back")); err != nil {
		t.Errorf("rm -r of a zone: %v", err)
	}
}
