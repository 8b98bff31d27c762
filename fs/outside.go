package fs

import (
	"errors"
	"fmt"
	"os"
	"os/exec"
	"strings"

	"golang.org/x/sys/unix"
)

// A process that is killed while one of its own threads waits for an answer of its own mount never ends: a request that has been read
// cannot be taken back, and the kernel gives up on the mount only when its device is closed, which that thread has open. So
// whatever asks the mount, syncs or unmounts it is done by another process.

// outside runs a program and returns what it says where it fails.
func outside(program string, args ...string) error {
	out, err := exec.Command(program, args...).CombinedOutput()
	if err != nil {
		return fmt.Errorf("%s: %w: %s", program, err, strings.TrimSpace(string(out)))
	}
	return nil
}

// Sync writes what the kernel holds of the mount into the vault, as syncfs(2) does.
func (s *Server) Sync() error { return outside("sync", "-f", "--", s.dir) }

// Unmount detaches the mount; it fails while the mount is in use. It waits for what the kernel then writes. Wait returns soon after.
func (s *Server) Unmount() error { return detach(s.dir, 0) }

// UnmountLazily detaches the mount from the tree at once; it ends when nobody uses it any more.
func (s *Server) UnmountLazily() error { return detach(s.dir, unix.MNT_DETACH) }

// detach unmounts dir: root by umount(8), and where there is none by itself; everybody else by fusermount3(1). flags are those of
// umount2(2); of them both programs know MNT_DETACH.
func detach(dir string, flags int) error {
	program, args, lazily := "umount", []string{"-i", "-c"}, "-l"
	if os.Geteuid() != 0 {
		program, args, lazily = "fusermount3", []string{"-u"}, "-z"
	}
	if flags&unix.MNT_DETACH != 0 {
		args = append(args, lazily)
	}
	err := outside(program, append(args, "--", dir)...)
	if errors.Is(err, exec.ErrNotFound) && os.Geteuid() == 0 {
		err = nil
		if e := unix.Unmount(dir, unix.UMOUNT_NOFOLLOW|flags); e != nil {
			err = &os.PathError{Op: "umount", Path: dir, Err: e}
		}
	}
	return err
}
