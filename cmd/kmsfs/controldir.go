package main

import (
	"crypto/sha256"
	"encoding/hex"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
	"strconv"

	"golang.org/x/sys/unix"
)

// controlDir is the directory of the control sockets of a user's daemons. runtimeDir is $XDG_RUNTIME_DIR or empty.
func controlDir(uid int, runtimeDir string) string {
	switch {
	case uid == 0:
		return "/run/kmsfs"
	case filepath.IsAbs(runtimeDir):
		return filepath.Join(runtimeDir, "kmsfs")
	}
	return filepath.Join(os.TempDir(), "kmsfs-"+strconv.Itoa(uid))
}

// controlSocket is the path of the control socket of the mount at mountpoint, in dir.
func controlSocket(dir, mountpoint string) string {
	sum := sha256.Sum256([]byte(filepath.Clean(mountpoint)))
	return filepath.Join(dir, hex.EncodeToString(sum[:16])+".sock")
}

// makeControlDir makes dir, or checks that what is there is a directory that only uid can enter, and no symbolic link:
// its parent may be writable by everybody.
func makeControlDir(dir string, uid int) error {
	if err := os.Mkdir(dir, 0o700); err != nil && !errors.Is(err, fs.ErrExist) {
		return err
	}
	return checkControlDir(dir, uid)
}

// checkControlDir refuses a directory that others than uid could have made or can enter.
func checkControlDir(dir string, uid int) error {
	var st unix.Stat_t
	if err := unix.Lstat(dir, &st); err != nil {
		return &os.PathError{Op: "lstat", Path: dir, Err: err}
	}
	if st.Mode&unix.S_IFMT != unix.S_IFDIR || int(st.Uid) != uid || st.Mode&0o077 != 0 {
		return fmt.Errorf("%s is not a directory of mode 0700 of user %d", dir, uid)
	}
	return nil
}
