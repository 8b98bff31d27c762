package main

import (
	"errors"
	iofs "io/fs"
	"os"
	"os/exec"
	"path/filepath"
	"strings"
	"syscall"

	"kmsfs/envelope"
)

// quote is path as a shell takes it.
func quote(path string) string {
	if path != "" && strings.Trim(path, "abcdefghijklmnopqrstuvwxyzABCDEFGHIJKLMNOPQRSTUVWXYZ0123456789_-+=:,./@%") == "" {
		return path
	}
	return "'" + strings.ReplaceAll(path, "'", `'\''`) + "'"
}

// resolve is path absolute and without symlinks, as far as it exists. Its last component is not touched: it may be a
// mount whose daemon is gone.
func resolve(path string) (string, error) {
	abs, err := filepath.Abs(path)
	if err != nil {
		return "", err
	}
	if real, err := filepath.EvalSymlinks(abs); err == nil {
		return real, nil
	}
	dir, last := filepath.Split(abs)
	if abs == "/" {
		return abs, nil
	}
	parent, err := resolve(filepath.Clean(dir))
	if err != nil {
		return "", err
	}
	return filepath.Join(parent, last), nil
}

// inside tells whether path is dir or below it; both are resolved.
func inside(path, dir string) bool {
	if path == dir || dir == "/" || strings.HasPrefix(path, dir+"/") {
		return true
	}
	want, err := os.Stat(dir) // two names of one directory: a bind mount
	if err != nil {
		return false
	}
	for ; path != "/"; path = filepath.Dir(path) {
		if got, err := os.Stat(path); err == nil && os.SameFile(want, got) {
			return true
		}
	}
	return false
}

// checkMount refuses to mount what would be within itself.
func checkMount(p mountPlan) error {
	if p.Reverse {
		return checkReverse(p)
	}
	return checkOverlap(p.Vault, p.Mountpoint)
}

// checkOverlap refuses to mount a vault over itself.
func checkOverlap(vaultDir, mountpoint string) error {
	switch {
	case vaultDir == mountpoint || inside(vaultDir, mountpoint) && inside(mountpoint, vaultDir):
		return faultf(errOverlap, "vault and mountpoint are the same directory: %s", vaultDir)
	case inside(mountpoint, vaultDir):
		return faultf(errOverlap, "the mountpoint %s is inside the vault %s", mountpoint, vaultDir)
	case inside(vaultDir, mountpoint):
		return faultf(errOverlap, "the vault %s is inside the mountpoint %s", vaultDir, mountpoint)
	}
	return nil
}

// checkMountpoint refuses what cannot be mounted on. mounts are those of kmsfs.
func checkMountpoint(path string, mounts []mountEntry) error {
	_, err := os.Stat(path)
	gone := hintf(faultf(errMountpoint, "%s is a mount whose daemon is gone", path), "kmsfs umount %s", quote(path))
	if errors.Is(err, syscall.ENOTCONN) {
		return gone
	}
	for _, m := range mounts {
		if m.Mountpoint == path {
			if stateOf(path) == stateGone { // the kernel may still know what Stat asks
				return gone
			}
			return hintf(faultf(errMounted, "%s is already the mount of %s", path, m.Source), "kmsfs umount %s", quote(path))
		}
	}
	if errors.Is(err, iofs.ErrNotExist) {
		return hintf(faultf(errMountpoint, "the mountpoint %s is missing", path), "mkdir -p %s", quote(path))
	}
	if err != nil {
		return faultf(errMountpoint, "mountpoint: %w", err)
	}
	entries, err := readSome(path)
	switch {
	case errors.Is(err, syscall.ENOTDIR):
		return hintf(faultf(errMountpoint, "the mountpoint %s is not a directory", path), "name an empty directory")
	case err != nil:
		return faultf(errMountpoint, "mountpoint: %w", err)
	case len(entries) > 0:
		return hintf(faultf(errMountpoint, "the mountpoint %s is not empty", path),
			"name an empty directory: what is there would be hidden")
	}
	return nil
}

// readSome returns the first name in a directory, if there is one.
func readSome(path string) ([]string, error) {
	d, err := os.OpenFile(path, os.O_RDONLY|syscall.O_DIRECTORY, 0)
	if err != nil {
		return nil, err
	}
	defer d.Close()
	names, _ := d.Readdirnames(1) // at the end: io.EOF and no names
	return names, nil
}

// holdsVault tells whether dir holds a vault, damaged or not.
func holdsVault(dir string) bool {
	_, err := os.Lstat(filepath.Join(dir, envelope.ControlDir, "vault.json"))
	return err == nil
}

// checkFUSE refuses to try to mount where it cannot work.
func (a *app) checkFUSE(p *mountPlan) error {
	f, err := os.OpenFile("/dev/fuse", os.O_RDWR, 0)
	switch {
	case errors.Is(err, iofs.ErrNotExist):
		return hintf(faultf(errNoFUSE, "/dev/fuse is missing"),
			"sudo modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN")
	case errors.Is(err, iofs.ErrPermission) && a.uid != 0:
		return hintf(faultf(errNoFUSE, "/dev/fuse is closed to users other than root"), "sudo chmod 666 /dev/fuse, as udev does")
	case err != nil:
		return hintf(faultf(errNoFUSE, "/dev/fuse: %w", err), "sudo modprobe fuse; in a container: --device /dev/fuse --cap-add SYS_ADMIN")
	}
	f.Close()
	if a.uid == 0 {
		return nil
	}
	if _, err := exec.LookPath("fusermount3"); err != nil {
		return faultf(errNoFusermount, "fusermount3 is missing")
	}
	if p.AllowOther && !userAllowOther("/etc/fuse.conf") {
		return hintf(faultf(iofs.ErrPermission, "--allow-other is closed to users other than root"),
			"echo user_allow_other | sudo tee -a /etc/fuse.conf")
	}
	return nil
}

// userAllowOther tells whether fusermount3 lets users give others access.
func userAllowOther(conf string) bool {
	b, err := os.ReadFile(conf)
	if err != nil {
		return false
	}
	for line := range strings.Lines(string(b)) {
		if strings.TrimSpace(line) == "user_allow_other" {
			return true
		}
	}
	return false
}
