package mount_test

import (
	"bytes"
	"errors"
	"fmt"
	"os"
	"path/filepath"
	"strings"
	"syscall"
	"testing"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// capability is the value of security.capability that setcap cap_net_raw+ep writes.
const capability = "\x01\x00\x00\x02\x00\x20\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00\x00"

// noCapability is how touched says that there is no capability any more.
const noCapability = "ENODATA"

// touches are the ways to change a file after which it must not keep rights that it had for its old content.
func touches() map[string]func(path string) error {
	opened := func(flags int, use func(fd int) error) func(string) error {
		return func(path string) error {
			fd, err := unix.Open(path, flags|unix.O_CLOEXEC, 0)
			if err != nil {
				return err
			}
			defer unix.Close(fd)
			return use(fd)
		}
	}
	return map[string]func(string) error{
		"write": opened(unix.O_RDWR, func(fd int) error { _, err := unix.Pwrite(fd, []byte("new"), 1); return err }),
		"append": opened(unix.O_WRONLY|unix.O_APPEND, func(fd int) error {
			_, err := unix.Write(fd, []byte("new"))
			return err
		}),
		"ftruncate":    opened(unix.O_RDWR, func(fd int) error { return unix.Ftruncate(fd, 2) }),
		"truncate":     func(path string) error { return unix.Truncate(path, 3) },
		"truncate up":  func(path string) error { return unix.Truncate(path, 30000) },
		"open O_TRUNC": opened(unix.O_WRONLY|unix.O_TRUNC, func(int) error { return nil }),
		"fallocate":    opened(unix.O_RDWR, func(fd int) error { return unix.Fallocate(fd, 0, 0, 9000) }),
		"punch": opened(unix.O_RDWR, func(fd int) error {
			return unix.Fallocate(fd, unix.FALLOC_FL_PUNCH_HOLE|unix.FALLOC_FL_KEEP_SIZE, 0, 2)
		}),
		"mmap": opened(unix.O_RDWR, func(fd int) error {
			m, err := unix.Mmap(fd, 0, 5, unix.PROT_WRITE, unix.MAP_SHARED)
			if err != nil {
				return err
			}
			m[0] = '!'
			if err := unix.Msync(m, unix.MS_SYNC); err != nil {
				return err
			}
			return unix.Munmap(m)
		}),
		"chown":            func(path string) error { return os.Chown(path, -1, lab.Nobody) },
		"chown of nothing": func(path string) error { return os.Chown(path, -1, -1) },
		"chown to own":     func(path string) error { return os.Chown(path, lab.Nobody, lab.Nobody) },
		"read": opened(unix.O_RDONLY, func(fd int) error {
			_, err := unix.Pread(fd, make([]byte, 10), 0)
			return err
		}),
		"utimes": func(path string) error { return unix.UtimesNano(path, []unix.Timespec{{Sec: 1}, {Sec: 1}}) },
		"rename": func(path string) error {
			if err := os.Rename(path, path+"2"); err != nil {
				return err
			}
			return os.Rename(path+"2", path)
		},
	}
}

// TestPrivileges holds that suid, sgid and file capabilities go, or stay, exactly as on a plain directory, for root and
// for another user, on whatever changes a file.
func TestPrivileges(t *testing.T) {
	lab.NeedRoot(t)
	base := lab.Backing(t, "ext4")
	modes(t, base, func(t *testing.T, m *lab.Mount) {
		plain := lab.Subdir(t, base, "plain-"+filepath.Base(t.Name()), 0o755)
		for name, touch := range touches() {
			for _, mode := range []uint32{0o4777, 0o2777, 0o6755, 0o2767, 0o777} {
				for _, caps := range []bool{false, true} {
					for _, uid := range []int{0, lab.Nobody} {
						if name == "chown of nothing" && uid == 0 && strings.HasSuffix(t.Name(), "shared") {
							continue // the kernel does not tell it from root's write; see SEMANTICS.md
						}
						what := fmt.Sprintf("%s by %d, mode %o, capability %v", name, uid, mode, caps)
						want, got := touched(t, plain, what, mode, caps, uid, touch), touched(t, m.Dir, what, mode, caps, uid, touch)
						if name == "mmap" {
							// The kernel writes a mapping back as any other write; dropping the capability then is allowed.
							want, got = strings.TrimSuffix(want, noCapability), strings.TrimSuffix(got, noCapability)
						}
						if got != want {
							t.Errorf("%s: %s, want %s", what, got, want)
						}
					}
				}
			}
		}
	})
}

// touched makes a file of nobody's, lets uid touch it and tells what became of its rights.
func touched(t *testing.T, dir, what string, mode uint32, caps bool, uid int, touch func(string) error) string {
	t.Helper()
	path := filepath.Join(dir, "f")
	check(t, os.WriteFile(path, bytes.Repeat([]byte("data"), 2000), 0o600), what)
	defer os.Remove(path)
	check(t, os.Chown(path, lab.Nobody, lab.Nobody), what)
	check(t, unix.Chmod(path, mode), what)
	if caps {
		check(t, unix.Setxattr(path, "security.capability", []byte(capability), 0), what)
	}
	var err error
	lab.As(uid, func() { err = touch(path) })
	st, serr := os.Stat(path)
	check(t, serr, what)
	_, cerr := unix.Getxattr(path, "security.capability", make([]byte, 100))
	return fmt.Sprintf("%s, %v, capability: %s", errnoName(err), st.Mode(), errnoName(cerr))
}

// errnoName is the errno in err, without the path, which differs.
func errnoName(err error) string {
	var errno syscall.Errno
	if err != nil && !errors.As(err, &errno) {
		return err.Error()
	}
	return unix.ErrnoName(errno)
}
