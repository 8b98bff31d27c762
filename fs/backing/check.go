package backing

import (
	"strings"

	"golang.org/x/sys/unix"
)

// CheckName returns EINVAL unless name is one component: not empty, not "." or "..", without slash and NUL. Every
// implementation refuses these before it does anything; what is too long it leaves to the file system.
func CheckName(name string) error {
	if name == "" || name == "." || name == ".." || strings.IndexByte(name, '/') >= 0 || strings.IndexByte(name, 0) >= 0 {
		return unix.EINVAL
	}
	return nil
}

// openAdded are the flags that Open adds itself: there they may be given, and change nothing.
const openAdded = unix.O_NOFOLLOW | unix.O_CLOEXEC | unix.O_NOCTTY | unix.O_NONBLOCK | unix.O_LARGEFILE

// openAllowed are the flags that Open passes on. O_APPEND is not among them: it makes pwrite(2) ignore the offset.
const openAllowed = unix.O_ACCMODE | unix.O_CREAT | unix.O_EXCL | unix.O_TRUNC | unix.O_SYNC | unix.O_DSYNC | unix.O_NOATIME

// CheckFlags returns the flags that Open passes on, or EINVAL where there are some that it does not know: only the
// access mode, O_CREAT, O_EXCL, O_TRUNC, O_SYNC, O_DSYNC and O_NOATIME have a meaning here.
func CheckFlags(flags int) (int, error) {
	flags &^= openAdded
	if flags&^openAllowed != 0 || flags&unix.O_ACCMODE == unix.O_ACCMODE {
		return 0, unix.EINVAL
	}
	return flags, nil
}

// CheckRename returns EINVAL unless flags are ones that Rename takes.
func CheckRename(flags uint32) error {
	switch flags {
	case 0, unix.RENAME_NOREPLACE, unix.RENAME_EXCHANGE:
		return nil
	}
	return unix.EINVAL
}
