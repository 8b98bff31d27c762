package memfs

import (
	"maps"
	"slices"
	"strings"

	"golang.org/x/sys/unix"
)

const (
	xattrNameMax = 255
	xattrSizeMax = 65536
)

// checkAttr answers as the kernel does for the name of an attribute before it looks at the object.
func checkAttr(attr string) error {
	if strings.IndexByte(attr, 0) >= 0 {
		return unix.EINVAL
	}
	if attr == "" || len(attr) > xattrNameMax {
		return unix.ERANGE
	}
	return nil
}

// checkSet is checkAttr for setxattr.
func checkSet(attr string, value []byte, flags int) error {
	switch {
	case strings.IndexByte(attr, 0) >= 0, flags&^(unix.XATTR_CREATE|unix.XATTR_REPLACE) != 0:
		return unix.EINVAL
	case attr == "" || len(attr) > xattrNameMax:
		return unix.ERANGE
	case len(value) > xattrSizeMax:
		return unix.E2BIG
	}
	return nil
}

// checkXattr answers as the kernel does for a name of an attribute of in; denied is the error where objects of this
// kind have no user attributes.
func checkXattr(in *inode, attr string, denied error) error {
	if err := checkAttr(attr); err != nil {
		return err
	}
	space, name, _ := strings.Cut(attr, ".")
	switch space {
	case "user":
		if strings.HasPrefix(attr, "user.") && !in.isDir() && !in.isFile() {
			return denied
		}
	case "trusted", "security":
	default:
		return unix.EOPNOTSUPP
	}
	switch {
	case !strings.Contains(attr, "."):
		return unix.EOPNOTSUPP
	case name == "":
		return unix.EINVAL
	}
	return nil
}

func (fs *FS) getxattr(in *inode, attr string, buf []byte) (int, error) {
	if err := checkXattr(in, attr, unix.ENODATA); err != nil {
		return 0, err
	}
	v, ok := in.xattrs[attr]
	if !ok {
		return 0, unix.ENODATA
	}
	return give(buf, v)
}

// give is how getxattr(2) and listxattr(2) hand out v.
func give(buf []byte, v string) (int, error) {
	switch {
	case len(buf) == 0:
		return len(v), nil
	case len(buf) < len(v):
		return 0, unix.ERANGE
	}
	return copy(buf, v), nil
}

func (fs *FS) setxattr(in *inode, attr string, value []byte, flags int) error {
	if err := checkSet(attr, value, flags); err != nil {
		return err
	}
	if err := checkXattr(in, attr, unix.EPERM); err != nil {
		return err
	}
	_, ok := in.xattrs[attr]
	switch {
	case ok && flags&unix.XATTR_CREATE != 0:
		return unix.EEXIST
	case !ok && flags&unix.XATTR_REPLACE != 0:
		return unix.ENODATA
	}
	in.change()
	in.setXattr(attr, string(value), true)
	fs.touch(in, false)
	return nil
}

func (fs *FS) removexattr(in *inode, attr string) error {
	if err := checkXattr(in, attr, unix.EPERM); err != nil {
		return err
	}
	if _, ok := in.xattrs[attr]; !ok {
		return unix.ENODATA
	}
	in.change()
	in.setXattr(attr, "", false)
	fs.touch(in, false)
	return nil
}

func (fs *FS) listxattr(in *inode, buf []byte) (int, error) {
	var b strings.Builder
	for _, name := range slices.Sorted(maps.Keys(in.xattrs)) {
		b.WriteString(name)
		b.WriteByte(0)
	}
	return give(buf, b.String())
}
