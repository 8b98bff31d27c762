package backing

import "golang.org/x/sys/unix"

// OpenDirOldKernel is OpenDir on a kernel without the calls that there are fallbacks for.
func OpenDirOldKernel(path string) (Dir, error) {
	sys := newSystem()
	sys.noXattrAt.Store(true)
	sys.noFchmodat.Store(true)
	sys.noLinkFD.Store(true)
	sys.noNoRepl.Store(true)
	return sys.openDir(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// OpenDirShared is OpenDir as on a FUSE file system.
func OpenDirShared(path string) (Dir, error) {
	sys := newSystem()
	sys.fuse = true
	return sys.openDir(unix.AT_FDCWD, path, unix.O_RDONLY|unix.O_DIRECTORY)
}

// ParseDirents is parseDirents.
func ParseDirents(b []byte, f func(Entry) bool) (bool, error) { return parseDirents(b, f) }
