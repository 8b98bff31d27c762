package mount_test

import (
	"os"
	"path/filepath"
	"testing"
	"unsafe"

	"golang.org/x/sys/unix"

	"kmsfs/tests/internal/lab"
)

// harmful are ioctls that would change, stop or end a file system, or show what is below a mount: a daemon that passed them on would
// do so with its own rights. The argument is a buffer of zeros.
func harmful() map[string]uint {
	return map[string]uint{
		"FS_IOC_SHUTDOWN":                 0x8004587d, // flags 0: FSOP_GOING_FLAGS_DEFAULT
		"FIFREEZE":                        0xc0045877,
		"FITRIM":                          0xc0185879,
		"FS_IOC_FIEMAP":                   0xc020660b,
		"FS_IOC_SETVERSION":               0x40087602,
		"FS_IOC_FSSETXATTR":               0x401c5820,
		"FS_IOC_SETFSLABEL":               0x41009432,
		"FS_IOC_SET_ENCRYPTION_POLICY":    0x800c6613,
		"FS_IOC_ADD_ENCRYPTION_KEY":       0xc0506617,
		"FS_IOC_ENABLE_VERITY":            0x40806685,
		"EXT4_IOC_GROUP_EXTEND":           0x40086607,
		"EXT4_IOC_GROUP_ADD":              0x40286608,
		"EXT4_IOC_MIGRATE":                0x6609,
		"EXT4_IOC_ALLOC_DA_BLKS":          0x660c,
		"EXT4_IOC_MOVE_EXT":               0xc028660f,
		"EXT4_IOC_RESIZE_FS":              0x40086610,
		"EXT4_IOC_SWAP_BOOT":              0x6611,
		"EXT4_IOC_PRECACHE_EXTENTS":       0x6612,
		"EXT4_IOC_CLEAR_ES_CACHE":         0x6628,
		"EXT4_IOC_CHECKPOINT":             0x4004662b,
		"EXT4_IOC_SET_TUNE_SB_PARAM":      0x40e8662e,
		"EXT4_IOC_SETFSUUID":              0x4008662c,
		"XFS_IOC_FSGROWFSDATA":            0x4010586e,
		"XFS_IOC_SWAPEXT":                 0xc0c0586d,
		"XFS_IOC_OPEN_BY_HANDLE":          0x4038586b,
		"BTRFS_IOC_SNAP_CREATE":           0x50009401,
		"BTRFS_IOC_RESIZE":                0x50009403,
		"BTRFS_IOC_RM_DEV":                0x5000940b,
		"BLKDISCARD":                      0x1277,
		"LOOP_CLR_FD":                     0x4c01,
		"an ioctl of a terminal, TIOCSTI": 0x5412,
	}
}

// TestIoctls tries ioctls that could harm the file system that holds the vault, as root, on files and directories of the mount:
// each is refused, and that file system goes on. What is meant to pass does.
func TestIoctls(t *testing.T) {
	lab.NeedRoot(t)
	base := lab.Backing(t, "ext4")
	modes(t, base, func(t *testing.T, m *lab.Mount) {
		file, dir := filepath.Join(m.Dir, "file"), lab.Subdir(t, m.Dir, "dir", 0o755)
		check(t, os.WriteFile(file, []byte("text"), 0o644), "create")
		for _, path := range []string{file, dir, m.Dir} {
			f, err := os.Open(path)
			check(t, err, "open")
			if st, err := f.Stat(); err == nil && !st.IsDir() {
				f.Close()
				f, err = os.OpenFile(path, os.O_RDWR, 0)
				check(t, err, "open")
			}
			for name, request := range harmful() {
				var buffer [8192]byte // as much as any of them takes
				_, _, errno := unix.Syscall(unix.SYS_IOCTL, f.Fd(), uintptr(request), uintptr(unsafe.Pointer(&buffer)))
				if !refused(errno) {
					t.Errorf("%s on %s: %v", name, filepath.Base(path), errno)
				}
			}
			f.Close()
		}
		check(t, os.WriteFile(filepath.Join(base, "alive"), []byte("text"), 0o644), "writing beside the vault")
		check(t, os.WriteFile(filepath.Join(m.Dir, "alive"), []byte("text"), 0o644), "writing on the mount")
		f, err := os.Open(filepath.Join(m.Dir, "alive"))
		check(t, err, "open")
		defer f.Close()
		check(t, f.Sync(), "sync")
		const nodump = 0x40
		flags, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS)
		check(t, err, "getflags")
		check(t, unix.IoctlSetPointerInt(int(f.Fd()), unix.FS_IOC_SETFLAGS, flags|nodump), "setflags")
		if got, err := unix.IoctlGetInt(int(f.Fd()), unix.FS_IOC_GETFLAGS); err != nil || got&nodump == 0 {
			t.Errorf("flags %#x, %v", got, err)
		}
	})
}

// refused says whether an ioctl was answered as one that there is not.
func refused(errno unix.Errno) bool {
	return errno == unix.ENOTTY || errno == unix.EOPNOTSUPP
}
